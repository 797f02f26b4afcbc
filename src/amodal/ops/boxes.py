"""Boxes: xyxy in pixels, right and bottom edge exclusive."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Boxes = npt.NDArray[np.float64]
Window = tuple[int, int, int, int]


def mask_to_box(mask: npt.NDArray[np.bool_]) -> Boxes:
    """Tight box (4,) xyxy of a (H, W) mask; zeros for an empty one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return np.zeros(4)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)


def xyxy_to_xywh(boxes: Boxes) -> Boxes:
    """(..., 4) corners to COCO's corner and size."""
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def xywh_to_xyxy(boxes: Boxes) -> Boxes:
    """(..., 4) COCO's corner and size to corners."""
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def boxes_meet(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two xyxy boxes have more than an edge in common."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def crop_window(box_xyxy: Boxes, size: tuple[int, int], scale: float = 2.0) -> Window:
    """Window around a box by C2F-Seg's pixel rule, which PLUG follows (section 4.2).

    centre = (min + max) // 2 an axis, length = int(extent * scale), window = centre ±
    length // 2, clipped to the image, no padding. At least one pixel.

    Args:
        box_xyxy: (4,) in image pixels.
        size: (H, W) of the image.
        scale: length of the window relative to the box.

    Returns:
        (x0, y0, x1, y1) integers, x1 and y1 exclusive, inside the image.
    """
    x = _span(float(box_xyxy[0]), float(box_xyxy[2]), size[1], scale)
    y = _span(float(box_xyxy[1]), float(box_xyxy[3]), size[0], scale)
    return (x[0], y[0], x[1], y[1])


def boxes_to_crop(boxes_xyxy: Boxes, window: Window, crop_size: int) -> Boxes:
    """(N, 4) boxes in image pixels to the frame of the window resized to a square."""
    x0, y0, x1, y1 = window
    scale = np.array([crop_size / (x1 - x0), crop_size / (y1 - y0)] * 2)
    moved = (np.asarray(boxes_xyxy, dtype=np.float64) - np.array([x0, y0, x0, y0])) * scale
    return np.clip(moved, 0, crop_size)


def _span(low: float, high: float, limit: int, scale: float) -> tuple[int, int]:
    centre = int((low + high) // 2)
    half = int((high - low) * scale) // 2
    start = min(max(centre - half, 0), limit - 1)
    return start, min(max(centre + half, start + 1), limit)
