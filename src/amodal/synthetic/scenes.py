"""Procedural pictures of everyday things with exact visible and amodal masks.

A scene is laid out from back to front: each new thing either stands free or is put over an
earlier one on purpose. A placement is kept only if every object stays recognisable (see the
constants), so that truth is never a sliver nobody could predict or an object nobody could see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import skia

from amodal.synthetic.shapes import THINGS, Part
from amodal.synthetic.surfaces import Colour, Rng, background, camera, random_colour
from amodal.synthetic.types import SyntheticImage, SyntheticObject, occluders_of

Mask = npt.NDArray[np.bool_]

MIN_VISIBLE_PIXELS = 120
MIN_OCCLUSION, MAX_OCCLUSION = 0.05, 0.7  # of an object that is hidden at all
MAX_CUT_BY_FRAME = 0.4
MIN_COLOUR_DISTANCE = 70.0  # between a thing and what it overlaps, RGB, usually kept
MATERIALS = ("plain", "striped", "dotted", "checked", "wooden", "metallic")
TILT = {"key": 180, "scissors": 180, "spoon": 180, "hammer": 60, "banana": 60, "fish": 40, "guitar": 35,
        "butterfly": 60, "ball": 180, "boot": 15, "bird": 15, "book": 25}  # fmt: skip
"""Largest tilt in degrees of things that lie or fly; others stand almost upright."""


@dataclass
class _Placed:
    """A thing with its place in the picture."""

    category: str
    parts: list[Part]  # paths in picture pixels
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
        Picture (H, W, 3) uint8 with 2-8 objects, back to front. Attributes of each object:
        `colour` (RGB), `material`, `scale` (half extent in pixels), `depth` (0 = front),
        `truncated` (cut by the frame).
    """
    rng = np.random.default_rng(seed)
    wanted = int(rng.integers(2, 9))
    placed: list[_Placed] = []
    for _ in range(wanted * 12):
        if len(placed) == wanted:
            break
        thing = _propose(rng, size, placed)
        if thing is not None and _accept(thing, placed):
            placed.append(thing)
    if len(placed) < 2:  # a crowded corner case: start over with a seed of its own
        return render_scene(rng.integers(0, 2**31, 4).tolist(), size=size)
    canvas = background(rng, size)
    light = rng.uniform(-1, 1), rng.uniform(0.2, 1)
    image = camera(rng, _paint(rng, canvas, placed, light))
    return SyntheticImage(image, _objects(placed))


def _propose(rng: Rng, size: tuple[int, int], placed: list[_Placed]) -> _Placed | None:
    """A random thing at a random place, or over an earlier thing; None if it hardly shows."""
    category = str(rng.choice(list(THINGS)))
    height, width = size
    scale = float(rng.uniform(0.14, 0.3)) * min(size)
    if placed and rng.random() < 0.75:
        target = placed[int(rng.integers(len(placed)))]
        x0, y0, w, h = cv2.boundingRect(target.amodal.view(np.uint8))
        centre = (x0 + w * rng.uniform(-0.25, 1.25), y0 + h * rng.uniform(-0.25, 1.25))
    else:
        centre = (rng.uniform(0.02, 0.98) * width, rng.uniform(0.02, 0.98) * height)
    matrix = _pose(rng, category, centre, scale)
    parts = [Part(_moved(part.path, matrix), part.tone) for part in THINGS[category](rng)]
    # the whole silhouette, beyond the frame too, tells how much the frame cuts off
    margin = int(scale * 1.6)
    whole = _silhouette([p.path for p in parts], (height + 2 * margin, width + 2 * margin), margin)
    amodal = np.ascontiguousarray(whole[margin : margin + height, margin : margin + width])
    area, inside = np.count_nonzero(whole), np.count_nonzero(amodal)
    if inside < max(MIN_VISIBLE_PIXELS, area * (1 - MAX_CUT_BY_FRAME)):
        return None
    tones = _tones(rng, [p.tones["main"] for p in placed if (p.amodal & amodal).any()])
    material = str(rng.choice(MATERIALS))
    return _Placed(category, parts, amodal, amodal.copy(), tones, material, scale, bool(inside < area))


def _accept(thing: _Placed, placed: list[_Placed]) -> bool:
    """Put `thing` in front of the others unless that leaves a sliver or hides one of them."""
    remaining = []
    for other in placed:
        visible = other.visible & ~thing.amodal
        hidden = 1 - np.count_nonzero(visible) / np.count_nonzero(other.amodal)
        if hidden > 0 and not MIN_OCCLUSION <= hidden <= MAX_OCCLUSION:
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
    """Union of the paths, a pixel set where they cover at least half of it."""
    cover = np.zeros((*size, 4), np.uint8)
    canvas = skia.Canvas(cover)
    canvas.translate(offset, offset)
    paint = skia.Paint(AntiAlias=True, Color=skia.ColorWHITE)
    for path in paths:
        canvas.drawPath(path, paint)
    return np.ascontiguousarray(cover[..., 3] >= 128)


