"""Resize the probabilities of a crop so that the outline of a mask follows the edges of the image.

This is the fast guided filter of He and Sun (*Fast Guided Filter*, 2015) with a colour image as its guide. In each
neighbourhood of the small crop, the probabilities are fitted by a linear function of the colour. The functions are
resized to the size of the image and applied to its colours, so that the probability changes where the colour does.
Differs from He and Sun: where the colours do not explain the probabilities, these are resized as they are. There, the
filter would only blur them, and thin parts would be lost.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from amodal.ops.arrays import FloatMap, Window
from amodal.ops.masks import resize_probs

COLOUR_VARIANCE = 1e-3
"""Colours that vary less than this in a neighbourhood, as the variance of values in [0, 1], are smoothed over."""

ENOUGH_EXPLAINED = 0.25
"""Share of the variance of the probabilities that the colours must explain for the filter to have its full effect."""

LEAST_VARIANCE = 1e-4
"""Added to the variance of the probabilities, so that the explained share is near 0 where they hardly vary."""

LEAST_PROBABILITY = 0.02
"""Pixels further than two radii from any pixel above this probability are resized without the image."""

STRIP = 256
"""Rows of the result that are computed at once, which limits the memory for large images."""


def guide_of(image: npt.NDArray[np.uint8], window: Window, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """The colours (R, S, 3) in [0, 1] of a window of an image (H, W, 3), for a crop of `shape` (R, S)."""
    part = image[window[1] : window[3], window[0] : window[2]]
    shrinks = part.shape[0] > shape[0] and part.shape[1] > shape[1]
    resized = cv2.resize(part, shape[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized.astype(np.float32) / np.float32(255)


def resize_along_edges(
    probs: FloatMap,
    image: npt.NDArray[np.uint8],
    window: Window,
    radius: int,
    guide: npt.NDArray[np.float32] | None = None,
) -> FloatMap:
    """Resize the (R, S) probabilities of a crop to the (h, w) of its window, along the edges of the image.

    Args:
        probs: (R, S) float32 in [0, 1].
        image: (H, W, 3) uint8 RGB.
        window: (x0, y0, x1, y1) inside the image, the part that the crop was made from.
        radius: radius of the square neighbourhoods in pixels of the crop; 0 ignores the image.
        guide: what `guide_of` returns, if several objects share a window; it is computed if None.

    Returns:
        (h, w) float32 in [0, 1].
    """
    resized = resize_probs(probs, window)
    rows, columns = (np.flatnonzero((probs > LEAST_PROBABILITY).any(axis)) for axis in (1, 0))
    if radius == 0 or not len(rows):
        return resized
    part, (h, w), (R, S) = image[window[1] : window[3], window[0] : window[2]], resized.shape, probs.shape
    functions = _linear_functions(probs, guide_of(image, window, (R, S)) if guide is None else guide, radius)
    margin = 2 * radius
    y0, y1 = (rows[0] - margin) * h // R, -(-(rows[-1] + 1 + margin) * h // R)
    x0, x1 = (columns[0] - margin) * w // S, -(-(columns[-1] + 1 + margin) * w // S)
    top, bottom, left, right = (int(v) for v in (max(y0, 0), min(y1, h), max(x0, 0), min(x1, w)))
    across, down = S / w, R / h
    for start in range(top, bottom, STRIP):
        stop = min(start + STRIP, bottom)
        # Pixel x of the strip is at (x + left + 0.5) * S / w - 0.5 of the crop, as in `cv2.resize`.
        to_crop = np.array([[across, 0, (left + 0.5) * across - 0.5], [0, down, (start + 0.5) * down - 0.5]])
        weights, total, explained = (
            cv2.warpAffine(
                values,
                to_crop,
                (right - left, stop - start),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            for values in functions
        )
        products = cv2.multiply(part[start:stop, left:right], weights, scale=1 / 255, dtype=cv2.CV_32F)
        total += cv2.transform(products, np.ones((1, 3), np.float32))
        own = resized[start:stop, left:right]
        own += (np.clip(total, 0, 1, out=total) - own) * np.clip(explained / ENOUGH_EXPLAINED, 0, 1)
    return resized


def _linear_functions(
    probs: FloatMap, guide: npt.NDArray[np.float32], radius: int
) -> tuple[npt.NDArray[np.float32], FloatMap, FloatMap]:
    """Fit weight * colour + offset to the probabilities (h, w) around each pixel of the guide (h, w, 3).

    Returns:
        Weights (h, w, 3), offsets (h, w), and the share of the variance of the probabilities that the colours explain,
        (h, w) in [0, 1]; each is the mean over the neighbourhoods that contain the pixel.
    """

    def mean(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        size = (2 * radius + 1, 2 * radius + 1)
        return np.asarray(cv2.boxFilter(values, -1, size, borderType=cv2.BORDER_REFLECT), np.float32)

    r, g, b = cv2.split(guide)
    mean_r, mean_g, mean_b = cv2.split(mean(guide))
    mean_p = mean(probs)
    rr, gg, bb = (mean(c * c) - m * m + COLOUR_VARIANCE for c, m in ((r, mean_r), (g, mean_g), (b, mean_b)))
    rg, rb, gb = (
        mean(r * g) - mean_r * mean_g,
        mean(r * b) - mean_r * mean_b,
        mean(g * b) - mean_g * mean_b,
    )
    rp, gp, bp = (mean(c * probs) - m * mean_p for c, m in ((r, mean_r), (g, mean_g), (b, mean_b)))
    # The inverse of the symmetric matrix of covariances, by its cofactors.
    c_rr, c_rg, c_rb = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
    c_gg, c_gb, c_bb = rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg
    determinant = rr * c_rr + rg * c_rg + rb * c_rb
    weight_r = (c_rr * rp + c_rg * gp + c_rb * bp) / determinant
    weight_g = (c_rg * rp + c_gg * gp + c_gb * bp) / determinant
    weight_b = (c_rb * rp + c_gb * gp + c_bb * bp) / determinant
    offset = mean_p - weight_r * mean_r - weight_g * mean_g - weight_b * mean_b
    variance = mean(probs * probs) - mean_p * mean_p
    explained = (weight_r * rp + weight_g * gp + weight_b * bp) / (variance + LEAST_VARIANCE)
    return mean(cv2.merge([weight_r, weight_g, weight_b])), mean(offset), mean(np.clip(explained, 0, 1))
