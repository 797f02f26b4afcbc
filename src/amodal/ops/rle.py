"""Run-length encoded masks in COCO's compressed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from amodal.errors import InputError
from amodal.ops.boxes import Window

Mask = npt.NDArray[np.bool_]
Rle = dict[str, Any]

_CHARACTERS = bytes(range(48, 48 + 64))


def encode_mask(mask: Mask) -> Rle:
    """(H, W) bool to `{"size": [H, W], "counts": str}`."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_mask(rle: Rle) -> Mask:
    """`{"size", "counts"}` to (H, W) bool."""
    return np.asarray(coco_mask.decode(rle_as_bytes(rle)), dtype=bool)


def decode_window(rle: Rle, window: Window) -> Mask:
    """The part of an encoded mask inside a window, without decoding the rest.

    Args:
        rle: `{"size": [H, W], "counts"}`; runs go down the columns.
        window: (x0, y0, x1, y1) inside the image, right and bottom edge exclusive.

    Returns:
        (y1 - y0, x1 - x0) bool.
    """
    x0, y0, x1, y1 = window
    height = rle["size"][0]
    ends = np.cumsum(_runs(rle["counts"]))
    first, last = ends[0 : len(ends) - 1 : 2], ends[1::2]  # of the runs that are set
    touching = slice(np.searchsorted(last, x0 * height, "right"), np.searchsorted(first, x1 * height, "left"))
    first, last = (np.clip(e[touching], x0 * height, x1 * height) for e in (first, last))
    spans = np.maximum((last - 1) // height - first // height + 1, 0)  # columns that each run crosses
    run = np.repeat(np.arange(len(spans)), spans)
    column = first[run] // height + np.arange(len(run)) - np.repeat(np.cumsum(spans) - spans, spans)
    top = np.clip(np.maximum(first[run] - column * height, y0), y0, y1) - y0
    bottom = np.clip(np.minimum(last[run] - column * height, height), y0, y1) - y0
    inside = bottom > top
    edges = np.stack([top, bottom], axis=1)[inside] + (column[inside] - x0)[:, None] * (y1 - y0)
    lengths = np.diff(edges.ravel(), prepend=0, append=(x1 - x0) * (y1 - y0))  # unset, set, unset, ...
    columns = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return np.ascontiguousarray(columns.reshape(x1 - x0, y1 - y0).T)


def encode_window(part: Mask, window: Window, size: Sequence[int]) -> Rle:
    """RLE of the whole image from a mask (h, w) in a window, without making it full size.

    Runs go down the columns; only those of the window can change value.
    """
    H, W = size
    x0, y0, x1, y1 = window
    columns = np.zeros((x1 - x0, H), np.int8)
    columns[:, y0:y1] = part.T
    changes = np.flatnonzero(np.diff(columns.ravel(), prepend=0, append=0)) + x0 * H
    return _from_changes(changes, H, W)


def encode_columns(part: Mask, corner: tuple[int, int], size: Sequence[int]) -> Rle:
    """As `encode_window` for a mask of one unbroken run a column, such as a convex one; (h, w) at a corner (x, y)."""
    H, W = size
    x0, y0 = corner
    filled = np.flatnonzero(part.any(axis=0))
    starts = part.argmax(axis=0)[filled] + y0 + (filled + x0) * H
    changes = np.stack([starts, starts + part.sum(axis=0)[filled]], axis=1).ravel()
    joined = np.flatnonzero(changes[1:-1:2] == changes[2::2])  # down to the last row, then on from the first
    return _from_changes(np.delete(changes, np.concatenate([2 * joined + 1, 2 * joined + 2])), H, W)


def rle_as_bytes(rle: Rle) -> Rle:
    """An encoded mask as pycocotools takes it, `counts` in bytes."""
    counts = rle["counts"]
    return {"size": rle["size"], "counts": counts.encode("ascii") if isinstance(counts, str) else counts}


def rle_box_xyxy(rle: Rle) -> tuple[float, float, float, float]:
    """Tight box of an encoded mask, right and bottom edge exclusive; zeros if empty."""
    x, y, w, h = coco_mask.toBbox(rle_as_bytes(rle)).tolist()
    return (x, y, x + w, y + h)


def rle_area(rle: Rle) -> int:
    """Number of pixels of an encoded mask."""
    return int(coco_mask.area(rle_as_bytes(rle)))


def encode_empty(size: tuple[int, int]) -> Rle:
    """RLE of an (H, W) mask without a pixel."""
    return _as_text(coco_mask.frPyObjects({"size": list(size), "counts": [size[0] * size[1]]}, *size))


def rle_union(a: Rle, b: Rle) -> Rle:
    """Pixels of either mask."""
    return _as_text(coco_mask.merge([rle_as_bytes(a), rle_as_bytes(b)]))


def rle_intersection(a: Rle, b: Rle) -> Rle:
    """Pixels of both masks."""
    return _as_text(coco_mask.merge([rle_as_bytes(a), rle_as_bytes(b)], intersect=True))


def rle_difference(a: Rle, b: Rle) -> Rle:
    """Pixels of `a` that are not of `b`."""
    return encode_mask(decode_mask(a) & ~decode_mask(b))


def rle_occlusion_rate(visible: Rle, amodal: Rle) -> float:
    """Hidden share of an object in [0, 1]: pixels of the amodal mask outside the visible one; 0 if it has none."""
    whole = rle_area(amodal)
    return 1 - rle_area(rle_intersection(visible, amodal)) / whole if whole else 0.0


def segmentation_to_rle(segmentation: Any, height: int, width: int) -> Rle:
    """A COCO segmentation of any form as one compressed RLE.

    Args:
        segmentation: list of polygons, compressed RLE, or uncompressed RLE.
        height: H of the image.
        width: W of the image.

    Raises:
        InputError: another form, a polygon of fewer than three points, coordinates that are not
            numbers near the image, or an RLE that does not cover the image exactly.
    """
    if isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        return _checked_rle(segmentation["size"], segmentation["counts"], height, width)
    if isinstance(segmentation, list) and segmentation:
        parts = coco_mask.frPyObjects([_polygon(p, height, width) for p in segmentation], height, width)
        return _as_text(coco_mask.merge(parts))
    raise InputError(f"segmentation: expected polygons or an RLE, got {type(segmentation).__name__}")


def _from_changes(changes: npt.NDArray[np.int64], H: int, W: int) -> Rle:
    """RLE from the positions, down the columns, where the mask changes its value."""
    counts = np.diff(changes, prepend=0, append=H * W).tolist()
    if counts[-1] == 0:  # the last pixel is set: no run of zeros follows
        counts.pop()
    return _as_text(coco_mask.frPyObjects({"size": [int(H), int(W)], "counts": counts}, H, W))


def _checked_rle(size: Any, counts: Any, height: int, width: int) -> Rle:
    """pycocotools fills what a short RLE leaves open with whatever memory holds, so lengths are checked."""
    if size not in ([height, width], (height, width)):
        raise InputError(f"segmentation: expected an RLE of size [{height}, {width}], got {size}")
    try:
        runs = np.asarray(counts, np.int64) if isinstance(counts, list) else _runs(counts)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError("segmentation: expected an RLE's counts, got other content") from error
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != height * width:
        covered = int(np.clip(runs, 0, None).sum())
        raise InputError(f"segmentation: expected runs over {height * width} pixels, got {covered}")
    if isinstance(counts, list):
        return _as_text(coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width))
    return _as_text({"size": [height, width], "counts": counts})


