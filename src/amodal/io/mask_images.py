"""Masks that are stored as image files, read by what their mode means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from amodal.errors import InputError
from amodal.io.images import opened_image, upright

Labels = npt.NDArray[np.int64]
"""(H, W), 0 is background."""


def read_mask_image(path: Path) -> npt.NDArray[np.bool_]:
    """Read one mask.

    A pixel belongs to the mask if its colour is not black, whether the file has 1, 8 or 16 bits, floats, a palette or
    colours. An alpha channel with different values is the mask itself; one with a single value says nothing.

    Returns:
        (H, W) bool, upright.

    Raises:
        InputError: the file is no image, or a damaged one.
    """
    with opened_image(path) as image:
        image = upright(image)
        if image.mode == "P" or _has_alpha(image):
            image = image.convert("RGBA")
        pixels: npt.NDArray[Any] = np.asarray(image)
    if pixels.ndim == 2:
        return np.asarray(np.nan_to_num(pixels) != 0 if pixels.dtype.kind == "f" else pixels != 0, bool)
    colours, alpha = _parts(image.mode, pixels)
    if alpha is not None and alpha.min() != alpha.max():
        return np.asarray(alpha != 0, bool)
    if image.mode == "CMYK":
        colours = np.asarray(image.convert("RGB"))
    return np.asarray(colours.any(axis=2), bool)


def read_label_image(path: Path) -> Labels:
    """Read one mask (a single value beside 0), or a map with one value per object.

    The values of a palette are its numbers if number 0 is black, as in the maps of Pascal VOC, and colours otherwise.

    Raises:
        InputError: the file is no image, a damaged one, one with several colours, or one with floats.
    """
    with opened_image(path) as image:
        image = upright(image)
        is_map = (
            image.mode == "P" and "transparency" not in image.info and (image.getpalette() or [0])[:3] in ([0], [0] * 3)
        )
        if not is_map and (image.mode not in ("1", "L", "F") and not image.mode.startswith("I")):
            image = image.convert("RGBA")
        pixels: npt.NDArray[Any] = np.asarray(image)
    if pixels.ndim == 2:
        if pixels.dtype.kind not in "biu":
            raise InputError(f"masks {path}: expected integers, got {pixels.dtype}; compare it with a threshold first")
        return np.asarray(pixels, np.int64)
    colours, alpha = pixels[..., :3], pixels[..., 3]
    if alpha.min() != alpha.max():
        return np.asarray(alpha != 0, np.int64)
    if (colours == colours[..., :1]).all():
        return np.asarray(colours[..., 0], np.int64)
    found = np.unique(colours.reshape(-1, 3), axis=0)
    if len(found[found.any(axis=1)]) > 1:
        raise InputError(f"masks {path}: expected one value per object, got several colours")
    return np.asarray(colours.any(axis=2), np.int64)


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info


def _parts(mode: str, pixels: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """Colours (H, W, C), and alpha (H, W) if there is one."""
    return (pixels[..., :3], pixels[..., 3]) if mode == "RGBA" else (pixels, None)
