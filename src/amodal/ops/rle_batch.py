"""Checking the run lengths of many compressed masks at once.

One mask of an image takes some thirty calls into numpy whatever its length; a hundred masks laid
end to end take the same thirty.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amodal.ops.rle import Rle, coco_numbers


def all_cover(rles: Sequence[Rle], size: tuple[int, int]) -> bool:
    """Whether every mask is a compressed RLE of exactly (H, W) pixels.

    Args:
        rles: `{"size", "counts"}`; anything else is answered with no, not with an error.
        size: (H, W).

    Returns:
        True if each could be decoded safely; False if one could not, without saying which.
    """
    texts = []
    for rle in rles:
        counts = rle.get("counts")
        if not isinstance(counts, str) or not counts or list(rle.get("size") or ()) != list(size):
            return False
        texts.append(counts)
    try:
        return not texts or _cover([t.encode("ascii") for t in texts], size[0] * size[1])
    except ValueError:  # other characters, or a number that is none
        return False


def _cover(texts: list[bytes], pixels: int) -> bool:
    """The numbers of a text are r0, r1, r2, r3 - r1, r4 - r2, ..."""
    numbers, closing = coco_numbers(b"".join(texts))
    stops = np.cumsum([len(text) for text in texts])
    if not closing[stops - 1].all():  # one that goes on in the next text
        return False
    per_text = np.add.reduceat(closing.astype(np.int64), stops - [len(text) for text in texts])
    begins = np.cumsum(per_text) - per_text
    # Odd and even numbers of a text are two running sums: two columns, a block of rows a text.
    heights = per_text // 2
    tops = np.cumsum(heights) - heights
    place = np.arange(len(numbers)) - np.repeat(begins, per_text) - 1  # -1 for r0
    later = place >= 0
    row, column = (np.repeat(tops, per_text) + place // 2)[later], place[later] % 2
    differences = np.zeros((int(heights.sum()) + 1, 2), np.int64)
    differences[row + 1, column] = numbers[later]
    sums = np.cumsum(differences, axis=0)
    runs = sums[row + 1, column] - sums[np.repeat(tops, np.maximum(per_text - 1, 0)), column]
    if (runs < 0).any() or (numbers[begins] < 0).any():
        return False
    totals = numbers[begins] + np.bincount(
        np.repeat(np.arange(len(texts)), per_text - 1), weights=runs, minlength=len(texts)
    )
    return bool((totals == pixels).all())