def _runs(counts: Any) -> npt.NDArray[np.int64]:
    """Run lengths of COCO's compressed counts.

    From the fourth run on, numbers are differences to the run before the last (pycocotools,
    maskApi.c, rleToString).
    """
    if not isinstance(counts, (str, bytes)):
        raise TypeError("neither text nor bytes")
    text = counts.encode("ascii") if isinstance(counts, str) else counts
    if not text:
        return np.zeros(0, np.int64)
    runs, _ = coco_numbers(text)
    for start in (1, 2):
        np.add.accumulate(runs[start::2], out=runs[start::2])
    return runs


def coco_numbers(text: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Numbers (N,) of compressed counts, and of each character (len(text),) whether it ends one.

    Six bits a character from '0' on: five of the number, least significant first, and one that
    says whether it goes on; the last one's top bit is the sign (pycocotools, maskApi.c,
    rleToString).

    Args:
        text: of one mask or of several, one behind the other; not empty.

    Raises:
        ValueError: other characters, a last one that goes on, or a number beyond any run.
    """
    bits = np.frombuffer(text, np.uint8)
    closing = bits < 48 + 32
    if text.translate(None, _CHARACTERS) or not closing[-1]:
        raise ValueError("not COCO's characters, or a last one that goes on")
    last = closing.nonzero()[0]
    first = np.empty_like(last)
    first[0], first[1:] = 0, last[:-1] + 1
    extra = last - first  # characters of each number beyond one
    if extra.max() > 6:  # 35 bits hold any run of an image
        raise ValueError("a number too long")
    digits = ((bits - 48) & 31).astype(np.int64)
    sign = (digits[last] & 16) << (5 * extra + 1)
    place = 5 * (np.arange(len(bits)) - first.repeat(extra + 1))
    numbers: npt.NDArray[np.int64] = np.add.reduceat(digits << place, first)
    numbers -= sign
    return numbers, closing


def _polygon(points: Any, height: int, width: int) -> list[float]:
    try:
        polygon = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("segmentation: expected polygons of numbers, got other content") from error
    if polygon.ndim != 1 or len(polygon) < 6 or len(polygon) % 2:
        raise InputError("segmentation: expected polygons of three points or more, got fewer")
    if not np.isfinite(polygon).all():
        raise InputError("segmentation: expected finite coordinates, got NaN or infinity")
    reach = 32 * max(height, width)  # pycocotools walks along every edge, also far outside the image
    if np.abs(polygon).max() > reach:
        raise InputError(f"segmentation: expected coordinates within {reach} px, got {np.abs(polygon).max():g}")
    return [float(v) for v in polygon]


def _as_text(rle: Rle) -> Rle:
    (height, width), counts = rle["size"], rle["counts"]
    text = counts if isinstance(counts, str) else counts.decode("ascii")
    return {"size": [int(height), int(width)], "counts": text}
