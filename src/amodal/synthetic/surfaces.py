"""Backgrounds of synthetic scenes, and the effects of a camera on the finished image."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from amodal.io.images import ImageArray
from amodal.synthetic.shapes import Rng

FloatImage = npt.NDArray[np.float32]
Colour = npt.NDArray[np.float32]


def random_colour(rng: Rng) -> Colour:
    """RGB in [0, 255]; hue, saturation and value are drawn separately, so that greys occur too."""
    hsv = np.array([[[rng.uniform(0, 360), rng.uniform(0.05, 0.95), rng.uniform(0.2, 1)]]], np.float32)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0] * 255, np.float32)


def smooth_noise(rng: Rng, size: tuple[int, int], cells: int) -> npt.NDArray[np.float32]:
    """(H, W) noise in about [-1, 1] whose features are 1 / `cells` of the image wide."""
    coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def background(rng: Rng, size: tuple[int, int]) -> ImageArray:
    """(H, W, 3) background: room, gradient, tiles, stripes or blotches, with clutter."""
    kind = rng.choice(["gradient", "room", "tiles", "stripes", "blotches"])
    colours = [random_colour(rng) * 0.6 + 70 for _ in range(3)]
    canvas = _BASES[str(kind)](rng, size, colours)
    for cells, strength in ((4, 18.0), (24, rng.uniform(0, 14))):
        canvas += smooth_noise(rng, size, cells)[..., None] * strength
    image: ImageArray = np.ascontiguousarray(np.clip(canvas, 0, 255).astype(np.uint8))
    _scatter_clutter(rng, image)
    return image


def camera(rng: Rng, image: ImageArray) -> ImageArray:
    """Add colour cast, vignette, blur, sensor noise and JPEG artefacts, each mild and only sometimes."""
    result = image.astype(np.float32)
    size = image.shape[:2]
    result *= rng.uniform(0.85, 1.12) * (1 + rng.uniform(-0.08, 0.08, 3).astype(np.float32))
    if rng.random() < 0.4:
        y, x = np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j]
        result *= (1 - rng.uniform(0.05, 0.25) * (x * x + y * y)).astype(np.float32)[..., None]
    if rng.random() < 0.5:
        result = cv2.GaussianBlur(result, (0, 0), rng.uniform(0.3, 1.0))
    if rng.random() < 0.8:
        result += rng.standard_normal(result.shape, dtype=np.float32) * rng.uniform(1, 7)
    noisy = np.clip(result, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        quality = int(rng.integers(45, 95))
        _, code = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, quality])
        noisy = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)
    return noisy


def _gradient(rng: Rng, size: tuple[int, int], colours: list[Colour]) -> FloatImage:
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0 : 1 : size[0] * 1j, 0 : 1 : size[1] * 1j]
    mix = np.clip(x * np.cos(angle) + y * np.sin(angle), -1, 1).astype(np.float32)[..., None]
    return np.asarray(colours[0] + (colours[1] - colours[0]) * (mix * 0.5 + 0.5), np.float32)


def _room(rng: Rng, size: tuple[int, int], colours: list[Colour]) -> FloatImage:
    canvas = np.empty((*size, 3), np.float32)
    horizon = int(size[0] * rng.uniform(0.35, 0.8))
    canvas[:horizon], canvas[horizon:] = colours[0], colours[1]
    if rng.random() < 0.5:
        skirting = int(size[0] * rng.uniform(0.01, 0.04))
        canvas[horizon : horizon + skirting] = colours[2]
    return canvas


def _tiles(rng: Rng, size: tuple[int, int], colours: list[Colour]) -> FloatImage:
    side = int(rng.integers(size[0] // 14, size[0] // 4))
    dx, dy = rng.integers(0, side, 2)
    y, x = np.mgrid[: size[0], : size[1]]
    checker = (((x + dx) // side + (y + dy) // side) % 2).astype(np.float32)[..., None]
    soft = rng.uniform(0.15, 0.7)
    return np.asarray(colours[0] + (colours[1] - colours[0]) * checker * soft, np.float32)


def _stripes(rng: Rng, size: tuple[int, int], colours: list[Colour]) -> FloatImage:
    angle, width = rng.uniform(0, np.pi), rng.uniform(size[0] / 30, size[0] / 7)
    y, x = np.mgrid[: size[0], : size[1]]
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * np.pi / width)
    mix = np.clip(wave * 4, -1, 1).astype(np.float32)[..., None] * rng.uniform(0.1, 0.4)
    return np.asarray(colours[0] + (colours[1] - colours[0]) * (mix + 0.5), np.float32)


def _blotches(rng: Rng, size: tuple[int, int], colours: list[Colour]) -> FloatImage:
    mix = smooth_noise(rng, size, int(rng.integers(4, 10)))[..., None]
    other = smooth_noise(rng, size, 6)[..., None]
    canvas = colours[0] + (colours[1] - colours[0]) * np.clip(mix, 0, 1)
    return np.asarray(canvas + (colours[2] - canvas) * np.clip(other, 0, 1) * 0.7, np.float32)


_BASES = {"gradient": _gradient, "room": _room, "tiles": _tiles, "stripes": _stripes, "blotches": _blotches}


def _scatter_clutter(rng: Rng, canvas: ImageArray) -> None:
    """Draw strokes, discs and boxes that do not count as objects, in place."""
    height, width = canvas.shape[:2]
    for _ in range(int(rng.integers(0, 14))):
        colour = tuple(int(v) for v in random_colour(rng))
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        reach = int(rng.integers(height // 40, height // 7))
        kind = rng.integers(0, 3)
        if kind == 0:
            end = (x + int(rng.integers(-reach * 2, reach * 2 + 1)), y + int(rng.integers(-reach, reach + 1)))
            cv2.line(canvas, (x, y), end, colour, int(rng.integers(1, 4)), cv2.LINE_AA)
        elif kind == 1:
            cv2.circle(canvas, (x, y), max(reach // 3, 1), colour, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(canvas, (x, y), (x + reach, y + reach // 2), colour, -1)
