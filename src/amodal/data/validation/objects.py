"""Checking one object: its masks, and the boxes, area and occlusion rate that its record states."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from amodal.data.index import DatasetFault
from amodal.data.records import RawAnnotation, is_degenerate, mask_rle
from amodal.errors import InputError
from amodal.ops.occlusion import rle_occlusion_rate
from amodal.ops.rle import Rle, rle_area, rle_box_xyxy, rle_difference, rle_intersection, rle_union
from amodal.ops.values import ids, number, numbers

BOX_TOLERANCE = 2.0
"""Largest distance in pixels between the edges of a box and of its mask; polygons extend beyond their pixels."""

RATE_TOLERANCE = 0.01
POLYGON_TOLERANCE = 2.0
"""Largest distance in pixels of a polygon's point from the image; annotators click on the border."""


@dataclass
class AnnotationMasks:
    """The masks of an annotation; None for a mask that is missing or cannot be read."""

    amodal: Rle | None = None
    visible: Rle | None = None
    invisible: Rle | None = None


def check_object(raw: RawAnnotation, size: tuple[int, int], faults: list[DatasetFault]) -> AnnotationMasks:
    """Check one object without regard to the other objects.

    Args:
        raw: fields of its record.
        size: (H, W) of its image.
        faults: list that receives the faults, without the ids of image and annotation.

    Returns:
        Its masks. If the record has no visible mask, it follows from the amodal and the invisible mask.
    """
    if raw.amodal is None and raw.visible is None:
        faults.append(DatasetFault("missing_key", "expected a visible or an amodal mask, got none"))
    masks = AnnotationMasks(
        *(_read(name, getattr(raw, name), size, faults) for name in ("amodal", "visible", "invisible"))
    )
    if masks.amodal is not None and raw.visible is None:
        if raw.invisible is None:
            masks.visible = masks.amodal
        elif masks.invisible is not None:
            masks.visible = rle_difference(masks.amodal, masks.invisible)
    faults += _areas(raw, masks)
    faults += _boxes(raw, masks, size)
    faults += _agreement(raw, masks)
    return masks


def _read(name: str, segmentation: Any, size: tuple[int, int], faults: list[DatasetFault]) -> Rle | None:
    if segmentation is None:
        return None
    if isinstance(segmentation, dict) and "size" in segmentation and not _is_size(segmentation["size"], size):
        got = segmentation["size"]
        faults.append(DatasetFault("rle_size", f"{name}: expected an RLE of size {list(size)}, got {got!r:.60}"))
        return None
    if isinstance(segmentation, list):
        found = list(_polygon_faults(name, segmentation, size))
        faults += found
        if any(fault.kind == "bad_polygon" for fault in found):
            return None
    try:
        return mask_rle(segmentation, size)
    except InputError as error:
        faults.append(DatasetFault(_broken(segmentation), f"{name}: {error}"))
        return None


def _is_size(stated: Any, size: tuple[int, int]) -> bool:
    try:
        return ids(stated, "size") == size
    except InputError:
        return False


def _broken(segmentation: Any) -> str:
    """Kind of the fault that a segmentation cannot be read."""
    if isinstance(segmentation, list):
        return "bad_polygon"
    is_rle = isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys()
    return "broken_rle" if is_rle else "bad_segmentation"


def _polygon_faults(name: str, polygons: list[Any], size: tuple[int, int]) -> Iterator[DatasetFault]:
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) % 2:
            yield DatasetFault("bad_polygon", f"{name}: expected a polygon as x, y, x, y, ..., got {polygon!r:.60}")
            continue
        try:
            points = numbers(polygon, "coordinates")
        except InputError as error:
            yield DatasetFault("bad_polygon", f"{name}: {error} in {polygon!r:.60}")
            continue
        if is_degenerate(polygon):
            yield DatasetFault("degenerate_polygon", f"{name}: expected three points or more, got {len(polygon) // 2}")
        else:
            out = max(-points.min(), points[0::2].max() - size[1], points[1::2].max() - size[0])
            if out > POLYGON_TOLERANCE:
                yield DatasetFault(
                    "outside_image", f"{name}: expected a polygon in the {size} image, got one {out:.0f} px out"
                )


