"""Run-length encoded masks (RLEs) in COCO's compressed form, `{"size": [H, W], "counts": str}`.

Runs go down the columns, starting with a run of unset pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from amodal.errors import InputError
from amodal.ops.arrays import Mask, Window
from amodal.ops.values import MAX_INTEGER, ids, numbers

Rle = dict[str, Any]

MAX_OUTLINE = 2_000_000
"""Length in pixels of all outlines of one object. pycocotools needs about 100 bytes per pixel and checks no limit."""

_CHARACTERS = bytes(range(48, 48 + 64))


def encode_mask(mask: Mask) -> Rle:
    """Encode an (H, W) bool mask."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_mask(rle: Rle) -> Mask:
    """Decode an RLE to an (H, W) bool mask."""
    return np.asarray(coco_mask.decode(rle_as_bytes(rle)), dtype=bool)


def decode_window(rle: Rle, window: Window) -> Mask:
    """Decode the part of an RLE inside a window without decoding the rest.

    Args:
        rle: mask of the whole image.
        window: (x0, y0, x1, y1) inside the image.

    Returns:
        (y1 - y0, x1 - x0) bool.
    """
    x0, y0, x1, y1 = window
    height = rle["size"][0]
    ends = np.cumsum(_runs(rle["counts"]))
    first, last = ends[0 : len(ends) - 1 : 2], ends[1::2]  # of the runs of set pixels
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
    return _transposed(columns.reshape(x1 - x0, y1 - y0))


def _transposed(mask: Mask) -> Mask:
    """(w, h) contiguous from (h, w). For large masks many times faster than numpy, which reads them in strides."""
    if not mask.size:
        return np.zeros(mask.shape[::-1], bool)
    return cv2.transpose(np.ascontiguousarray(mask).view(np.uint8)).view(bool)


def encode_window(part: Mask, window: Window, size: Sequence[int]) -> Rle:
    """Encode a mask (h, w) in a window as an RLE of the whole image (H, W), without a full-size mask."""
    H, W = size
    x0, y0, x1, y1 = window
    columns = np.zeros(((x1 - x0) * H + 2), bool)  # between two unset pixels
    columns[1:-1].reshape(x1 - x0, H)[:, y0:y1] = _transposed(part)
    changes = np.flatnonzero(columns[1:] != columns[:-1]) + x0 * H
    return _from_changes(changes, H, W)


def encode_columns(part: Mask, corner: tuple[int, int], size: Sequence[int]) -> Rle:
    """Encode a mask (h, w) at a corner (x, y) that has one unbroken run per column, such as a convex mask.

    Faster than `encode_window`, with the same result.
    """
    H, W = size
    x0, y0 = corner
    filled = np.flatnonzero(part.any(axis=0))
    starts = part.argmax(axis=0)[filled] + y0 + (filled + x0) * H
    changes = np.stack([starts, starts + part.sum(axis=0)[filled]], axis=1).ravel()
    joined = np.flatnonzero(changes[1:-1:2] == changes[2::2])  # a run to the last row continues in the first row
    return _from_changes(np.delete(changes, np.concatenate([2 * joined + 1, 2 * joined + 2])), H, W)


def rle_as_bytes(rle: Rle) -> Rle:
    """The RLE as pycocotools takes it, with `counts` in bytes."""
    counts = rle["counts"]
    return {"size": rle["size"], "counts": counts.encode("ascii") if isinstance(counts, str) else counts}


def rle_box_xyxy(rle: Rle) -> tuple[float, float, float, float]:
    """Tight box of a mask; zeros for an empty mask."""
    x, y, w, h = coco_mask.toBbox(rle_as_bytes(rle)).tolist()
    return (x, y, x + w, y + h)


def rle_area(rle: Rle) -> int:
    """Number of pixels of a mask."""
    return int(coco_mask.area(rle_as_bytes(rle)))


def run_lengths(rle: Rle) -> list[int]:
    """The runs of a mask, unset pixels first, down the columns."""
    found: list[int] = _runs(rle["counts"]).tolist()
    return found


def encode_empty(size: tuple[int, int]) -> Rle:
    """Encode an empty (H, W) mask."""
    return _as_text(coco_mask.frPyObjects({"size": list(size), "counts": [size[0] * size[1]]}, *size))


