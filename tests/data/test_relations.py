"""Who hides whom, from masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amodal.data.relations import clusters, depths, hides, with_occluders
from amodal.data.samples import ImageSample, ObjectSample
from amodal.ops.rle import encode_mask, rle_box_xyxy
from tests.drawing import mask


def thing(number: int, visible: Any, amodal: Any = None, **more: Any) -> ObjectSample:
    seen = encode_mask(visible)
    whole = seen if amodal is None else encode_mask(amodal)
    return ObjectSample(number, 1, seen, whole, rle_box_xyxy(seen), rle_box_xyxy(whole), **more)


FRONT = thing(1, mask("##...", "##...", "....."))
MIDDLE = thing(2, mask("..#..", "..#..", ".##.."), mask(".##..", ".##..", ".##.."))
BACK = thing(3, mask("...##", "...##", "....."), mask("..###", "..###", "....."))


def image(*objects: ObjectSample) -> ImageSample:
    return ImageSample(1, Path("x.png"), 3, 5, objects)


def test_the_visible_mask_over_the_hidden_part_hides() -> None:
    found = {o.id: o.occluders for o in with_occluders(image(FRONT, MIDDLE, BACK)).objects}
    assert found == {1: (), 2: (1,), 3: (2,)}


def test_what_is_stated_stays() -> None:
    stated = replace(BACK, occluders=(), occluders_known=True)
    modal = replace(FRONT, amodal_rle=None, amodal_box_xyxy=None)
    first, second = with_occluders(image(stated, modal)).objects
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
def test_what_cannot_hide(front: ObjectSample) -> None:
    behind = replace(MIDDLE, order=2, order_group=0)
    assert hides(FRONT, MIDDLE) and not hides(front, behind)


def test_the_order_of_another_group_says_nothing() -> None:
    assert hides(replace(FRONT, order=5, order_group=1), replace(MIDDLE, order=2, order_group=0))


def test_a_touch_in_single_pixels_hides_nothing() -> None:
    back = thing(1, mask("#" * 1, *["."] * 149 + ["#"]), mask(*["#"] * 151))
    assert hides(thing(2, mask(".", *["#"] * 2, *["."] * 148)), back)
    assert not hides(thing(2, mask(".", "#", *["."] * 149)), back), "one of 149 hidden pixels"


def test_depths_and_clusters() -> None:
    linked = with_occluders(image(FRONT, MIDDLE, BACK, thing(9, mask(".....", ".....", "#....")))).objects
    assert depths(linked) == [0, 1, 2, 0]
    assert clusters(linked) == [0, 0, 0, 1]
    missing = [replace(FRONT, occluders=(77,))]
    assert depths(missing) == [0] and clusters(missing) == [0]


def test_objects_that_hide_each_other_in_a_circle_have_depths() -> None:
    a, b = replace(FRONT, occluders=(2,)), replace(MIDDLE, occluders=(1,))
    behind = replace(BACK, occluders=(2,))
    assert depths([a, b, behind]) == [0, 0, 1]
    assert clusters([a, b, behind]) == [0, 0, 0]
    assert depths([replace(a, occluders=(2, 3)), b, behind, thing(4, mask("#"), occluders=(1,))]) == [0, 0, 0, 1]


def test_the_longest_chain_counts() -> None:
    chain = [thing(i, mask("#"), occluders=tuple(range(i))) for i in range(20)]
    assert depths(chain) == list(range(20)) and depths(chain[::-1]) == list(range(20))[::-1]
    assert depths([]) == []
