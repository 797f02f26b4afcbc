"""Drawing of scenes: visible parts filled, occluded parts hatched; heat maps of uncertainty."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from amodal.io.images import ImageArray
from amodal.ops.arrays import Box, FloatMap, Mask, Points, Window

Colour = tuple[int, int, int]

MAX_SIDE = 2048  # longest side of an overlay; a larger image is shrunk before drawing
MIN_SIDE = 640  # a smaller image is enlarged, so that hatching and text are readable
VISIBLE_ALPHA = 0.48
OCCLUDED_ALPHA = 0.18
STRIPE_ALPHA = 0.9
DARK: Colour = (18, 18, 22)  # dark border that separates a line from a background of the same colour

_SUBPIXEL_BITS = 4  # fractional bits of the coordinates given to OpenCV


class DrawableObject(Protocol):
    """What `draw_scene` needs to know about an object; `SceneObject` has all of it."""

    @property
    def window(self) -> Window:
        """Part of the image that contains both masks."""

    @property
    def visible_in_window(self) -> Mask:
        """(h, w) bool."""

    @property
    def amodal_in_window(self) -> Mask:
        """(h, w) bool."""

    @property
    def visible_box_xyxy(self) -> Box:
        """Box of the visible part in image pixels."""

    @property
    def occlusion_rate(self) -> float:
        """Share of the object that is occluded, in [0, 1]."""

    @property
    def name(self) -> str | None:
        """Name of the object's class."""

    @property
    def phrase(self) -> str | None:
        """Words that name the object."""


@dataclass(frozen=True)
class _CanvasObject:
    """An object in canvas pixels: masks (h, w) whose upper left pixel is at `corner` (x, y)."""

    visible: Mask
    amodal: Mask
    corner: tuple[int, int]
    colour: Colour

    @property
    def slices(self) -> tuple[slice, slice]:
        (x, y), (h, w) = self.corner, self.amodal.shape
        return np.s_[y : y + h, x : x + w]


def object_colour(index: int) -> Colour:
    """RGB colour of object `index`.

    The hues are a golden angle apart, so that consecutive objects differ. Saturation and brightness
    change every eight objects, so that objects with similar hues differ too.
    """
    saturation, value = ((0.85, 1.0), (0.5, 1.0), (0.9, 0.75))[index // 8 % 3]
    red, green, blue = colorsys.hsv_to_rgb((0.56 + index * 0.618034) % 1, saturation, value)
    return (round(red * 255), round(green * 255), round(blue * 255))


def draw_scene(image: ImageArray, objects: Sequence[DrawableObject], labels: Sequence[str] | None = None) -> ImageArray:
    """Draw objects over their image.

    The visible part is filled and has a solid outline; the occluded part is hatched and has a dashed
    outline. A thin rectangle shows the visible box. The label gives number, name (or phrase) and occlusion rate.

    Args:
        image: (H, W, 3) uint8 RGB.
        objects: objects whose windows are in image pixels.
        labels: one text per object; number, name (or phrase) and occlusion rate if None.

    Returns:
        (h, w, 3) uint8 RGB; the size of the image unless that is very large or very small.
    """
    canvas, factor = _display(image)
    line = max(round(max(canvas.shape[:2]) / 320), 1)
    placed = [_place(obj, index, factor, canvas.shape[:2]) for index, obj in enumerate(objects)]
    for one in placed:
        _blend(canvas[one.slices], one.colour, one.visible * np.float32(VISIBLE_ALPHA))
    for one in placed:  # after all fills, so that no occluder covers the hatching
        occluded = one.amodal & ~one.visible
        stripes = _stripes(occluded.shape, one.corner, line)
        _blend(canvas[one.slices], one.colour, occluded * (OCCLUDED_ALPHA + (STRIPE_ALPHA - OCCLUDED_ALPHA) * stripes))
    for one in placed:
        _outline(canvas, one, line)
    return _annotate(canvas, objects, labels or [_label(i, o) for i, o in enumerate(objects)], factor, line)


def draw_uncertainty(image: ImageArray, uncertainty: FloatMap) -> ImageArray:
    """Draw an uncertainty map as a heat map over the image in grey.

    Args:
        image: (H, W, 3) uint8 RGB.
        uncertainty: (H, W) in [0, ln 2].

    Returns:
        (h, w, 3) uint8 RGB of the same size as from `draw_scene`.
    """
    canvas, _ = _display(image)
    size = (canvas.shape[1], canvas.shape[0])
    share = np.clip(cv2.resize(uncertainty, size, interpolation=cv2.INTER_LINEAR) / np.log(2), 0, 1)
    heat = cv2.cvtColor(cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    grey = cv2.cvtColor(cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) * 0.6
    alpha = np.sqrt(share)[..., None] * 0.9  # the square root makes small uncertainties visible
    return np.asarray(grey * (1 - alpha) + heat * alpha, np.uint8)


def _display(image: ImageArray) -> tuple[ImageArray, float]:
    """A copy of the image between `MIN_SIDE` and `MAX_SIDE`, and its scale."""
    H, W = image.shape[:2]
    factor = float(np.clip(1.0, MIN_SIDE / max(H, W), MAX_SIDE / max(H, W)))
    if factor == 1:
        return image.copy(), factor
    size = (max(round(W * factor), 1), max(round(H * factor), 1))
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=interpolation), np.uint8), factor


