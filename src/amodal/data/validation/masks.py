"""Checks of one object: its masks, and what is stated about them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from amodal.data.formats.base import RawAnnotation, is_degenerate, is_number, mask_rle
from amodal.data.index import DatasetFault
from amodal.errors import InputError
from amodal.ops.occlusion import rle_occlusion_rate
from amodal.ops.rle import Rle, rle_area, rle_box_xyxy, rle_difference, rle_intersection, rle_union

BOX_TOLERANCE = 2.0
"""Pixels an edge may lie off: boxes of polygons are not those of the pixels they cover."""

RATE_TOLERANCE = 0.01
REACH = 2.0
"""Pixels a polygon may leave the image by: annotators click on its border."""


@dataclass
class AnnotationMasks:
    """The masks of an object that can be read; None where there is none or it is broken."""

    amodal: Rle | None = None
    visible: Rle | None = None
    invisible: Rle | None = None


def check_object(stated: RawAnnotation, size: tuple[int, int], faults: list[DatasetFault]) -> AnnotationMasks:
    """Check an object on its own.

    Args:
        stated: what its record says.
        size: (H, W) of its image.
        faults: receives what is wrong, without the ids of image and annotation.

    Returns:
        Its masks; where the record gives the hidden part only, or no part, the visible mask
        follows from it.
    """
    if stated.amodal is None and stated.visible is None:
        faults.append(DatasetFault("missing_key", "expected a visible or an amodal mask, got none"))
    masks = AnnotationMasks(
        *(_read(name, getattr(stated, name), size, faults) for name in ("amodal", "visible", "invisible"))
    )
    if masks.amodal is not None and stated.visible is None:
        if stated.invisible is None:
            masks.visible = masks.amodal
        elif masks.invisible is not None:
            masks.visible = rle_difference(masks.amodal, masks.invisible)
    faults += _areas(stated, masks)
    faults += _boxes(stated, masks, size)
    faults += _agreement(stated, masks)
    return masks


def _read(name: str, segmentation: Any, size: tuple[int, int], faults: list[DatasetFault]) -> Rle | None:
    if segmentation is None:
        return None
    if isinstance(segmentation, dict) and segmentation.get("size", list(size)) != list(size):
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


def _broken(segmentation: Any) -> str:
    """Kind of fault of a segmentation that cannot be read."""
    if isinstance(segmentation, list):
        return "bad_polygon"
    is_rle = isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys()
    return "broken_rle" if is_rle else "bad_segmentation"


def _polygon_faults(name: str, polygons: list[Any], size: tuple[int, int]) -> Iterator[DatasetFault]:
    for polygon in polygons:
        if not isinstance(polygon, list) or not all(type(v) in (int, float) for v in polygon) or len(polygon) % 2:
            yield DatasetFault("bad_polygon", f"{name}: expected a polygon as x, y, x, y, ..., got {polygon!r:.60}")
        elif not all(math.isfinite(v) for v in polygon):
            yield DatasetFault("bad_polygon", f"{name}: expected finite coordinates, got NaN or infinity")
        elif is_degenerate(polygon):
            yield DatasetFault("degenerate_polygon", f"{name}: expected three points or more, got {len(polygon) // 2}")
        else:
            out = max(-min(polygon), max(polygon[0::2]) - size[1], max(polygon[1::2]) - size[0])
            if out > REACH:
                yield DatasetFault(
                    "outside_image", f"{name}: expected a polygon in the {size} image, got one {out:.0f} px out"
                )


def _areas(stated: RawAnnotation, masks: AnnotationMasks) -> Iterator[DatasetFault]:
    whole = masks.visible if stated.amodal is None else masks.amodal
    if stated.amodal is not None and masks.amodal is not None and not rle_area(masks.amodal):
        yield DatasetFault("empty_amodal", "expected an amodal mask with pixels, got an empty one")
    elif masks.visible is not None and not rle_area(masks.visible):
        yield DatasetFault("empty_visible", "expected a visible mask with pixels, got an empty one")
    if stated.area is None or whole is None:
        return
    measured = rle_area(whole)
    x0, y0, x1, y1 = rle_box_xyxy(whole)
    exact = isinstance(stated.visible if stated.amodal is None else stated.amodal, dict)
    # the area inside a polygon differs from its pixels by up to about half of its outline
    tolerance = 1 + 0.01 * measured if exact else 1 + 0.1 * measured + 2 * (x1 - x0 + y1 - y0)
    if not is_number(stated.area) or abs(stated.area - measured) > tolerance:
        yield DatasetFault("area_mismatch", f"area: expected {measured} as measured, got {stated.area!r:.40}")


def _boxes(stated: RawAnnotation, masks: AnnotationMasks, size: tuple[int, int]) -> Iterator[DatasetFault]:
    for name, box, mask, drawn in (
        ("amodal box", stated.amodal_bbox, masks.amodal, stated.amodal),
        ("visible box", stated.visible_bbox, masks.visible, stated.visible),
    ):
        if box is None:
            continue
        if not isinstance(box, list) or len(box) != 4 or not all(is_number(v) for v in box) or min(box[2:]) < 0:
            yield DatasetFault("bad_box", f"{name}: expected x, y, width, height, got {box!r:.60}")
            continue
        corners = (box[0], box[1], box[0] + box[2], box[1] + box[3])
        out = max(-box[0], -box[1], corners[2] - size[1], corners[3] - size[0])
        if out > BOX_TOLERANCE:
            yield DatasetFault(
                "box_outside_image", f"{name}: expected it in the {size} image, got {out:.0f} px out of it"
            )
        if mask is not None and rle_area(mask):
            tight = rle_box_xyxy(mask)
            if min(_distance(corners, tight), _distance(corners, _extent(drawn))) > BOX_TOLERANCE:
                want = [tight[0], tight[1], tight[2] - tight[0], tight[3] - tight[1]]
                yield DatasetFault("box_mismatch", f"{name}: expected {want} as its mask has, got {box}")


def _distance(a: tuple[float, ...], b: tuple[float, ...] | None) -> float:
    """Pixels the farthest edge of two boxes lies off."""
    return math.inf if b is None else max(abs(x - y) for x, y in zip(a, b, strict=True))


def _extent(segmentation: Any) -> tuple[float, ...] | None:
    """Box of polygons: a thin tip reaches beyond the pixels it covers."""
    if not isinstance(segmentation, list):
        return None
    x, y = ([v for polygon in segmentation for v in polygon[axis::2]] for axis in (0, 1))
    return (min(x), min(y), max(x), max(y))


def _agreement(stated: RawAnnotation, masks: AnnotationMasks) -> Iterator[DatasetFault]:
    """What the masks say about each other, and the rate about both."""
    amodal, visible = masks.amodal, masks.visible
    if amodal is None or visible is None:
        return
    whole, shared = rle_area(amodal), rle_area(rle_intersection(amodal, visible))
    spill = rle_area(visible) - shared
    if spill and shared == whole:
        message = f"expected the amodal mask to be the larger one, got a visible one with {spill} px more (swapped?)"
        yield DatasetFault("swapped_masks", message, pixels=spill)
    elif spill:
        message = f"expected the visible mask inside the amodal one, got {spill} px outside"
        yield DatasetFault("visible_outside_amodal", message, pixels=spill)
    if masks.invisible is not None and stated.visible is not None:
        hidden = rle_difference(amodal, visible)
        either, both = rle_union(hidden, masks.invisible), rle_intersection(hidden, masks.invisible)
        wrong = rle_area(either) - rle_area(both)
        if wrong:
            message = f"expected the hidden mask to be amodal without visible, got {wrong} px that differ"
            yield DatasetFault("invisible_mismatch", message, pixels=wrong)
    if stated.occlude_rate is not None and whole:
        rate = rle_occlusion_rate(visible, amodal)
        if not is_number(stated.occlude_rate) or abs(stated.occlude_rate - rate) > RATE_TOLERANCE:
            yield DatasetFault(
                "rate_mismatch", f"occlude_rate: expected {rate:.4f} as measured, got {stated.occlude_rate!r:.40}"
            )
