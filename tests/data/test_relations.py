"""Occluders derived from the masks of an image's objects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amodal.data.relations import derive_occluders, occluder_positions, occludes
from amodal.data.samples import ImageSample, ObjectSample
from amodal.ops.rle import encode_mask, rle_box_xyxy
from tests.drawing import mask


def sample(number: int, visible: Any, amodal: Any = None, **fields: Any) -> ObjectSample:
    visible_rle = encode_mask(visible)
    amodal_rle = visible_rle if amodal is None else encode_mask(amodal)
    boxes = rle_box_xyxy(visible_rle), rle_box_xyxy(amodal_rle)
    return ObjectSample(number, 1, visible_rle, amodal_rle, *boxes, **fields)


FRONT = sample(1, mask("##...", "##...", "....."))
MIDDLE = sample(2, mask("..#..", "..#..", ".##.."), mask(".##..", ".##..", ".##.."))
BACK = sample(3, mask("...##", "...##", "....."), mask("..###", "..###", "....."))


def image(*objects: ObjectSample) -> ImageSample:
    return ImageSample(1, Path("x.png"), 3, 5, objects)


def test_an_object_over_the_occluded_part_is_an_occluder() -> None:
    found = derive_occluders(image(FRONT, MIDDLE, BACK)).objects
    assert {obj.id: obj.occluders for obj in found} == {1: (), 2: (1,), 3: (2,)}
    assert occluder_positions(found) == [[], [0], [1]]
    assert occluder_positions(found[1:]) == [[], [0]], "an occluder outside the list is skipped"


def test_stated_occluders_are_kept() -> None:
    stated = replace(BACK, occluders=(), occluders_known=True)
    modal = replace(FRONT, amodal_rle=None, amodal_box_xyxy=None)
    first, second = derive_occluders(image(stated, modal)).objects
    assert first is stated and second is modal and not second.occluders_known


@pytest.mark.parametrize(
    "front",
    [
        replace(FRONT, iscrowd=True),
        replace(FRONT, annotator="other"),
        replace(FRONT, order=5, order_group=0),
        replace(FRONT, visible_rle=encode_mask(mask(".....", ".....", ".....")), visible_box_xyxy=(0, 0, 0, 0)),
    ],
)
def test_objects_that_cannot_occlude(front: ObjectSample) -> None:
    behind = replace(MIDDLE, order=2, order_group=0)
    assert occludes(FRONT, MIDDLE) and not occludes(front, behind)


def test_orders_of_different_groups_are_not_compared() -> None:
    assert occludes(replace(FRONT, order=5, order_group=1), replace(MIDDLE, order=2, order_group=0))


def test_a_small_overlap_is_no_occlusion() -> None:
    back = sample(1, mask("#", *["."] * 149, "#"), mask(*["#"] * 151))
    assert occludes(sample(2, mask(".", *["#"] * 15, *["."] * 135)), back)
    assert not occludes(sample(2, mask(".", *["#"] * 14, *["."] * 136)), back), "14 of 149 occluded pixels"
