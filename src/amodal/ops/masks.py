"""Operations on masks: overlap, convex hull, cropping, and pasting crops back into the image."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from amodal.ops.arrays import FloatMap, Mask, Window


def iou_of_counts(intersection: npt.ArrayLike, union: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Intersection over union from numbers of pixels.

    Args:
        intersection: (...) pixels of both masks.
        union: (...) pixels of either mask.

    Returns:
        (...) float64 in [0, 1]; 1 where the union is empty, because two empty masks agree.
    """
    intersection, union = np.asarray(intersection, np.float64), np.asarray(union, np.float64)
    return np.divide(intersection, union, out=np.ones(np.broadcast(intersection, union).shape), where=union > 0)


def mask_iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two (H, W) masks; 1 if both are empty."""
    return float(iou_of_counts(np.count_nonzero(a & b), np.count_nonzero(a | b)))


def convex_hull_mask(mask: Mask) -> Mask:
    """Smallest convex mask (H, W) that covers the pixels of a mask."""
    points = np.argwhere(mask)[:, ::-1].astype(np.int32)
    filled = np.zeros(mask.shape, np.uint8)
    if len(points):
        cv2.fillConvexPoly(filled, cv2.convexHull(points), 1)
    return filled.astype(bool)


def crop_and_resize(
    array: npt.NDArray[np.uint8],
    window: Window,
    crop_size: int,
    interpolation: Literal["area", "linear", "nearest"] = "area",
) -> npt.NDArray[np.uint8]:
    """Crop a window and resize it to a square without keeping the aspect ratio.

    Args:
        array: (H, W) or (H, W, C) uint8.
        window: (x0, y0, x1, y1) inside the image.
        crop_size: side S of the result.
        interpolation: `area` averages pixels if the window shrinks and interpolates linearly if it grows.

    Returns:
        (S, S) or (S, S, C) uint8.
    """
    x0, y0, x1, y1 = window
    shrinks = (x1 - x0) > crop_size and (y1 - y0) > crop_size
    flags = {
        "area": cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
        "linear": cv2.INTER_LINEAR,
        "nearest": cv2.INTER_NEAREST,
    }
    part = np.ascontiguousarray(array[y0:y1, x0:x1])
    return np.asarray(cv2.resize(part, (crop_size, crop_size), interpolation=flags[interpolation]), np.uint8)


def crop_mask(mask: Mask, window: Window, crop_size: int) -> Mask:
    """Crop a window of a mask and resize it to (S, S); a pixel is set if at least half of it is covered."""
    grey = mask.view(np.uint8) * np.uint8(255)
    return crop_and_resize(grey, window, crop_size, "area") >= 128


def resize_probs(probs: FloatMap, window: Window) -> FloatMap:
    """Resize the (S, S) probabilities of a crop to the (h, w) of its window, bilinear."""
    x0, y0, x1, y1 = window
    resized = cv2.resize(probs, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.float32)
