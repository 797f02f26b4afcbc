"""The occluders of annotated objects, derived from the masks where the source does not state them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from amodal.data.samples import ImageSample, ObjectSample
from amodal.ops.boxes import boxes_meet
from amodal.ops.occlusion import is_occluder
from amodal.ops.rle import rle_area, rle_intersection


def derive_occluders(image: ImageSample) -> ImageSample:
    """Return the image with the occluders of every object that has an amodal mask.

    Where the source does not state them, they follow from the masks (`ops.occlusion`), except that an object which
    the source's order puts behind another one does not occlude it. Objects drawn by different annotators do not
    occlude each other. Where the amodal mask is unknown, the occluders stay unknown.
    """
    objects = tuple(image.objects)
    known = (
        obj
        if obj.occluders_known or obj.amodal_rle is None
        else replace(obj, occluders=tuple(o.id for o in objects if occludes(o, obj)), occluders_known=True)
        for obj in objects
    )
    return replace(image, objects=tuple(known))


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
