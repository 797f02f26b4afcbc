"""Encoding keeps every pixel, windows are decoded alone, and invalid segmentations raise a clear error."""

from __future__ import annotations

import tracemalloc
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amodal.errors import InputError
from amodal.ops.rle import (
    are_complete,
    count_components,
    decode_mask,
    decode_window,
    encode_mask,
    rle_area,
    rle_box_xyxy,
    segmentation_to_rle,
)
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
def test_decoding_a_window_equals_cropping_the_mask(original: np.ndarray, data: st.DataObject) -> None:
    height, width = original.shape
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    assert np.array_equal(decode_window(encode_mask(original), (x0, y0, x1, y1)), original[y0:y1, x0:x1])


def test_decoding_a_window_of_a_huge_mask_needs_little_memory() -> None:
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
    """Masks with run lengths of several characters and negative differences."""
    rng = np.random.default_rng(0)
    for height, width in ((1, 5000), (3000, 7), (400, 300)):
        original = np.repeat(rng.random((height, width)) < 0.5, 1 + width // 9, axis=1)[:, :width]
        rle = encode_mask(original)
        assert segmentation_to_rle(rle, height, width) == rle


def test_box_of_an_encoded_mask() -> None:
    assert rle_box_xyxy(encode_mask(mask("....", ".##.", "..#."))) == (1, 1, 3, 3)


def test_polygons_and_both_kinds_of_rle_are_converted() -> None:
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
        ([[1, 1, 2, 2, 3, "x"]], "expected numbers as coordinates"),
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
def test_invalid_segmentations_raise(segmentation: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        segmentation_to_rle(segmentation, 4, 4)


SIZE = (30, 41)


def varied_rles(seed: int, count: int) -> list[dict[str, Any]]:
    """RLEs of noise, blocks, empty and full masks: long and short runs, odd and even numbers of runs."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        mask = np.zeros(SIZE, bool)
        if i % 4 == 0:
            mask = rng.random(SIZE) < rng.random()
        elif i % 4 == 1:
            y, x = rng.integers(0, 20, 2)
            mask[y : y + rng.integers(1, 20), x : x + rng.integers(1, 21)] = True
        elif i % 4 == 2:
            mask[:] = rng.random() < 0.5
        else:
            mask[rng.integers(30), rng.integers(41)] = True
        found.append(encode_mask(mask))
    return found


def is_complete(rle: Any) -> bool:
    try:
        segmentation_to_rle(rle, *SIZE)
    except InputError:
        return False
    return True


def test_valid_rles_are_complete() -> None:
    for seed in range(50):
        assert are_complete(varied_rles(seed, 9), SIZE)
    assert are_complete([], SIZE)


def test_a_damaged_rle_among_valid_ones_is_found() -> None:
    """The result for thousands of changed RLEs among valid ones equals that of `segmentation_to_rle` for each alone."""
    rng = np.random.default_rng(1)
    good, verdicts = varied_rles(0, 6), [0, 0]
    for trial in range(4000):
        rle = varied_rles(trial % 40, 4)[int(rng.integers(4))]
        text, at = rle["counts"], int(rng.integers(len(rle["counts"])))
        damage = (text[:at] + chr(int(rng.integers(40, 116))) + text[at + 1 :], text[:at], text[:at] + text[at + 1 :])
        changed = {"size": list(SIZE), "counts": damage[int(rng.integers(3))]}
        place = int(rng.integers(7))
        expected = is_complete(changed)
        assert are_complete([*good[:place], changed, *good[place:]], SIZE) == expected, changed
        verdicts[expected] += 1
    assert min(verdicts) > 20  # both occur, because a changed RLE can be valid too


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": [41, 30], "counts": "0"},
        {"size": list(SIZE), "counts": ""},
        {"size": list(SIZE), "counts": [30 * 41]},
        {"size": list(SIZE), "counts": "ä"},
        {"size": list(SIZE), "counts": "oooooooo0"},
        {"size": list(SIZE), "counts": None},
        {"size": list(SIZE)},
        {"size": None, "counts": "0"},
        {},
    ],
)
def test_other_content_is_not_complete(wrong: dict[str, Any]) -> None:
    assert not are_complete([wrong], SIZE)
    assert not are_complete([*varied_rles(0, 3), wrong, *varied_rles(1, 3)], SIZE)


@given(st.lists(masks, min_size=1, max_size=6))
def test_components_are_those_of_the_decoded_masks(originals: list[np.ndarray]) -> None:
    expected = [cv2.connectedComponents(m.astype(np.uint8), connectivity=8)[0] - 1 for m in originals]
    assert count_components([encode_mask(m) for m in originals]).tolist() == expected


def test_components_of_special_masks() -> None:
    spiral = mask("#######", "......#", "#####.#", "#...#.#", "#.###.#", "#.....#", "#######")
    corner = mask("#..", ".#.", "..#")
    edges = mask("..#", "...", "#..")  # the last pixel of a column and the first of the next but one
    wrapped = mask("#.#", "#.#", "#.#")
    touching = mask(".#", ".#", "##")[::-1]
    found = count_components([encode_mask(m) for m in (spiral, corner, edges, wrapped, touching)])
    assert found.tolist() == [1, 1, 2, 2, 1]
    empty = encode_mask(np.zeros((4, 5), bool))
    assert count_components([empty, encode_mask(np.ones((4, 5), bool)), empty]).tolist() == [0, 1, 0]
    assert count_components([empty]).tolist() == [0]
    assert count_components([]).tolist() == []
    split = {"size": [5, 2], "counts": b"12005"}  # runs 1, 2, 0, 2, 5: no unset pixel between two runs of set pixels
    assert decode_mask(split)[:, 0].tolist() == [False, True, True, True, True]
    assert count_components([split]).tolist() == [1]


def test_components_of_large_noise() -> None:
    rng = np.random.default_rng(0)
    noise = [rng.random((90, 130)) < density for density in (0.1, 0.3, 0.4, 0.5, 0.9)]
    expected = [cv2.connectedComponents(m.astype(np.uint8), connectivity=8)[0] - 1 for m in noise]
    assert count_components([encode_mask(m) for m in noise]).tolist() == expected
