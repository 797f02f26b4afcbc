"""Operations on boxes, which are xyxy in pixels with the right and bottom edge exclusive unless a name says xywh."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from amodal.ops.arrays import Box, Boxes, Window

Point = tuple[float, float]
"""(x, y) in pixels."""


def mask_to_box(mask: npt.NDArray[np.bool_]) -> Boxes:
    """Tight box (4,) xyxy of an (H, W) mask; zeros for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return np.zeros(4)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)


def xyxy_to_xywh(box_xyxy: Sequence[float]) -> list[float]:
    """One box from corners to COCO's corner and size, as JSON takes it."""
    x0, y0, x1, y1 = box_xyxy
    return [x0, y0, x1 - x0, y1 - y0]


def xywh_to_xyxy(box_xywh: Sequence[float]) -> Box:
    """One box from COCO's corner and size to corners."""
    x, y, w, h = box_xywh
    return (x, y, x + w, y + h)


def box_iou(a: Boxes, b: Boxes) -> Boxes:
    """Intersection over union of (N, 4) with (M, 4) xyxy boxes, (N, M) in [0, 1]; 0 for a box without area."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection = np.clip(high - low, 0, None).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (a, b)]
    return np.asarray(intersection / np.maximum(areas[0][:, None] + areas[1] - intersection, 1e-12), np.float64)


def without_overlaps(boxes: Boxes, max_overlap: float) -> npt.NDArray[np.int64]:
    """Indices of the boxes (N, 4) xyxy, best first, that overlap no better kept box by more than `max_overlap` (IoU).

    This is greedy non-maximum suppression.
    """
    overlaps = box_iou(boxes, boxes) > max_overlap
    kept: list[int] = []
    for index in range(len(boxes)):
        if not overlaps[index, kept].any():
            kept.append(index)
    return np.array(kept, dtype=np.int64)


def boxes_meet(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two xyxy boxes share an area, not only an edge."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def crop_window(box_xyxy: Boxes, size: tuple[int, int], scale: float = 2.0, *, extra: int = 0) -> Window:
    """Crop window around a box by C2F-Seg's pixel rule, which PLUG follows (section 4.2).

    Per axis, centre = (min + max) // 2, length = int(extent * scale), window = centre ± length // 2. The window is
    clipped to the image without padding and has at least one pixel.

    Args:
        box_xyxy: (4,) box in image pixels.
        size: (H, W) of the image.
        scale: side of the window relative to the side of the box.
        extra: pixels that the window reaches further to the right and to the bottom; 1 in C2F-Seg's code.

    Returns:
        (x0, y0, x1, y1) integers inside the image, x1 and y1 exclusive.
    """
    x = _span(float(box_xyxy[0]), float(box_xyxy[2]), size[1], scale, extra)
    y = _span(float(box_xyxy[1]), float(box_xyxy[3]), size[0], scale, extra)
    return (x[0], y[0], x[1], y[1])


def boxes_to_crop(boxes_xyxy: Boxes, window: Window, crop_size: int) -> Boxes:
    """Convert (N, 4) boxes from image pixels to the frame of a window that is resized to a square."""
    x0, y0, x1, y1 = window
    scale = np.array([crop_size / (x1 - x0), crop_size / (y1 - y0)] * 2)
    moved = (np.asarray(boxes_xyxy, dtype=np.float64) - np.array([x0, y0, x0, y0])) * scale
    return np.clip(moved, 0, crop_size)


def _span(low: float, high: float, limit: int, scale: float, extra: int) -> tuple[int, int]:
    centre = int((low + high) // 2)
    half = int((high - low) * scale) // 2
    start = min(max(centre - half, 0), limit - 1)
    return start, min(max(centre + half + extra, start + 1), limit)


def turned(points: Sequence[Point], centre: Point, degrees: float) -> list[Point]:
    """Points (x, y) turned clockwise about a centre; y points down, as in images."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    offsets = [(x - centre[0], y - centre[1]) for x, y in points]
    return [(centre[0] + dx * cos - dy * sin, centre[1] + dx * sin + dy * cos) for dx, dy in offsets]
