"""As many small pictures as one likes, made in a moment: a square behind another on each."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from amodal.data.writers import object_record, write_canonical
from amodal.synthetic.types import SyntheticObject


def write_many(folder: Path, count: int, size: int = 32) -> Path:
    """Write `count` pictures of the same content under different names; returns the annotation file."""
    (folder / "images").mkdir(parents=True)
    back, front = np.zeros((size, size), bool), np.zeros((size, size), bool)
    back[4:20, 4:20] = True
    front[12:28, 12:28] = True
    image = np.full((size, size, 3), 40, np.uint8)
    image[back], image[front] = (220, 40, 40), (40, 220, 40)
    cv2.imwrite(str(folder / "picture.png"), image[..., ::-1])
    things = [SyntheticObject("mug", back & ~front, back, [1]), SyntheticObject("book", front, front)]
    records = [object_record(thing, j, j + 1) for j, thing in enumerate(things)]
    pictures = []
    for number in range(count):
        name = f"{number:06d}.png"
        os.link(folder / "picture.png", folder / "images" / name)
        pictures.append(({"file_name": name, "height": size, "width": size}, [dict(one) for one in records]))
    path = folder / "annotations.json"
    write_canonical(path, {}, ["mug", "book"], pictures)
    return path
