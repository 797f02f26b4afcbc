"""A tiny archive in the form of C2F-Seg's released data, for KINS or COCOA, and what its loaders read from it.

The second half is a literal re-implementation with plain pickle and pycocotools. It imports nothing from the package.
"""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

H, W = 40, 60
KINS_NAMES = {"images": [{"id": 3, "file_name": "000003.png", "height": H, "width": W}], "annotations": []}
COCO_FILE = "COCO_val2014_000000000007.jpg"


@dataclass(frozen=True)
class Truth:
    """What the loaders score an object with: masks (H, W), the prompt box xywh, and their `counts`."""

    amodal: np.ndarray
    visible: np.ndarray
    box_xywh: list[float]
    counts: int


def rle(x: int, y: int, w: int, h: int) -> dict[str, Any]:
    """A rectangle as the RLE that pycocotools makes, with counts of bytes."""
    mask = np.zeros((H, W), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    return dict(coco_mask.encode(mask))


def as_text(encoded: dict[str, Any]) -> dict[str, Any]:
    """The same as JSON has it."""
    return encoded | {"counts": encoded["counts"].decode()}


def polygon(x: int, y: int, w: int, h: int) -> list[list[float]]:
    """A rectangle as COCO's list of one polygon."""
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def detection(x: int, y: int, kins: bool, visible_width: int = 12) -> dict[str, Any]:
    """An entry of the pickle: 20 x 16 pixels, the left columns visible, detected one pixel too far right."""
    full = (x, y, 20, 16)
    return {
        "pred_visible_mask": rle(x + 1, y, 12, 16),
        "pred_visible_mask_bbox": [np.float32(x + 1), np.float32(y), 12.0, 16.0],
        "gt_visible_mask": rle(x, y, visible_width, 16),
        "gt_full_mask": polygon(*full) if kins else rle(*full),
        "occlude_rate": np.float64(0.4),
    }


def write_kins(root: Path) -> Path:
    """An archive of KINS with both forms of lines; the images of its two annotation files share an id.

    An annotated object and a detected one have no visible pixels.
    """
    root.mkdir()
    folder = root / "testing" / "image_2"
    folder.mkdir(parents=True)
    for number in (3, 4):
        cv2.imwrite(str(folder / f"{number:06d}.png"), np.full((H, W, 3), 60 * number, np.uint8))
    (root / "instances_val_upate.json").write_text(json.dumps(KINS_NAMES))
    rectangles = [((0, 0, 9, 9), (0, 0, 9, 9)), ((20, 10, 24, 20), (20, 10, 10, 20)), ((5, 20, 12, 12), None)]
    annotations = [
        {
            "id": 900 + i,
            "image_id": image,
            "category_id": 4,
            "a_segm": polygon(*full),
            "i_segm": polygon(*seen) if seen else [[0.0, 0.0, 0.2, 0.0, 0.2, 0.1]],
            "i_bbox": list(seen or (5, 20, 6, 6)),
        }
        for i, (full, seen) in enumerate(rectangles)
        for image in (3, 8)
    ]
    images = [{"id": 3, "file_name": "000004.png", "height": H, "width": W}]
    images.append({"id": 8, "file_name": "000003.png", "height": H, "width": W})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 4, "name": "car"}]}
    (root / "update_test_2020.json").write_text(json.dumps(content))
    detections = [detection(2, 2, True), detection(30, 8, True), detection(6, 20, True, visible_width=0)]
    fusion = {"aisformer_3": detections, "aisformer_9": []}
    (root / "fusion_test.pkl").write_bytes(pickle.dumps(fusion))
    path = root / "c2f_seg_test_list.txt"
    path.write_text("aisformer,3,1\naisformer,3,0\n3_1_4\n8_2_4\n3_2_4\n8_0_4\naisformer,3,2\n")
    return path


