"""Who hides whom, where the source does not say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from amodal.data.samples import ImageSample, ObjectSample
from amodal.ops.boxes import boxes_meet
from amodal.ops.rle import rle_area, rle_intersection

MIN_SHARE = 0.01
"""Share of an object's hidden pixels another must cover to count as in front of it: outlines drawn
by hand touch in single pixels."""


def with_occluders(image: ImageSample) -> ImageSample:
    """The image with the occluders of every object known.

    Where the source does not say, A hides B if A's visible mask covers part of B's amodal mask
    without its visible one, unless the source's order puts A behind B. Objects drawn by different
    annotators do not hide each other. Where the amodal mask is unknown, the occluders stay so.
    """
    objects = tuple(image.objects)
    known = (
        thing
        if thing.occluders_known or thing.amodal_rle is None
        else replace(thing, occluders=tuple(o.id for o in objects if hides(o, thing)), occluders_known=True)
        for thing in objects
    )
    return replace(image, objects=tuple(known))


def hides(front: ObjectSample, behind: ObjectSample) -> bool:
    """Whether the masks say that one object hides part of another."""
    if front is behind or front.id == behind.id or front.iscrowd or behind.amodal_rle is None:
        return False
    if front.annotator != behind.annotator or _stated_behind(front, behind):
        return False
    if not boxes_meet(front.visible_box_xyxy, behind.amodal_box_xyxy or behind.visible_box_xyxy):
        return False
    hidden = rle_area(behind.amodal_rle) - rle_area(rle_intersection(behind.amodal_rle, behind.visible_rle))
    if hidden == 0:
        return False
    over = rle_intersection(front.visible_rle, behind.amodal_rle)
    covered = rle_area(over) - rle_area(rle_intersection(over, behind.visible_rle))
    return covered > 0 and covered >= MIN_SHARE * hidden


def depths(objects: Sequence[ObjectSample]) -> list[int]:
    """How many objects lie in front of each, one behind the other: 0 in front, 1 behind a 0, ...

    Objects that hide each other in a circle share a depth.
    """
    position = {thing.id: i for i, thing in enumerate(objects)}
    behind = np.zeros((len(objects), len(objects)), bool)  # [i, j]: i is behind j
    for i, thing in enumerate(objects):
        behind[i, [position[number] for number in thing.occluders if number in position]] = True
    for _ in range(len(objects).bit_length()):  # each round doubles the length of the chains seen
        behind |= behind @ behind
    strictly = behind & ~behind.T
    found = np.zeros(len(objects), int)
    for i in np.argsort(behind.sum(axis=1), kind="stable"):  # whoever is in front has fewer in front
        found[i] = max(found[strictly[i]] + 1, default=0)
    return [int(depth) for depth in found]


def clusters(objects: Sequence[ObjectSample]) -> list[int]:
    """Number of the group of objects that hide each other, directly or through others; from 0."""
    position = {thing.id: i for i, thing in enumerate(objects)}
    parent = list(range(len(objects)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for i, thing in enumerate(objects):
        for front in thing.occluders:
            if front in position:
                parent[root(i)] = root(position[front])
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(i), len(numbers)) for i in range(len(objects))]


def _stated_behind(front: ObjectSample, behind: ObjectSample) -> bool:
    if front.order is None or behind.order is None or front.order_group != behind.order_group:
        return False
    return front.order > behind.order
