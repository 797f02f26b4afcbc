"""Pictures of what was found: visible parts solid, hidden parts hatched."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from amodal.inference.scene import SceneObject

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

MAX_SIDE = 2048  # of an overlay; a huge photograph is shrunk before drawing
MIN_SIDE = 480  # a small picture is enlarged, so that hatching and text are readable
VISIBLE_ALPHA = 0.45
HIDDEN_ALPHA = 0.85


def object_colour(index: int) -> tuple[int, int, int]:
    """RGB of object `index`: hues a golden angle apart, so that neighbours differ."""
    red, green, blue = colorsys.hsv_to_rgb((0.55 + index * 0.618034) % 1, 0.85, 1.0)
    return (round(red * 255), round(green * 255), round(blue * 255))


def draw_scene(image: Pixels, objects: Sequence[SceneObject]) -> Pixels:
    """Draw objects over their image.

    Args:
        image: (H, W, 3) uint8 RGB.
        objects: with masks in the image's pixels.

    Returns:
        (h, w, 3) uint8 RGB; the image's own size unless that is very large or very small.
    """
    factor = _display_factor(image.shape[:2])
    size = (max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    canvas = np.asarray(cv2.resize(image, size, interpolation=how), np.uint8) if factor != 1 else image.copy()
    unit = max(round(max(canvas.shape[:2]) / 400), 1)
    for index, thing in enumerate(objects):
        colour = object_colour(index)
        visible, amodal = (_scaled(m, size) for m in (thing.visible_mask, thing.amodal_mask))
        _blend(canvas, visible, colour, VISIBLE_ALPHA)
        hidden = amodal & ~visible
        _blend(canvas, hidden, colour, VISIBLE_ALPHA * 0.5)
        _blend(canvas, hidden & _hatching(canvas.shape[:2], unit), colour, HIDDEN_ALPHA)
        _outline(canvas, amodal, (255, 255, 255), unit + 1)
        _outline(canvas, amodal, colour, unit)
    return _annotate(canvas, objects, factor, unit)


def draw_uncertainty(image: Pixels, uncertainty: npt.NDArray[np.float32]) -> Pixels:
    """Heat map (H, W, 3) of an uncertainty map (H, W) in [0, ln 2] over its image."""
    grey = np.clip(uncertainty / np.log(2) * 255, 0, 255).astype(np.uint8)
    heat = cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return np.asarray(cv2.addWeighted(image, 0.4, np.asarray(heat, np.uint8), 0.6, 0), np.uint8)


def _display_factor(size: tuple[int, int]) -> float:
    longest = max(size)
    if longest > MAX_SIDE:
        return MAX_SIDE / longest
    return min(MIN_SIDE / longest, 8.0) if longest < MIN_SIDE else 1.0


def _scaled(mask: Mask, size: tuple[int, int]) -> Mask:
    if mask.shape == size[::-1]:
        return mask
    grey = cv2.resize(mask.view(np.uint8) * np.uint8(255), size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(grey >= 128)


def _blend(canvas: Pixels, mask: Mask, colour: tuple[int, int, int], alpha: float) -> None:
    mixed = canvas[mask] * (1 - alpha) + np.array(colour) * alpha
    canvas[mask] = mixed.astype(np.uint8)


def _hatching(size: tuple[int, int], unit: int) -> Mask:
    y, x = np.ogrid[: size[0], : size[1]]
    return np.asarray((x + y) % (8 * unit) < 3 * unit)


def _outline(canvas: Pixels, mask: Mask, colour: tuple[int, int, int], width: int) -> None:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, colour, width, cv2.LINE_AA)


def _annotate(canvas: Pixels, objects: Sequence[SceneObject], factor: float, unit: int) -> Pixels:
    """Boxes of the visible parts, and a label with the number and the hidden share."""
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=9 + 5 * unit)
    for index, thing in enumerate(objects):
        colour = object_colour(index)
        x0, y0, x1, y1 = (v * factor for v in thing.visible_box_xyxy)
        pen.rectangle((x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)), outline=colour, width=unit)
        text = f"{index}: {thing.occlusion_rate:.0%} hidden"
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        x = min(max(x0, 0), max(canvas.shape[1] - (right - left) - 8, 0))
        y = max(y0 - (bottom - top) - 9, 0)
        pen.rectangle((x, y, x + right - left + 8, y + bottom - top + 8), fill=(20, 20, 24))
        pen.text((x + 4 - left, y + 4 - top), text, fill=colour, font=font)
    return np.array(picture)