def write_cocoa(root: Path) -> Path:
    """An archive of COCOA with both forms of lines; a detected object has no visible pixels."""
    root.mkdir()
    (root / "val2014").mkdir()
    cv2.imwrite(str(root / "val2014" / COCO_FILE), np.full((H, W, 3), 90, np.uint8))
    shapes = [((4, 4, 30, 20), (4, 4, 10, 20)), ((30, 15, 12, 9), (30, 15, 12, 9))]
    annotations = [
        {
            "id": 500 + i,
            "image_id": 7,
            "category_id": 2,
            "segmentation": as_text(rle(*full)),
            "visible_mask": as_text(rle(*seen)),
            "bbox": [value + 0.6 for value in seen],
        }
        for i, (full, seen) in enumerate(shapes)
    ]
    content = {"images": [{"id": 7}], "annotations": annotations, "categories": [{"id": 2, "name": "dog"}]}
    (root / "COCO_amodal_val2014_with_classes.json").write_text(json.dumps(content))
    detections = {0: detection(3, 3, False), 1: detection(12, 9, False, visible_width=0)}
    (root / "fusion_test.pkl").write_bytes(pickle.dumps({"vrsp_7": detections}, protocol=2))
    path = root / "c2f_seg_test_list.txt"
    path.write_text(f"1,/data/coco/val2014/{COCO_FILE}\nvrsp,7,0\n0,/data/coco/val2014/{COCO_FILE}\nvrsp,7,1\n")
    return path


def load_as_published(path: Path) -> list[Truth]:
    """Read every line by the rules of the published loaders."""
    root = path.parent
    fusion = pickle.loads((root / "fusion_test.pkl").read_bytes())
    return [_load(root, fusion, line) for line in path.read_text().split()]


def _load(root: Path, fusion: Any, line: str) -> Truth:
    parts = line.split(",")
    if len(parts) == 3:
        entry = fusion[f"{parts[0]}_{parts[1]}"][int(parts[2])]
        full = entry["gt_full_mask"]
        full = coco_mask.merge(coco_mask.frPyObjects(full, H, W)) if isinstance(full, list) else full
        visible = coco_mask.decode(entry["gt_visible_mask"])
        return Truth(coco_mask.decode(full), visible, entry["pred_visible_mask_bbox"], 1)
    if len(parts) == 2:
        content = json.loads((root / "COCO_amodal_val2014_with_classes.json").read_text())
        ann = content["annotations"][int(parts[0])]
        visible, (x, y, w, h) = coco_mask.decode(ann["visible_mask"]), ann["bbox"]
        x0, y0, x1, y1 = int(x), int(y), int(x + w), int(y + h)
        counts = int(visible.sum() != 0)
        return Truth(coco_mask.decode(ann["segmentation"]), visible, [x0, y0, x1 - x0, y1 - y0], counts)
    image, index, _ = map(int, line.split("_"))
    content = json.loads((root / "update_test_2020.json").read_text())
    ann = [a for a in content["annotations"] if a["image_id"] == image][index]
    amodal, visible = (
        coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(ann[key], H, W))) for key in ("a_segm", "i_segm")
    )
    return Truth(amodal, visible, ann["i_bbox"], int(visible.sum() != 0))


def score_as_published(predictions: list[np.ndarray], truths: list[Truth]) -> dict[str, float]:
    """The two metrics of the published code, in float64."""
    full = occluded = 0.0
    occ_count = 0
    for P, truth in zip(predictions, truths, strict=True):
        P, G, V = (mask.astype(np.int64) for mask in (P, truth.amodal, truth.visible))
        full += ((P & G).sum() + 1e-10) / ((P | G).sum() + 1e-10)
        a, b = (P - V) > 0.5, (G - V) > 0.5
        occluded += (a & b).sum() / ((a | b).sum() + 1e-6)
        counts = truth.counts
        if (G - V).sum() == 0:
            counts -= 1
        occ_count += counts
    return {"mIoU_full": full / len(truths), "mIoU_occ": occluded / occ_count}
