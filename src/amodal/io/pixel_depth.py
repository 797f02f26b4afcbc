"""Scaling greyscale images of more than 8 bits to 8 bits: 10 to 16 bits, 32 bits, signed values and floats."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from amodal.errors import InputWarning

_BITS_PER_SAMPLE, _MIN_VALUE, _MAX_VALUE = 258, (340, 280), (341, 281)
"""Tags of TIFF; the values of the first of each pair may be signed or floats."""

_DEPTHS = (8, 10, 12, 14, 16)
"""Bits that sensors have; a file stores the values of 10 to 14 bits as 16 or 32 bits."""

_DARK = 64
"""Brightest value of an image of 10 to 14 bits in 16, after Pillow has taken the upper 8 bits of them."""

_ROWS = 256
"""Rows that are scaled at a time, so that memory does not grow with the image."""


def to_eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Scale an image of more than 8 bits per pixel to the mode `L`; other images are returned unchanged.

    The range of values is the one that a TIFF file declares. Otherwise, values that are not negative and fit into 16
    bits have the smallest range of 8, 10, 12, 14 or 16 bits that contains them, floats in 0-1 have the range 0-1, and
    all others the range of the values themselves. Values that are not finite become 0.

    Args:
        image: decoded image.
        name: name of the image in the warning.

    Warns:
        InputWarning: the range was guessed from the values.
    """
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    values: npt.NDArray[Any] = np.asarray(image)
    low, high, guessed = _range(values, image)
    if guessed:
        message = (
            f"{name}: expected 8 bits per pixel, got others; the range of the values is taken as {low:g} to {high:g}"
        )
        warnings.warn(message, InputWarning, stacklevel=4)
    if values.dtype == np.uint16:
        table = _scaled(np.arange(1 << 16, dtype=np.float32), low, high)
        return Image.fromarray(table[values])
    scaled = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), _ROWS):
        scaled[top : top + _ROWS] = _scaled(values[top : top + _ROWS].astype(np.float32), low, high)
    return Image.fromarray(scaled)


def _range(values: npt.NDArray[Any], image: Image.Image) -> tuple[float, float, bool]:
    """Values that become 0 and 255, and whether they were guessed."""
    tags: dict[int, Any] = getattr(image, "tag_v2", {})
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    smallest, largest = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    low, high = (_number(next((tags[t] for t in pair if t in tags), None)) for pair in (_MIN_VALUE, _MAX_VALUE))
    if high is not None and (low or 0.0) <= smallest <= largest <= high and (low or 0.0) < high:
        return low or 0.0, high, False
    bits = _number(tags.get(_BITS_PER_SAMPLE))
    if values.dtype == np.uint16 and bits is not None and 8 < bits < 16:
        return 0.0, 2.0**bits - 1, False
    if values.dtype.kind == "f" and smallest >= 0 and largest <= 1:
        return 0.0, 1.0, True
    if smallest >= 0 and largest < 1 << 16:
        depth = next(depth for depth in _DEPTHS if largest < 1 << depth)
        return 0.0, float((1 << depth) - 1), not (values.dtype == np.uint16 and depth == 16)
    return smallest, largest, True


def _scaled(values: npt.NDArray[np.float32], low: float, high: float) -> npt.NDArray[np.uint8]:
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    part = np.nan_to_num((values - np.float32(low)) / np.float32(high - low), nan=0.0, posinf=0.0, neginf=0.0)
    return np.clip(part * 255, 0, 255).astype(np.uint8)


def _number(value: Any) -> float | None:
    """A tag's value, also where it is given per channel."""
    first = value[0] if isinstance(value, tuple) and value else value
    return float(first) if isinstance(first, (int, float)) and np.isfinite(first) else None


def has_deep_colours(image: Image.Image) -> bool:
    """Whether an image that is not decoded yet stores colours of 16 bits."""
    return any("16" in str(tile.args) for tile in getattr(image, "tile", ()))


def warn_of_dark_colours(image: Image.Image, name: str) -> None:
    """Warn of a decoded image with `has_deep_colours` that is nearly black.

    Pillow reads the upper 8 of the 16 bits, which are nearly 0 where a camera used only 10 or 12 bits.

    Warns:
        InputWarning: the image is nearly black.
    """
    if image.mode in ("RGB", "RGBA") and int(np.asarray(image)[..., :3].max()) < _DARK:
        message = "expected colours that use their 16 bits, got a nearly black image; scale them to 8 bits first"
        warnings.warn(f"{name}: {message}", InputWarning, stacklevel=4)
