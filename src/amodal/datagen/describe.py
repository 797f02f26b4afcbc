"""An annotation in words, and the picture with its objects outlined and numbered."""

from __future__ import annotations

import base64

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from amodal.data.samples import Box, ImageSample, ObjectSample
from amodal.inference.draw import object_colour
from amodal.io.images import load_image
from amodal.ops.rle import rle_occlusion_rate

Pixels = npt.NDArray[np.uint8]

JPEG_QUALITY = 90
# Hidden share below which an object counts as whole: hand-drawn masks differ by a rim of pixels where
# objects touch.
COMPLETE = 0.01


def describe(image: ImageSample, categories: dict[int, str]) -> str:
    """Written summary of an image's annotation, one line an object.

    Args:
        image: with occluders from the masks, as a work folder gives it.
        categories: names by id.
    """
    height, width = image.size
    count = f"{len(image.objects)} object" + ("s" if len(image.objects) != 1 else "")
    lines = [f"Picture: {width} pixels wide, {height} high. {count}:"]
    hidden_by_it = hides(image)
    for thing in image.objects:
        name = categories.get(thing.category_id, "object").strip()
        parts = [f"[{thing.id}] {name}"]
        parts.append(f"visible box {_box(thing.visible_box_xyxy)}")
        parts.append(f"whole box {_box(thing.amodal_box_xyxy)}")
        parts.append(f"{hidden_share(thing):.0%} hidden" if is_hidden(thing) else "fully visible")
        if thing.occluders:
            parts.append("hidden by " + _listed(thing.occluders))
        if hidden_by_it[thing.id]:
            parts.append("hides part of " + _listed(hidden_by_it[thing.id]))
        lines.append("; ".join(parts))
    return "\n".join(lines)


def hides(image: ImageSample) -> dict[int, list[int]]:
    """Ids of the objects that each object hides a part of."""
    found: dict[int, list[int]] = {thing.id: [] for thing in image.objects}
    for thing in image.objects:
        for front in thing.occluders:
            if front in found:
                found[front].append(thing.id)
    return found


def hidden_share(thing: ObjectSample) -> float:
    """Occlusion rate in [0, 1]; 0 where the whole is unknown."""
    return 0.0 if thing.amodal_rle is None else rle_occlusion_rate(thing.visible_rle, thing.amodal_rle)


def is_hidden(thing: ObjectSample) -> bool:
    """Whether more than a rim of the object is hidden."""
    return hidden_share(thing) >= COMPLETE


def picture_url(image: ImageSample, *, outlines: bool, max_side: int) -> str:
    """The picture as a JPEG `data:` URL.

    Args:
        image: to load.
        outlines: draw the objects' numbers and outlines on it.
        max_side: shrink the picture until no side is longer, in pixels.
    """
    pixels = load_image(image.path)
    scale = min(1.0, max_side / max(pixels.shape[:2]))
    if scale < 1:
        size = (max(round(pixels.shape[1] * scale), 1), max(round(pixels.shape[0] * scale), 1))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    if outlines:
        pixels = draw_outlines(pixels, image)
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, code = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(code.tobytes()).decode("ascii")


def draw_outlines(pixels: Pixels, image: ImageSample) -> Pixels:
    """Outline the visible part of each object and write its id on it.

    Args:
        pixels: (h, w, 3) uint8 RGB, the picture at any scale.
        image: its objects.

    Returns:
        (h, w, 3) uint8 RGB, a copy.
    """
    canvas = pixels.copy()
    size = (canvas.shape[1], canvas.shape[0])
    line = max(round(max(size) / 400), 1)
    spots = []
    for index, thing in enumerate(image.objects):
        grey = cv2.resize(thing.visible_mask().astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        contours, _ = cv2.findContours(grey, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(canvas, contours, -1, object_colour(index), line, cv2.LINE_AA)
        spots.append(inner_point(grey.astype(bool)))
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(round(max(size) / 45), 10))
    for index, (thing, spot) in enumerate(zip(image.objects, spots, strict=True)):
        place = _inside(spot, pen.textbbox(spot, str(thing.id), font=font, anchor="mm"), size)
        left, top, right, bottom = pen.textbbox(place, str(thing.id), font=font, anchor="mm")
        colour = object_colour(index)
        pen.rectangle((left - 2, top - 2, right + 2, bottom + 2), fill=colour)
        ink = (0, 0, 0) if np.dot(colour, (0.299, 0.587, 0.114)) > 110 else (255, 255, 255)
        pen.text(place, str(thing.id), fill=ink, font=font, anchor="mm")
    return np.array(picture)


def inner_point(mask: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """The pixel (x, y) of an (H, W) mask that is farthest from its border: where its number stands."""
    padded = np.pad(mask.astype(np.uint8), 1)  # the border of the picture is a border of the mask
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(x), int(y)


def _inside(
    spot: tuple[float, float], label: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float]:
    """The spot (x, y), moved until its label (left, top, right, bottom) is inside the picture (W, H)."""
    moved = []
    for place, low, high, limit in zip(spot, label[:2], label[2:], size, strict=True):
        moved.append(place - max(high + 3 - limit, 0) if low - 3 >= 0 else place - min(low - 3, 0))
    return moved[0], moved[1]


def _box(box: Box | None) -> str:
    return "unknown" if box is None else "(" + ", ".join(f"{v:.0f}" for v in box) + ")"


def _listed(numbers: tuple[int, ...] | list[int]) -> str:
    *first, last = (f"[{number}]" for number in sorted(numbers))
    return f"{', '.join(first)} and {last}" if first else last
