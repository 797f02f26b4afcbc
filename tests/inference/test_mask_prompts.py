"""Visible masks, points and detections as prompts of `AmodalSegmenter` and `SamStylePredictor`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from amodal import AmodalSegmenter
from amodal.errors import InputError
from amodal.inference.sam_style import SamStylePredictor
from amodal.ops.boxes import mask_to_box
from amodal.ops.cleaning import CleanSettings
from amodal.ops.rle import encode_mask
from amodal.synthetic.scenes import SyntheticImage, render_scene
from tests.inference.test_prompts import Detections, ultralytics_results
from tests.models.conftest import random_plug


@pytest.fixture(scope="module")
def segmenter() -> AmodalSegmenter:
    return AmodalSegmenter.from_pretrained("plug-small", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def drawn() -> SyntheticImage:
    return render_scene(40_001)


def visible_masks(drawn: SyntheticImage) -> np.ndarray:
    return np.stack([shape.visible_mask for shape in drawn.objects])


@pytest.mark.parametrize("mode", ["crop", "image"])
@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("union_visible", [True, False])
def test_given_masks_are_kept_bit_for_bit(drawn: SyntheticImage, mode: str, clean: bool, union_visible: bool) -> None:
    segmenter = AmodalSegmenter.from_pretrained("plug-small", device="cpu", dtype="float32", mode=mode)
    masks = visible_masks(drawn)
    scene = segmenter(drawn.image, masks=masks, clean=clean, union_visible=union_visible)
    assert len(scene) == len(masks)
    for obj, mask in zip(scene, masks, strict=True):
        np.testing.assert_array_equal(obj.visible_mask, mask)
        assert not (mask & ~obj.amodal_mask).any()


def test_image_mode_encodes_the_image_and_its_mirror_image_once(
    drawn: SyntheticImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = AmodalSegmenter(random_plug(mask_prompts=True), mode="image")
    calls: list[str] = []
    for owner, name in ((segmenter.processor, "whole"), (segmenter.model, "encode"), (segmenter.model, "predict")):
        method = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, _m=method, _n=name, **k: (calls.append(_n), _m(*a, **k))[1])
    masks = visible_masks(drawn)
    segmenter(drawn.image, masks=masks, batch_size=1, clean=CleanSettings(min_occlusion=0, min_confirmed=1e-9))
    assert calls.count("predict") > len(masks) + 1 > 3, "several objects are predicted twice"
    assert calls.count("whole") == 1 and calls.count("encode") == 2
    calls.clear()
    segmenter(drawn.image, masks=masks, batch_size=2, clean=False)
    assert calls.count("whole") == calls.count("encode") == 1


def test_a_model_without_mask_prompts_gets_the_box_of_the_mask(drawn: SyntheticImage) -> None:
    segmenter = AmodalSegmenter(random_plug(), torch.device("cpu"), torch.float32)
    masks = visible_masks(drawn)
    assert not segmenter.uses_masks
    by_mask = segmenter(drawn.image, masks=masks, clean=False)
    by_box = segmenter(drawn.image, [mask_to_box(mask).tolist() for mask in masks], clean=False, union_visible=False)
    for one, other, mask in zip(by_mask, by_box, masks, strict=True):
        np.testing.assert_array_equal(one.amodal_mask, other.amodal_mask | mask)
        assert one.visible_box_xyxy == other.visible_box_xyxy


def test_a_mask_larger_than_its_box_is_kept_whole(segmenter: AmodalSegmenter) -> None:
    image, mask = np.zeros((60, 160, 3), np.uint8), np.zeros((60, 160), bool)
    mask[5:25, 5:25] = mask[10, 5:155] = True  # an arm that leaves the crop
    scene = segmenter(image, [[5, 5, 25, 25]], masks=[mask])
    np.testing.assert_array_equal(scene[0].visible_mask, mask)


def test_forms_of_masks_give_the_same_scene(segmenter: AmodalSegmenter, drawn: SyntheticImage) -> None:
    masks = visible_masks(drawn)[:2]
    expected = [obj.amodal_mask for obj in segmenter(drawn.image, masks=masks)]
    rles = [encode_mask(mask) for mask in masks]
    annotations = [{"id": 7 + n, "category_id": 3, "segmentation": rle} for n, rle in enumerate(rles)]
    for prompts in ({"masks": rles}, {"detections": annotations}):
        scene = segmenter(drawn.image, **prompts)
        for obj, mask in zip(scene, expected, strict=True):
            np.testing.assert_array_equal(obj.amodal_mask, mask)
    assert [obj.source_id for obj in scene] == [7, 8]
    assert [obj.class_id for obj in scene] == [3, 3]


@pytest.mark.parametrize("with_masks", [True, False])
def test_names_and_numbers_of_detections_reach_the_scene(segmenter: AmodalSegmenter, with_masks: bool) -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    mask = np.zeros((1, 20, 30), bool)
    mask[0, 5:12, 4:10] = True
    (supervised,) = segmenter(image, detections=Detections(mask if with_masks else None))
    assert (supervised.name, supervised.class_id, supervised.tracker_id) == ("mug", 3, 7)
    (detected,) = segmenter(image, detections=ultralytics_results(with_masks))
    assert (detected.name, detected.class_id, detected.tracker_id) == ("cup", 41, None)
    if with_masks:
        np.testing.assert_array_equal(supervised.visible_mask, mask[0])
        np.testing.assert_array_equal(detected.visible_mask, mask[0])


def test_prompts_of_several_kinds_in_one_call(segmenter: AmodalSegmenter, drawn: SyntheticImage) -> None:
    masks = visible_masks(drawn)[:3]
    boxes = [mask_to_box(mask).tolist() for mask in masks]
    point = np.argwhere(masks[2])[len(np.argwhere(masks[2])) // 2][::-1].tolist()
    scene = segmenter(
        drawn.image,
        [boxes[0], None, None],
        masks=[None, masks[1], None],
        points_xy=[None, None, [point]],
    )
    assert scene[0].visible_box_xyxy == tuple(boxes[0])
    np.testing.assert_array_equal(scene[1].visible_mask, masks[1])
    assert scene[2].amodal_mask.any()


def test_a_point_that_is_not_on_the_object_changes_the_result(segmenter: AmodalSegmenter) -> None:
    image = np.zeros((128, 128, 3), np.uint8)
    image[40:90, 20:64], image[40:90, 64:110] = (220, 60, 60), (60, 60, 220)
    finder = segmenter.finder
    points = np.array([[40.0, 60.0], [90.0, 60.0]])
    alone = finder.box_of(image, points[:1], np.array([1]))
    both = finder.box_of(image, points, np.array([1, 1]))
    without = finder.box_of(image, points, np.array([1, 0]))
    assert np.array_equal(alone, finder.boxes_at(image, points[:1])[0])
    assert not np.array_equal(both, without)


def test_points_refine_a_box(segmenter: AmodalSegmenter, drawn: SyntheticImage) -> None:
    mask = visible_masks(drawn)[0]
    box = mask_to_box(mask).tolist()
    point = np.argwhere(mask).mean(0)[::-1].tolist()
    (refined,) = segmenter(drawn.image, box, points_xy=[[point]], point_labels=[[1]])
    x0, y0, x1, y1 = refined.visible_box_xyxy
    assert x0 < point[0] < x1 and y0 < point[1] < y1
    assert refined.visible_box_xyxy != segmenter(drawn.image, box)[0].visible_box_xyxy


def test_sam_style(segmenter: AmodalSegmenter, drawn: SyntheticImage) -> None:
    predictor = SamStylePredictor(segmenter)
    with pytest.raises(InputError, match="expected set_image before predict"):
        predictor.predict(box=np.array([1, 2, 30, 40]))
    predictor.set_image(drawn.image)
    mask = visible_masks(drawn)[0]
    box = mask_to_box(mask)
    masks, scores, rate = predictor.predict(box=box)
    obj = segmenter(drawn.image, [box.tolist()])[0]
    np.testing.assert_array_equal(masks, [obj.visible_mask, obj.amodal_mask])
    assert scores.shape == (2,) and rate == obj.occlusion_rate
    np.testing.assert_array_equal(predictor.predict(box=box, multimask_output=True)[0], masks)
    with pytest.raises(InputError, match="return_logits: expected False, because masks are bool, got True"):
        predictor.predict(box=box, return_logits=True)
    masks, _, _ = predictor.predict(mask_input=mask)
    np.testing.assert_array_equal(masks[0], mask)
    point = np.argwhere(mask).mean(0)[None, ::-1]
    masks, _, _ = predictor.predict(point_coords=point, point_labels=np.array([1]))
    assert masks.shape == (2, *drawn.image.shape[:2])


@pytest.mark.parametrize(
    ("prompts", "line"),
    [
        ({}, "prompts: expected boxes, points, masks or detections, got none"),
        ({"masks": np.ones((1, 3, 3), bool)}, "mask: expected the image's shape"),
        ({"boxes_xyxy": [0.1, 0.1, 0.9, 0.9]}, "looks normalised"),
    ],
)
def test_mistakes(segmenter: AmodalSegmenter, drawn: SyntheticImage, prompts: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        segmenter(drawn.image, **prompts)


def test_clean_masks_have_fewer_pieces(segmenter: AmodalSegmenter, drawn: SyntheticImage) -> None:
    import cv2

    boxes = [mask_to_box(mask).tolist() for mask in visible_masks(drawn)]

    def pieces(clean: bool) -> int:
        scene = segmenter(drawn.image, boxes, clean=clean)
        return sum(cv2.connectedComponents(obj.amodal_mask.astype(np.uint8))[0] - 1 for obj in scene)

    assert len(boxes) <= pieces(True) < pieces(False)
