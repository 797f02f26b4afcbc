"""The `amodal_ap` protocol on a dataset: detections against all annotated objects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from amodal.data.samples import AnnotatedDataset
from amodal.errors import InputError
from amodal.evaluation.boxes import DetectedBox, PredictedBoxes
from amodal.evaluation.predictions import (
    MaskPrediction,
    PredictionRecord,
    image_sizes,
    predictions_file,
    read_predictions,
)
from amodal.evaluation.report import EvaluationReport
from amodal.evaluation.rows import ModelRow, iterate_cases, prediction_of
from amodal.evaluation.scoring import Resampling
from amodal.evaluation.selection import ObjectKey, ObjectSelection, objects_digest
from amodal.io.progress import progress_bar
from amodal.metrics.amodal_ap import UNKNOWN_RANGE, AveragePrecision, Instance, MaskKind
from amodal.metrics.intervals import OcclusionRange, range_indices
from amodal.ops.rle import rle_area, rle_intersection

PROTOCOL = "amodal_ap"
MAX_DETECTIONS = 100
"""Largest number of detections per image and category; pycocotools ignores the rest."""


def detections_from_file(path: Path, dataset: AnnotatedDataset, union_visible: bool = False) -> list[Instance]:
    """Read the detections of a predictions file of any form.

    Raises:
        InputError: an invalid file, or a record without category or score.
    """
    detections = []
    for index, record in enumerate(read_predictions(path, dataset, union_visible=union_visible)):
        score = record.masks.score if record.has_score else None
        category_id, _ = _stated(record.category_id, score, f"predictions {path}: record {index}")
        detections.append(to_instance(record.image_id, category_id, record.masks))
    return detections


def detections_from_model(
    row: ModelRow, dataset: AnnotatedDataset, *, progress: bool = True, save_predictions: Path | None = None
) -> list[Instance]:
    """Predict masks for boxes.

    Boxes of a file are detections with their own category and score. Boxes of the annotation take the category from
    the annotation and the score from the model.

    Args:
        row: the model and its source of boxes.
        dataset: annotated images.
        progress: show a progress bar.
        save_predictions: predictions file to write, or None.

    Raises:
        InputError: a box of a file has no category or score.
    """
    if row.boxes.predicted is None:
        records = _predict_annotated_boxes(row, dataset, progress)
    else:
        records = _predict_detected_boxes(row, dataset, row.boxes.predicted, progress)
    detections = []
    with ExitStack() as stack:
        write = None if save_predictions is None else stack.enter_context(predictions_file(save_predictions))
        for record in records:
            if write is not None:
                write(record)
            assert record.category_id is not None
            detections.append(to_instance(record.image_id, record.category_id, record.masks))
    return detections


def evaluate_detections(
    detections: list[Instance],
    dataset: AnnotatedDataset,
    options: dict[str, Any],
    resampling: Resampling | None = None,
) -> EvaluationReport:
    """Compute the average precision of detections, on amodal masks and on the visible masks if there are any.

    Args:
        detections: detections in all images.
        dataset: dataset with amodal masks; objects without one are not counted as true objects.
        options: options of the detections for the report: `model`, `box_source`, `threshold`, `union_visible`.
        resampling: of the 95 % intervals; None leaves them out.

    Raises:
        InputError: no object has an amodal mask.
    """
    truth, keys = list[Instance](), list[ObjectKey]()
    for image in dataset.images:
        for obj in image.objects:
            if obj.amodal_rle is not None:
                masks = MaskPrediction(obj.amodal_rle, obj.visible_rle)
                truth.append(to_instance(image.id, obj.category_id, masks, obj.iscrowd))
                keys.append((image.id, obj.id))
    objects = [t for t in truth if not t.iscrowd]
    if not objects:
        raise InputError("annotations: expected objects with amodal masks, got none")
    kinds: list[MaskKind] = ["amodal", "visible"] if any(d.visible is not None for d in detections) else ["amodal"]
    precisions = {kind: AveragePrecision(truth, detections, image_sizes(dataset), kind) for kind in kinds}
    counts = {"num_objects": len(objects), "num_occluded": sum(t.range_index > 0 for t in objects)}
    intervals: dict[str, Any] = {}
    if resampling is not None:
        num_resamples, seed = resampling.num_resamples, resampling.seed
        intervals = {kind: precision.intervals(num_resamples, seed) for kind, precision in precisions.items()}
        options = options | {"intervals": {"resampled": "images", "resamples": num_resamples, "seed": seed}}
    return EvaluationReport(
        protocol=PROTOCOL,
        options=options
        | {
            "format": dataset.format,
            "objects": "all annotated objects",
            "objects_sha256": objects_digest(keys),
            "max_detections": MAX_DETECTIONS,
        },
        metrics={kind: p.metrics() for kind, p in precisions.items()} | counts | {"num_detections": len(detections)},
        intervals=intervals,
        by_occlusion=_by_occlusion(objects, precisions),
        by_category=_by_category(objects, precisions, dataset.categories),
    )


def to_instance(image_id: int, category_id: int, masks: MaskPrediction, iscrowd: bool = False) -> Instance:
    """Build an `Instance` in the range of its own occlusion rate."""
    index = UNKNOWN_RANGE
    if masks.visible is not None:
        area = rle_area(masks.amodal)
        occluded_area = area - rle_area(rle_intersection(masks.amodal, masks.visible))
        index = int(range_indices(np.array([occluded_area / max(area, 1)]))[0])
    return Instance(image_id, category_id, masks.amodal, masks.visible, index, masks.score, iscrowd)


def _by_occlusion(objects: list[Instance], precisions: dict[MaskKind, AveragePrecision]) -> list[dict[str, Any]]:
    metrics = {kind: precision.by_range() for kind, precision in precisions.items()}
    rows = []
    for i, r in enumerate(OcclusionRange.all()):
        num_objects = sum(t.range_index == i for t in objects)
        row: dict[str, Any] = {"above": r.above, "up_to": r.up_to, "num_objects": num_objects}
        rows.append(row | {kind: values[i] for kind, values in metrics.items()})
    return rows


def _by_category(
    objects: list[Instance], precisions: dict[MaskKind, AveragePrecision], names: dict[int, str]
) -> list[dict[str, Any]]:
    metrics = {kind: precision.by_category() for kind, precision in precisions.items()}
    rows = []
    for category in sorted({t.category_id for t in objects}):
        num_objects = sum(t.category_id == category for t in objects)
        row: dict[str, Any] = {"category_id": category, "name": names.get(category, str(category))}
        rows.append(row | {"num_objects": num_objects} | {kind: m[category] for kind, m in metrics.items()})
    return rows


def _predict_annotated_boxes(row: ModelRow, dataset: AnnotatedDataset, progress: bool) -> Iterator[PredictionRecord]:
    for case in iterate_cases(dataset, ObjectSelection(), {PROTOCOL: row}, row.boxes, progress):
        if case.predictions[PROTOCOL] is not None:
            masks = prediction_of(case, PROTOCOL, PROTOCOL)
            yield PredictionRecord(case.image_id, case.annotation_id, case.category_id, masks)


def _predict_detected_boxes(
    row: ModelRow, dataset: AnnotatedDataset, predicted: PredictedBoxes, progress: bool
) -> Iterator[PredictionRecord]:
    by_image: dict[int, list[DetectedBox]] = {}
    for (image_id, _), box in predicted.by_object.items():
        by_image.setdefault(image_id, []).append(box)
    for image_id, others in predicted.by_image.items():
        by_image.setdefault(image_id, []).extend(others)
    for box in chain.from_iterable(by_image.values()):  # before the work
        _stated(box.category_id, box.score, box.label)
    for image in progress_bar(dataset.images, "evaluate", progress):
        boxes = by_image.get(image.id)
        if boxes:
            masks = row.predict(image, np.array([one.box_xyxy for one in boxes], dtype=np.float64))
            for box, prediction in zip(boxes, masks, strict=True):
                category_id, score = _stated(box.category_id, box.score, box.label)
                yield PredictionRecord(image.id, None, category_id, replace(prediction, score=score))


def _stated(category_id: int | None, score: float | None, label: str) -> tuple[int, float]:
    """Return the category and the score of a detection. Raises `InputError` unless its file states both."""
    if category_id is None or score is None:
        missing = "category_id" if category_id is None else "score"
        raise InputError(f"{label}: expected a {missing} for {PROTOCOL}, got none")
    return category_id, score
