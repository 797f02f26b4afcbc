"""What stands under each image token of an LLM.

Axes: c tokens along each side, K names.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from amodal.data.samples import ImageSample
from amodal.ops.boxes import mask_to_box

Numbers = npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float32]

TOKEN = 16
"""Samples of a map of objects along each side of a token."""


def object_map(image: ImageSample, side: int) -> Numbers:
    """(side, side) of the picture padded to a square: 1 + index of the object that is seen there, 0 for none."""
    longest = max(image.size)
    top, left = (longest - image.height) // 2, (longest - image.width) // 2
    square = np.zeros((longest, longest), np.uint16)
    inner = square[top : top + image.height, left : left + image.width]
    for number, thing in enumerate(image.objects, 1):
        inner[thing.visible_mask()] = number
    return np.asarray(cv2.resize(square, (side, side), interpolation=cv2.INTER_NEAREST), np.uint16)


def named_tokens(objects: Numbers, categories: Sequence[int], cells: int, classes: int) -> tuple[Floats, Floats]:
    """Names and boxes under each token.

    Args:
        objects: (side, side) as of `object_map`; side a multiple of `cells`.
        categories: of each object, below `classes`.
        cells: c.
        classes: K, 0 the background's.

    Returns:
        (c * c, K) share of each name, and (c * c, 4) visible box xyxy in [0, 1] of what covers most,
        zeros for background.
    """
    side, kinds = len(objects), len(categories) + 1
    place = np.arange(side) // (side // cells)
    keys = (place[:, None] * cells + place) * kinds + objects
    counts = np.bincount(keys.ravel(), minlength=cells * cells * kinds).reshape(-1, kinds)
    names = np.zeros((kinds, classes), np.float32)
    names[range(kinds), [0, *categories]] = 1
    boxes = np.zeros((kinds, 4), np.float32)
    for number in np.unique(objects[objects > 0]):
        boxes[number] = mask_to_box(objects == number) / side
    shares = np.asarray(counts / counts[0].sum(), np.float32)
    return shares @ names, boxes[counts.argmax(1)]


def covered_tokens(objects: Numbers, number: int, cells: int) -> Floats:
    """(c * c,) share of an object's seen area under each token; zeros where it is not seen.

    Args:
        objects: (side, side) as of `object_map`.
        number: of the object in it.
        cells: c.
    """
    step = len(objects) // cells
    areas = (objects == number).reshape(cells, step, cells, step).sum((1, 3)).reshape(-1)
    return np.asarray(areas / max(areas.sum(), 1), np.float32)