def _tones(rng: Rng, neighbours: list[Colour]) -> dict[str, Colour]:
    """Colours of a thing's parts; the main one usually stands out from what it overlaps."""
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


def _paint(
    rng: Rng, base: npt.NDArray[np.uint8], placed: list[_Placed], light: tuple[float, float]
) -> npt.NDArray[np.uint8]:
    """Draw all things over the background, each with its shadow."""
    rgba = np.ascontiguousarray(np.dstack([base, np.full(base.shape[:2], 255, np.uint8)]))
    canvas = skia.Canvas(rgba, colorType=skia.kRGBA_8888_ColorType)
    outlined = rng.random() < 0.3
    edge = skia.Paint(AntiAlias=True, Style=skia.Paint.kStroke_Style, StrokeWidth=1, Color=skia.Color(20, 20, 20, 150))
    for thing in placed:
        _paint_shadow(rng, canvas, thing, light)
        for part in thing.parts:
            _paint_part(rng, canvas, thing, part, light)
            if outlined:
                canvas.save()
                canvas.clipPath(part.path, doAntiAlias=True)
                canvas.drawPath(part.path, edge)
                canvas.restore()
    return np.ascontiguousarray(rgba[..., :3])


def _paint_shadow(rng: Rng, canvas: skia.Canvas, thing: _Placed, light: tuple[float, float]) -> None:
    reach = thing.scale * rng.uniform(0.04, 0.15)
    paint = skia.Paint(
        AntiAlias=True,
        Color=skia.Color(0, 0, 0, int(rng.uniform(30, 110))),
        MaskFilter=skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, max(thing.scale * 0.06, 1)),
    )
    canvas.save()
    canvas.translate(light[0] * reach, light[1] * reach)
    for part in thing.parts:
        canvas.drawPath(part.path, paint)
    canvas.restore()


def _paint_part(rng: Rng, canvas: skia.Canvas, thing: _Placed, part: Part, light: tuple[float, float]) -> None:
    """Fill a part with its tone, shaded along the light, and draw its material on it."""
    colour = thing.tones[part.tone]
    bounds = part.path.getBounds()
    steep = 0.45 if thing.material == "metallic" else 0.2
    stops = [1 + steep, 1.0, 1 - steep] if thing.material != "metallic" else [0.7, 1.5, 0.65, 1.2]
    shader = skia.GradientShader.MakeLinear(
        points=[skia.Point(bounds.left(), bounds.top()),
                skia.Point(bounds.left() + bounds.width() * light[0], bounds.bottom())],
        colors=[_skia_colour(colour * s) for s in stops],
    )  # fmt: skip
    canvas.drawPath(part.path, skia.Paint(AntiAlias=True, Shader=shader))
    if part.tone != "main" or thing.material in ("plain", "metallic"):
        return
    canvas.save()
    canvas.clipPath(part.path, doAntiAlias=True)
    _paint_pattern(rng, canvas, bounds, thing)
    canvas.restore()


def _paint_pattern(rng: Rng, canvas: skia.Canvas, bounds: skia.Rect, thing: _Placed) -> None:
    step = max(thing.scale * rng.uniform(0.18, 0.4), 3.0)
    strength = int(rng.uniform(70, 200))
    paint = skia.Paint(AntiAlias=True, Color=_skia_colour(thing.tones["second"], strength), StrokeWidth=step * 0.45)
    x0, y0, x1, y1 = bounds.left(), bounds.top(), bounds.right(), bounds.bottom()
    if thing.material == "dotted":
        for row, y in enumerate(np.arange(y0, y1 + step, step)):
            for x in np.arange(x0 + (row % 2) * step / 2, x1 + step, step):
                canvas.drawCircle(float(x), float(y), step * 0.26, paint)
        return
    if thing.material == "wooden":
        paint.setStrokeWidth(max(step * 0.12, 1))
    slant = 0.0 if thing.material == "checked" else float(rng.uniform(-0.6, 0.6)) * (y1 - y0)
    for x in np.arange(x0 - abs(slant), x1 + abs(slant), step * (0.5 if thing.material == "wooden" else 1)):
        canvas.drawLine(float(x), y0, float(x) + slant, y1, paint)
    if thing.material == "checked":
        for y in np.arange(y0, y1, step):
            canvas.drawLine(x0, float(y), x1, float(y), paint)


def _skia_colour(colour: Colour, alpha: int = 255) -> int:
    r, g, b = (int(v) for v in np.clip(colour, 0, 255))
    return int(skia.Color(r, g, b, alpha))


def _objects(placed: list[_Placed]) -> list[SyntheticObject]:
    visible = [thing.visible for thing in placed]
    objects = []
    for index, thing in enumerate(placed):
        hidden = thing.amodal & ~thing.visible
        attributes = {
            "colour": [int(v) for v in thing.tones["main"]],
            "material": thing.material,
            "scale": round(thing.scale, 1),
            "depth": len(placed) - 1 - index,
            "truncated": thing.truncated,
        }
        occluders = occluders_of(index, visible, hidden)
        objects.append(SyntheticObject(thing.category, thing.visible, thing.amodal, occluders, attributes))
    return objects