def rle_union(a: Rle, b: Rle) -> Rle:
    """Union of two masks."""
    return _as_text(coco_mask.merge([rle_as_bytes(a), rle_as_bytes(b)]))


def rle_intersection(a: Rle, b: Rle) -> Rle:
    """Intersection of two masks."""
    return _as_text(coco_mask.merge([rle_as_bytes(a), rle_as_bytes(b)], intersect=True))


def rle_difference(a: Rle, b: Rle) -> Rle:
    """Pixels of `a` outside `b`."""
    return encode_mask(decode_mask(a) & ~decode_mask(b))


def segmentation_to_rle(segmentation: Any, height: int, width: int) -> Rle:
    """Convert a COCO segmentation of any form to one compressed RLE.

    Args:
        segmentation: list of polygons, compressed RLE, or uncompressed RLE.
        height: H of the image.
        width: W of the image.

    Raises:
        InputError: the segmentation has another form, a polygon has fewer than three points, coordinates are not
            numbers near the image, the outlines are longer than `MAX_OUTLINE`, or the RLE does not cover the image
            exactly.
    """
    if isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        return _checked_rle(segmentation["size"], segmentation["counts"], height, width)
    if isinstance(segmentation, list) and segmentation:
        polygons = [_polygon(part, height, width) for part in segmentation]
        length = sum(_outline_length(polygon) for polygon in polygons)
        if length > MAX_OUTLINE:
            raise InputError(f"segmentation: expected outlines of at most {MAX_OUTLINE} px, got {length:.0f}")
        parts = coco_mask.frPyObjects([polygon.tolist() for polygon in polygons], height, width)
        return _as_text(coco_mask.merge(parts))
    raise InputError(f"segmentation: expected polygons or an RLE, got {type(segmentation).__name__}")


def _from_changes(changes: npt.NDArray[np.int64], H: int, W: int) -> Rle:
    """RLE from the positions, down the columns, at which the mask changes its value."""
    counts = np.diff(changes, prepend=0, append=H * W).tolist()
    if counts[-1] == 0:  # the last pixel is set, so no run of unset pixels follows
        counts.pop()
    return _as_text(coco_mask.frPyObjects({"size": [int(H), int(W)], "counts": counts}, H, W))


def _checked_rle(size: Any, counts: Any, height: int, width: int) -> Rle:
    """Check an RLE: pycocotools decodes one that is too short to whatever the memory holds."""
    if ids(size, "the size of an RLE") != (height, width):
        raise InputError(f"segmentation: expected an RLE of size [{height}, {width}], got {size}")
    try:
        runs = _listed_runs(counts) if isinstance(counts, list) else _runs(counts)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError("segmentation: expected an RLE's counts, got other content") from error
    if (runs < 0).any() or (runs > height * width).any() or runs.sum() != height * width:
        covered = int(np.clip(runs, 0, None).sum(dtype=np.float64))
        raise InputError(f"segmentation: expected runs over {height * width} pixels, got {covered}")
    if isinstance(counts, list):
        return _as_text(coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width))
    return _as_text({"size": [height, width], "counts": counts})


def _runs(counts: Any) -> npt.NDArray[np.int64]:
    """Run lengths of COCO's compressed counts.

    From the fourth run on, the numbers are differences to the run before the previous one (pycocotools, maskApi.c,
    rleToString).
    """
    if not isinstance(counts, (str, bytes)):
        raise TypeError("neither text nor bytes")
    text = counts.encode("ascii") if isinstance(counts, str) else counts
    if not text:
        return np.zeros(0, np.int64)
    runs, _ = _coco_numbers(text)
    for start in (1, 2):
        np.add.accumulate(runs[start::2], out=runs[start::2])
    return runs


