"""Where the box prompt of an object comes from: the annotation, or detections in a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from amodal.data.formats.c2f import FORMAT as C2F
from amodal.data.formats.c2f import PROMPT_BOX
from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.evaluation.predictions import ImageSizes, image_of, mask_of, number, optional_integer, read_records
from amodal.evaluation.selection import ObjectKey
from amodal.ops.arrays import Box
from amodal.ops.boxes import box_iou
from amodal.ops.rle import rle_box_xyxy

DEFAULT_BOX_SOURCE = "gt_visible"
PREDICTED = "predicted"
MIN_BOX_IOU = 0.5
"""Smallest IoU of a detected box and a true visible box that belong to the same object."""


@dataclass(frozen=True)
class DetectedBox:
    """Box of the visible part of an object, found by a detector.

    Attributes:
        box_xyxy: the box, inside the image.
        category_id: category; None if the file does not state it.
        score: confidence; None if the file does not state it.
        label: file and position of the record, for error messages.
    """

    box_xyxy: Box
    category_id: int | None
    score: float | None
    label: str


@dataclass(frozen=True)
class PredictedBoxes:
    """Boxes of a file.

    Attributes:
        by_object: boxes that name their annotation.
        by_image: the other boxes, by image.
    """

    by_object: dict[ObjectKey, DetectedBox] = field(default_factory=dict)
    by_image: dict[int, list[DetectedBox]] = field(default_factory=dict)

    def for_objects(self, image_id: int, objects: Sequence[ObjectSample]) -> list[Box | None]:
        """Return a box per object of an image, None where there is none.

        An object takes the box that names it. The other boxes are matched by IoU with the true visible boxes: the
        pair with the largest IoU first, one box per object, down to `MIN_BOX_IOU`. Ties go to the earlier object,
        then to the earlier box.
        """
        named = [self.by_object.get((image_id, obj.id)) for obj in objects]
        boxes: list[Box | None] = [None if one is None else one.box_xyxy for one in named]
        candidates = self.by_image.get(image_id, [])
        unmatched = [i for i, box in enumerate(boxes) if box is None]
        if not candidates or not unmatched:
            return boxes
        overlap = box_iou(
            np.array([objects[i].visible_box_xyxy for i in unmatched]), np.array([one.box_xyxy for one in candidates])
        )
        order = np.argsort(-overlap, axis=None, kind="stable")
        used: set[int] = set()
        for i, j in zip(*np.unravel_index(order, overlap.shape), strict=True):
            if overlap[i, j] < MIN_BOX_IOU:
                break
            if boxes[unmatched[i]] is None and j not in used:
                boxes[unmatched[i]] = candidates[j].box_xyxy
                used.add(int(j))
        return boxes


@dataclass(frozen=True)
class BoxSource:
    """Source of the box prompts.

    Attributes:
        name: `gt_visible` (box of the true visible mask), `gt_visible_mask` (the mask itself, for models that take
            masks as prompts), `gt_amodal` or `predicted`.
        predicted: boxes of a file, for `predicted`; None for the boxes that the dataset itself gives as prompts.
    """

    name: str
    predicted: PredictedBoxes | None = None

    @property
    def gives_masks(self) -> bool:
        """Whether the prompts are masks."""
        return self.name == "gt_visible_mask"

    @classmethod
    def parse(cls, text: str, sizes: ImageSizes) -> BoxSource:
        """Read a source as the command line writes it: a true mask or box, `predicted:FILE`, or `predicted`.

        `predicted` without a file takes the boxes that a dataset of the format `c2f` has with its objects.

        Raises:
            InputError: unknown source, or an invalid file of boxes.
        """
        name, colon, file = text.partition(":")
        if name == PREDICTED and file:
            return cls(name, read_boxes(Path(file), sizes))
        if name not in ("gt_visible", "gt_visible_mask", "gt_amodal", PREDICTED) or colon:
            raise InputError(
                f"box source: expected gt_visible, gt_visible_mask, gt_amodal or predicted:FILE, got {text!r}"
            )
        return cls(name)

    def boxes_for(self, image: ImageSample, objects: Sequence[ObjectSample]) -> list[Box | None]:
        """Return a box per object, None where the source has none or one without area."""
        if self.name == PREDICTED:
            if self.predicted is not None:
                return self.predicted.for_objects(image.id, objects)
            return [_given_box(obj, image.size) for obj in objects]
        boxes = [obj.amodal_box_xyxy if self.name == "gt_amodal" else obj.visible_box_xyxy for obj in objects]
        return [b if b is not None and b[2] > b[0] and b[3] > b[1] else None for b in boxes]


def default_box_source(dataset: AnnotatedDataset) -> str:
    """Return the source of boxes if none is named: the dataset's own prompts where it has some, or `gt_visible`."""
    return PREDICTED if dataset.format == C2F.name else DEFAULT_BOX_SOURCE


