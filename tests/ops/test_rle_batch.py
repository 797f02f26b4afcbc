"""Checking many masks at once says what checking each alone says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from amodal.errors import InputError
from amodal.ops.rle import encode_mask, segmentation_to_rle
from amodal.ops.rle_batch import all_cover

SIZE = (30, 41)


def masks(seed: int, count: int) -> list[dict[str, Any]]:
    """Noise, blocks, empty and full masks: long and short runs, odd and even numbers of them."""
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


def alone(rle: Any) -> bool:
    try:
        segmentation_to_rle(rle, *SIZE)
    except InputError:
        return False
    return True


def test_good_masks_cover() -> None:
    for seed in range(50):
        assert all_cover(masks(seed, 9), SIZE)
    assert all_cover([], SIZE)


def test_one_changed_character_is_judged_as_it_is_alone() -> None:
    """Thousands of damaged masks, each hidden among good ones."""
    rng = np.random.default_rng(1)
    good, verdicts = masks(0, 6), [0, 0]
    for trial in range(4000):
        rle = masks(trial % 40, 4)[int(rng.integers(4))]
        text, at = rle["counts"], int(rng.integers(len(rle["counts"])))
        damage = (text[:at] + chr(int(rng.integers(40, 116))) + text[at + 1 :], text[:at], text[:at] + text[at + 1 :])
        changed = {"size": list(SIZE), "counts": damage[int(rng.integers(3))]}
        place = int(rng.integers(7))
        expected = alone(changed)
        assert all_cover([*good[:place], changed, *good[place:]], SIZE) == expected, changed
        verdicts[expected] += 1
    assert min(verdicts) > 20  # both occur: a changed character may be as good as the old one


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
def test_other_content_is_answered_with_no(wrong: dict[str, Any]) -> None:
    assert not all_cover([wrong], SIZE)
    assert not all_cover([*masks(0, 3), wrong, *masks(1, 3)], SIZE)
