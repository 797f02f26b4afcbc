"""Scoring a model on a dataset with both masks known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from rich.progress import track

from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.evaluation.baselines import BASELINES, Known
from amodal.evaluation.report import EvaluationReport
from amodal.metrics.strict import StrictIoU

BOX_SOURCES = ("gt_visible", "gt_amodal")


class Predicted(Protocol):
    """One answer."""

    @property
    def visible_mask(self) -> npt.NDArray[np.bool_]:
        """(H, W) bool."""

    @property
    def amodal_mask(self) -> npt.NDArray[np.bool_]:
        """(H, W) bool."""


class Predictor(Protocol):
    """What can be scored; `AmodalSegmenter` is one."""

    def predict(self, image: npt.NDArray[np.uint8], boxes_xyxy: npt.NDArray[np.float64]) -> Sequence[Predicted]:
        """One answer a box."""


def evaluate(
    predictor: Predictor,
    dataset: AnnotatedDataset,
    *,
    protocol: str = "strict",
    box_source: str = "gt_visible",
    max_objects: int | None = None,
    name: str = "model",
    progress: bool = True,
) -> EvaluationReport:
    """Score a predictor and the baselines beside it.

    Args:
        predictor: answers boxes of an image.
        dataset: with amodal masks.
        protocol: `strict` (see `metrics.strict`).
        box_source: `gt_visible` (box of the true visible mask) or `gt_amodal`.
        max_objects: stop after so many objects, in file order.
        name: the predictor's name in the report.
        progress: show a bar.

    Returns:
        Report; objects without a visible pixel cannot be prompted, score 0 and are counted in
        `options["num_without_visible"]`.

    Raises:
        InputError: unknown protocol or box source, or no object with an amodal mask.
    """
    if protocol != "strict":
        raise InputError(f"protocol: expected 'strict', got {protocol!r}")
    if box_source not in BOX_SOURCES:
        raise InputError(f"box source: expected one of {', '.join(BOX_SOURCES)}, got {box_source!r}")
    model = StrictIoU()
    others = {label: StrictIoU() for label in BASELINES}
    left, num_without_visible = max_objects, 0
    for image in track(dataset.images, "evaluate", disable=not progress):
        things = [o for o in image.objects if o.amodal_rle is not None and not o.iscrowd][:left]
        left = None if left is None else left - len(things)
        seen = [o for o in things if _has_pixels(o)]
        num_without_visible += len(things) - len(seen)
        for thing in things:
            if not _has_pixels(thing):
                _score_missing(thing, model, others)
        if seen:
            _score_image(predictor, image, seen, box_source, model, others)
        if left == 0:
            break
    if not model.full:
        raise InputError("annotations: expected objects with amodal masks, got none")
    options = {
        "model": name,
        "box_source": box_source,
        "threshold": getattr(getattr(getattr(predictor, "model", None), "config", None), "mask_threshold", None),
        "union_visible": True,
        "objects": "all annotated objects" if max_objects is None else f"the first {max_objects}",
        "num_without_visible": num_without_visible,
    }
    baselines = {label: scores.compute() for label, scores in others.items()}
    return EvaluationReport(protocol, options, model.compute(), model.by_occlusion(), baselines)


def _score_image(
    predictor: Predictor,
    image: ImageSample,
    things: list[ObjectSample],
    box_source: str,
    model: StrictIoU,
    others: dict[str, StrictIoU],
) -> None:
    boxes = np.array([t.visible_box_xyxy if box_source == "gt_visible" else t.amodal_box_xyxy for t in things])
    answers = predictor.predict(image.load(), boxes)
    for thing, answer in zip(things, answers, strict=True):
        visible, amodal = thing.visible_mask(), thing.amodal_mask()
        assert amodal is not None
        own_visible = answer.visible_mask
        model.update(answer.amodal_mask, amodal, visible, own_visible)
        for label, baseline in BASELINES.items():
            others[label].update(baseline(Known(visible, own_visible)), amodal, visible)


def _score_missing(thing: ObjectSample, model: StrictIoU, others: dict[str, StrictIoU]) -> None:
    visible, amodal = thing.visible_mask(), thing.amodal_mask()
    assert amodal is not None
    nothing = np.zeros_like(amodal)
    for scores in (model, *others.values()):
        scores.update(nothing, amodal, visible, nothing if scores is model else None)


def _has_pixels(thing: ObjectSample) -> bool:
    x0, y0, x1, y1 = thing.visible_box_xyxy
    return x1 > x0 and y1 > y0
