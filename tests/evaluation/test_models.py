"""The evaluator scores `AmodalSegmenter` itself, and SAM without fine-tuning in the same way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from amodal import AmodalSegmenter
from amodal.data.samples import ImageSample
from amodal.errors import InputError
from amodal.evaluation.baselines import SAM_THRESHOLD, pretrained_sam
from amodal.evaluation.boxes import BoxSource
from amodal.evaluation.evaluator import EvaluationSettings, evaluate, evaluate_baseline
from amodal.evaluation.predictions import MaskPrediction
from amodal.evaluation.rows import ImageCache, ModelRow
from amodal.models.bases.families import FAMILIES
from amodal.models.plug import PlugConfig, PlugModel
from amodal.ops.boxes import mask_to_box
from amodal.ops.rle import decode_mask, encode_window
from tests.evaluation.toy_predictions import toy
from tests.models.conftest import random_plug
from tests.models.families import ROWS, small_sam3_config

BOXES = np.array([[10.0, 12.0, 60.0, 70.0], [-5.0, 3.0, 30.0, 200.0]])


@pytest.fixture(scope="module")
def segmenter() -> AmodalSegmenter:
    return AmodalSegmenter.from_pretrained("plug-small", dtype="float32")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)


def predict(
    segmenter: AmodalSegmenter,
    image: np.ndarray,
    threshold: float | None = None,
    union_visible: bool = True,
    clean: bool = False,
) -> list[MaskPrediction]:
    sample = ImageSample(1, Path("noise.png"), *image.shape[:2], ())
    loaded = ImageCache(sample.path, image)
    row = ModelRow(segmenter, BoxSource("gt_visible"), loaded, threshold, union_visible, clean=clean)
    return row.predict(sample, BOXES)


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("threshold", [None, 0.6])
def test_predictions_are_the_masks_of_the_segmenter(
    segmenter: AmodalSegmenter, image: np.ndarray, threshold: float | None, clean: bool
) -> None:
    predictions = predict(segmenter, image, threshold, clean=clean)
    scene = segmenter(image, BOXES, threshold=threshold, clean=clean)
    for prediction, obj in zip(predictions, scene.objects, strict=True):
        assert np.array_equal(decode_mask(prediction.amodal), obj.amodal_mask)
        assert np.array_equal(decode_mask(prediction.visible or {}), obj.visible_mask)
        assert prediction.score == obj.score
        assert obj.amodal_mask.any()


def test_masks_can_be_kept_as_the_network_gives_them(segmenter: AmodalSegmenter, image: np.ndarray) -> None:
    num_outside = 0
    for raw, united in zip(predict(segmenter, image, union_visible=False), predict(segmenter, image), strict=True):
        amodal, visible = decode_mask(raw.amodal), decode_mask(raw.visible or {})
        assert np.array_equal(amodal | visible, decode_mask(united.amodal))
        num_outside += int((visible & ~amodal).sum())
    assert num_outside > 0  # the two branches disagree on noise, so the option has an effect
    for obj in segmenter(image, BOXES, union_visible=False, clean=False).objects:
        assert obj.amodal_box_xyxy == tuple(mask_to_box(obj.amodal_mask))


def test_threshold_and_union_reach_the_segmenter_and_the_report(segmenter: AmodalSegmenter, tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 1)
    default, changed = (
        evaluate(segmenter, dataset, baselines=(), progress=False, **options)
        for options in ({}, {"threshold": 0.6, "union_visible": False})
    )
    assert (default.options["threshold"], default.options["union_visible"]) == (0.5, True)
    assert (changed.options["threshold"], changed.options["union_visible"]) == (0.6, False)
    assert default.metrics["mIoU_full"] != changed.metrics["mIoU_full"]


def test_masks_are_scored_as_the_network_gives_them_unless_cleaning_is_asked_for(
    segmenter: AmodalSegmenter, image: np.ndarray, tmp_path: Path
) -> None:
    raw, cleaned = predict(segmenter, image), predict(segmenter, image, clean=True)  # noise, so there are specks
    assert [one.amodal for one in raw] != [one.amodal for one in cleaned]
    _, dataset = toy(tmp_path, 1)
    reports = {
        clean: evaluate(segmenter, dataset, baselines=(), progress=False, **({"clean": True} if clean else {}))
        for clean in (False, True)
    }
    for clean, report in reports.items():
        assert report.options["clean"] is clean
        assert (report.options["device"], report.options["dtype"]) == (str(segmenter.device), "float32")
    assert reports[True].metrics["single_component"] >= reports[False].metrics["single_component"]


def test_the_report_names_the_precision(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 1)
    segmenter = AmodalSegmenter.from_pretrained("plug-small", device="cpu", dtype="bfloat16")
    report = evaluate(segmenter, dataset, baselines=(), max_objects=1, progress=False)
    assert (report.options["device"], report.options["dtype"]) == ("cpu", "bfloat16")


def test_invalid_thresholds_raise(segmenter: AmodalSegmenter, image: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"threshold: expected a number in \(0, 1\), got 1.5"):
        predict(segmenter, image, threshold=1.5)


def test_pretrained_sam_is_transformers_sam_on_the_crop(tmp_path: Path, image: np.ndarray) -> None:
    sam = ROWS["sam"].model()
    sam.save_pretrained(tmp_path)
    ours = pretrained_sam(str(tmp_path), "cpu")
    assert ours.model.config.mask_threshold == SAM_THRESHOLD
    assert not ours.has_visible_branch
    assert predict(ours, image)[0].visible is None
    inputs = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    box = torch.tensor([[[10.0, 15.0, 45.0, 50.0]]]).double()
    with torch.inference_mode():
        expected = sam.double()(pixel_values=inputs, input_boxes=box, multimask_output=False).pred_masks[:, :, 0]
        got = ours.model.double()(inputs, box).pred_masks
    small = torch.nn.functional.interpolate(expected, size=got.shape[-2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(got, small, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ROWS)
def test_a_base_of_every_family_is_a_baseline(name: str, tmp_path: Path, image: np.ndarray) -> None:
    row = ROWS[name]
    sam = row.model()
    sam.save_pretrained(tmp_path / "base")
    ours = pretrained_sam(str(tmp_path / "base"), "cpu")
    inputs = ours.processor(image, BOXES[:1])
    with torch.no_grad():
        expected, _ = row.predict(sam, inputs.pixel_values, input_boxes=inputs.input_boxes)
        got = ours.model(inputs.pixel_values, inputs.input_boxes).pred_masks
    small = torch.nn.functional.interpolate(expected, size=got.shape[-2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(got, small, atol=1e-3 * float(small.abs().max()), rtol=0)
    _, dataset = toy(tmp_path, 1)
    settings = EvaluationSettings(baselines=(), progress=False, resampling=None, sam=str(tmp_path / "base"))
    for baseline in ("sam", "sam_amodal_box"):
        report = evaluate_baseline(baseline, dataset, settings)
        assert report.options["sam"] == str(tmp_path / "base") and 0 <= report.metrics["mIoU_full"] <= 1


def test_a_baseline_has_an_input_of_whole_strides(tmp_path: Path) -> None:
    """SAM 3's patches are 14 pixels wide, and 512 pixels are no multiple of that."""
    family = FAMILIES["sam3_tracker"]
    sizes = family.sizes(small_sam3_config())
    sizes["vision_config"]["backbone_config"]["patch_size"] = sizes["prompt_encoder_config"]["patch_size"] = 14
    family.new_model(family.at_size(sizes, 518)).save_pretrained(tmp_path)
    assert pretrained_sam(str(tmp_path), "cpu").model.config.image_size == 504