def _place(obj: DrawableObject, index: int, factor: float, size: tuple[int, ...]) -> _CanvasObject:
    x0, y0, x1, y1 = (round(v * factor) for v in obj.window)
    x0, y0 = min(x0, size[1] - 1), min(y0, size[0] - 1)
    shape = (max(x1 - x0, 1), max(y1 - y0, 1))
    visible, amodal = (_scaled(m, shape) for m in (obj.visible_in_window, obj.amodal_in_window))
    return _CanvasObject(visible, amodal, (x0, y0), object_colour(index))


def _scaled(mask: Mask, shape: tuple[int, int]) -> Mask:
    if mask.shape == shape[::-1]:
        return mask
    interpolation = cv2.INTER_AREA if mask.size > shape[0] * shape[1] else cv2.INTER_LINEAR
    grey = cv2.resize(mask.astype(np.uint8) * np.uint8(255), shape, interpolation=interpolation)
    return np.asarray(grey >= 128)


def _blend(region: ImageArray, colour: Colour, alpha: FloatMap) -> None:
    """Mix a colour into a view of the canvas; alpha (h, w) in [0, 1]."""
    weight = alpha[..., None]
    region[:] = np.rint(region * (1 - weight) + np.array(colour, np.float32) * weight).astype(np.uint8)


def _stripes(shape: tuple[int, int], corner: tuple[int, int], line: int) -> FloatMap:
    """Diagonal stripes (h, w) in [0, 1] with soft edges, aligned across objects."""
    y, x = np.ogrid[corner[1] : corner[1] + shape[0], corner[0] : corner[0] + shape[1]]
    period, width = 4.0 + 2.5 * line, 1.0 + line / 2
    distance = np.abs((x + y) / np.sqrt(2) % period - period / 2)
    return np.clip(width / 2 - distance + 0.5, 0, 1).astype(np.float32)


def _outline(canvas: ImageArray, one: _CanvasObject, line: int) -> None:
    """Draw a solid outline around the visible part and a dashed one around the rest of the amodal mask."""
    strokes = list(_dashes(one, 4 * line))
    closed = [_smooth(points, line) + one.corner for points in _contours(one.visible)]
    for colour, width in ((DARK, line + 2), (one.colour, line)):
        for points, is_closed in [(p, False) for p in strokes] + [(p, True) for p in closed]:
            fixed = np.rint(points * 2**_SUBPIXEL_BITS).astype(np.int32)
            cv2.polylines(canvas, [fixed], is_closed, colour, width, cv2.LINE_AA, _SUBPIXEL_BITS)


