"""Everyday objects as parametric shapes that are made of parts.

Each category is a function of a random generator. It returns the parts from back to front, in a coordinate system in
which the object spans about [-1, 1] in x and y, with y pointing down. A part is a path and a tone; the tone says which
of the object's colours fills it. The union of all parts is the silhouette.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import skia

Rng = np.random.Generator
Point = tuple[float, float]


@dataclass(frozen=True)
class Part:
    """A filled path and the tone it takes: `main`, `second`, `dark`, `light` or `metal`."""

    path: skia.Path
    tone: str = "main"


def polygon(points: Sequence[Point]) -> skia.Path:
    """Closed path with straight edges."""
    builder = skia.Path()
    builder.moveTo(*points[0])
    for point in points[1:]:
        builder.lineTo(*point)
    builder.close()
    return builder


def smooth(points: Sequence[Point]) -> skia.Path:
    """Closed path through the midpoints of the given corners, rounded at each corner."""
    n = len(points)
    middles = [
        ((points[i][0] + points[(i + 1) % n][0]) / 2, (points[i][1] + points[(i + 1) % n][1]) / 2) for i in range(n)
    ]
    builder = skia.Path()
    builder.moveTo(*middles[-1])
    for corner, middle in zip(points, middles, strict=True):
        builder.quadTo(*corner, *middle)
    builder.close()
    return builder


def ellipse(x: float, y: float, rx: float, ry: float | None = None) -> skia.Path:
    """Axis-aligned ellipse around (x, y)."""
    ry = rx if ry is None else ry
    return skia.Path().addOval(skia.Rect(x - rx, y - ry, x + rx, y + ry))


def box(x0: float, y0: float, x1: float, y1: float, radius: float = 0.0) -> skia.Path:
    """Rectangle with rounded corners."""
    rounded = skia.RRect.MakeRectXY(skia.Rect(x0, y0, x1, y1), radius, radius)
    return skia.Path().addRRect(rounded)


def line(points: Sequence[Point], width: float, curved: bool = False) -> skia.Path:
    """Round-ended stroke along the points, as a filled path."""
    builder = skia.Path()
    builder.moveTo(*points[0])
    if curved and len(points) == 3:
        builder.quadTo(*points[1], *points[2])
    else:
        for point in points[1:]:
            builder.lineTo(*point)
    paint = skia.Paint(
        Style=skia.Paint.kStroke_Style,
        StrokeWidth=width,
        StrokeCap=skia.Paint.kRound_Cap,
        StrokeJoin=skia.Paint.kRound_Join,
    )
    return _filled(builder, paint)


def ring(x: float, y: float, rx: float, ry: float, width: float) -> skia.Path:
    """Outline of an ellipse, as a filled path that is open in the middle."""
    paint = skia.Paint(Style=skia.Paint.kStroke_Style, StrokeWidth=width)
    return _filled(ellipse(x, y, rx, ry), paint)


def _filled(path: skia.Path, paint: skia.Paint) -> skia.Path:
    filled = skia.Path()
    paint.getFillPath(path, filled)
    return filled


def _mug(r: Rng) -> list[Part]:
    w, h, taper = r.uniform(0.5, 0.7), r.uniform(0.6, 0.9), r.uniform(-0.05, 0.15)
    body = polygon([(-w, -h), (w, -h), (w - taper, h), (-w + taper, h)])
    handle = ring(w, r.uniform(-0.1, 0.1), r.uniform(0.25, 0.38), h * 0.5, r.uniform(0.12, 0.18))
    return [Part(handle, "second"), Part(body), Part(ellipse(0, -h, w, 0.14), "dark")]


def _bottle(r: Rng) -> list[Part]:
    w, neck, shoulder = r.uniform(0.25, 0.4), r.uniform(0.09, 0.14), r.uniform(-0.45, -0.1)
    body = smooth([(-w, 1), (-w, 1), (-w, shoulder), (-neck, shoulder - 0.2), (-neck, -0.85),
                   (neck, -0.85), (neck, shoulder - 0.2), (w, shoulder), (w, 1), (w, 1)])  # fmt: skip
    label = box(-w * 0.95, shoulder + 0.3, w * 0.95, shoulder + r.uniform(0.6, 0.9))
    cap = box(-neck - 0.03, -1, neck + 0.03, -0.78, 0.03)
    return [Part(body), Part(cap, "second"), Part(label, "light")]


def _wine_glass(r: Rng) -> list[Part]:
    w, depth = r.uniform(0.4, 0.55), r.uniform(-0.1, 0.15)
    bowl = smooth([(-w, -1), (-w * 1.1, -0.4), (-0.3, depth), (0.3, depth), (w * 1.1, -0.4), (w, -1)])
    stem = box(-0.06, depth - 0.1, 0.06, 0.92)
    return [Part(stem, "light"), Part(ellipse(0, 0.92, r.uniform(0.35, 0.48), 0.08), "light"), Part(bowl)]


def _teapot(r: Rng) -> list[Part]:
    w, h = r.uniform(0.55, 0.68), r.uniform(0.48, 0.6)
    spout = polygon([(w * 0.7, 0.25), (w * 0.8, -0.05), (0.9, -0.45), (1.02, -0.38), (w * 0.95, 0.35)])
    handle = ring(-w, 0, 0.32, h * 0.65, 0.12)
    lid = smooth([(-0.35, -h * 0.85), (-0.2, -h - 0.15), (0.2, -h - 0.15), (0.35, -h * 0.85)])
    return [Part(handle, "second"), Part(spout), Part(ellipse(0, 0, w, h)), Part(lid, "second"),
            Part(ellipse(0, -h - 0.18, 0.09), "dark")]  # fmt: skip


def _lamp(r: Rng) -> list[Part]:
    top, bottom, low = r.uniform(0.2, 0.4), r.uniform(0.55, 0.75), r.uniform(-0.25, 0)
    shade = polygon([(-top, -1), (top, -1), (bottom, low), (-bottom, low)])
    base = smooth([(-0.45, 1), (-0.4, 0.82), (0.4, 0.82), (0.45, 1)])
    return [Part(box(-0.06, low - 0.1, 0.06, 0.9), "metal"), Part(base, "dark"), Part(shade)]


def _chair(r: Rng) -> list[Part]:
    w, seat, leg = r.uniform(0.4, 0.55), r.uniform(0, 0.15), r.uniform(0.09, 0.13)
    parts = [Part(line([(x, seat), (x * r.uniform(1, 1.15), 0.95)], leg), "dark") for x in (-w, w)]
    parts += [Part(line([(x, seat), (x, -0.95)], leg), "dark") for x in (-w, w)]
    slats = [Part(box(-w, y, w, y + 0.2, 0.04)) for y in (-0.9, -0.55)]
    return [*parts, *slats, Part(box(-w - 0.1, seat - 0.08, w + 0.1, seat + 0.12, 0.05), "second")]


def _table(r: Rng) -> list[Part]:
    top, leg, inset = r.uniform(-0.5, -0.3), r.uniform(0.1, 0.16), r.uniform(0.1, 0.25)
    legs = [box(x, top, x + leg, 0.75) for x in (-1 + inset, 1 - inset - leg)]
    return [*(Part(p, "dark") for p in legs), Part(box(-1, top - 0.14, 1, top + 0.08, 0.04))]


def _book(r: Rng) -> list[Part]:
    w, h, depth = r.uniform(0.5, 0.75), r.uniform(0.75, 0.95), r.uniform(0.1, 0.2)
    pages = polygon([(-w + depth, h), (w + depth, h), (w + depth, -h + depth), (-w + depth, -h + depth)])
    title = box(-w * 0.6, -h * 0.6, w * 0.5, -h * r.uniform(0.2, 0.45))
    return [Part(pages, "light"), Part(box(-w, -h, w, h - depth, 0.03)), Part(title, "second"),
            Part(box(-w, -h, -w + 0.12, h - depth), "dark")]  # fmt: skip


def _apple(r: Rng) -> list[Part]:
    w = r.uniform(0.75, 0.9)
    body = smooth([(0, -0.5), (w * 0.7, -0.85), (w * 1.1, -0.1), (w * 0.7, 0.95), (0, 0.8),
                   (-w * 0.7, 0.95), (-w * 1.1, -0.1), (-w * 0.7, -0.85)])  # fmt: skip
    leaf = smooth([(0.02, -0.65), (0.3, -1.05), (0.6, -0.95), (0.3, -0.6)])
    return [Part(line([(0, -0.5), (r.uniform(-0.1, 0.1), -0.95)], 0.08), "dark"), Part(leaf, "second"), Part(body)]


def _pear(r: Rng) -> list[Part]:
    w, neck = r.uniform(0.65, 0.8), r.uniform(0.22, 0.34)
    body = smooth([(-neck, -0.85), (neck, -0.85), (neck * 1.3, -0.2), (w * 1.15, 0.3), (w * 0.6, 1.1),
                   (-w * 0.6, 1.1), (-w * 1.15, 0.3), (-neck * 1.3, -0.2)])  # fmt: skip
    return [Part(line([(0, -0.7), (0.08, -1)], 0.08), "dark"), Part(body)]


def _banana(r: Rng) -> list[Part]:
    bend, thick = r.uniform(0.5, 0.8), r.uniform(0.32, 0.42)
    body = smooth([(-1, -0.45), (-0.85, -0.5), (-0.3, bend - thick - 0.2), (0.4, bend - thick - 0.2),
                   (0.9, -0.35), (1, -0.2), (0.55, bend), (-0.45, bend + 0.05)])  # fmt: skip
    return [Part(body), Part(ellipse(-0.88, -0.38, 0.09), "dark")]


def _car(r: Rng) -> list[Part]:
    roof, back, front = r.uniform(-0.55, -0.4), r.uniform(-0.7, -0.5), r.uniform(0.35, 0.55)
    cabin = polygon([(back, -0.1), (back + 0.2, roof), (front - 0.3, roof), (front, -0.1)])
    glass = polygon(
        [(back + 0.13, -0.1), (back + 0.27, roof + 0.08), (front - 0.36, roof + 0.08), (front - 0.12, -0.1)]
    )
    wheel, axle = r.uniform(0.17, 0.22), r.uniform(0.5, 0.6)
    wheels = [Part(ellipse(x, 0.32, wheel), "dark") for x in (-axle, axle)]
    hubs = [Part(ellipse(x, 0.32, wheel * 0.45), "metal") for x in (-axle, axle)]
    return [Part(cabin), Part(glass, "light"), Part(box(-1, -0.14, 1, 0.32, 0.12)), *wheels, *hubs]


def _bus(r: Rng) -> list[Part]:
    h, n = r.uniform(0.48, 0.6), int(r.integers(3, 6))
    step = 1.7 / n
    panes = [
        Part(box(-0.85 + i * step, -h + 0.12, -0.85 + (i + 0.75) * step, -h + 0.42, 0.03), "light") for i in range(n)
    ]
    wheels = [Part(ellipse(x, h - 0.05, 0.19), "dark") for x in (-0.55, 0.55)]
    return [Part(box(-1, -h, 1, h - 0.08, 0.1)), *panes, Part(box(-1, 0.02, 1, 0.12), "second"), *wheels]


def _house(r: Rng) -> list[Part]:
    w, eave = r.uniform(0.6, 0.75), r.uniform(-0.2, 0.05)
    roof = polygon([(-w - 0.18, eave), (r.uniform(-0.15, 0.15), -0.95), (w + 0.18, eave)])
    door = box(-0.14, 0.45, 0.16, 0.95)
    windows = [Part(box(x, eave + 0.18, x + 0.28, eave + 0.46), "light") for x in (-w + 0.1, w - 0.38)]
    chimney = box(w * 0.4, -0.85, w * 0.4 + 0.2, eave)
    return [
        Part(chimney, "dark"),
        Part(box(-w, eave - 0.02, w, 0.95)),
        Part(roof, "second"),
        Part(door, "dark"),
        *windows,
    ]


def _tree(r: Rng) -> list[Part]:
    trunk = polygon([(-0.1, 0.2), (0.1, 0.2), (0.16, 1), (-0.16, 1)])
    if r.random() < 0.45:
        tiers = [(-0.95, 0.38), (-0.55, 0.55), (-0.1, 0.72)]
        return [
            Part(trunk, "dark"),
            *(Part(polygon([(0, y), (w, y + 0.7), (-w, y + 0.7)])) for y, w in reversed(tiers)),
        ]
    blobs = [(0, -0.5, 0.48), (-0.4, -0.15, 0.4), (0.4, -0.15, 0.4), (0, 0, 0.42)]
    return [Part(trunk, "dark"), *(Part(ellipse(x, y, s * r.uniform(0.9, 1.1))) for x, y, s in blobs)]


def _fish(r: Rng) -> list[Part]:
    h = r.uniform(0.35, 0.5)
    body = smooth([(-0.95, 0), (-0.6, -h), (0.2, -h * 1.1), (0.7, 0), (0.2, h * 1.1), (-0.6, h)])
    tail = polygon([(0.45, 0), (1, -r.uniform(0.35, 0.5)), (0.85, 0), (1, r.uniform(0.35, 0.5))])
    fin = polygon([(-0.3, -h * 0.7), (0.1, -h - 0.28), (0.25, -h * 0.6)])
    return [Part(tail, "second"), Part(fin, "second"), Part(body), Part(ellipse(-0.6, -0.1, 0.07), "dark"),
            Part(line([(-0.4, -h * 0.5), (-0.32, 0), (-0.4, h * 0.5)], 0.04, curved=True), "dark")]  # fmt: skip


def _bird(r: Rng) -> list[Part]:
    body = smooth([(-0.55, -0.1), (-0.1, -0.5), (0.5, -0.1), (0.45, 0.45), (-0.2, 0.6), (-0.6, 0.3)])
    tail = polygon([(0.3, 0.1), (1, r.uniform(-0.1, 0.15)), (0.95, r.uniform(0.25, 0.4)), (0.3, 0.4)])
    beak = polygon([(-0.78, -0.5), (-1.05, -0.38), (-0.75, -0.3)])
    wing = smooth([(-0.2, -0.1), (0.3, -0.15), (0.65, 0.25), (0.1, 0.3)])
    legs = [Part(line([(x, 0.4), (x - 0.05, 0.92)], 0.07), "dark") for x in (-0.1, 0.12)]
    return [*legs, Part(tail, "second"), Part(beak, "dark"), Part(body), Part(ellipse(-0.5, -0.42, r.uniform(0.3, 0.36))),
            Part(wing, "second"), Part(ellipse(-0.6, -0.48, 0.05), "dark")]  # fmt: skip


def _cat(r: Rng) -> list[Part]:
    head, side = r.uniform(0.33, 0.4), r.uniform(0.5, 0.62)
    ears = [Part(polygon([(x - 0.16, -0.6), (x * 1.2, -1.02), (x + 0.16, -0.6)])) for x in (-0.22, 0.22)]
    body = smooth([(-0.3, -0.4), (0.3, -0.4), (side, 0.3), (side, 1.05), (-side, 1.05), (-side, 0.3)])
    tail = line([(side * 0.6, 0.85), (1.1, 0.8), (0.85, r.uniform(0, 0.4))], 0.17, curved=True)
    eyes = [Part(ellipse(x, -0.58, 0.05), "light") for x in (-0.14, 0.14)]
    return [
        Part(tail, "second"),
        Part(body),
        *ears,
        Part(ellipse(0, -0.5, head)),
        *eyes,
        Part(ellipse(0, -0.44, 0.04), "dark"),
    ]


def _key(r: Rng) -> list[Part]:
    bow, cuts = r.uniform(0.25, 0.33), int(r.integers(2, 4))
    teeth = [Part(box(0.5 + 0.17 * i, 0, 0.6 + 0.17 * i, r.uniform(0.2, 0.34)), "main") for i in range(cuts)]
    return [Part(ring(-0.65, 0, bow, bow, 0.18)), Part(box(-0.42, -0.09, 1, 0.09, 0.03)), *teeth]


def _scissors(r: Rng) -> list[Part]:
    open_, loop = r.uniform(0.18, 0.35), r.uniform(0.2, 0.26)
    blades = [
        Part(polygon([(-0.1, s * 0.1), (0.95, -s * open_ * 1.1), (1, -s * open_), (0.0, -s * 0.12)]), "metal")
        for s in (1, -1)
    ]
    arms = [Part(line([(0, 0), (-0.45, s * open_ * 0.9)], 0.13)) for s in (1, -1)]
    loops = [Part(ring(-0.68, s * (open_ + 0.08), loop, loop * 0.85, 0.13)) for s in (1, -1)]
    return [*blades, *arms, *loops, Part(ellipse(0, 0, 0.08), "dark")]


def _hammer(r: Rng) -> list[Part]:
    w, grip = r.uniform(0.1, 0.14), r.uniform(0.3, 0.6)
    head = polygon([(-0.5, -0.92), (0.3, -0.95), (0.62, -0.75), (0.3, -0.62), (-0.5, -0.58)])
    return [
        Part(box(-w, -0.7, w, 1, 0.06)),
        Part(box(-w - 0.03, grip, w + 0.03, 1, 0.08), "second"),
        Part(head, "metal"),
    ]


def _umbrella(r: Rng) -> list[Part]:
    h, n = r.uniform(0.55, 0.75), 4
    low = -0.95 + h
    builder = skia.Path()
    builder.moveTo(-0.95, low)
    builder.cubicTo(-0.8, -1.05, 0.8, -1.05, 0.95, low)
    for i in range(n):
        x0, x1 = 0.95 - 1.9 * i / n, 0.95 - 1.9 * (i + 1) / n
        builder.quadTo((x0 + x1) / 2, low - 0.16, x1, low)
    builder.close()
    hook = line([(0, 0.8), (0.02, 1.05), (0.25, 0.8)], 0.09, curved=True)
    ribs = [Part(line([(0, -0.9), (x, low - 0.03)], 0.025), "dark") for x in (-0.48, 0.48)]
    return [Part(line([(0, -0.95), (0, 0.8)], 0.08), "dark"), Part(hook, "dark"), Part(builder), *ribs]


def _hat(r: Rng) -> list[Part]:
    w, h = r.uniform(0.42, 0.55), r.uniform(0.6, 0.95)
    crown = smooth([(-w, 0.35), (-w, 0.2), (-w * 0.9, 0.35 - h), (w * 0.9, 0.35 - h), (w, 0.2), (w, 0.35)])
    return [
        Part(ellipse(0, 0.38, 1, r.uniform(0.16, 0.24))),
        Part(crown),
        Part(box(-w * 0.93, 0.12, w * 0.93, 0.3), "second"),
    ]


def _boot(r: Rng) -> list[Part]:
    shaft, toe = r.uniform(0.28, 0.36), r.uniform(0.75, 0.95)
    body = smooth([(-0.5, -0.95), (-0.5, -0.95), (shaft, -0.95), (shaft, -0.95), (shaft * 0.8, 0.1), (toe, 0.2),
                   (toe + 0.05, 0.75), (-0.55, 0.75), (-0.55, 0.75)])  # fmt: skip
    sole = box(-0.52, 0.62, toe - 0.05, 0.82, 0.05)
    return [Part(body), Part(sole, "dark"), Part(box(-0.42, -0.93, shaft - 0.08, -0.75), "second")]


def _guitar(r: Rng) -> list[Part]:
    low, waist, up = r.uniform(0.46, 0.56), r.uniform(0.26, 0.32), r.uniform(0.34, 0.42)
    body = smooth([(0, -0.1), (up, -0.12), (up, 0.15), (waist, 0.28), (low * 1.1, 0.5), (low, 1.05), (-low, 1.05),
                   (-low * 1.1, 0.5), (-waist, 0.28), (-up, 0.15), (-up, -0.12)])  # fmt: skip
    return [Part(body), Part(box(-0.07, -0.85, 0.07, 0.3), "dark"), Part(box(-0.13, -1.02, 0.13, -0.78, 0.03), "second"),
            Part(ellipse(0, 0.35, 0.14), "dark"), Part(box(-0.2, 0.68, 0.2, 0.76), "dark")]  # fmt: skip


def _ball(r: Rng) -> list[Part]:
    bands = [
        Part(line([(-0.7, y), (0, y + r.uniform(-0.2, 0.2)), (0.7, y)], 0.14, curved=True), "second")
        for y in (-0.35, 0.35)
    ]
    return [Part(ellipse(0, 0, 0.9)), *bands]


def _clock(r: Rng) -> list[Part]:
    hour, minute = r.uniform(0, 2 * math.pi, 2)
    feet = [Part(line([(x * 0.5, 0.6), (x * 0.7, 0.98)], 0.14), "dark") for x in (-1, 1)]
    bells = [Part(ellipse(x * 0.5, -0.72, 0.26, 0.2), "metal") for x in (-1, 1)]
    hands = [
        Part(line([(0, 0), (math.cos(a) * n, math.sin(a) * n)], 0.07), "dark") for a, n in ((hour, 0.3), (minute, 0.48))
    ]
    return [*feet, *bells, Part(ellipse(0, 0, 0.8)), Part(ellipse(0, 0, 0.64), "light"), *hands]


def _plant(r: Rng) -> list[Part]:
    w, n = r.uniform(0.38, 0.5), int(r.integers(4, 7))
    pot = polygon([(-w, 0.2), (w, 0.2), (w * 0.7, 1), (-w * 0.7, 1)])
    leaves = []
    for angle in np.linspace(-1.05, 1.05, n) + r.uniform(-0.1, 0.1, n):
        x, y = math.sin(angle), -math.cos(angle)
        tip, side = r.uniform(0.95, 1.2), 0.16
        leaves.append(Part(smooth([(0, 0.3), (x * 0.5 - y * side, 0.25 + y * 0.5 + x * side), (x * tip, 0.25 + y * tip),
                                   (x * 0.5 + y * side, 0.25 + y * 0.5 - x * side)]), "main"))  # fmt: skip
    return [*leaves, Part(pot, "second"), Part(box(-w - 0.07, 0.12, w + 0.07, 0.3, 0.03), "dark")]


def _backpack(r: Rng) -> list[Part]:
    w, top = r.uniform(0.55, 0.68), r.uniform(-0.85, -0.75)
    body = box(-w, top, w, 0.95, 0.3)
    pocket = box(-w * 0.7, 0.25, w * 0.7, 0.82, 0.1)
    sides = [Part(box(x - 0.12, 0.2, x + 0.12, 0.8, 0.08), "second") for x in (-w, w)]
    return [Part(ring(0, top, 0.2, 0.17, 0.09), "dark"), *sides, Part(body), Part(pocket, "second"),
            Part(line([(-w * 0.7, 0.0), (w * 0.7, 0.0)], 0.05), "dark")]  # fmt: skip


def _spoon(r: Rng) -> list[Part]:
    w = r.uniform(0.24, 0.32)
    return [Part(polygon([(-0.05, -0.4), (0.05, -0.4), (0.1, 1), (-0.1, 1)]), "metal"), Part(ellipse(0, -0.65, w, 0.36), "metal"),
            Part(ellipse(0, -0.65, w * 0.7, 0.26), "dark")]  # fmt: skip


def _mushroom(r: Rng) -> list[Part]:
    w, low = r.uniform(0.8, 0.98), r.uniform(0, 0.15)
    cap = smooth([(-w, low), (-w, low - 0.3), (-0.5, -0.98), (0.5, -0.98), (w, low - 0.3), (w, low)])
    stem = smooth([(-0.22, low - 0.1), (0.22, low - 0.1), (0.3, 1), (-0.3, 1)])
    spots = [Part(ellipse(x, y, r.uniform(0.08, 0.14)), "light") for x, y in ((-0.4, -0.3), (0.1, -0.6), (0.45, -0.25))]
    return [Part(stem, "light"), Part(cap), *spots]


def _sailboat(r: Rng) -> list[Part]:
    hull = polygon([(-0.95, 0.5), (0.95, 0.5), (0.65, 0.95), (-0.65, 0.95)])
    sail = polygon([(0.05, -1), (r.uniform(0.7, 0.9), 0.38), (0.05, 0.38)])
    jib = polygon([(-0.05, -0.8), (-0.05, 0.38), (-r.uniform(0.5, 0.75), 0.38)])
    return [Part(box(-0.05, -1, 0.05, 0.55), "dark"), Part(sail, "light"), Part(jib, "second"), Part(hull)]


def _butterfly(r: Rng) -> list[Part]:
    up, low = r.uniform(0.75, 0.95), r.uniform(0.5, 0.65)
    wings = []
    for s in (-1.0, 1.0):
        wings.append(Part(smooth([(0, -0.05), (s * 0.3, -0.9), (s * up * 1.1, -0.85), (s * up, -0.05)])))
        wings.append(Part(smooth([(0, 0), (s * low * 1.1, 0), (s * low, 0.85), (s * 0.2, 0.8)]), "second"))
        wings.append(Part(ellipse(s * up * 0.55, -0.42, 0.13), "light"))
    return [*wings, Part(ellipse(0, 0, 0.09, 0.6), "dark")]


SHAPES: dict[str, Callable[[Rng], list[Part]]] = {
    "apple": _apple, "backpack": _backpack, "ball": _ball, "banana": _banana, "bird": _bird,
    "book": _book, "boot": _boot, "bottle": _bottle, "bus": _bus, "butterfly": _butterfly,
    "car": _car, "cat": _cat, "chair": _chair, "clock": _clock, "fish": _fish, "guitar": _guitar,
    "hammer": _hammer, "hat": _hat, "house": _house, "key": _key, "lamp": _lamp, "mug": _mug,
    "mushroom": _mushroom, "pear": _pear, "plant": _plant, "sailboat": _sailboat,
    "scissors": _scissors, "spoon": _spoon, "table": _table, "teapot": _teapot, "tree": _tree,
    "umbrella": _umbrella, "wine glass": _wine_glass,
}  # fmt: skip
"""Shapes by category name. What a seed draws depends on their order."""
