"""Scaling images of more than 8 bits to 8 bits: 10 to 16 bits, and for grey 32 bits, signed values and floats."""

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

_DEEP_LAYOUT = ";16"
"""What Pillow's name of a pixel layout says about colours of 16 bits, such as `RGB;16B`."""

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
        _warn_of_range(name, low, high)
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


def deep_content(image: Image.Image) -> bytes | None:
    """The content of the file of an image that is not decoded yet and stores colours of 16 bits; None for others."""
    file = getattr(image, "fp", None)
    if file is None or not any(_DEEP_LAYOUT in str(tile.args) for tile in getattr(image, "tile", ())):
        return None
    place = file.tell()
    file.seek(0)
    content: bytes = file.read()
    file.seek(place)
    return content


def brightened(image: Image.Image, content: bytes, name: str) -> Image.Image:
    """Scale colours of 16 bits to 8 bits where a camera used only 10 to 14 of the 16, by the rule of `to_eight_bits`.

    Pillow reads the upper 8 of the 16 bits, which are nearly 0 in such a file, so OpenCV decodes it again.

    Args:
        image: decoded image that is not turned upright.
        content: its file, from `deep_content`.
        name: name of the image in the warning.

    Returns:
        An image of the mode `RGB` or `RGBA`; the image itself if its colours use their 16 bits.

    Warns:
        InputWarning: the range was guessed from the values, or the image stays nearly black, because it has another
            form than PNG and TIFF files usually have.
    """
    bands = [band for band, letter in zip(image.split(), image.getbands(), strict=True) if letter != "A"]
    if int(max(np.asarray(band).max() for band in bands)) >= _DARK:
        return image
    import cv2

    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)  # BGR or BGRA, not turned
    if values is None or values.dtype != np.uint16 or values.ndim != 3 or values.shape[1::-1] != image.size:
        message = "expected colours that use their 16 bits, got a nearly black image; scale them to 8 bits first"
        warnings.warn(f"{name}: {message}", InputWarning, stacklevel=4)
        return image
    low, high, _ = _range(values[..., :3], image)
    _warn_of_range(name, low, high)
    table = _scaled(np.arange(1 << 16, dtype=np.float32), low, high)
    colours = Image.fromarray(np.ascontiguousarray(table[values[..., 2::-1]]))
    if values.shape[2] == 4:
        colours.putalpha(Image.fromarray((values[..., 3] >> 8).astype(np.uint8)))
    return colours


def _warn_of_range(name: str, low: float, high: float) -> None:
    warnings.warn(
        f"{name}: expected 8 bits per pixel, got others; the range of the values is taken as {low:g} to {high:g}",
        InputWarning,
        stacklevel=5,  # the caller of `load_image`
    )