def _contours(mask: Mask) -> list[Points]:
    """Border pixels (N, 2), (x, y), of each region and hole."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return [contour[:, 0].astype(np.float64) for contour in found]


def _dashes(one: _CanvasObject, length: int) -> Iterator[Points]:
    """Dashes of the outline of the amodal mask, except where it runs along the visible part."""
    for points in _contours(one.amodal):
        x, y = points.astype(int).T
        drawn = ~one.visible[y, x] & (np.arange(len(points)) % (2 * length) < length + length // 3)
        indices = np.flatnonzero(drawn)
        smooth = _smooth(points, length // 4) + one.corner
        for piece in np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1):
            if len(piece) > 1:
                yield smooth[piece]


def _smooth(points: Points, line: int) -> Points:
    """Smooth a closed contour with a moving average, which removes the pixel steps."""
    reach = 1 + line
    if len(points) < 8 * reach:
        return points
    shifted = [np.roll(points, k, axis=0) for k in range(-reach, reach + 1)]
    return np.asarray(np.mean(shifted, axis=0))


def _label(index: int, obj: DrawableObject) -> str:
    words = obj.name or obj.phrase
    numbered = f"{index}" if words is None else f"{index} {words:.40}"
    return f"{numbered}: {obj.occlusion_rate:.0%} hidden"


def _annotate(
    canvas: ImageArray, objects: Sequence[DrawableObject], labels: Sequence[str], factor: float, line: int
) -> ImageArray:
    """Draw the boxes of the visible parts and one label per object."""
    H, W = canvas.shape[:2]
    drawing = Image.fromarray(canvas)
    pen = ImageDraw.Draw(drawing)
    font = ImageFont.load_default(size=int(np.clip(max(H, W) / 42, 12, 34)))
    boxes = [tuple(v * factor for v in obj.visible_box_xyxy) for obj in objects]
    for index, (x0, y0, x1, y1) in enumerate(boxes):
        corners = (x0, y0, max(x1 - 1, x0), max(y1 - 1, y0))
        pen.rectangle(corners, outline=object_colour(index), width=max(line // 2, 1))
    taken: list[Box] = []
    for index, (text, box) in enumerate(zip(labels, boxes, strict=True)):
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        pad = 2 + line
        spot = _free_spot(box, (right - left + 2 * pad, bottom - top + 2 * pad), (W, H), taken)
        taken.append(spot)
        colour = object_colour(index)
        pen.rounded_rectangle(spot, radius=pad, fill=colour, outline=DARK)
        ink = DARK if np.dot(colour, (0.299, 0.587, 0.114)) > 110 else (255, 255, 255)
        pen.text((spot[0] + pad - left, spot[1] + pad - top), text, fill=ink, font=font)
    return np.array(drawing)


def _free_spot(box: tuple[float, ...], label: tuple[float, float], canvas: tuple[int, int], taken: list[Box]) -> Box:
    """A place for a label (w, h): at a corner of its box, inside the image, on no other label if possible."""
    (x0, y0, x1, y1), (w, h) = box, label
    corners = [(x0, y0 - h), (x0, y0), (x1 - w, y1), (x1 - w, y1 - h), (x1 - w, y0 - h), (x0, y1)]
    rows = [(x0, y0 + k * (h + 1)) for k in range(1, 1 + int((y1 - y0) // (h + 1)))]
    spots = []
    for x, y in corners + rows:
        left, top = max(min(x, canvas[0] - w - 1), 0.0), max(min(y, canvas[1] - h - 1), 0.0)
        spots.append((left, top, left + w, top + h))
    free = (s for s in spots if not any(_overlap(s, other) for other in taken))
    return next(free, spots[0])


def _overlap(a: Box, b: Box) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]
