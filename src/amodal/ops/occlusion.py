"""The one definition of occlusion: rate, relation (which object is in front of which), order and depth.

Object A *occludes* object B if the visible mask of A covers at least `MIN_OCCLUDER_SHARE` of the occluded pixels of
B, that is, of the pixels of B's amodal mask outside its visible mask. Two objects can occlude each other (a hand
around a cup). An object is called *occluded* if its occlusion rate is at least `MIN_OCCLUSION_RATE`.

Functions that take masks take (H, W) bool arrays of one size; functions that take `occluders` take one list per
object with the positions of the objects in front of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from amodal.ops.arrays import Mask
from amodal.ops.rle import Rle, rle_area, rle_intersection

MIN_OCCLUDER_SHARE = 0.1
"""Smallest share of an object's occluded pixels that another object must cover to count as its occluder. Outlines,
drawn by hand or predicted, touch and overlap by a few pixels where nothing is occluded."""

MIN_OCCLUSION_RATE = 0.01
"""Smallest occlusion rate of an object that counts as occluded; below it only a rim of pixels is missing."""


def occlusion_rate(visible_mask: Mask, amodal_mask: Mask) -> float:
    """1 - |visible| / |amodal| in [0, 1]; 0 for an empty amodal mask."""
    area = np.count_nonzero(amodal_mask)
    return float(np.clip(1 - np.count_nonzero(visible_mask) / area, 0, 1)) if area else 0.0


def rle_occlusion_rate(visible: Rle, amodal: Rle) -> float:
    """Share of the amodal mask's pixels outside the visible mask, in [0, 1]; 0 for an empty amodal mask.

    For a visible mask within the amodal mask this is `occlusion_rate` without decoding.
    """
    area = rle_area(amodal)
    return 1 - rle_area(rle_intersection(visible, amodal)) / area if area else 0.0


def is_occluded(rate: float) -> bool:
    """Whether an object with this occlusion rate counts as occluded."""
    return rate >= MIN_OCCLUSION_RATE


def is_occluder(num_covered: int, num_occluded: int) -> bool:
    """Whether an object that covers `num_covered` of another's `num_occluded` occluded pixels is its occluder."""
    return num_covered > 0 and num_covered >= MIN_OCCLUDER_SHARE * num_occluded


def cover_shares(visible_masks: Sequence[Mask], amodal_masks: Sequence[Mask]) -> npt.NDArray[np.float64]:
    """(N, N): entry [a, b] is the share of the occluded pixels of b that the visible mask of a covers.

    The diagonal is 0, and so is the column of an object without occluded pixels.
    """
    if not visible_masks:
        return np.zeros((0, 0))
    visible = np.stack([mask.ravel() for mask in visible_masks]).astype(np.float32)
    pairs = zip(visible_masks, amodal_masks, strict=True)
    occluded = np.stack([(amodal & ~seen).ravel() for seen, amodal in pairs]).astype(np.float32)
    shares = visible @ occluded.T / np.maximum(occluded.sum(1), 1)
    np.fill_diagonal(shares, 0)
    return shares.astype(np.float64)


def occluders_of(index: int, visible_masks: Sequence[Mask], occluded_mask: Mask) -> list[int]:
    """Positions of the occluders of one object.

    Args:
        index: position of the object.
        visible_masks: (H, W) bool of every object.
        occluded_mask: (H, W) bool, occluded pixels of the object.
    """
    total = int(np.count_nonzero(occluded_mask))
    covered = [int(np.count_nonzero(mask & occluded_mask)) for mask in visible_masks]
    return [i for i, count in enumerate(covered) if i != index and is_occluder(count, total)]


def depth_levels(occluders: Sequence[Sequence[int]]) -> list[int]:
    """Depth of each object: 0 for an object without occluders, otherwise 1 + the largest depth in front of it.

    Objects that occlude each other, directly or through others, share a depth.
    """
    strictly = _strictly_behind(occluders)
    depths = np.zeros(len(occluders), int)
    for i in np.argsort(strictly.sum(axis=1), kind="stable"):  # an object in front has fewer objects in front of it
        depths[i] = max(depths[strictly[i]] + 1, default=0)
    return [int(depth) for depth in depths]


def depth_order(occluders: Sequence[Sequence[int]], rates: Sequence[float]) -> list[int]:
    """Positions of the objects from front to back: each object comes after its occluders.

    Objects that occlude each other, directly or through others, are ordered by occlusion rate, least occluded first.

    Args:
        occluders: of each object.
        rates: occlusion rate of each object.
    """
    strictly = _strictly_behind(occluders)
    order: list[int] = []
    left = set(range(len(occluders)))
    while left:
        free = [i for i in left if not left.intersection(occluders[i])]
        in_front = free or [i for i in left if not strictly[i, list(left)].any()]
        order.append(min(in_front, key=lambda i: (rates[i], i)))
        left.remove(order[-1])
    return order


def _strictly_behind(occluders: Sequence[Sequence[int]]) -> npt.NDArray[np.bool_]:
    """(N, N): whether i is behind j, directly or through others, and j is not behind i."""
    count = len(occluders)
    behind = np.zeros((count, count), bool)
    for i, in_front in enumerate(occluders):
        behind[i, list(in_front)] = True
    for _ in range(count.bit_length()):  # each round doubles the length of the chains that are followed
        behind |= behind @ behind
    return behind & ~behind.T


def occlusion_groups(occluders: Sequence[Sequence[int]]) -> list[int]:
    """Group number of each object, from 0; objects that occlude each other, directly or not, share a group."""
    parent = list(range(len(occluders)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for i, in_front in enumerate(occluders):
        for j in in_front:
            parent[root(i)] = root(j)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(i), len(numbers)) for i in range(len(occluders))]
