"""The `amodal_ap` protocol on a dataset: detections against all annotated objects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from amodal.data.samples import AnnotatedDataset, ImageSample
from amodal.errors import InputError
from amodal.evaluation.answers import Answer, Predictor, ask
from amodal.evaluation.asking import Asked, Boxes, LastImage, cases
from amodal.evaluation.boxes import DetectedBox, PredictedBoxes, parse_box_source, read_boxes
from amodal.evaluation.plan import sizes_of
from amodal.evaluation.predictions import Prediction, predictions_file, read_predictions
from amodal.evaluation.report import EvaluationReport
from amodal.evaluation.scoring import answer_of
from amodal.evaluation.selection import Selection, digest
from amodal.evaluation.summary import Resampling
from amodal.io.progress import bar
from amodal.metrics.amodal_ap import AveragePrecision, Instance, Kind
from amodal.metrics.ranges import Range, range_indices
from amodal.ops.rle import Rle, rle_area, rle_intersection

PROTOCOL = "amodal_ap"
MAX_DETECTIONS = 100
"""An image and category; pycocotools leaves out the rest."""


def detections_of_file(path: Path, dataset: AnnotatedDataset, union_visible: bool = False) -> list[Instance]:
    """Detections of a predictions file.

    Raises:
        InputError: a bad file, or a record without category or score.
    """
    found = []
    for index, one in enumerate(read_predictions(path, sizes_of(dataset), union_visible=union_visible)):
        if one.category_id is None or not one.scored:
            lacking = "category_id" if one.category_id is None else "score"
            raise InputError(f"predictions {path}: record {index}: expected a {lacking} for {PROTOCOL}, got none")
        found.append(instance(one.image_id, one.category_id, one.answer))
    return found


def detections_of_model(
    predictor: Predictor,
    dataset: AnnotatedDataset,
    box_source: str,
    *,
    batch_size: int = 32,
    progress: bool = True,
    save_predictions: Path | None = None,
) -> list[Instance]:
    """What a predictor answers for boxes.

    Boxes of a file are detections of their own category and score; boxes of truth take the
    category from truth and the score from the predictor.

    Raises:
        InputError: unknown box source, or a bad file of boxes.
    """
    source, file = parse_box_source(box_source)
    if file is None:
        answers = _on_truth(predictor, dataset, source, batch_size, progress)
    else:
        answers = _on_boxes(predictor, dataset, read_boxes(file, sizes_of(dataset)), batch_size, progress)
    found = []
    with ExitStack() as stack:
        write = None if save_predictions is None else stack.enter_context(predictions_file(save_predictions))
        for one in answers:
            if write is not None:
                write(one)
            found.append(instance(one.image_id, int(one.category_id or 0), one.answer))
    return found


def evaluate_detections(
    found: list[Instance], dataset: AnnotatedDataset, options: dict[str, Any], resampling: Resampling | None = None
) -> EvaluationReport:
    """Average precision of detections, on amodal masks and, where they have them, on visible ones.

    Args:
        found: detections in all images.
        dataset: with amodal masks; objects without one are no truth here.
        options: of the detections, for the report: `model`, `box_source`, `threshold`,
            `union_visible`.
        resampling: of the 95 % intervals; None leaves them out.

    Raises:
        InputError: no object with an amodal mask.
    """
    truth, keys = list[Instance](), list[tuple[int, int]]()
    for image in dataset.images:
        for thing in image.objects:
            if thing.amodal_rle is not None:
                answer = Answer(thing.amodal_rle, thing.visible_rle)
                truth.append(instance(image.id, thing.category_id, answer, thing.iscrowd))
                keys.append((image.id, thing.id))
    if not any(not t.iscrowd for t in truth):
        raise InputError("annotations: expected objects with amodal masks, got none")
    things = [t for t in truth if not t.iscrowd]
    kinds: list[Kind] = ["amodal", "visible"] if any(d.visible is not None for d in found) else ["amodal"]
    runs = {kind: AveragePrecision(truth, found, sizes_of(dataset), kind) for kind in kinds}
    counts = {"num_objects": len(things), "num_occluded": sum(t.range_index > 0 for t in things)}
    intervals: dict[str, Any] = {}
    if resampling is not None:
        intervals = {kind: run.intervals(resampling.resamples, resampling.seed) for kind, run in runs.items()}
        drawn = {"resampled": "images", "resamples": resampling.resamples, "seed": resampling.seed}
        options = options | {"intervals": drawn}
    return EvaluationReport(
        protocol=PROTOCOL,
        options=options
        | {
            "format": dataset.format,
            "objects": "all annotated objects",
            "objects_sha256": digest(keys),
            "max_detections": MAX_DETECTIONS,
        },
        metrics={kind: run.figures() for kind, run in runs.items()} | counts | {"num_detections": len(found)},
        intervals=intervals,
        by_occlusion=_by_range(things, runs),
        by_category=_by_category(things, runs, dataset.categories),
    )


def instance(image_id: int, category_id: int, answer: Answer, iscrowd: bool = False) -> Instance:
    """An object or detection with the range of its own hidden share."""
    index = -1 if answer.visible is None else _range_index(answer.amodal, answer.visible)
    return Instance(image_id, category_id, answer.amodal, answer.visible, index, answer.score, iscrowd)


def _range_index(amodal: Rle, visible: Rle) -> int:
    area = rle_area(amodal)
    hidden = area - rle_area(rle_intersection(amodal, visible))
    return int(range_indices(np.array([hidden / max(area, 1)]))[0])


def _by_range(things: list[Instance], runs: dict[Kind, AveragePrecision]) -> list[dict[str, Any]]:
    figures = {kind: run.by_range() for kind, run in runs.items()}
    rows = []
    for i, r in enumerate(Range.all()):
        count = sum(t.range_index == i for t in things)
        row: dict[str, Any] = {"above": r.above, "up_to": r.up_to, "num_objects": count}
        rows.append(row | {kind: values[i] for kind, values in figures.items()})
    return rows


def _by_category(
    things: list[Instance], runs: dict[Kind, AveragePrecision], names: dict[int, str]
) -> list[dict[str, Any]]:
    figures = {kind: run.by_category() for kind, run in runs.items()}
    rows = []
    for category in sorted({t.category_id for t in things}):
        count = sum(t.category_id == category for t in things)
        row: dict[str, Any] = {"category_id": category, "name": names.get(category, str(category))}
        rows.append(row | {"num_objects": count} | {kind: f[category] for kind, f in figures.items()})
    return rows


def _on_truth(
    predictor: Predictor, dataset: AnnotatedDataset, source: str, batch_size: int, progress: bool
) -> Iterator[Prediction]:
    boxes = Boxes(source)
    row = Asked(predictor, boxes, LastImage(), batch_size)
    for case in cases(dataset, Selection(), {PROTOCOL: row}, boxes, progress):
        if case.answers[PROTOCOL] is not None:
            answer = answer_of(case, PROTOCOL, PROTOCOL)
            yield Prediction(case.image_id, case.annotation_id, case.category_id, answer)


def _on_boxes(
    predictor: Predictor, dataset: AnnotatedDataset, predicted: PredictedBoxes, batch_size: int, progress: bool
) -> Iterator[Prediction]:
    named: dict[int, list[DetectedBox]] = {}
    for (image_id, _), box in predicted.of_object.items():
        named.setdefault(image_id, []).append(box)
    for image in bar(dataset.images, "evaluate", progress):
        found = named.get(image.id, []) + predicted.of_image.get(image.id, [])
        if found:
            yield from _in_image(predictor, image, found, batch_size)


def _in_image(
    predictor: Predictor, image: ImageSample, found: list[DetectedBox], batch_size: int
) -> Iterator[Prediction]:
    boxes = np.array([one.box_xyxy for one in found], dtype=np.float64)
    for one, answer in zip(found, ask(predictor, image.load(), boxes, batch_size), strict=True):
        scored = Answer(answer.amodal, answer.visible, one.score)
        yield Prediction(image.id, None, one.category_id, scored)