def _areas(raw: RawAnnotation, masks: AnnotationMasks) -> Iterator[DatasetFault]:
    whole = masks.visible if raw.amodal is None else masks.amodal
    if raw.amodal is not None and masks.amodal is not None and not rle_area(masks.amodal):
        yield DatasetFault("empty_amodal", "expected an amodal mask with pixels, got an empty one")
    elif masks.visible is not None and not rle_area(masks.visible):
        yield DatasetFault("empty_visible", "expected a visible mask with pixels, got an empty one")
    if raw.area is None or whole is None:
        return
    measured = rle_area(whole)
    x0, y0, x1, y1 = rle_box_xyxy(whole)
    exact = isinstance(raw.visible if raw.amodal is None else raw.amodal, dict)
    # The area inside a polygon differs from the number of its pixels by up to about half the length of its outline.
    tolerance = 1 + 0.01 * measured if exact else 1 + 0.1 * measured + 2 * (x1 - x0 + y1 - y0)
    area = _number(raw.area)
    if area is None or abs(area - measured) > tolerance:
        yield DatasetFault("area_mismatch", f"area: expected {measured} as measured, got {raw.area!r:.40}")


def _boxes(raw: RawAnnotation, masks: AnnotationMasks, size: tuple[int, int]) -> Iterator[DatasetFault]:
    for name, stated, mask, segmentation in (
        ("amodal box", raw.amodal_bbox, masks.amodal, raw.amodal),
        ("visible box", raw.visible_bbox, masks.visible, raw.visible),
    ):
        if stated is None:
            continue
        box = [_number(v) for v in stated] if isinstance(stated, list) and len(stated) == 4 else []
        x, y, width, height = box if box else [None] * 4
        if x is None or y is None or width is None or height is None or min(width, height) < 0:
            yield DatasetFault("bad_box", f"{name}: expected x, y, width, height, got {stated!r:.60}")
            continue
        corners = (x, y, x + width, y + height)
        out = max(-x, -y, corners[2] - size[1], corners[3] - size[0])
        if out > BOX_TOLERANCE:
            yield DatasetFault(
                "box_outside_image", f"{name}: expected it in the {size} image, got {out:.0f} px out of it"
            )
        if mask is not None and rle_area(mask):
            tight = rle_box_xyxy(mask)
            if min(_distance(corners, tight), _distance(corners, _extent(segmentation))) > BOX_TOLERANCE:
                want = [tight[0], tight[1], tight[2] - tight[0], tight[3] - tight[1]]
                yield DatasetFault("box_mismatch", f"{name}: expected {want} as its mask has, got {stated}")


def _number(value: Any) -> float | None:
    """A stated number, None if it is none."""
    try:
        return number(value, "a number")
    except InputError:
        return None


def _distance(a: tuple[float, ...], b: tuple[float, ...] | None) -> float:
    """Largest distance in pixels between the same edges of two boxes."""
    return math.inf if b is None else max(abs(x - y) for x, y in zip(a, b, strict=True))


def _extent(segmentation: Any) -> tuple[float, ...] | None:
    """Box of the points of polygons; a thin tip extends beyond the pixels that it covers."""
    if not isinstance(segmentation, list):
        return None
    points = np.concatenate([numbers(polygon, "coordinates").reshape(-1, 2) for polygon in segmentation])
    return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())


def _agreement(raw: RawAnnotation, masks: AnnotationMasks) -> Iterator[DatasetFault]:
    """Check that the masks and the stated occlusion rate agree."""
    amodal, visible = masks.amodal, masks.visible
    if amodal is None or visible is None:
        return
    whole, shared = rle_area(amodal), rle_area(rle_intersection(amodal, visible))
    spill = rle_area(visible) - shared
    if spill and shared == whole:
        message = (
            f"expected an amodal mask larger than the visible mask, got a visible mask with {spill} px more (swapped?)"
        )
        yield DatasetFault("swapped_masks", message, pixels=spill)
    elif spill:
        message = f"expected the visible mask inside the amodal mask, got {spill} px outside"
        yield DatasetFault("visible_outside_amodal", message, pixels=spill)
    if masks.invisible is not None and raw.visible is not None:
        occluded = rle_difference(amodal, visible)
        either, both = rle_union(occluded, masks.invisible), rle_intersection(occluded, masks.invisible)
        num_wrong = rle_area(either) - rle_area(both)
        if num_wrong:
            message = (
                f"expected the invisible mask to be the amodal without the visible mask, got {num_wrong} px that differ"
            )
            yield DatasetFault("invisible_mismatch", message, pixels=num_wrong)
    if raw.occlude_rate is not None and whole:
        rate = rle_occlusion_rate(visible, amodal)
        stated = _number(raw.occlude_rate)
        if stated is None or abs(stated - rate) > RATE_TOLERANCE:
            yield DatasetFault(
                "rate_mismatch", f"occlude_rate: expected {rate:.4f} as measured, got {raw.occlude_rate!r:.40}"
            )
