"""Overlap, convex hull, and the way from image to crop and back."""

from __future__ import annotations

import numpy as np
import pytest

from amodal.ops.masks import convex_hull_mask, crop_and_resize, crop_mask, iou_of_counts, mask_iou, resize_probs
from tests.drawing import mask


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        ("##..", "##..", 1.0),
        ("##..", "..##", 0.0),
        ("##..", ".##.", 1 / 3),
        ("....", "....", 1.0),
        ("#...", "....", 0.0),
    ],
)
def test_mask_iou(a: str, b: str, iou: float) -> None:
    assert mask_iou(mask(a), mask(b)) == pytest.approx(iou)


def test_iou_of_counts_is_one_where_both_masks_are_empty() -> None:
    assert iou_of_counts([0, 1, 3], [0, 4, 3]).tolist() == [1, 0.25, 1]
    assert iou_of_counts(np.zeros((2, 0)), np.zeros((2, 0))).shape == (2, 0)


def test_hull_fills_the_corner_of_an_l() -> None:
    shape = mask("#....", "#....", "#....", "#....", "#####")
    hull = convex_hull_mask(shape)
    assert (hull & shape).sum() == shape.sum()
    assert hull[2, 1]
    assert not hull[0, 4]
    assert not convex_hull_mask(mask("...")).any()


def test_crop_keeps_a_mask_that_fits() -> None:
    full = np.zeros((20, 30), bool)
    full[5:15, 10:20] = True
    crop = crop_mask(full, (10, 5, 20, 15), 10)
    assert crop.all()
    doubled = crop_mask(full, (5, 0, 25, 20), 40)
    assert doubled.mean() == pytest.approx(0.25, abs=0.02)


def test_probabilities_are_resized_to_their_window() -> None:
    resized = resize_probs(np.full((8, 8), 0.7, np.float32), (3, 2, 9, 5))
    assert resized.shape == (3, 6) and resized.dtype == np.float32
    np.testing.assert_allclose(resized, 0.7, atol=1e-6)


def test_shrinking_averages_and_growing_interpolates() -> None:
    stripes = np.zeros((40, 40), np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(crop_and_resize(stripes, (0, 0, 40, 40), 10)) <= 1
    assert crop_and_resize(stripes, (0, 0, 40, 40), 80).shape == (80, 80)
