"""The evaluator's PLUG gives the masks that users get, and can leave them apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from amodal import AmodalSegmenter
from amodal.errors import InputError
from amodal.evaluation.evaluator import evaluate_row
from amodal.evaluation.plan import Plan
from amodal.evaluation.plug import SAM_THRESHOLD, PlugPredictor, pretrained_sam
from amodal.ops.rle import decode_mask, encode_window
from tests.evaluation.world import toy

BOXES = np.array([[10.0, 12.0, 60.0, 70.0], [-5.0, 3.0, 30.0, 200.0]])


@pytest.fixture(scope="module")
def segmenter() -> AmodalSegmenter:
    return AmodalSegmenter.from_pretrained("plug-tiny", dtype="float32")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)


@pytest.mark.parametrize("threshold", [None, 0.6])
def test_united_masks_are_those_of_the_segmenter(
    segmenter: AmodalSegmenter, image: np.ndarray, threshold: float | None
) -> None:
    answers = PlugPredictor.of(segmenter, threshold=threshold).predict(image, BOXES)
    scene = segmenter(image, BOXES, threshold=threshold)
    for answer, thing in zip(answers, scene.objects, strict=True):
        assert np.array_equal(decode_mask(answer.amodal), thing.amodal_mask)
        assert np.array_equal(decode_mask(answer.visible or {}), thing.visible_mask)
        assert thing.amodal_mask.any()


def test_masks_apart_unite_to_the_same(segmenter: AmodalSegmenter, image: np.ndarray) -> None:
    apart = PlugPredictor.of(segmenter, union_visible=False).predict(image, BOXES)
    united = PlugPredictor.of(segmenter).predict(image, BOXES)
    differs = 0
    for a, u in zip(apart, united, strict=True):
        amodal, visible = decode_mask(a.amodal), decode_mask(a.visible or {})
        assert np.array_equal(amodal | visible, decode_mask(u.amodal))
        differs += int((visible & ~amodal).sum())
    assert differs > 0  # on noise the two branches do not agree: the option means something


def test_impossible_thresholds_are_refused(segmenter: AmodalSegmenter) -> None:
    with pytest.raises(InputError, match=r"threshold: expected a number in \(0, 1\), got 1.5"):
        PlugPredictor.of(segmenter, threshold=1.5)


def test_pretrained_sam_is_transformers_sam_on_the_crop(image: np.ndarray) -> None:
    from amodal.models.bases.sam import load_sam

    ours = pretrained_sam("sam-tiny", torch.device("cpu"), torch.float32, None)
    assert ours.threshold == SAM_THRESHOLD
    assert not ours.has_visible
    (answer,) = ours.predict(image, BOXES[:1])
    assert answer.visible is None
    sam = load_sam("sam-tiny").model.eval().double()  # in float32 either is 3e-4 off
    inputs = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)).double()
    box = torch.tensor([[[20.0, 30.0, 90.0, 100.0]]]).double()
    with torch.inference_mode():
        expected = sam(pixel_values=inputs, input_boxes=box, multimask_output=False).pred_masks[:, :, 0]
        got = ours.model.double()(inputs, box).pred_masks
    small = torch.nn.functional.interpolate(expected, size=got.shape[-2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(got, small, atol=1e-5, rtol=0)


def test_sam_takes_the_amodal_box_as_the_paper_does(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 1)
    image, (x0, y0, _, y1) = dataset.images[0], dataset.images[0].objects[0].visible_box_xyxy
    strip = (x0, y0, x0 + 6, y1)  # all that is seen of the first object
    part = np.ones((int(y1 - y0), 6), bool)
    visible = encode_window(part, (int(x0), int(y0), int(x0) + 6, int(y1)), image.size)
    changed = replace(image.objects[0], visible_rle=visible, visible_box_xyxy=strip)
    dataset = replace(dataset, images=(replace(image, objects=(changed,)),))
    plan = Plan(baselines=(), progress=False, resampling=None)
    seen = evaluate_row("sam", dataset, plan)
    whole = evaluate_row("sam_amodal_box", dataset, plan)
    assert (seen.options["box_source"], whole.options["box_source"]) == ("gt_visible", "gt_amodal")
    assert seen.options["threshold"] == whole.options["threshold"] == 0.5
    assert whole.options["sam"] == "sam-tiny"
    assert whole.metrics["mIoU_full"] > seen.metrics["mIoU_full"] + 0.1
    with pytest.raises(InputError, match="base: expected a bundled name"):
        evaluate_row("sam", dataset, Plan(baselines=(), sam=str(tmp_path), progress=False))


def test_rows_that_cannot_stand_alone_or_take_no_threshold(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 1)
    plan = Plan(progress=False)
    with pytest.raises(InputError, match="expected a row that stands alone, got 'hull_own_visible'"):
        evaluate_row("hull_own_visible", dataset, plan)
    with pytest.raises(InputError, match="threshold: expected None for 'filled_box', which takes none, got 0.5"):
        evaluate_row("filled_box", dataset, plan, threshold=0.5)
    with pytest.raises(InputError, match="baseline: expected one of true_visible, .* got 'triangle'"):
        evaluate_row("triangle", dataset, plan)
