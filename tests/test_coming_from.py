"""The examples for users of other tools run, and every visible mask is kept to the bit.

The other tools are not installed: what they return is recorded in the stand-ins below, with the masks of a drawn scene.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from amodal import AmodalSegmenter
from amodal.cli.main import main
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from amodal.ops.boxes import mask_to_box
from amodal.ops.rle import decode_mask, encode_mask
from amodal.synthetic.scenes import SyntheticImage, render_scene

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "coming_from.md").read_text()
START, *SECTIONS = re.split(r"^## ", PAGE, flags=re.M)
SIZE = (400, 400)
INDICES = (0, 2, 3, 4)
"""Objects of the drawn scene without holes and in one part, which a polygon can describe."""
CLASSES = {4: "car", 9: "cup", 32: "ball", 73: "book"}
CLASS_IDS = (32, 9, 73, 4)
NUM_SCENES = {
    "SAM 2 and segment-anything": 2,
    "ultralytics": 1,
    "supervision": 1,
    "transformers": 4,
    "COCO annotations": 1,
    "Which models use masks as prompts": 1,
    "Clean masks": 2,
}


def code(section: str, language: str) -> list[str]:
    """The code blocks of a section in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.M | re.S)


class RecordingSegmenter:
    """A segmenter that keeps the scenes it returns."""

    def __init__(self, segmenter: AmodalSegmenter) -> None:
        self.segmenter = segmenter
        self.scenes: list[Scene] = []

    def __call__(self, *prompts: Any, **options: Any) -> Scene:
        self.scenes.append(self.segmenter(*prompts, **options))
        return self.scenes[-1]

    @property
    def uses_masks(self) -> bool:
        return self.segmenter.uses_masks


@pytest.fixture(scope="module")
def drawn() -> SyntheticImage:
    return render_scene(3, size=SIZE)


@pytest.fixture(scope="module")
def given(drawn: SyntheticImage) -> np.ndarray:
    """The visible masks (N, H, W) that the other tools return."""
    return np.stack([drawn.objects[index].visible_mask for index in INDICES])


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """The names that the first block of the page defines."""
    found: dict[str, Any] = {}
    for block in code(START, "python"):
        exec(compile(block, "coming_from.md", "exec"), found)
    return found


