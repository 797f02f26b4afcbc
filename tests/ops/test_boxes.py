"""Box operations, and the crop rule: centre (min + max) // 2, length int(extent * 2), clipped to the image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amodal.ops.boxes import (
    box_iou,
    boxes_meet,
    boxes_to_crop,
    crop_window,
    mask_to_box,
    without_overlaps,
    xywh_to_xyxy,
    xyxy_to_xywh,
)
from tests.drawing import mask


def test_box_of_a_mask_has_exclusive_edges() -> None:
    assert mask_to_box(mask("....", ".##.", "..#.")).tolist() == [1, 1, 3, 3]
    assert mask_to_box(mask("....")).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("other", "meets"),
    [
        ((3, 3, 9, 9), True),
        ((1, 1, 2, 2), True),  # inside
        ((4, 0, 8, 4), False),  # only an edge in common
        ((0, 4, 4, 8), False),
        ((9, 9, 12, 12), False),
    ],
)
def test_boxes_meet_if_they_share_an_area(other: tuple[float, ...], meets: bool) -> None:
    assert boxes_meet((0, 0, 4, 4), other) == boxes_meet(other, (0, 0, 4, 4)) == meets


@pytest.mark.parametrize(
    ("box", "window"),
    [
        ((40, 30, 60, 50), (30, 20, 70, 60)),  # twice the box around its centre
        ((0, 0, 20, 20), (0, 0, 30, 30)),  # clipped, not shifted
        ((90, 70, 100, 80), (85, 65, 100, 80)),
        ((10, 10, 15, 13), (7, 8, 17, 14)),  # centre (12, 11), lengths 10 and 6
        ((50.2, 50.2, 50.4, 50.4), (50, 50, 51, 51)),  # never empty
    ],
)
def test_window_follows_the_pixel_rule(box: tuple[float, ...], window: tuple[int, ...]) -> None:
    assert crop_window(np.array(box), (80, 100)) == window


@pytest.mark.parametrize("box", [(40, 30, 60, 50), (0, 0, 20, 20), (90, 70, 100, 80), (10, 10, 15, 13)])
def test_the_extra_pixel_is_that_of_the_published_loader(box: tuple[int, ...]) -> None:
    """C2F-Seg's loader, literally: a slice `x_min : x_max + 1` of the image around the centre of the box."""
    rows, columns = np.mgrid[:80, :100]
    x_center, y_center = (box[0] + box[2]) // 2, (box[1] + box[3]) // 2
    x_len, y_len = int((box[2] - box[0]) * 2), int((box[3] - box[1]) * 2)
    x_min, x_max = max(0, x_center - x_len // 2), min(100, x_center + x_len // 2)
    y_min, y_max = max(0, y_center - y_len // 2), min(80, y_center + y_len // 2)
    columns, rows = (axis[y_min : y_max + 1, x_min : x_max + 1] for axis in (columns, rows))
    expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert crop_window(np.array(box), (80, 100), extra=1) == expected


corner = st.floats(0, 99, allow_nan=False)


@given(corner, corner, corner, corner, st.floats(1, 6))
def test_window_lies_in_the_image_and_is_never_empty(x: float, y: float, w: float, h: float, scale: float) -> None:
    box = np.array([x, y, min(x + w, 100), min(y + h, 100)])
    x0, y0, x1, y1 = crop_window(box, (100, 100), scale)
    assert 0 <= x0 < x1 <= 100
    assert 0 <= y0 < y1 <= 100


@given(st.tuples(corner, corner, corner, corner))
def test_box_forms_round_trip(box: tuple[float, ...]) -> None:
    assert xywh_to_xyxy(xyxy_to_xywh(box)) == pytest.approx(box, abs=1e-9)


def test_box_iou() -> None:
    a = np.array([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    b = np.array([[2.0, 0.0, 6.0, 4.0], [8.0, 8.0, 9.0, 9.0], [0.0, 0.0, 4.0, 4.0]])
    np.testing.assert_allclose(box_iou(a, b), [[8 / 24, 0, 1], [0, 0, 0]])


def test_of_boxes_that_overlap_the_first_is_kept() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 3], [20, 0, 30, 10], [0, 0, 10, 10]])
    assert without_overlaps(boxes, 0.5).tolist() == [0, 2, 3]
    assert without_overlaps(boxes, 1.0).tolist() == [0, 1, 2, 3, 4]
    assert without_overlaps(np.zeros((0, 4)), 0.5).tolist() == []


def test_boxes_in_a_crop_are_scaled_per_axis() -> None:
    moved = boxes_to_crop(np.array([[30.0, 20.0, 40.0, 25.0]]), (20, 10, 60, 30), 80)
    assert moved.tolist() == [[20, 40, 40, 60]]
