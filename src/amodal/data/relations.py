"""The occluders of annotated objects, derived from the masks where the source does not state them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from amodal.data.samples import ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.ops.boxes import boxes_meet
from amodal.ops.occlusion import is_occluder
from amodal.ops.rle import rle_area, rle_intersection

MAX_PAIRS = 200_000
"""Maximum number of pairs of objects per image whose masks are compared: one is occluded, and their boxes meet."""


def derive_occluders(image: ImageSample) -> ImageSample:
    """Return the image with the occluders of every object that has an amodal mask.

    Where the source does not state them, they follow from the masks (`ops.occlusion`), except that an object which
    the source's order puts behind another one does not occlude it. Objects drawn by different annotators do not
    occlude each other. Where the amodal mask is unknown, the occluders stay unknown.

    Raises:
        InputError: the image has more than `MAX_PAIRS` pairs of objects to compare.
    """
    objects = tuple(image.objects)
    visible_boxes = np.array([obj.visible_box_xyxy for obj in objects], np.float64).reshape(-1, 4)
    derived, num_pairs = [], 0
    for obj in objects:
        if not obj.occluders_known and obj.amodal_rle is not None:
            box = obj.amodal_box_xyxy or obj.visible_box_xyxy
            near = [objects[i] for i in _meeting(visible_boxes, box)] if obj.occlusion_rate() > 0 else []
            num_pairs += len(near)
            if num_pairs > MAX_PAIRS:
                raise InputError(
                    f"image {image.id}: expected at most {MAX_PAIRS:,} pairs of objects whose boxes meet, got more"
                )
            obj = replace(obj, occluders=tuple(o.id for o in near if occludes(o, obj)), occluders_known=True)
        derived.append(obj)
    return replace(image, objects=tuple(derived))


def occludes(front: ObjectSample, behind: ObjectSample) -> bool:
    """Whether the masks, and the source's order where there is one, make `front` an occluder of `behind`."""
    if front is behind or front.id == behind.id or front.iscrowd or behind.amodal_rle is None:
        return False
    if front.annotator != behind.annotator or _stated_behind(front, behind):
        return False
    if not boxes_meet(front.visible_box_xyxy, behind.amodal_box_xyxy or behind.visible_box_xyxy):
        return False
    num_occluded = rle_area(behind.amodal_rle) - rle_area(rle_intersection(behind.amodal_rle, behind.visible_rle))
    if num_occluded == 0:
        return False
    shared = rle_intersection(front.visible_rle, behind.amodal_rle)
    num_covered = rle_area(shared) - rle_area(rle_intersection(shared, behind.visible_rle))
    return is_occluder(num_covered, num_occluded)


def _meeting(boxes: npt.NDArray[np.float64], box: Sequence[float]) -> list[int]:
    """Positions of the boxes (N, 4) that meet a box, as `boxes_meet` says."""
    x0, y0, x1, y1 = box
    meet = (boxes[:, 0] < x1) & (x0 < boxes[:, 2]) & (boxes[:, 1] < y1) & (y0 < boxes[:, 3])
    return [int(i) for i in meet.nonzero()[0]]


def occluder_positions(objects: Sequence[ObjectSample]) -> list[list[int]]:
    """Positions of the occluders of each object, for `depth_levels` and `occlusion_groups` of `ops.occlusion`.

    Occluders that are not among the objects are skipped.
    """
    position = {obj.id: i for i, obj in enumerate(objects)}
    return [[position[number] for number in obj.occluders if number in position] for obj in objects]


def _stated_behind(front: ObjectSample, behind: ObjectSample) -> bool:
    if front.order is None or behind.order is None or front.order_group != behind.order_group:
        return False
    return front.order > behind.order