@pytest.fixture
def folder(drawn: SyntheticImage, given: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the examples read."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name in ("street.jpg", "photos/street.jpg"):
        Image.fromarray(drawn.image).save(name)
    content = {
        "images": [{"id": 1, "file_name": "street.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": number, "name": name} for number, name in CLASSES.items()],
        "annotations": [
            {"id": 11 + index, "image_id": 1, "category_id": CLASS_IDS[index], "segmentation": encode_mask(mask)}
            for index, mask in enumerate(given)
        ],
    }
    Path("instances.json").write_text(json.dumps(content))
    return tmp_path


def boxes_of(masks: np.ndarray) -> np.ndarray:
    return np.stack([mask_to_box(mask) for mask in masks])


def sam_predictor(masks: np.ndarray) -> SimpleNamespace:
    """`SAM2ImagePredictor`: three masks as floats, the second one the best."""

    def predict(point_coords: np.ndarray, point_labels: np.ndarray) -> tuple[np.ndarray, ...]:
        alternatives = np.stack([masks[1], masks[0], masks[2]]).astype(np.float32)
        return alternatives, np.array([0.4, 0.9, 0.2], np.float32), np.zeros((3, 256, 256), np.float32)

    return SimpleNamespace(predict=predict)


def sam_generator(masks: np.ndarray) -> SimpleNamespace:
    """`SamAutomaticMaskGenerator`: one dictionary per mask."""
    found = [
        {"segmentation": mask, "area": int(mask.sum()), "bbox": [0, 0, 1, 1], "predicted_iou": 0.9} for mask in masks
    ]
    return SimpleNamespace(generate=lambda image: found)


def ultralytics_results(masks: np.ndarray) -> SimpleNamespace:
    """`Results` of a segmentation model, which was tracked: boxes, and masks as polygons in pixels of the image."""
    lines = Scene([SceneObject.from_masks(mask, mask) for mask in masks], SIZE).to_yolo()
    polygons = [np.array(line.split()[1:], np.float32).reshape(-1, 2) * SIZE[::-1] for line in lines]
    boxes = SimpleNamespace(
        xyxy=torch.from_numpy(boxes_of(masks)).float(),
        cls=torch.tensor(CLASS_IDS).float(),
        conf=torch.full((len(masks),), 0.8),
        id=torch.arange(len(masks)).float() + 1,
    )
    letterboxed = SimpleNamespace(xy=polygons, data=torch.zeros(len(masks), 640, 640))
    return SimpleNamespace(boxes=boxes, masks=letterboxed, names=CLASSES, orig_shape=SIZE)


def supervision_detections(masks: np.ndarray) -> SimpleNamespace:
    """`supervision.Detections` of a tracked segmentation."""
    return SimpleNamespace(
        xyxy=boxes_of(masks).astype(np.float32),
        mask=masks,
        confidence=np.full(len(masks), 0.8, np.float32),
        class_id=np.array(CLASS_IDS),
        tracker_id=np.arange(len(masks)) + 1,
        data={"class_name": np.array([CLASSES[number] for number in CLASS_IDS])},
    )


def sam2_processor() -> SimpleNamespace:
    """`Sam2Processor`: logits (P, 1, h, w) per image to masks (P, 1, H, W)."""

    def post_process_masks(masks: torch.Tensor, original_sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
        resize = torch.nn.functional.interpolate
        return [resize(one, size, mode="bilinear") > 0 for one, size in zip(masks, original_sizes, strict=True)]

    return SimpleNamespace(post_process_masks=post_process_masks)


def stand_ins(masks: np.ndarray) -> dict[str, Any]:
    """What the examples use without defining it."""
    logits = torch.from_numpy(masks)[None, :, None].float() * 20 - 10
    labelled = [
        {"label": CLASSES[number], "score": None, "mask": Image.fromarray(mask.astype(np.uint8) * 255)}
        for number, mask in zip(CLASS_IDS, masks, strict=True)
    ]
    probabilities = torch.from_numpy(masks)[:, None].float() * 0.8 + 0.1
    detected = {
        "boxes": torch.from_numpy(boxes_of(masks)).float(),
        "labels": torch.tensor(CLASS_IDS),
        "scores": torch.full((len(masks),), 0.8),
        "masks": probabilities,
    }
    return {
        "image": Image.open("street.jpg"),
        "sam": sam_predictor(masks),
        "mask_generator": sam_generator(masks),
        "yolo": lambda image: [ultralytics_results(masks)],
        "detections": supervision_detections(masks),
        "processor": sam2_processor(),
        "outputs": SimpleNamespace(pred_masks=logits),
        "mask_pipeline": lambda image: {"masks": list(masks), "scores": torch.full((len(masks),), 0.8)},
        "segmentation_pipeline": lambda image: labelled,
        "detector": lambda images: [detected],
    }


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.splitlines()[0])
def test_examples_run_and_keep_the_visible_masks(
    section: str, names: dict[str, Any], given: np.ndarray, folder: Path
) -> None:
    title = section.splitlines()[0]
    segmenter = RecordingSegmenter(names["segmenter"])
    found = names | stand_ins(given) | {"segmenter": segmenter}
    for block in code(section, "python"):
        exec(compile(block, f"coming_from.md, {title}", "exec"), found)
    assert len(segmenter.scenes) == NUM_SCENES[title]
    if title != "Clean masks":
        for scene in segmenter.scenes:
            kept = scene.objects[:1] if title.startswith("Which") else scene.objects
            for obj, mask in zip(kept, given, strict=False):
                np.testing.assert_array_equal(obj.visible_mask, mask)
                assert not (mask & ~obj.amodal_mask).any()
    if title in ("ultralytics", "supervision"):
        objects = segmenter.scenes[0].objects
        assert [obj.name for obj in objects] == [CLASSES[number] for number in CLASS_IDS]
        assert [obj.tracker_id for obj in objects] == [1, 2, 3, 4]
    if title in ("ultralytics", "supervision", "COCO annotations"):
        assert tuple(obj.class_id for obj in segmenter.scenes[0]) == CLASS_IDS


def test_the_command_keeps_masks_names_and_ids(given: np.ndarray, folder: Path) -> None:
    (section,) = [section for section in SECTIONS if section.startswith("COCO annotations")]
    (command,) = code(section, "bash")
    assert command in (ROOT / "README.md").read_text()
    assert main(shlex.split(command)[1:]) == 0
    content = json.loads((folder / "amodal" / "annotations.json").read_text())
    assert {category["id"]: category["name"] for category in content["categories"]} == CLASSES
    for index, (record, mask) in enumerate(zip(content["annotations"], given, strict=True)):
        assert (record["id"], record["category_id"]) == (11 + index, CLASS_IDS[index])
        np.testing.assert_array_equal(decode_mask(record["visible_mask"]), mask)
        assert not (mask & ~decode_mask(record["segmentation"])).any()


def test_the_page_names_every_setting_with_its_default() -> None:
    from dataclasses import asdict

    from amodal.ops.cleaning import CleanSettings

    stated = dict(re.findall(r"^\| `(min_\w+|max_\w+|edge_\w+)` \| ([\d.]+) \|", PAGE, re.M))
    assert {name: float(value) for name, value in stated.items()} == asdict(CleanSettings())


def test_what_the_page_says_about_the_bundled_models(names: dict[str, Any]) -> None:
    assert names["segmenter"].uses_masks
