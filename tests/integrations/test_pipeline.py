"""The task of `transformers.pipeline`: the masks are those of `AmodalSegmenter`, and no object is removed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from amodal.errors import InputError
from amodal.inference.segmenter import AmodalSegmenter
from amodal.integrations.pipeline import TASK, AmodalSegmentationPipeline
from amodal.models.plug import PlugModel
from amodal.synthetic.scenes import render_scene

BOXES = [[10.0, 10.0, 90.0, 90.0], [12.0, 10.0, 90.0, 92.0], [60.0, 60.0, 150.0, 150.0]]
"""The first two overlap with an IoU of 0.92, which the NMS of the task `mask-generation` would not leave."""


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return render_scene(27, size=(160, 160)).image


@pytest.fixture(scope="module")
def segment() -> Any:
    return pipeline(TASK, model=PlugModel.from_pretrained("plug-small"), device="cpu")


@pytest.fixture(scope="module")
def segmenter() -> AmodalSegmenter:
    return AmodalSegmenter.from_pretrained("plug-small", device="cpu", dtype="float32")


def check_same(found: list[dict[str, Any]], scene: Any) -> None:
    assert len(found) == len(scene)
    for record, obj in zip(found, scene, strict=True):
        for key, mask in (("mask", obj.amodal_mask), ("visible_mask", obj.visible_mask)):
            assert record[key].mode == "1" and np.array_equal(np.asarray(record[key]), mask)
        assert np.array_equal(np.asarray(record["occluded_mask"]), obj.occluded_mask)
        assert record["score"] == obj.score and record["occlusion_rate"] == obj.occlusion_rate
        assert list(record["box"].values()) == list(obj.amodal_box_xyxy)


def test_boxes_that_overlap_strongly_keep_their_objects(
    segment: Any, segmenter: AmodalSegmenter, image: np.ndarray
) -> None:
    assert isinstance(segment, AmodalSegmentationPipeline)
    scene = segmenter(image, BOXES)
    found = segment(Image.fromarray(image), input_boxes=BOXES)
    check_same(found, scene)
    for index, record in enumerate(found):
        assert record["occluders"] == [front for front, behind in scene.occlusion_order() if behind == index]


@pytest.mark.parametrize("kind", ["points", "masks", "detections"])
def test_all_prompts_of_the_segmenter_are_understood(
    kind: str, segment: Any, segmenter: AmodalSegmenter, image: np.ndarray
) -> None:
    visible = np.zeros((160, 160), bool)
    visible[20:90, 20:80] = True
    ours, theirs = {
        "points": (
            {"points_xy": [[[50, 50], [5, 5]]], "point_labels": [[1, 0]]},
            {"input_points": [[[50, 50], [5, 5]]], "input_labels": [[1, 0]]},
        ),
        "masks": ({"masks": [visible]}, {"input_masks": [visible]}),
        "detections": ({"detections": {"boxes": BOXES}}, {"detections": {"boxes": BOXES}}),
    }[kind]
    check_same(segment(image, **theirs), segmenter(image, **ours))


def test_lists_and_generators_give_one_result_per_image(
    segment: Any, segmenter: AmodalSegmenter, image: np.ndarray
) -> None:
    mirrored = np.ascontiguousarray(image[:, ::-1])
    entries: list[dict[str, Any]] = [
        {"image": image, "input_boxes": BOXES[:1]},
        {"image": mirrored, "input_boxes": BOXES},
    ]
    scenes = [segmenter(entry["image"], entry["input_boxes"], threshold=0.4) for entry in entries]

    def lazily() -> Iterator[dict[str, Any]]:
        yield from entries

    for found in (segment(entries, threshold=0.4), list(segment(lazily(), threshold=0.4))):
        assert len(found) == 2
        for own, scene in zip(found, scenes, strict=True):
            check_same(own, scene)
    both = segment([Image.fromarray(image)] * 2, input_boxes=BOXES)
    assert [len(own) for own in both] == [3, 3]


def test_models_are_loaded_by_folder_and_by_default(tmp_path: Path, image: np.ndarray, segment: Any) -> None:
    segment.save_pretrained(tmp_path / "saved")
    assert not list((tmp_path / "saved").glob("*.py"))  # the package has the code, not the model
    assert "custom_pipelines" not in (tmp_path / "saved" / "config.json").read_text()
    expected = segment(image, input_boxes=BOXES[:1])
    loaded: Any = pipeline(TASK, device="cpu", model=str(tmp_path / "saved"))
    assert loaded.model.dtype == torch.float32
    assert loaded(image, input_boxes=BOXES[:1])[0]["score"] == expected[0]["score"]
    bundled: Any = pipeline(TASK, device="cpu")
    assert bundled.model.config.base["name_or_path"] == "sam-small"
    assert np.asarray(bundled(image, input_boxes=BOXES[:1])[0]["mask"]).any()


def test_the_dtype_is_that_which_was_asked_for(tmp_path: Path, image: np.ndarray, segment: Any) -> None:
    segment.save_pretrained(tmp_path)
    loaded: Any = pipeline(TASK, model=str(tmp_path), device="cpu", dtype=torch.bfloat16)
    assert loaded.model.dtype == torch.bfloat16
    (found,) = loaded(image, input_boxes=BOXES[:1])
    assert np.asarray(found["mask"]).any()


@pytest.mark.slow
def test_without_prompts_the_objects_are_found(segment: Any, image: np.ndarray) -> None:
    found = segment(Image.fromarray(image))
    assert len(found) > 1
    assert all(np.asarray(record["visible_mask"]).any() for record in found)


def test_impossible_input_is_refused(segment: Any, image: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="expected the keywords input_boxes, .*, got boxes"):
        segment(image, boxes=BOXES)
    with pytest.raises(InputError, match="input: expected the keys image, input_boxes, .*, got 'image, boxes'"):
        segment({"image": image, "boxes": BOXES})
    with pytest.raises(InputError, match="input: expected the keys image, "):
        segment({"input_boxes": BOXES})
    with pytest.raises(InputError, match="box: expected X0 < X1"):
        segment(image, input_boxes=[[90, 10, 10, 90]])
    with pytest.raises(InputError, match="which does not exist"):
        segment(str(tmp_path / "none.png"), input_boxes=BOXES)


def test_an_upload_is_that_of_the_model(segment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def upload(self: PlugModel, repo_id: str, **options: Any) -> str:
        calls.append((repo_id, options))
        return "https://hub/commit"

    monkeypatch.setattr(PlugModel, "push_to_hub", upload)
    assert segment.push_to_hub("me/model", private=True) == "https://hub/commit"
    assert calls == [("me/model", {"private": True})]


def test_the_examples_of_the_page_run(tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text()
    monkeypatch.chdir(tmp_path)
    Image.fromarray(render_scene(3, size=(400, 400)).image).save("street.jpg")
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "integrations.md", "exec"), names)
    assert [len(objects) for objects in names["results"]] == [1, 1]
    for name in ("amodal.png", "visible.png"):
        assert Image.open(name).size == (400, 400)
