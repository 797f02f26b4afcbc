"""Masks: overlap, simple shapes, and the way between image and crop."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from amodal.ops.boxes import Window

Mask = npt.NDArray[np.bool_]
FloatMap = npt.NDArray[np.float32]


def mask_iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two (H, W) masks; 1 if both are empty."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def occlusion_rate(visible: Mask, amodal: Mask) -> float:
    """1 - |visible| / |amodal| in [0, 1]; 0 for an empty amodal mask."""
    area = np.count_nonzero(amodal)
    return float(np.clip(1 - np.count_nonzero(visible) / area, 0, 1)) if area else 0.0


def convex_hull_mask(mask: Mask) -> Mask:
    """Smallest convex region (H, W) that covers the mask's pixels."""
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
    """Cut a window and resize it to a square, aspect not kept.

    Args:
        array: (H, W) or (H, W, C) uint8.
        window: (x0, y0, x1, y1) inside the image.
        crop_size: side of the result.
        interpolation: `area` averages where the window shrinks and is linear where it grows.

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
    """Cut a window out of a mask and resize it to (S, S); a pixel is set where half is."""
    grey = mask.view(np.uint8) * np.uint8(255)
    return crop_and_resize(grey, window, crop_size, "area") >= 128


def resize_probs(probs: FloatMap, window: Window) -> FloatMap:
    """(S, S) probabilities of a crop to the window's own (h, w), bilinear."""
    x0, y0, x1, y1 = window
    resized = cv2.resize(probs, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.float32)


def paste_probs(probs: FloatMap, window: Window, size: tuple[int, int]) -> FloatMap:
    """Probabilities of a crop in the whole (H, W) image; outside the window 0."""
    x0, y0, x1, y1 = window
    full = np.zeros(size, np.float32)
    full[y0:y1, x0:x1] = resize_probs(probs, window)
    return full
