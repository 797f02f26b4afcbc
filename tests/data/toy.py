"""A dataset small enough for unit tests: one square in front of another on each picture."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from amodal.data.formats.canonical import write_canonical
from amodal.synthetic.generate import object_record
from amodal.synthetic.scenes import SyntheticObject

BACK_VISIBLE = 24 * 24 - 12 * 12


def write_toy(folder: Path, count: int = 4, size: int = 64) -> Path:
    """Write `count` pictures with two objects each; returns the annotation file."""
    (folder / "images").mkdir(parents=True)
    pictures = []
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
        records = [object_record(thing, j, j + 1) for j, thing in enumerate(objects)]
        pictures.append(({"file_name": name, "height": size, "width": size}, records))
    path = folder / "annotations.json"
    write_canonical(path, {}, ["red", "green"], pictures)
    return path