def _given_box(obj: ObjectSample, size: tuple[int, int]) -> Box | None:
    """The box that the dataset gives as the prompt of an object, inside the image; None without area."""
    if PROMPT_BOX not in obj.attributes:
        raise InputError("box source: expected predicted:FILE for a dataset without boxes of its own, got predicted")
    (H, W), (x0, y0, x1, y1) = size, obj.attributes[PROMPT_BOX]
    box = (max(x0, 0.0), max(y0, 0.0), min(x1, float(W)), min(y1, float(H)))
    return box if box[2] > box[0] and box[3] > box[1] else None


def read_boxes(path: Path, sizes: ImageSizes) -> PredictedBoxes:
    """Read a JSON list of boxes of visible parts, `{image_id, annotation_id?, category_id?, score?}` and a box.

    The box is `visible_bbox` (xywh), or else the tight box of `visible_segmentation`, or else `bbox`, which detectors
    of visible parts write.

    Raises:
        InputError: the file does not exist, is not valid JSON or has a record of another form.
    """
    boxes = PredictedBoxes()
    for index, record in read_records(path, "boxes"):
        label = f"boxes {path}: record {index}"
        try:
            image_id, size = image_of(record, sizes)
            annotation_id, detection = optional_integer(record, "annotation_id"), _parse(record, size, label)
        except InputError as error:
            raise InputError(f"{label}: {error}") from error
        if annotation_id is None:
            boxes.by_image.setdefault(image_id, []).append(detection)
        else:
            key = (image_id, annotation_id)
            if key in boxes.by_object:
                raise InputError(f"{label}: expected one box per object, got two of annotation {annotation_id}")
            boxes.by_object[key] = detection
    return boxes


def _parse(record: dict[str, Any], size: tuple[int, int], label: str) -> DetectedBox:
    H, W = size
    key = next((k for k in ("visible_bbox", "visible_segmentation", "bbox") if record.get(k) is not None), None)
    if key is None:
        raise InputError("expected visible_bbox, visible_segmentation or bbox, got none of them")
    if key == "visible_segmentation":
        x0, y0, x1, y1 = rle_box_xyxy(mask_of(record, key, (H, W)))
    else:
        x0, y0, x1, y1 = _xyxy(record[key], key)
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, float(W)), min(y1, float(H))
    if x0 >= x1 or y0 >= y1:
        raise InputError(f"{key}: expected a box with an area inside the {W} x {H} image, got {record[key]!r:.80}")
    score = None if record.get("score") is None else number(record, "score")
    return DetectedBox((x0, y0, x1, y1), optional_integer(record, "category_id"), score, label)


def _xyxy(box_xywh: Any, key: str) -> Box:
    try:
        x, y, w, h = (float(v) for v in box_xywh)
    except (TypeError, ValueError) as error:
        raise InputError(f"{key}: expected four numbers x, y, w, h, got {box_xywh!r:.80}") from error
    if not np.isfinite([x, y, w, h]).all() or w < 0 or h < 0:
        raise InputError(f"{key}: expected finite x, y, w, h with w and h 0 or more, got {box_xywh!r:.80}")
    return (x, y, x + w, y + h)
