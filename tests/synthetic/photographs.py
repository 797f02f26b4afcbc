"""Photographs with instance masks in COCO form, small enough for unit tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

Box = tuple[int, int, int, int]


def write_photographs(
    folder: Path, boxes: Sequence[Sequence[Box]], names: Sequence[str], size: tuple[int, int] = (120, 160)
) -> tuple[Path, Path]:
    """Write one photograph for each list of filled xyxy boxes.

    Instance number n of the whole set is of category `names[n % len(names)]`.

    Returns:
        The annotation file and the folder of the photographs.
    """
    (folder / "images").mkdir(parents=True)
    kinds = sorted(set(names))
    images, annotations = [], []
    for i, inside in enumerate(boxes):
        pixels = np.full((*size, 3), 70 + 15 * (i % 8), np.uint8)
        for x0, y0, x1, y1 in inside:
            pixels[y0:y1, x0:x1] = (200, 25 * (i % 8), 40)
            kind = 1 + kinds.index(names[len(annotations) % len(names)])
            corners = [x0, y0, x1, y0, x1, y1, x0, y1]
            annotations.append(
                {"id": len(annotations), "image_id": i, "category_id": kind, "segmentation": [corners], "iscrowd": 0}
            )
        cv2.imwrite(str(folder / "images" / f"{i}.png"), pixels)
        images.append({"id": i, "file_name": f"{i}.png", "height": size[0], "width": size[1]})
    categories = [{"id": 1 + i, "name": kind} for i, kind in enumerate(kinds)]
    file = folder / "instances.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file, folder / "images"
