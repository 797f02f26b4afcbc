"""Masks survive their encoding; foreign forms are refused with a reason."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amodal.errors import InputError
from amodal.ops.rle import decode_mask, decode_window, encode_mask, rle_area, rle_box_xyxy, segmentation_to_rle
from tests.drawing import mask

masks = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@given(masks)
def test_round_trip_keeps_every_bit(original: np.ndarray) -> None:
    rle = encode_mask(original)
    assert rle["size"] == list(original.shape)
    assert np.array_equal(decode_mask(rle), original)
    assert rle_area(rle) == original.sum()
    assert segmentation_to_rle(rle, *original.shape) == rle


@given(masks, st.data())
def test_a_window_is_cut_without_decoding_the_rest(original: np.ndarray, data: st.DataObject) -> None:
    height, width = original.shape
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    assert np.array_equal(decode_window(encode_mask(original), (x0, y0, x1, y1)), original[y0:y1, x0:x1])


def test_a_window_of_a_huge_mask_costs_no_memory_for_the_rest() -> None:
    runs = {"size": [40_000, 40_000], "counts": [800_000_000, 5, 799_999_995]}
    rle = segmentation_to_rle(runs, 40_000, 40_000)
    tracemalloc.start()
    found = decode_window(rle, (19_999, 0, 20_002, 7))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[:, 1].tolist() == [True] * 5 + [False] * 2
    assert found.sum() == 5
    assert peak < 1_000_000


def test_long_masks_round_trip() -> None:
    """Runs of several characters, and differences below zero."""
    rng = np.random.default_rng(0)
    for height, width in ((1, 5000), (3000, 7), (400, 300)):
        original = np.repeat(rng.random((height, width)) < 0.5, 1 + width // 9, axis=1)[:, :width]
        rle = encode_mask(original)
        assert segmentation_to_rle(rle, height, width) == rle


def test_box_of_an_encoded_mask() -> None:
    assert rle_box_xyxy(encode_mask(mask("....", ".##.", "..#."))) == (1, 1, 3, 3)


def test_polygons_and_both_kinds_of_rle_are_read() -> None:
    square = segmentation_to_rle([[1, 1, 3, 1, 3, 3, 1, 3]], 4, 4)
    assert decode_mask(square).sum() == 4
    assert segmentation_to_rle(square, 4, 4) == square
    assert decode_mask(segmentation_to_rle({"size": [2, 2], "counts": [1, 2, 1]}, 2, 2)).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 1, 2, 2]], "three points or more"),
        ([[1, 1, 2, 2, 3, float("nan")]], "finite coordinates"),
        ({"size": [4, 5], "counts": ""}, r"expected an RLE of size \[4, 4\], got \[4, 5\]"),
        ([[1, 1, 2, 2, 3, "x"]], "expected polygons of numbers"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "expected coordinates within 128 px, got 1e\\+09"),
        ({"size": [4, 4], "counts": "0"}, "expected runs over 16 pixels, got 0"),
        ({"size": [4, 4], "counts": ""}, "expected runs over 16 pixels, got 0"),
        ({"size": [4, 4], "counts": [3, 20]}, "expected runs over 16 pixels, got 23"),
        ({"size": [4, 4], "counts": [-4, 20]}, "expected runs over 16 pixels, got 20"),
        ({"size": [4, 4], "counts": "~~\u00e9"}, "expected an RLE's counts, got other content"),
        ({"size": [4, 4], "counts": "oooooooooo0"}, "expected an RLE's counts, got other content"),
        ({"size": [4, 4], "counts": "\t"}, "expected an RLE's counts, got other content"),
        ({"size": [4, 4], "counts": 16}, "expected an RLE's counts, got other content"),
        ([], "expected polygons or an RLE, got list"),
        ("abc", "expected polygons or an RLE, got str"),
    ],
)
def test_other_content_is_refused(segmentation: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        segmentation_to_rle(segmentation, 4, 4)
