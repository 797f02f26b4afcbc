"""The definition of occlusion: rate, relation, depth levels and groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amodal.ops.masks import mask_iou
from amodal.ops.occlusion import (
    MIN_OCCLUDER_SHARE,
    MIN_OCCLUSION_RATE,
    cover_shares,
    depth_levels,
    depth_order,
    is_occluded,
    is_occluder,
    occluders_of,
    occlusion_groups,
    occlusion_rate,
    rle_occlusion_rate,
)
from amodal.ops.rle import encode_mask
from tests.drawing import mask

FRONT = mask("##...", "##...", ".....")
MIDDLE = mask("..#..", "..#..", ".##.."), mask(".##..", ".##..", ".##..")
BACK = mask("...##", "...##", "....."), mask("..###", "..###", ".....")
VISIBLE = [FRONT, MIDDLE[0], BACK[0]]
AMODAL = [FRONT, MIDDLE[1], BACK[1]]

two_masks = st.tuples(st.integers(1, 8), st.integers(1, 8)).flatmap(
    lambda size: st.tuples(arrays(bool, size), arrays(bool, size))
)


@st.composite
def relations(draw: st.DrawFn) -> list[list[int]]:
    """Occluders of up to seven objects, in any direction."""
    count = draw(st.integers(0, 7))
    return [
        sorted(draw(st.sets(st.integers(0, count - 1).filter(lambda j, i=i: j != i)))) if count > 1 else []
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("visible", "amodal", "rate"),
    [
        ("#...", "####", 0.75),
        ("####", "####", 0),
        ("....", "####", 1),
        ("....", "....", 0),
        ("####", "##..", 0),  # a visible mask that leaves the amodal mask gives no negative rate
    ],
)
def test_occlusion_rate(visible: str, amodal: str, rate: float) -> None:
    assert occlusion_rate(mask(visible), mask(amodal)) == rate
    assert rle_occlusion_rate(encode_mask(mask(visible)), encode_mask(mask(amodal))) == rate


@given(two_masks)
def test_the_rate_of_rles_is_that_of_masks(masks: tuple[np.ndarray, np.ndarray]) -> None:
    amodal = masks[0] | masks[1]
    rate = occlusion_rate(masks[0], amodal)
    assert 0 <= rate <= 1
    assert rle_occlusion_rate(encode_mask(masks[0]), encode_mask(amodal)) == pytest.approx(rate)
    if amodal.any():  # for a visible mask inside the amodal mask, the rate is the complement of their IoU
        assert rate == pytest.approx(1 - mask_iou(masks[0], amodal))


def test_the_thresholds_are_inclusive() -> None:
    assert is_occluded(MIN_OCCLUSION_RATE) and not is_occluded(MIN_OCCLUSION_RATE - 1e-6)
    covered = int(MIN_OCCLUDER_SHARE * 1000)
    assert is_occluder(covered, 1000) and not is_occluder(covered - 1, 1000)
    assert not is_occluder(0, 0)


def test_cover_shares_and_occluders() -> None:
    assert cover_shares(VISIBLE, AMODAL).tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
    found = [occluders_of(i, VISIBLE, AMODAL[i] & ~VISIBLE[i]) for i in range(3)]
    assert found == [[], [0], [1]]
    assert cover_shares([], []).shape == (0, 0)


def test_an_overlap_of_a_few_pixels_is_no_occlusion() -> None:
    occluded = mask("#" * 20)
    covering = [mask("#" * n + "." * (20 - n)) for n in (1, 2)]
    assert occluders_of(2, [*covering, mask("." * 20)], occluded) == [1]


@given(two_masks)
def test_two_objects_that_cover_each_other_occlude_each_other(masks: tuple[np.ndarray, np.ndarray]) -> None:
    """`occluders_of` and `cover_shares` agree for any masks."""
    visible = [masks[0], masks[1] & ~masks[0]]
    amodal = [visible[0] | visible[1], visible[0] | visible[1]]
    shares = cover_shares(visible, amodal)
    for i in range(2):
        found = occluders_of(i, visible, amodal[i] & ~visible[i])
        assert found == [j for j in range(2) if j != i and shares[j, i] > 0 and shares[j, i] >= MIN_OCCLUDER_SHARE]


@pytest.mark.parametrize(
    ("occluders", "depths", "groups"),
    [
        ([], [], []),
        ([[], [0], [1], []], [0, 1, 2, 0], [0, 0, 0, 1]),
        ([[1], [0], [1]], [0, 0, 1], [0, 0, 0]),  # the first two occlude each other
        ([[1, 2], [0], [1], [0]], [0, 0, 0, 1], [0, 0, 0, 0]),  # a circle of three
        ([[], [], [0, 1]], [0, 0, 1], [0, 0, 0]),
        ([[1], [2, 3], [1], []], [2, 1, 1, 0], [0, 0, 0, 0]),  # one behind a circle that is behind another
        ([list(range(i)) for i in range(20)], list(range(20)), [0] * 20),  # the longest chain counts
    ],
)
def test_depth_levels_and_groups(occluders: list[list[int]], depths: list[int], groups: list[int]) -> None:
    assert depth_levels(occluders) == depths
    assert occlusion_groups(occluders) == groups


@given(relations())
def test_an_occluder_is_never_deeper_and_shares_the_group(occluders: list[list[int]]) -> None:
    depths, groups = depth_levels(occluders), occlusion_groups(occluders)
    for i, in_front in enumerate(occluders):
        assert all(depths[j] <= depths[i] and groups[j] == groups[i] for j in in_front)
        assert in_front or depths[i] == 0
    assert sorted(set(groups)) == list(range(len(set(groups))))


@given(relations())
def test_the_order_of_depth_agrees_with_the_levels(occluders: list[list[int]]) -> None:
    rates = [(7 * i % 5) / 5 for i in range(len(occluders))]
    order, depths = depth_order(occluders, rates), depth_levels(occluders)
    assert sorted(order) == list(range(len(occluders)))
    place = {index: number for number, index in enumerate(order)}
    for i, in_front in enumerate(occluders):
        assert all(place[j] < place[i] for j in in_front if depths[j] < depths[i]), "each one after its occluders"


def test_objects_in_a_circle_are_ordered_by_rate() -> None:
    assert depth_order([[1], [0], [0]], [0.5, 0.4, 0.05]) == [1, 0, 2]
    assert depth_order([[], [0], [0]], [0.0, 0.9, 0.1]) == [0, 2, 1]
    assert depth_order([], []) == []
