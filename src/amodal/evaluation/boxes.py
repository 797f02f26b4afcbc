"""Where the box that a model is given comes from: truth, or another model's detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from amodal.data.samples import Box, ObjectSample
from amodal.errors import InputError
from amodal.evaluation.predictions import Sizes, image_size, integer, mask_of, number, read_records
from amodal.evaluation.selection import Key
from amodal.ops.rle import rle_box_xyxy

PREDICTED = "predicted"
BOX_SOURCES = ("gt_visible", "gt_amodal", PREDICTED)
MIN_BOX_IOU = 0.5
"""Of a detected with a true visible box, to count as the same object."""


@dataclass(frozen=True)
class DetectedBox:
    """A box of a visible part that a detector found."""

    box_xyxy: Box
    category_id: int
    score: float


@dataclass(frozen=True)
class PredictedBoxes:
    """Boxes of a file.

    Attributes:
        of_object: boxes that name their true object.
        of_image: the others, by image.
    """

    of_object: dict[Key, DetectedBox] = field(default_factory=dict)
    of_image: dict[int, list[DetectedBox]] = field(default_factory=dict)

    def for_objects(self, image_id: int, things: Sequence[ObjectSample]) -> list[Box | None]:
        """A box for each object of an image, None where there is none.

        An object takes the box that names it. The rest is matched by IoU with the true visible
        box, the closest pair first, one box an object, from `MIN_BOX_IOU` on; ties go to the
        earlier object, then to the earlier box.
        """
        named = [self.of_object.get((image_id, thing.id)) for thing in things]
        boxes: list[Box | None] = [None if one is None else one.box_xyxy for one in named]
        found = self.of_image.get(image_id, [])
        open_ = [i for i, box in enumerate(boxes) if box is None]
        if not found or not open_:
            return boxes
        overlap = box_iou(
            np.array([things[i].visible_box_xyxy for i in open_]), np.array([one.box_xyxy for one in found])
        )
        order = np.argsort(-overlap, axis=None, kind="stable")
        taken: set[int] = set()
        for i, j in zip(*np.unravel_index(order, overlap.shape), strict=True):
            if overlap[i, j] < MIN_BOX_IOU:
                break
            if boxes[open_[i]] is None and j not in taken:
                boxes[open_[i]] = found[j].box_xyxy
                taken.add(int(j))
        return boxes


def parse_box_source(text: str) -> tuple[str, Path | None]:
    """`gt_visible`, `gt_amodal` or `predicted:FILE` to a name and the file.

    Raises:
        InputError: anything else.
    """
    name, colon, file = text.partition(":")
    if name == PREDICTED and file:
        return name, Path(file)
    if name not in ("gt_visible", "gt_amodal") or colon:
        raise InputError(f"box source: expected gt_visible, gt_amodal or predicted:FILE, got {text!r}")
    return name, None


def read_boxes(path: Path, sizes: Sizes) -> PredictedBoxes:
    """Read boxes of visible parts: `{image_id, annotation_id?, category_id?, score?}` and a box.

    The box is `visible_bbox` (xywh) or, where that is absent, the tight box of
    `visible_segmentation`, or `bbox`, as detectors of visible parts write it.

    Raises:
        InputError: no file, broken JSON, or a record of another form.
    """
    boxes = PredictedBoxes()
    for index, record in read_records(path, "boxes"):
        try:
            image_id, one = _box(record, sizes)
        except InputError as error:
            raise InputError(f"boxes {path}: record {index}: {error}") from error
        if record.get("annotation_id") is None:
            boxes.of_image.setdefault(image_id, []).append(one)
        else:
            boxes.of_object[(image_id, integer(record, "annotation_id"))] = one
    return boxes


def box_iou(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N, 4) against (M, 4) boxes xyxy to (N, M) IoU in [0, 1]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [(c[:, 2:] - c[:, :2]).prod(-1) for c in (a, b)]
    return np.asarray(shared / np.maximum(areas[0][:, None] + areas[1] - shared, 1e-12), np.float64)


def _box(record: dict[str, Any], sizes: Sizes) -> tuple[int, DetectedBox]:
    H, W = image_size(record, sizes)
    key = next((k for k in ("visible_bbox", "visible_segmentation", "bbox") if record.get(k) is not None), None)
    if key is None:
        raise InputError("expected visible_bbox, visible_segmentation or bbox, got none of them")
    if key == "visible_segmentation":
        x0, y0, x1, y1 = rle_box_xyxy(mask_of(record, key, (H, W)))
    else:
        x0, y0, x1, y1 = _corners(record[key], key)
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, float(W)), min(y1, float(H))
    if x0 >= x1 or y0 >= y1:
        raise InputError(f"{key}: expected a box with an area inside the {W} x {H} image, got {record[key]!r:.80}")
    category = 0 if record.get("category_id") is None else integer(record, "category_id")
    score = 1.0 if record.get("score") is None else number(record, "score")
    return int(record["image_id"]), DetectedBox((x0, y0, x1, y1), category, score)


def _corners(box_xywh: Any, key: str) -> Box:
    try:
        x, y, w, h = (float(v) for v in box_xywh)
    except (TypeError, ValueError) as error:
        raise InputError(f"{key}: expected four numbers x, y, w, h, got {box_xywh!r:.80}") from error
    if not np.isfinite([x, y, w, h]).all() or w < 0 or h < 0:
        raise InputError(f"{key}: expected finite x, y, w, h with w and h 0 or more, got {box_xywh!r:.80}")
    return (x, y, x + w, y + h)
