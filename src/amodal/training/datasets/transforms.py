"""Augmentation of crops."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from amodal.ops.boxes import Boxes

Rng = np.random.Generator
Image = npt.NDArray[np.uint8]


class Augmentation(BaseModel):
    """Strength of each random change of a training crop; probabilities in [0, 1]."""

    model_config = ConfigDict(extra="forbid", strict=True)

    scale: tuple[float, float] = Field((0.8, 1.3), description="factor on the crop scale")
    shift: float = Field(0.15, description="of the window, relative to the room around the box")
    wide: float = Field(0.0, description="probability of a window of `wide_scale`")
    wide_scale: tuple[float, float] = Field((3.0, 6.0), description="crop scale of wide windows")
    box_jitter: float = Field(0.03, description="of each box edge, relative to the box")
    flip: float = Field(0.5, description="probability of a mirror image")
    colour: float = Field(0.3, description="strength of brightness, contrast, saturation")
    hue: float = Field(0.08, description="turn of the hue, as a share of the circle")
    grey: float = Field(0.08, description="probability of a greyscale image")
    blur: float = Field(0.1, description="probability of a blur")
    noise: float = Field(0.15, description="probability of noise")


def augment_colours(rng: Rng, pixels: Image, strength: Augmentation) -> Image:
    """(S, S, 3) uint8 RGB with other colours, light and sharpness."""
    amount = strength.colour
    lookup = np.arange(256, dtype=np.float32)
    contrast, light = 1 + rng.uniform(-amount, amount), rng.uniform(-amount, amount) * 128
    table = np.clip((lookup - 128) * contrast + 128 + light, 0, 255).astype(np.uint8)
    pixels = np.asarray(cv2.LUT(pixels, table), np.uint8)
    if rng.random() < strength.grey:
        pixels = np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    elif strength.hue > 0 or amount > 0:
        hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
        turn = int(rng.uniform(-strength.hue, strength.hue) * 180)
        richer = 1 + rng.uniform(-amount, amount)
        hues = ((np.arange(256) + turn) % 180).astype(np.uint8)
        richness = np.clip(lookup * richer, 0, 255).astype(np.uint8)
        hsv[..., 0], hsv[..., 1] = cv2.LUT(hsv[..., 0], hues), cv2.LUT(hsv[..., 1], richness)
        pixels = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)
    if rng.random() < strength.blur:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), float(rng.uniform(0.4, 1.2))), np.uint8)
    if rng.random() < strength.noise:
        noise = rng.standard_normal(pixels.shape, dtype=np.float32) * rng.uniform(2, 10)
        pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels)


def jitter_box(rng: Rng, box_xyxy: Boxes, size: int, amount: float) -> Boxes:
    """(4,) box with each edge moved by up to `amount` of its extent, inside (size, size)."""
    extent = np.tile(box_xyxy[2:] - box_xyxy[:2], 2)
    moved = box_xyxy + extent * rng.uniform(-amount, amount, 4)
    return np.clip(moved, 0, size)
