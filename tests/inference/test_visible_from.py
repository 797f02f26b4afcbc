"""Visible masks from a promptable segmenter: those of transformers' own model and processor, for every family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SamConfig, SamHQProcessor, SamImageProcessorPil, SamProcessor

from amodal import AmodalSegmenter
from amodal.cli.main import main
from amodal.errors import InputError
from amodal.inference.everything import segment_everything
from amodal.inference.prompts import collect_prompts
from amodal.inference.sam_style import SamStylePredictor
from amodal.inference.scene import Scene
from amodal.inference.visible_from import VisibleMaskSource
from amodal.models.bases.promptable import PromptableModel
from amodal.models.bases.protocol import LoadedBase
from amodal.models.increments import Origin
from amodal.models.plug import PlugConfig, PlugModel
from tests.models.conftest import meta_sam as meta_sam
from tests.models.conftest import save_meta, small_sam_config
from tests.models.families import ROWS

SIDE = 64
BOXES = [[3.0, 4.0, 30.0, 30.0], [10.5, 2.0, 33.0, 25.0], [20.0, 8.0, 58.0, 39.0]]
POINTS = [[[5.0, 5.0], [20.0, 9.0]], [[30.0, 20.0], [1.0, 1.0]], [[40.0, 30.0], [41.0, 30.0]]]
LABELS = [[1, 0], [1, 1], [1, 1]]


def noise(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def folder_of(name: str, tmp_path: Path) -> Path:
    ROWS[name].model().save_pretrained(tmp_path / name)
    return tmp_path / name


def source_of(name: str) -> VisibleMaskSource:
    return VisibleMaskSource(PromptableModel(LoadedBase(ROWS[name].model(), Origin())), name)


def masks_of_transformers(
    name: str, image: np.ndarray, boxes: list[Any] | None, points: list[Any] | None, labels: list[Any] | None
) -> np.ndarray:
    """Masks (N, H, W) of transformers' model, with its processor of SAM and SAM-HQ.

    Its processors of the other families need torchvision; their steps are written out here.
    """
    row = ROWS[name]
    model, size = row.model(), image.shape[:2]
    prompts: dict[str, torch.Tensor] = {}
    if row.family.keeps_aspect_ratio:
        images = SamImageProcessorPil(size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE})
        images.input_data_format = "channels_last"  # not guessed, which fails for an image of one row
        processor = (SamHQProcessor if name == "sam_hq" else SamProcessor)(images)
        given = {"input_boxes": boxes, "input_points": points, "input_labels": labels}
        inputs = processor(image, return_tensors="pt", **{k: [v] for k, v in given.items() if v is not None})
        pixels = inputs["pixel_values"]
        prompts = {k: inputs[k].float() if inputs[k].is_floating_point() else inputs[k] for k in given if k in inputs}
    else:
        pixels = torch.nn.functional.interpolate(
            torch.from_numpy(image).permute(2, 0, 1)[None], (SIDE, SIDE), mode="bilinear", antialias=True
        )
        pixels = pixels.float() / 255
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in (row.family.image_mean, row.family.image_std))
        pixels = (pixels - mean) / std
        scale = torch.tensor([SIDE / size[1], SIDE / size[0]])
        if boxes is not None:
            prompts["input_boxes"] = torch.tensor([boxes]) * scale.repeat(2)
        if points is not None:
            prompts["input_points"], prompts["input_labels"] = torch.tensor([points]) * scale, torch.tensor([labels])
    with torch.no_grad():
        logits, _ = row.predict(model, pixels, **prompts)
    if row.family.keeps_aspect_ratio:
        sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
        return processor.image_processor.post_process_masks([logits[0][:, None]], *sizes)[0][:, 0].numpy()
    upscaled = torch.nn.functional.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)
    return (upscaled[0] > 0).numpy()


@pytest.mark.parametrize("name", ROWS)
def test_visible_masks_are_those_of_the_named_model_alone(name: str, tmp_path: Path) -> None:
    image = noise()
    segmenter = AmodalSegmenter.from_pretrained(
        "plug-small", visible_from=folder_of(name, tmp_path), device="cpu", dtype="float32"
    )
    for boxes, points, labels in ((BOXES, None, None), (None, POINTS, LABELS), (BOXES, POINTS, LABELS)):
        scene = segmenter(image, boxes, points_xy=points, point_labels=labels, batch_size=2)
        expected = masks_of_transformers(name, image, boxes, points, labels)
        assert {mask.any() for mask in expected} == {True}
        for obj, mask in zip(scene, expected, strict=True):
            np.testing.assert_array_equal(obj.visible_mask, mask)
            assert not (mask & ~obj.amodal_mask).any()
        assert scene.visible_from == str(tmp_path / name)


@pytest.mark.parametrize(("height", "width"), [(150, 90), (33, 200), (1, 70)])
@pytest.mark.parametrize("name", ["sam", "sam_hq", "sam2"])
def test_images_of_other_shapes(name: str, height: int, width: int) -> None:
    image, boxes = noise(height, width), [[3.0, 0.0, 30.0, height], [1.0, 0.0, 60.0, height / 2]]
    ours = source_of(name).masks(image, collect_prompts((height, width), boxes_xyxy=boxes))
    expected = masks_of_transformers(name, image, boxes, None, None)
    np.testing.assert_array_equal(ours, expected)


def test_prompts_of_several_kinds_keep_their_order() -> None:
    image, size = noise(), (40, 60)
    source = source_of("sam2")
    mixed = collect_prompts(
        size,
        boxes_xyxy=[BOXES[0], None, BOXES[2], BOXES[1], None],
        points_xy=[None, POINTS[1], POINTS[2], None, POINTS[0][:1]],
        point_labels=[None, LABELS[1], LABELS[2], None, None],
    )
    for mask, prompt in zip(source.masks(image, mixed, batch_size=1), mixed, strict=True):
        np.testing.assert_array_equal(mask, source.masks(image, [prompt])[0])
    assert source.masks(image, []) == []


def test_given_masks_stay_and_the_others_are_made(tmp_path: Path) -> None:
    image, given = noise(), np.zeros((40, 60), bool)
    given[5:20, 10:30] = True
    segmenter = AmodalSegmenter.from_pretrained("plug-small", visible_from=folder_of("sam", tmp_path), dtype="float32")
    scene = segmenter(image, [None, BOXES[0]], masks=[given, None])
    np.testing.assert_array_equal(scene[0].visible_mask, given)
    np.testing.assert_array_equal(scene[1].visible_mask, masks_of_transformers("sam", image, BOXES[:1], None, None)[0])
    assert scene[1].visible_box_xyxy == tuple(BOXES[0])
    assert Scene.load(scene.save(tmp_path / "scene")).visible_from == str(tmp_path / "sam")
    alone = AmodalSegmenter.from_pretrained("plug-small")(image, BOXES[0])
    assert alone.visible_from is None and "visible_from" not in alone.to_json()


@pytest.mark.parametrize("mode", ["crop", "image"])
def test_a_model_that_was_trained_with_masks_gets_them(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = PlugConfig(image_size=64, lora_rank=2, refine_channels=8, num_points=16, mask_prompts=True)
    segmenter = AmodalSegmenter(
        PlugModel.from_base(small_sam_config(), config), mode=mode, visible_from=source_of("sam")
    )
    seen: list[torch.Tensor] = []
    embed = segmenter.model.embed_prompts

    def record(boxes: Any, points: Any, labels: Any, masks: Any, *others: Any) -> Any:
        seen.append(masks)
        return embed(boxes, points, labels, masks, *others)

    monkeypatch.setattr(segmenter.model, "embed_prompts", record)
    segmenter(noise(), BOXES, clean=False)
    assert [m is not None and bool(m.any()) for m in seen] == [True]


@pytest.mark.parametrize("mask_prompts", [True, False])
@pytest.mark.parametrize("mode", ["crop", "image"])
def test_an_object_without_a_visible_pixel_keeps_its_place(
    mode: str, mask_prompts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PlugConfig(image_size=64, lora_rank=2, refine_channels=8, num_points=16, mask_prompts=mask_prompts)
    source = source_of("sam")
    monkeypatch.setattr(source, "_resized", lambda logits, size, inner: np.zeros(size, bool))
    segmenter = AmodalSegmenter(PlugModel.from_base(small_sam_config(), config), mode=mode, visible_from=source)
    scene = segmenter(noise(), [BOXES[0], None], points_xy=[None, [[7.6, 3.2], [40.0, 30.0]]])
    assert [obj.visible_mask.any() for obj in scene] == [False, False]
    assert [obj.visible_box_xyxy for obj in scene] == [tuple(BOXES[0]), (7, 3, 8, 4)]


def test_a_checkpoint_file_of_the_original_code(meta_sam: Any, tmp_path: Path) -> None:
    image, file = noise(), save_meta(meta_sam, tmp_path / "sam.pth")
    scene = AmodalSegmenter.from_pretrained("plug-small", visible_from=file, dtype="float32")(image, BOXES)
    source = VisibleMaskSource.from_pretrained(file)
    for obj, mask in zip(scene, source.masks(image, collect_prompts((40, 60), boxes_xyxy=BOXES)), strict=True):
        np.testing.assert_array_equal(obj.visible_mask, mask)


def test_everything_is_found_with_the_named_model(tmp_path: Path) -> None:
    segmenter = AmodalSegmenter.from_pretrained("plug-small", visible_from=folder_of("sam2", tmp_path))
    assert segmenter.visible_from is not None and segmenter.finder.model is segmenter.visible_from.model
    segmenter.finder.all_boxes = lambda image, confidence=None: np.array(BOXES)  # type: ignore[method-assign]
    scene = segment_everything(segmenter, segmenter.finder, noise())
    assert len(scene) and scene.visible_from == str(tmp_path / "sam2")


def test_the_interface_of_sam_s_predictor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amodal.inference.devices.has_bfloat16", lambda: False)  # compared in float32
    predictor = SamStylePredictor.from_pretrained("plug-small", visible_from=folder_of("sam2", tmp_path))
    predictor.set_image(noise())
    (visible, _amodal), _scores, _rate = predictor.predict(box=np.array(BOXES[0]))
    np.testing.assert_array_equal(visible, masks_of_transformers("sam2", noise(), BOXES[:1], None, None)[0])


def test_an_amodal_model_is_no_source_of_visible_masks() -> None:
    with pytest.raises(InputError, match="visible-from: expected a model_type of sam, .*, got 'plug'"):
        AmodalSegmenter.from_pretrained("plug-small", visible_from="plug-small")


# The command line


def saved_image(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(noise(seed=seed)).save(path)
    return path


@pytest.mark.parametrize("name", ["sam", "sam_hq", "sam2"])
def test_segment_writes_the_name_of_the_segmenter(name: str, tmp_path: Path) -> None:
    folder, image, out = folder_of(name, tmp_path), saved_image(tmp_path / "a.png"), tmp_path / "out"
    prompts = ["--box", "3,4,30,30", "--dtype", "float32"]
    assert main(["segment", str(image), *prompts, "--visible-from", str(folder), "--out", str(out)]) == 0
    assert json.loads((out / "scene.json").read_text())["visible_from"] == str(folder)
    (expected,) = masks_of_transformers(name, noise(), BOXES[:1], None, None)
    np.testing.assert_array_equal(np.asarray(Image.open(out / "object_00_visible.png")), expected)


def test_scenes_of_two_segmenters_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = folder_of("sam2", tmp_path), tmp_path / "out"
    saved_image(tmp_path / "images" / "a.png")
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [3, 4, 27, 26]}],
        "categories": [{"id": 1, "name": "cup"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    run = ["segment", str(tmp_path / "images"), "--annotations", str(tmp_path / "coco.json"), "--out", str(out)]
    assert main([*run, "--visible-from", str(folder)]) == 0
    assert Scene.load(out / "a").visible_from == str(folder)
    assert json.loads((out / "run.json").read_text())["visible_from"] == str(folder)
    capsys.readouterr()
    assert main(run) == 2
    assert f"visible_from {str(folder)[:40]} -> None" in capsys.readouterr().err


@pytest.mark.parametrize("name", [*ROWS, "bundled", "published", "file"])
def test_a_base_as_the_model_gets_a_line_about_visible_from(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = {"sam_hq": "SAM-HQ", "sam2": "SAM 2", "edgetam": "EdgeTAM", "sam3_tracker": "SAM 3 tracker"}
    kinds["conv_prompt"] = kinds["bundled"] = "convolutional promptable segmenter"
    got = {"published": "SAM 2", "file": "checkpoint file"}.get(name, kinds.get(name, "SAM"))
    if name == "file":
        model = str(tmp_path / "sam.pth")
        Path(model).write_bytes(b"not read")
    elif name in ROWS:
        model = str(folder_of(name, tmp_path))
    else:
        model = {"bundled": "sam-small", "published": "facebook/sam2.1-hiera-tiny"}[name]
    image, out = saved_image(tmp_path / "a.png"), tmp_path / "out"
    capsys.readouterr()
    assert main(["segment", str(image), "--box", "3,4,30,30", "--model", model, "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert not out.exists()
    assert f"model {model}: expected a model with amodal masks, got a {got}; " in line
    assert f"(--visible-from {model})" in line


def test_a_base_of_an_unknown_hub_id_is_recognised_once_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of("sam", tmp_path)
    monkeypatch.setattr("amodal.models.plug.modeling.resolve_folder", lambda name, revision: folder)
    with pytest.raises(InputError, match="expected a model with amodal masks, got a SAM; "):
        PlugModel.from_pretrained("someone/slimsam")


@pytest.mark.parametrize("content", ["{}", "[]", "nonsense"])
def test_a_broken_configuration_is_no_base(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(
        InputError,
        match=r"expected (a segmenter \(model_type 'plug'\)|a readable config.json|an object in config.json)",
    ):
        PlugModel.from_pretrained(tmp_path)


def test_evaluation_names_the_segmenter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from amodal.synthetic.generate import synthesize

    annotations = synthesize("scenes", 1, 5, tmp_path / "scenes", progress=False)
    folder = folder_of("sam2", tmp_path)
    run = ["evaluate", "masks", "--annotations", str(annotations), "--visible-from", str(folder), "--no-baselines"]
    assert main([*run, "--json", "--resamples", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["options"]["visible_from"] == str(folder)
    assert main([*run, "--model", "filled_box"]) == 2
    assert "visible-from: expected together with a model, got filled_box" in capsys.readouterr().err


def test_a_preset_of_sizes_is_no_segmenter(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="visible-from: expected a bundled name"):
        VisibleMaskSource.from_pretrained("vit-b")
    SamConfig().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="which cannot be read as a"):
        VisibleMaskSource.from_pretrained(tmp_path)