def test_sam_is_given_the_amodal_box_as_in_the_paper(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 1)
    image, (x0, y0, _, y1) = dataset.images[0], dataset.images[0].objects[0].visible_box_xyxy
    strip = (x0, y0, x0 + 6, y1)  # the visible part of the first object
    part = np.ones((int(y1 - y0), 6), bool)
    visible = encode_window(part, (int(x0), int(y0), int(x0) + 6, int(y1)), image.size)
    changed = replace(image.objects[0], visible_rle=visible, visible_box_xyxy=strip)
    dataset = replace(dataset, images=(replace(image, objects=(changed,)),))
    settings = EvaluationSettings(baselines=(), progress=False, resampling=None)
    visible_box = evaluate_baseline("sam", dataset, settings)
    amodal_box = evaluate_baseline("sam_amodal_box", dataset, settings)
    assert (visible_box.options["box_source"], amodal_box.options["box_source"]) == ("gt_visible", "gt_amodal")
    assert visible_box.options["threshold"] == amodal_box.options["threshold"] == 0.5
    assert amodal_box.options["sam"] == "sam-small"
    assert amodal_box.options["dtype"] == "float32"
    assert amodal_box.options["clean"] is False
    assert amodal_box.metrics["mIoU_full"] > visible_box.metrics["mIoU_full"] + 0.1
    with pytest.raises(InputError, match="base: expected a bundled name"):
        evaluate_baseline("sam", dataset, replace(settings, sam=str(tmp_path)))


def test_baselines_that_cannot_be_scored_alone_or_take_no_threshold_raise(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 1)
    settings = EvaluationSettings(progress=False)
    with pytest.raises(InputError, match="expected a baseline that can be scored alone, got 'hull_own_visible'"):
        evaluate_baseline("hull_own_visible", dataset, settings)
    with pytest.raises(InputError, match="threshold: expected None for 'filled_box', which takes none, got 0.5"):
        evaluate_baseline("filled_box", dataset, settings, threshold=0.5)
    with pytest.raises(InputError, match="baseline: expected one of true_visible, .* got 'triangle'"):
        evaluate_baseline("triangle", dataset, settings)


def test_true_visible_masks_as_prompts(tmp_path: Path) -> None:
    """A given visible mask stays as it is; a model that does not take masks is not scored as if it did."""
    _, dataset = toy(tmp_path, 2)
    config = PlugConfig(image_size=128, refine_channels=8, mask_prompts=True)
    torch.manual_seed(0)
    taught = AmodalSegmenter(PlugModel.from_base("sam-small", config), torch.device("cpu"), torch.float32)
    quiet = {"baselines": (), "progress": False, "num_resamples": 0}
    report = evaluate(taught, dataset, box_source="gt_visible_mask", **quiet)
    assert report.metrics["mIoU_visible"] == 1.0
    assert report.options["box_source"] == "gt_visible_mask"
    boxes = evaluate(taught, dataset, **quiet)
    assert boxes.metrics["mIoU_visible"] < 1.0
    assert boxes.metrics["mIoU_full"] != report.metrics["mIoU_full"]
    with pytest.raises(InputError, match="for a model that was not trained with mask prompts, got gt_visible_mask"):
        evaluate(AmodalSegmenter(random_plug()), dataset, box_source="gt_visible_mask", **quiet)
