"""What stands under each image token of an LLM.

Axes: c tokens along each side, K names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from amodal.data.samples import ImageSample, ObjectSample
from amodal.ops.boxes import mask_to_box
from amodal.ops.rle import rle_area

Numbers = npt.NDArray[np.uint16]
Floats = npt.NDArray[np.float32]

TOKEN = 16
"""Samples of a map of objects along each side of a token."""


class TokenTruth(NamedTuple):
    """What is true of each token, of what covers most of it.

    Attributes:
        names: (c * c, K) share of each name in the token.
        boxes: (c * c, 4) visible box xyxy in [0, 1], zeros for background.
        facts: (c * c, 2 + 2K), each in [0, 1], NaN where it is not known or there is no object: root
            of the share of the square picture where it is seen, occlusion rate, names of what it
            hides, names of what hides it.
    """

    names: Floats
    boxes: Floats
    facts: Floats


def object_map(image: ImageSample, side: int) -> Numbers:
    """(side, side) of the picture padded to a square: 1 + index of the object that is seen there, 0 for none."""
    longest = max(image.size)
    top, left = (longest - image.height) // 2, (longest - image.width) // 2
    square = np.zeros((longest, longest), np.uint16)
    inner = square[top : top + image.height, left : left + image.width]
    for number, thing in enumerate(image.objects, 1):
        inner[thing.visible_mask()] = number
    return np.asarray(cv2.resize(square, (side, side), interpolation=cv2.INTER_NEAREST), np.uint16)


def named_tokens(objects: Numbers, things: Sequence[ObjectSample], cells: int, classes: int) -> TokenTruth:
    """What is true of each token.

    Args:
        objects: (side, side) as of `object_map`; side a multiple of `cells`.
        things: the image's objects, categories below `classes`.
        cells: c.
        classes: K, 0 the background's.
    """
    side, kinds = len(objects), len(things) + 1
    place = np.arange(side) // (side // cells)
    keys = (place[:, None] * cells + place) * kinds + objects
    counts = np.bincount(keys.ravel(), minlength=cells * cells * kinds).reshape(-1, kinds)
    names = np.zeros((kinds, classes), np.float32)
    names[range(kinds), [0, *(thing.category_id for thing in things)]] = 1
    boxes = np.zeros((kinds, 4), np.float32)
    for number in np.unique(objects[objects > 0]):
        boxes[number] = mask_to_box(objects == number) / side
    shares = np.asarray(counts / counts[0].sum(), np.float32)
    covering = counts.argmax(1)
    return TokenTruth(shares @ names, boxes[covering], _facts(counts.sum(0) / side**2, things, classes)[covering])


def _facts(seen: npt.NDArray[np.floating], things: Sequence[ObjectSample], classes: int) -> Floats:
    """(1 + objects, 2 + 2K) facts of the background and of each object; see `TokenTruth`."""
    facts = np.full((len(things) + 1, 2 + 2 * classes), np.nan, np.float32)
    categories = {thing.id: thing.category_id for thing in things}
    known = all(thing.occluders_known for thing in things)
    for number, thing in enumerate(things, 1):
        facts[number, 0] = np.sqrt(seen[number])
        if thing.amodal_rle is not None:
            facts[number, 1] = 1 - rle_area(thing.visible_rle) / max(rle_area(thing.amodal_rle), 1)
        if known:
            hides, hidden_by = facts[number, 2:].reshape(2, classes)
            hides[:], hidden_by[:] = 0, 0
            hides[[other.category_id for other in things if thing.id in other.occluders]] = 1
            hidden_by[[categories[key] for key in thing.occluders if key in categories]] = 1
    return facts


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
