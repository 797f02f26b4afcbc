"""Run-length encoded masks in COCO's compressed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from amodal.errors import InputError

Mask = npt.NDArray[np.bool_]
Rle = dict[str, Any]


def encode_mask(mask: Mask) -> Rle:
    """(H, W) bool to `{"size": [H, W], "counts": str}`."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_mask(rle: Rle) -> Mask:
    """`{"size", "counts"}` to (H, W) bool."""
    counts = rle["counts"]
    if isinstance(counts, str):
        counts = counts.encode("ascii")
    decoded = coco_mask.decode({"size": rle["size"], "counts": counts})
    return np.asarray(decoded, dtype=bool)


def rle_box_xyxy(rle: Rle) -> tuple[float, float, float, float]:
    """Tight box of an encoded mask, right and bottom edge exclusive; zeros if empty."""
    x, y, w, h = coco_mask.toBbox(_as_bytes(rle)).tolist()
    return (x, y, x + w, y + h)


def rle_area(rle: Rle) -> int:
    """Number of pixels of an encoded mask."""
    return int(coco_mask.area(_as_bytes(rle)))


def segmentation_to_rle(segmentation: Any, height: int, width: int) -> Rle:
    """A COCO segmentation of any form as one compressed RLE.

    Args:
        segmentation: list of polygons, compressed RLE, or uncompressed RLE.
        height: H of the image.
        width: W of the image.

    Raises:
        InputError: another form, a polygon of fewer than three points, numbers that are not
            finite, or an RLE of another size.
    """
    if isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        if list(segmentation["size"]) != [height, width]:
            raise InputError(f"segmentation: expected an RLE of size [{height}, {width}], got {segmentation['size']}")
        if isinstance(segmentation["counts"], list):
            segmentation = coco_mask.frPyObjects(segmentation, height, width)
        return _as_text(segmentation)
    if isinstance(segmentation, list) and segmentation:
        polygons = [np.asarray(polygon, dtype=np.float64) for polygon in segmentation]
        if any(p.ndim != 1 or len(p) < 6 or len(p) % 2 for p in polygons):
            raise InputError("segmentation: expected polygons of three points or more, got fewer")
        if not all(np.isfinite(p).all() for p in polygons):
            raise InputError("segmentation: expected finite coordinates, got NaN or infinity")
        parts = coco_mask.frPyObjects([p.tolist() for p in polygons], height, width)
        return _as_text(coco_mask.merge(parts))
    raise InputError(f"segmentation: expected polygons or an RLE, got {type(segmentation).__name__}")


def _as_bytes(rle: Rle) -> Rle:
    counts = rle["counts"]
    return {"size": rle["size"], "counts": counts.encode() if isinstance(counts, str) else counts}


def _as_text(rle: Rle) -> Rle:
    counts = rle["counts"]
    text = counts if isinstance(counts, str) else counts.decode("ascii")
    return {"size": [int(n) for n in rle["size"]], "counts": text}
