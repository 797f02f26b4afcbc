"""Procedural images of everyday objects with exact visible and amodal masks.

A scene is built from back to front: each new object is placed either anywhere or deliberately over an earlier one. A
placement is kept only if every object stays recognisable (see the constants). No ground truth is therefore a sliver
that nobody could predict, or an object that nobody could see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import skia

from amodal.io.images import ImageArray
from amodal.ops.arrays import Mask
from amodal.ops.occlusion import occluders_of, occlusion_rate
from amodal.synthetic.shapes import SHAPES, Part, Rng
from amodal.synthetic.surfaces import Colour, background, camera, random_colour

MIN_VISIBLE_PIXELS = 120
MIN_OCCLUSION, MAX_OCCLUSION = 0.05, 0.7  # of an object that is occluded at all
MAX_CUT_BY_BORDER = 0.4
MIN_COLOUR_DISTANCE = 70.0  # in RGB, between an object and those it overlaps; usually kept
MATERIALS = ("plain", "striped", "dotted", "checked", "wooden", "metallic")
TILT = {"key": 180, "scissors": 180, "spoon": 180, "hammer": 60, "banana": 60, "fish": 40, "guitar": 35,
        "butterfly": 60, "ball": 180, "boot": 15, "bird": 15, "book": 25}  # fmt: skip
"""Largest tilt in degrees of objects that lie or fly; others stand almost upright."""


@dataclass
class SyntheticObject:
    """One object of a synthetic image.

    Attributes:
        category: name of its category.
        visible_mask: (H, W) bool, the part that no other object occludes.
        amodal_mask: (H, W) bool, the whole object within the image; covers the visible mask.
        occluders: positions of its occluders in the image's list of objects.
        attributes: what else is known (colour, material, depth, truncation ...).
    """

    category: str
    visible_mask: Mask
    amodal_mask: Mask
    occluders: list[int] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass
class SyntheticImage:
    """A synthetic image and its ground truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        objects: from back to front.
    """

    image: ImageArray
    objects: list[SyntheticObject]


@dataclass
class _PlacedShape:
    """A shape at its place in the image, with its looks."""

    category: str
    parts: list[Part]  # paths in image pixels
    amodal: Mask
    visible: Mask
    tones: dict[str, Colour]
    material: str
    scale: float
    truncated: bool


def render_scene(seed: int | Sequence[int], *, size: tuple[int, int] = (256, 256)) -> SyntheticImage:
    """Draw one scene.

    Args:
        seed: the same seed gives the same bytes.
        size: (H, W) in pixels.

    Returns:
        Image (H, W, 3) uint8 with 2-8 objects from back to front. Attributes of each object:
        `colour` (RGB), `material`, `scale` (half extent in pixels), `depth` (0 = front),
        `truncated` (cut off by the image border).
    """
    rng = np.random.default_rng(seed)
    wanted = int(rng.integers(2, 9))
    placed: list[_PlacedShape] = []
    for _ in range(wanted * 12):
        if len(placed) == wanted:
            break
        new = _propose(rng, size, placed)
        if new is not None and _accept(new, placed):
            placed.append(new)
    if len(placed) < 2:  # rare: too few placements were kept, so start over with a derived seed
        return render_scene(rng.integers(0, 2**31, 4).tolist(), size=size)
    canvas = background(rng, size)
    light = rng.uniform(-1, 1), rng.uniform(0.2, 1)
    image = camera(rng, _paint(rng, canvas, placed, light))
    return SyntheticImage(image, _objects(placed))


def _propose(rng: Rng, size: tuple[int, int], placed: list[_PlacedShape]) -> _PlacedShape | None:
    """A random shape at a random place or over an earlier one; None if too little of it is inside the image."""
    category = str(rng.choice(list(SHAPES)))
    height, width = size
    scale = float(rng.uniform(0.14, 0.3)) * min(size)
    if placed and rng.random() < 0.75:
        target = placed[int(rng.integers(len(placed)))]
        x0, y0, w, h = cv2.boundingRect(target.amodal.view(np.uint8))
        centre = (x0 + w * rng.uniform(-0.25, 1.25), y0 + h * rng.uniform(-0.25, 1.25))
    else:
        centre = (rng.uniform(0.02, 0.98) * width, rng.uniform(0.02, 0.98) * height)
    matrix = _pose(rng, category, centre, scale)
    parts = [Part(_moved(part.path, matrix), part.tone) for part in SHAPES[category](rng)]
    # the silhouette including the part outside the image tells how much the border cuts off
    margin = int(scale * 1.6)
    whole = _silhouette([p.path for p in parts], (height + 2 * margin, width + 2 * margin), margin)
    amodal = np.ascontiguousarray(whole[margin : margin + height, margin : margin + width])
    area, inside = np.count_nonzero(whole), np.count_nonzero(amodal)
    if inside < max(MIN_VISIBLE_PIXELS, area * (1 - MAX_CUT_BY_BORDER)):
        return None
    tones = _tones(rng, [p.tones["main"] for p in placed if (p.amodal & amodal).any()])
    material = str(rng.choice(MATERIALS))
    return _PlacedShape(category, parts, amodal, amodal.copy(), tones, material, scale, bool(inside < area))


def _accept(new: _PlacedShape, placed: list[_PlacedShape]) -> bool:
    """Put `new` in front of the others, unless that leaves a sliver or hides one of them too much."""
    remaining = []
    for other in placed:
        visible = other.visible & ~new.amodal
        rate = occlusion_rate(visible, other.amodal)
        if rate > 0 and not MIN_OCCLUSION <= rate <= MAX_OCCLUSION:
            return False
        if np.count_nonzero(visible) < MIN_VISIBLE_PIXELS:
            return False
        remaining.append(visible)
    for other, visible in zip(placed, remaining, strict=True):
        other.visible = visible
    return True


def _pose(rng: Rng, category: str, centre: tuple[float, float], scale: float) -> skia.Matrix:
    limit = TILT.get(category, 8)
    matrix = skia.Matrix()
    matrix.setTranslate(*centre)
    matrix.preRotate(float(rng.uniform(-limit, limit)))
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    stretch = rng.uniform(0.85, 1.18)
    matrix.preScale(scale * stretch * mirror, scale / stretch)
    return matrix


def _moved(path: skia.Path, matrix: skia.Matrix) -> skia.Path:
    moved = skia.Path()
    path.transform(matrix, moved)
    return moved


def _silhouette(paths: list[skia.Path], size: tuple[int, int], offset: int) -> Mask:
    """Union of the paths; a pixel is set if they cover at least half of it."""
    cover = np.zeros((*size, 4), np.uint8)
    canvas = skia.Canvas(cover)
    canvas.translate(offset, offset)
    paint = skia.Paint(AntiAlias=True, Color=skia.ColorWHITE)
    for path in paths:
        canvas.drawPath(path, paint)
    return np.ascontiguousarray(cover[..., 3] >= 128)


def _tones(rng: Rng, neighbours: list[Colour]) -> dict[str, Colour]:
    """Colours of the parts; the main one usually differs clearly from those of overlapped objects."""
    main = random_colour(rng)
    for _ in range(8):
        if rng.random() < 0.08 or all(np.linalg.norm(main - c) > MIN_COLOUR_DISTANCE for c in neighbours):
            break
        main = random_colour(rng)
    grey = np.full(3, rng.uniform(120, 210), np.float32)
    second = random_colour(rng) if rng.random() < 0.5 else main * rng.uniform(0.55, 0.8)
    return {
        "main": main,
        "second": np.asarray(second, np.float32),
        "dark": main * 0.25 + rng.uniform(0, 40),
        "light": main * 0.25 + 180 * rng.uniform(0.9, 1),
        "metal": grey if rng.random() < 0.7 else main,
    }


def _paint(rng: Rng, base: ImageArray, placed: list[_PlacedShape], light: tuple[float, float]) -> ImageArray:
    """Draw all shapes over the background, each with its shadow."""
    rgba = np.ascontiguousarray(np.dstack([base, np.full(base.shape[:2], 255, np.uint8)]))
    canvas = skia.Canvas(rgba, colorType=skia.kRGBA_8888_ColorType)
    outlined = rng.random() < 0.3
    edge = skia.Paint(AntiAlias=True, Style=skia.Paint.kStroke_Style, StrokeWidth=1, Color=skia.Color(20, 20, 20, 150))
    for shape in placed:
        _paint_shadow(rng, canvas, shape, light)
        for part in shape.parts:
            _paint_part(rng, canvas, shape, part, light)
            if outlined:
                canvas.save()
                canvas.clipPath(part.path, doAntiAlias=True)
                canvas.drawPath(part.path, edge)
                canvas.restore()
    return np.ascontiguousarray(rgba[..., :3])


def _paint_shadow(rng: Rng, canvas: skia.Canvas, shape: _PlacedShape, light: tuple[float, float]) -> None:
    reach = shape.scale * rng.uniform(0.04, 0.15)
    paint = skia.Paint(
        AntiAlias=True,
        Color=skia.Color(0, 0, 0, int(rng.uniform(30, 110))),
        MaskFilter=skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, max(shape.scale * 0.06, 1)),
    )
    canvas.save()
    canvas.translate(light[0] * reach, light[1] * reach)
    for part in shape.parts:
        canvas.drawPath(part.path, paint)
    canvas.restore()


def _paint_part(rng: Rng, canvas: skia.Canvas, shape: _PlacedShape, part: Part, light: tuple[float, float]) -> None:
    """Fill a part with its tone, shaded along the light, and draw its material on it."""
    colour = shape.tones[part.tone]
    bounds = part.path.getBounds()
    steep = 0.45 if shape.material == "metallic" else 0.2
    stops = [1 + steep, 1.0, 1 - steep] if shape.material != "metallic" else [0.7, 1.5, 0.65, 1.2]
    shader = skia.GradientShader.MakeLinear(
        points=[skia.Point(bounds.left(), bounds.top()),
                skia.Point(bounds.left() + bounds.width() * light[0], bounds.bottom())],
        colors=[_skia_colour(colour * s) for s in stops],
    )  # fmt: skip
    canvas.drawPath(part.path, skia.Paint(AntiAlias=True, Shader=shader))
    if part.tone != "main" or shape.material in ("plain", "metallic"):
        return
    canvas.save()
    canvas.clipPath(part.path, doAntiAlias=True)
    _paint_pattern(rng, canvas, bounds, shape)
    canvas.restore()


def _paint_pattern(rng: Rng, canvas: skia.Canvas, bounds: skia.Rect, shape: _PlacedShape) -> None:
    step = max(shape.scale * rng.uniform(0.18, 0.4), 3.0)
    strength = int(rng.uniform(70, 200))
    paint = skia.Paint(AntiAlias=True, Color=_skia_colour(shape.tones["second"], strength), StrokeWidth=step * 0.45)
    x0, y0, x1, y1 = bounds.left(), bounds.top(), bounds.right(), bounds.bottom()
    if shape.material == "dotted":
        for row, y in enumerate(np.arange(y0, y1 + step, step)):
            for x in np.arange(x0 + (row % 2) * step / 2, x1 + step, step):
                canvas.drawCircle(float(x), float(y), step * 0.26, paint)
        return
    if shape.material == "wooden":
        paint.setStrokeWidth(max(step * 0.12, 1))
    slant = 0.0 if shape.material == "checked" else float(rng.uniform(-0.6, 0.6)) * (y1 - y0)
    for x in np.arange(x0 - abs(slant), x1 + abs(slant), step * (0.5 if shape.material == "wooden" else 1)):
        canvas.drawLine(float(x), y0, float(x) + slant, y1, paint)
    if shape.material == "checked":
        for y in np.arange(y0, y1, step):
            canvas.drawLine(x0, float(y), x1, float(y), paint)


def _skia_colour(colour: Colour, alpha: int = 255) -> int:
    r, g, b = (int(v) for v in np.clip(colour, 0, 255))
    return int(skia.Color(r, g, b, alpha))


def _objects(placed: list[_PlacedShape]) -> list[SyntheticObject]:
    visible = [shape.visible for shape in placed]
    objects = []
    for index, shape in enumerate(placed):
        attributes = {
            "colour": [int(v) for v in shape.tones["main"]],
            "material": shape.material,
            "scale": round(shape.scale, 1),
            "depth": len(placed) - 1 - index,
            "truncated": shape.truncated,
        }
        occluders = occluders_of(index, visible, shape.amodal & ~shape.visible)
        objects.append(SyntheticObject(shape.category, shape.visible, shape.amodal, occluders, attributes))
    return objects
