"""A dataset that is small enough for unit tests: each image has one square in front of another."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from amodal.data.formats.canonical import write_canonical
from amodal.synthetic.generate import object_record
from amodal.synthetic.scenes import SyntheticObject

BACK_VISIBLE = 24 * 24 - 12 * 12


def write_toy(folder: Path, count: int = 4, size: int = 64) -> Path:
    """Write `count` images with two objects each, and return the annotation file."""
    (folder / "images").mkdir(parents=True)
    images = []
    for i in range(count):
        x, y = 4 + 3 * i, 6 + 2 * i
        back, front = np.zeros((size, size), bool), np.zeros((size, size), bool)
        back[y : y + 24, x : x + 24] = True
        front[y + 12 : y + 36, x + 12 : x + 36] = True
        image = np.full((size, size, 3), 40, np.uint8)
        image[back], image[front] = (220, 40, 40), (40, 220, 40)
        name = f"{i:06d}.png"
        cv2.imwrite(str(folder / "images" / name), image[..., ::-1])
        objects = [SyntheticObject("red", back & ~front, back, [1]), SyntheticObject("green", front, front)]
        records = [object_record(obj, j, j + 1) for j, obj in enumerate(objects)]
        images.append(({"file_name": name, "height": size, "width": size}, records))
    path = folder / "annotations.json"
    write_canonical(path, {}, ["red", "green"], images)
    return path
