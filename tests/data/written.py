"""The same two objects, a square occluded by another square, in the file of each dataset format."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from amodal.ops.rle import encode_mask

SIZE = (20, 30)
BACK, FRONT = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
BACK[2:12, 3:15] = True
FRONT[6:16, 9:21] = True
SEEN = BACK & ~FRONT
HIDDEN = BACK & FRONT
BACK_POLYGON = [3, 2, 15, 2, 15, 12, 3, 12]
FRONT_POLYGON = [9, 6, 21, 6, 21, 16, 9, 16]
RATE = HIDDEN.sum() / BACK.sum()

IMAGE = {"id": 5, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}
CATEGORIES = [{"id": 1, "name": "car"}, {"id": 4, "name": "van"}]


def rle(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    return encode_mask(mask)


def kins2019() -> dict[str, Any]:
    boxes = {"bbox": [3, 2, 12, 10], "inmodal_bbox": [3, 2, 12, 10], "area": 120, "iscrowd": 0}
    back = {"id": 1, "image_id": 5, "category_id": 1, "segmentation": [BACK_POLYGON], "inmodal_seg": rle(SEEN), **boxes}
    front = back | {"id": 2, "category_id": 4, "segmentation": [FRONT_POLYGON], "inmodal_seg": rle(FRONT)}
    front |= {"bbox": [9, 6, 12, 10], "inmodal_bbox": [9, 6, 12, 10]}
    image = IMAGE | {"amodal_full": rle(BACK | FRONT)}
    return copy.deepcopy({"images": [image], "annotations": [back, front], "categories": CATEGORIES})


def kins2020() -> dict[str, Any]:
    back = {"id": 1, "image_id": 5, "category_id": 1, "oco_id": 0, "ico_id": 2}
    back |= {"a_segm": [BACK_POLYGON], "i_segm": rle(SEEN), "a_bbox": [3, 2, 12, 10], "i_bbox": [3, 2, 12, 10]}
    front = {"id": 2, "image_id": 5, "category_id": 4, "oco_id": 0, "ico_id": 1}
    front |= {"a_segm": [FRONT_POLYGON], "i_segm": [FRONT_POLYGON], "a_bbox": [9, 6, 12, 10], "i_bbox": [9, 6, 12, 10]}
    return copy.deepcopy({"images": [IMAGE], "annotations": [back, front], "categories": CATEGORIES})


def cocoa_regions() -> list[dict[str, Any]]:
    front = {"segmentation": FRONT_POLYGON, "name": "Van ", "area": 120, "isStuff": 0, "occlude_rate": 0, "order": 1}
    back = {"segmentation": BACK_POLYGON, "name": "car", "area": 120, "isStuff": 1, "occlude_rate": RATE, "order": 4}
    return [front, back | {"visible_mask": rle(SEEN), "invisible_mask": rle(HIDDEN)}]


def cocoa() -> dict[str, Any]:
    first = {"id": 7, "image_id": 5, "author": "ann", "url": "http://x/a.png", "size": 3, "depth_constraint": "1-2"}
    second = {"id": 8, "image_id": 5, "author": "bob", "url": "http://x/a.png", "size": 2}
    regions = cocoa_regions()
    image = IMAGE | {"license": "?", "data_captured": "2013-11-14"}
    return copy.deepcopy(
        {"images": [image], "annotations": [first | {"regions": regions}, second | {"regions": regions}]}
    )


def cocoa_cls() -> dict[str, Any]:
    back = {"id": 1, "image_id": 5, "category_id": 1, "iscrowd": 0, "bbox": [3, 2, 12, 10], "segmentation": rle(BACK)}
    back |= {"area": 120, "visible_mask": rle(SEEN), "invisible_mask": rle(HIDDEN), "occlude_rate": RATE}
    back |= {"occl_depth": 1, "amodal_base": IMAGE, "amodal_region": {"name": "car", "isStuff": 1, "order": 4}}
    front = {"id": 2, "image_id": 5, "category_id": 4, "iscrowd": 0, "bbox": [9, 6, 12, 10], "segmentation": rle(FRONT)}
    front |= {"area": 120, "visible_mask": rle(FRONT), "occlude_rate": 0.0, "occl_depth": 0, "amodal_base": IMAGE}
    front |= {"amodal_region": {"name": "van", "isStuff": 0, "order": 1}}
    return copy.deepcopy({"images": [IMAGE], "annotations": [back, front], "categories": CATEGORIES})


def d2sa() -> dict[str, Any]:
    content = cocoa_cls()
    for record in content["annotations"]:
        record["iscrowd"] = False
    return content


def coco() -> dict[str, Any]:
    back = {"id": 1, "image_id": 5, "category_id": 1, "iscrowd": 0, "segmentation": rle(SEEN), "bbox": [3, 2, 12, 10]}
    front = back | {"id": 2, "category_id": 4, "segmentation": [FRONT_POLYGON], "bbox": [9, 6, 12, 10]}
    return copy.deepcopy({"images": [IMAGE], "annotations": [back, front], "categories": CATEGORIES})


def canonical() -> dict[str, Any]:
    back = {"id": 1, "image_id": 5, "category_id": 1, "iscrowd": 0, "segmentation": rle(BACK), "area": 120}
    back |= {"visible_mask": rle(SEEN), "bbox": [3, 2, 12, 10], "visible_bbox": [3, 2, 12, 10]}
    back |= {"occlude_rate": RATE, "occluders": [2], "attributes": {"colour": "red"}}
    front = back | {"id": 2, "category_id": 4, "segmentation": rle(FRONT), "visible_mask": rle(FRONT)}
    front |= {"bbox": [9, 6, 12, 10], "visible_bbox": [9, 6, 12, 10], "occlude_rate": 0.0, "occluders": []}
    return copy.deepcopy({"images": [IMAGE], "annotations": [back, front], "categories": CATEGORIES})


FILES = {
    "kins2019": kins2019,
    "kins2020": kins2020,
    "cocoa": cocoa,
    "cocoa_cls": cocoa_cls,
    "d2sa": d2sa,
    "coco": coco,
    "canonical": canonical,
}
BOTH_MASKS = [name for name in FILES if name not in ("cocoa", "coco")]


def write(folder: Path, content: Any, name: str = "annotations.json") -> Path:
    """Write the file beside a folder with its one image, and return its path."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(folder / "images" / "a.png")
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def write_masks(folder: Path, stem: str, masks: dict[str, npt.NDArray[np.bool_]]) -> Path:
    """Write masks by file name without suffix, and return the folder to read."""
    inner = folder / "masks" / stem
    inner.mkdir(parents=True, exist_ok=True)
    for name, mask in masks.items():
        Image.fromarray(mask.astype(np.uint8) * 255).save(inner / f"{name}.png")
    return folder / "masks"
