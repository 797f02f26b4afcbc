"""Scoring a model on a dataset with both masks known."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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


@dataclass(frozen=True)
class AtThreshold:
    """A segmenter that is called with a threshold of its own, as a `Predictor`."""

    segmenter: Any
    threshold: float

    def predict(self, image: npt.NDArray[np.uint8], boxes_xyxy: npt.NDArray[np.float64]) -> Sequence[Predicted]:
        """One answer a box."""
        answers: Sequence[Predicted] = self.segmenter(image, boxes_xyxy, threshold=self.threshold).objects
        return answers


def evaluate(
    predictor: Predictor,
    dataset: AnnotatedDataset,
    *,
    protocol: str = "strict",
    box_source: str = "gt_visible",
    threshold: float | None = None,
    max_objects: int | None = None,
    batch_size: int = 32,
    baselines: bool = True,
    name: str = "model",
    progress: bool = True,
) -> EvaluationReport:
    """Score a predictor and the baselines beside it.

    Args:
        predictor: answers boxes of an image.
        dataset: with amodal masks.
        protocol: `strict` (see `metrics.strict`).
        box_source: `gt_visible` (box of the true visible mask) or `gt_amodal`.
        threshold: probability above which a pixel is foreground, for a predictor that can be called
            with one as `AmodalSegmenter` can; its own if None.
        max_objects: stop after so many objects, in file order.
        batch_size: boxes of an image handed over at once.
        baselines: score them too.
        name: the predictor's name in the report.
        progress: show a bar.

    Returns:
        Report; objects without a visible pixel cannot be prompted, score 0 and are counted and named
        in `options`. True visible masks that reach outside the amodal one are scored as they are;
        a warning gives their number.

    Raises:
        InputError: unknown protocol or box source, a threshold for a predictor that takes none, a
            number of objects or a batch size below 1, or no object with an amodal mask.
    """
    if protocol != "strict":
        raise InputError(f"protocol: expected 'strict', got {protocol!r}")
    if box_source not in BOX_SOURCES:
        raise InputError(f"box source: expected one of {', '.join(BOX_SOURCES)}, got {box_source!r}")
    for label, number in (("max_objects", max_objects), ("batch_size", batch_size)):
        if number is not None and number < 1:
            raise InputError(f"{label}: expected 1 or more, got {number}")
    if threshold is None:
        config = getattr(getattr(predictor, "model", None), "config", None)
        threshold = getattr(config, "mask_threshold", None)
    elif callable(predictor):
        predictor = AtThreshold(predictor, threshold)
    else:
        kind = type(predictor).__name__
        raise InputError(f"threshold: expected None for a predictor that takes none ({kind}), got {threshold}")
    model = StrictIoU()
    others = {label: StrictIoU() for label in (BASELINES if baselines else ())}
    left, without_visible = max_objects, list[int]()
    for image in track(dataset.images, "evaluate", disable=not progress):
        things = [o for o in image.objects if o.amodal_rle is not None and not o.iscrowd][:left]
        left = None if left is None else left - len(things)
        seen = [o for o in things if _has_pixels(o)]
        for thing in things:
            if not _has_pixels(thing):
                without_visible.append(thing.id)
                _score_missing(thing, model, others)
        if seen:
            _score_image(predictor, image, seen, box_source, batch_size, model, others)
        if left == 0:
            break
    if not model.full:
        raise InputError("annotations: expected objects with amodal masks, got none")
    options = {
        "model": name,
        "box_source": box_source,
        "threshold": threshold,
        "union_visible": True,
        "objects": "all annotated objects" if max_objects is None else f"the first {max_objects}",
        "num_without_visible": len(without_visible),
        "without_visible": without_visible,
        "num_visible_outside_amodal": model.num_spilled,
    }
    if model.num_spilled:
        warnings.warn(f"{model.num_spilled} true visible masks reach outside their amodal mask", stacklevel=2)
    rows = {label: scores.compute() for label, scores in others.items()}
    return EvaluationReport(protocol, options, model.compute(), model.by_occlusion(), rows)


def _score_image(
    predictor: Predictor,
    image: ImageSample,
    things: list[ObjectSample],
    box_source: str,
    batch_size: int,
    model: StrictIoU,
    others: dict[str, StrictIoU],
) -> None:
    boxes = np.array([t.visible_box_xyxy if box_source == "gt_visible" else t.amodal_box_xyxy for t in things])
    pixels, answers = image.load(), list[Predicted]()
    for start in range(0, len(boxes), batch_size):
        answers.extend(predictor.predict(pixels, boxes[start : start + batch_size]))
    for thing, answer in zip(things, answers, strict=True):
        visible, amodal = thing.visible_mask(), thing.amodal_mask()
        assert amodal is not None
        own_visible = answer.visible_mask
        model.update(answer.amodal_mask, amodal, visible, own_visible)
        for label, scores in others.items():
            scores.update(BASELINES[label](Known(visible, own_visible)), amodal, visible)


def _score_missing(thing: ObjectSample, model: StrictIoU, others: dict[str, StrictIoU]) -> None:
    visible, amodal = thing.visible_mask(), thing.amodal_mask()
    assert amodal is not None
    nothing = np.zeros_like(amodal)
    for scores in (model, *others.values()):
        scores.update(nothing, amodal, visible, nothing if scores is model else None)


def _has_pixels(thing: ObjectSample) -> bool:
    x0, y0, x1, y1 = thing.visible_box_xyxy
    return x1 > x0 and y1 > y0