def _coco_numbers(text: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Decode compressed counts to numbers (N,), and say for each character (len(text),) whether it ends a number.

    A character, counted from '0', has six bits: five bits of the number, least significant first, and one bit that is
    set if the number continues. The highest bit of the last five is the sign (pycocotools, maskApi.c, rleToString).

    Args:
        text: counts of one mask, or of several masks one after the other; not empty.

    Raises:
        ValueError: other characters, a number that does not end, or a number that is larger than any run.
    """
    bits = np.frombuffer(text, np.uint8)
    closing = bits < 48 + 32
    if text.translate(None, _CHARACTERS) or not closing[-1]:
        raise ValueError("not COCO's characters, or a number that does not end")
    last = closing.nonzero()[0]
    first = np.empty_like(last)
    first[0], first[1:] = 0, last[:-1] + 1
    extra = last - first  # characters of each number beyond the first
    if extra.max() > 6:  # 35 bits are enough for any run of an image
        raise ValueError("a number too long")
    digits = ((bits - 48) & 31).astype(np.int64)
    sign = (digits[last] & 16) << (5 * extra + 1)
    place = 5 * (np.arange(len(bits)) - first.repeat(extra + 1))
    numbers: npt.NDArray[np.int64] = np.add.reduceat(digits << place, first)
    numbers -= sign
    return numbers, closing


def _listed_runs(counts: list[Any]) -> npt.NDArray[np.int64]:
    """Run lengths of uncompressed counts. Raises `ValueError` for anything but integers."""
    runs = numbers(counts, "counts")
    if (runs != np.floor(runs)).any() or (np.abs(runs) > MAX_INTEGER // 2).any():
        raise ValueError("a run that is no integer")
    return runs.astype(np.int64)


def _polygon(points: Any, height: int, width: int) -> npt.NDArray[np.float64]:
    """Coordinates x, y, x, y, ... of a polygon."""
    if not isinstance(points, (list, tuple)) or len(points) < 6 or len(points) % 2:
        raise InputError("segmentation: expected polygons of three points or more, got fewer")
    try:
        polygon = numbers(points, "coordinates")
    except InputError as error:
        raise InputError(f"segmentation: {error}") from error
    reach = 32 * max(height, width)  # pycocotools traverses every edge, also far outside the image
    if np.abs(polygon).max() > reach:
        raise InputError(f"segmentation: expected coordinates within {reach} px, got {np.abs(polygon).max():g}")
    return polygon


def _outline_length(polygon: npt.NDArray[np.float64]) -> float:
    """Pixels along the edges of a polygon, in the larger of the two directions of each."""
    points = polygon.reshape(-1, 2)
    return float(np.abs(points - np.roll(points, -1, axis=0)).max(axis=1).sum()) + len(points)


def _as_text(rle: Rle) -> Rle:
    (height, width), counts = rle["size"], rle["counts"]
    text = counts if isinstance(counts, str) else counts.decode("ascii")
    return {"size": [int(height), int(width)], "counts": text}


def are_complete(rles: Sequence[Rle], size: tuple[int, int]) -> bool:
    """Whether every RLE is a compressed one whose runs cover exactly (H, W) pixels.

    Checking one RLE takes some thirty numpy calls whatever its length; a hundred RLEs one after the other take the same
    thirty.

    Args:
        rles: RLEs; for anything else the result is False instead of an error.
        size: (H, W).

    Returns:
        True if each RLE can be decoded safely, False if at least one cannot.
    """
    texts = []
    for rle in rles:
        counts = rle.get("counts")
        if not isinstance(counts, str) or not counts or list(rle.get("size") or ()) != list(size):
            return False
        texts.append(counts)
    try:
        return not texts or _runs_cover([t.encode("ascii") for t in texts], size[0] * size[1])
    except ValueError:  # other characters or an invalid number
        return False


def _runs_cover(texts: list[bytes], pixels: int) -> bool:
    """Whether each text covers `pixels`."""
    runs, per_text = _runs_of_texts(texts)
    totals = np.add.reduceat(runs, np.cumsum(per_text) - per_text)
    return bool((runs >= 0).all() and (totals == pixels).all())


def _runs_of_texts(texts: list[bytes]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Run lengths of several masks, one after the other, and the number of runs of each mask.

    The numbers of a text are r0, r1, r2, r3 - r1, r4 - r2, ...

    Args:
        texts: compressed counts, none of them empty.

    Raises:
        ValueError: other characters, or a number that does not end or is larger than any run.
    """
    numbers, closing = _coco_numbers(b"".join(texts))
    lengths = np.array([len(text) for text in texts])
    stops = np.cumsum(lengths)
    if not closing[stops - 1].all():
        raise ValueError("a number that continues in the next text")
    per_text = np.add.reduceat(closing.astype(np.int64), stops - lengths)
    begins = np.cumsum(per_text) - per_text
    # The odd and the even numbers of a text are two running sums: two columns, one block of rows per text.
    heights = per_text // 2
    tops = np.cumsum(heights) - heights
    place = np.arange(len(numbers)) - np.repeat(begins, per_text) - 1  # -1 for r0
    later = place >= 0
    row, column = (np.repeat(tops, per_text) + place // 2)[later], place[later] % 2
    differences = np.zeros((int(heights.sum()) + 1, 2), np.int64)
    differences[row + 1, column] = numbers[later]
    sums = np.cumsum(differences, axis=0)
    runs = numbers.copy()
    runs[later] = sums[row + 1, column] - sums[np.repeat(tops, np.maximum(per_text - 1, 0)), column]
    return runs, per_text


def count_components(rles: Sequence[Rle]) -> npt.NDArray[np.int64]:
    """Count the connected components of masks on their run lengths, without decoding.

    Two pixels are connected if they share a side or a corner. The masks are counted together, because the cost is
    some sixty numpy calls for one mask or a hundred.

    Args:
        rles: N valid masks of any sizes.

    Returns:
        (N,) int64; 0 for an empty mask.
    """
    if not rles:
        return np.zeros(0, np.int64)
    starts, stops, heights, owners = _vertical_runs(rles)
    # Runs of neighbouring columns touch, also at a corner, if the shifted one neither ends before the other begins
    # nor begins after the other ends. Columns are one pixel apart, so a run never touches one of the same column.
    first = np.searchsorted(stops, starts + heights + 1, "left")
    num_touching = np.maximum(np.searchsorted(starts, stops + heights + 1, "right") - first, 0)
    left = np.repeat(np.arange(len(starts)), num_touching)
    offsets = np.arange(len(left)) - np.repeat(np.cumsum(num_touching) - num_touching, num_touching)
    roots = _smallest_connected(left, first[left] + offsets, len(starts))
    return np.bincount(owners[roots == np.arange(len(starts))], minlength=len(rles)).astype(np.int64)


def _vertical_runs(rles: Sequence[Rle]) -> tuple[npt.NDArray[np.int64], ...]:
    """Runs of set pixels of all masks, split at the ends of columns.

    Returns:
        starts: (R,) positions, column by column and mask after mask, with a gap of one pixel between columns.
        stops: (R,) positions behind the last pixel.
        heights: (R,) height of the mask.
        owners: (R,) index of the mask.
    """
    runs, per_text = _runs_of_texts([rle_as_bytes(rle)["counts"] for rle in rles])
    begins = np.cumsum(per_text) - per_text
    ends = np.cumsum(runs)
    owner = np.repeat(np.arange(len(rles)), per_text)
    ends -= np.repeat(ends[begins] - runs[begins], per_text)
    is_set = ((np.arange(len(runs)) - begins[owner]) % 2 == 1) & (runs > 0)
    start, stop, owner = (ends - runs)[is_set], ends[is_set], owner[is_set]
    parted = (start[1:] != stop[:-1]) | (owner[1:] != owner[:-1])  # not just by a run of no unset pixels
    if not parted.all():
        first, last = np.insert(parted, 0, True), np.append(parted, True)
        start, stop, owner = start[first], stop[last], owner[first]
    sizes = np.array([rle["size"] for rle in rles], np.int64)  # (N, 2)
    height = sizes[owner, 0]
    spans = (stop - 1) // height - start // height + 1  # columns that each run crosses
    index = np.repeat(np.arange(len(spans)), spans)
    column = (start // height)[index] + np.arange(len(index)) - np.repeat(np.cumsum(spans) - spans, spans)
    owner, height = owner[index], height[index]
    areas = (sizes[:, 0] + 1) * (sizes[:, 1] + 1)
    base = (np.cumsum(areas) - areas)[owner] + column * (height + 1)
    top = np.maximum(start[index] - column * height, 0)
    bottom = np.minimum(stop[index] - column * height, height)
    return base + top, base + bottom, height, owner


def _smallest_connected(left: npt.NDArray[np.int64], right: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Smallest node that each of `count` nodes is connected with, over edges from `left` to `right`."""
    roots = np.arange(count)
    while True:
        low, high = np.minimum(roots[left], roots[right]), np.maximum(roots[left], roots[right])
        if (low == high).all():
            return roots
        np.minimum.at(roots, high, low)
        while not np.array_equal(roots, roots[roots]):
            roots = roots[roots]
