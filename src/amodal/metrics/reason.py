"""The `reason` protocol: written answers, each with any number of objects, visible and amodal masks.

IoU of one answer: predicted objects are matched to true objects so that the sum of the amodal IoUs is largest
(Hungarian method). The IoUs of the matched pairs, amodal or visible, are summed and divided by the larger of the two
numbers of objects, so an unmatched object counts as 0. An answer without objects to a question without objects
scores 1.

- `gIoU`: mean over answers. `gIoU_*_with_objects`: mean over the answers that have a true object.
- `cIoU`: sum of intersections / sum of unions over all pairs; an unmatched object adds its area to the unions.
- `*_union`: the same two metrics on the union of the masks of an answer, as in papers on reasoning segmentation that
  predict one mask per answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from amodal.ops.arrays import Mask
from amodal.ops.masks import iou_of_counts, mask_iou
from amodal.ops.occlusion import occlusion_rate

IntArray = npt.NDArray[np.int64]
ReasonMetrics = dict[str, float]
MASK_KINDS = ("amodal", "visible")


@dataclass(frozen=True)
class MaskPair:
    """The two masks of one object, predicted or true.

    Attributes:
        visible: (H, W) bool.
        amodal: (H, W) bool.
        rate: occlusion rate in [0, 1] as the model predicts it; None to compute it from the masks.
    """

    visible: Mask
    amodal: Mask
    rate: float | None = None

    @property
    def occlusion_rate(self) -> float:
        """Predicted occlusion rate if there is one, else 1 - |visible| / |amodal|."""
        return occlusion_rate(self.visible, self.amodal) if self.rate is None else self.rate


class Overlap(NamedTuple):
    """Overlap of one answer with the true objects, for one kind of mask.

    Attributes:
        iou: IoU of the answer, as defined at the top of this module.
        intersection: pixels in which matched masks overlap.
        union: pixels of the unions of matched masks, plus the areas of unmatched masks.
        union_iou: IoU of the union of all masks.
        union_intersection: intersection of the unions of all masks.
        union_union: union of the unions of all masks.
    """

    iou: float
    intersection: int
    union: int
    union_iou: float
    union_intersection: int
    union_union: int


class TrueObject(NamedTuple):
    """One true object and how well it was predicted.

    Attributes:
        rate: true occlusion rate.
        iou_amodal: IoU with the amodal mask of its match; 0 if unmatched.
        iou_visible: IoU with the visible mask of its match; 0 if unmatched.
        rate_error: |predicted - true| occlusion rate; None unless the matched amodal masks overlap.
    """

    rate: float
    iou_amodal: float
    iou_visible: float
    rate_error: float | None


@dataclass(frozen=True)
class AnswerScore:
    """Score of one answer, from which the metrics of a set of answers are computed.

    Attributes:
        num_predicted: number of objects in the answer.
        amodal: overlap of the amodal masks.
        visible: overlap of the visible masks.
        objects: the true objects.
        names_f1: F1 of the object names as multisets; None if no names were given.
    """

    num_predicted: int
    amodal: Overlap
    visible: Overlap
    objects: tuple[TrueObject, ...]
    names_f1: float | None = None


class _Pixels(NamedTuple):
    """Pixel counts of one kind of mask: (P, T) intersections, (P,) predicted areas, (T,) true areas."""

    intersections: IntArray
    areas: IntArray
    true_areas: IntArray

    def ious(self) -> npt.NDArray[np.float64]:
        """(P, T) IoUs; 1 where both masks are empty."""
        return iou_of_counts(self.intersections, self.areas[:, None] + self.true_areas[None] - self.intersections)


def score_answer(
    predicted: Sequence[MaskPair],
    true: Sequence[MaskPair],
    names: tuple[Sequence[str], Sequence[str]] | None = None,
) -> AnswerScore:
    """Score one answer.

    Args:
        predicted: objects in the answer.
        true: objects that the answer should have.
        names: names of the predicted and of the true objects; None to leave names out of the score.

    Raises:
        ValueError: the masks do not all have the same size.
    """
    masks = [mask for pair in (*predicted, *true) for mask in (pair.visible, pair.amodal)]
    for mask in masks:
        if mask.shape != masks[0].shape:
            raise ValueError(f"masks: expected all of size {masks[0].shape}, got {mask.shape}")
    pixels = {kind: _count_pixels(predicted, true, kind) for kind in MASK_KINDS}
    matches = match_objects(*pixels["amodal"])
    return AnswerScore(
        num_predicted=len(predicted),
        amodal=_overlap(predicted, true, "amodal", pixels["amodal"], matches),
        visible=_overlap(predicted, true, "visible", pixels["visible"], matches),
        objects=_true_objects(predicted, true, pixels, matches),
        names_f1=None if names is None else names_f1(*names),
    )


def match_objects(intersections: IntArray, areas: IntArray, true_areas: IntArray) -> list[tuple[int, int]]:
    """Match predicted to true objects so that the sum of the IoUs is largest. Deterministic.

    Args:
        intersections: (P, T) pixels of both masks.
        areas: (P,) pixels of the predicted masks.
        true_areas: (T,) pixels of the true masks.

    Returns:
        Pairs (predicted, true) of indices, min(P, T) of them.
    """
    rows, columns = linear_sum_assignment(_Pixels(intersections, areas, true_areas).ious(), maximize=True)
    return [(int(p), int(t)) for p, t in zip(rows, columns, strict=True)]


def names_f1(predicted: Sequence[str], true: Sequence[str]) -> float:
    """F1 of two multisets of names; 1 if both are empty."""
    num_common = sum((Counter(predicted) & Counter(true)).values())
    total = len(predicted) + len(true)
    return 2 * num_common / total if total else 1.0


def summarize(scores: Sequence[AnswerScore], *, free: bool = True) -> ReasonMetrics:
    """Compute the metrics of a set of answers.

    Args:
        scores: one score per answer.
        free: whether the model wrote the answers itself. If it did not, the metrics of which objects it names are
            left out, because the given words decide them.

    Returns:
        Metrics by name; a mean over nothing and a ratio with a denominator of 0 are left out.
    """
    metrics: ReasonMetrics = {}
    without_objects = [score for score in scores if not score.objects]
    with_objects = [score for score in scores if score.objects]
    for kind in MASK_KINDS:
        metrics |= _overlap_metrics(kind, [getattr(s, kind) for s in scores], [getattr(s, kind) for s in with_objects])
    rate_errors = [t.rate_error for s in scores for t in s.objects if t.rate_error is not None]
    means: dict[str, list[float]] = {"occlusion_rate_error": rate_errors}
    if free:
        means["no_object_accuracy"] = [float(s.num_predicted == 0) for s in without_objects]
        means["answered_with_object"] = [float(s.num_predicted > 0) for s in with_objects]
        f1s = [s.names_f1 for s in scores if s.names_f1 is not None]
        means |= {"set_F1": f1s, "set_exact": [float(f1 == 1) for f1 in f1s]}
    metrics |= {name: float(np.mean(values)) for name, values in means.items() if values}
    return metrics | {
        "num_answers": len(scores),
        "num_without_object": len(without_objects),
        "num_objects": sum(len(s.objects) for s in scores),
        "num_predicted": sum(s.num_predicted for s in scores),
        "num_rates": len(rate_errors),
    }


def _overlap_metrics(kind: str, overlaps: list[Overlap], with_objects: list[Overlap]) -> ReasonMetrics:
    means = {
        f"gIoU_{kind}": [o.iou for o in overlaps],
        f"gIoU_{kind}_with_objects": [o.iou for o in with_objects],
        f"gIoU_{kind}_union": [o.union_iou for o in overlaps],
    }
    ratios = {
        f"cIoU_{kind}": (sum(o.intersection for o in overlaps), sum(o.union for o in overlaps)),
        f"cIoU_{kind}_union": (sum(o.union_intersection for o in overlaps), sum(o.union_union for o in overlaps)),
    }
    metrics = {name: float(np.mean(values)) for name, values in means.items() if values}
    return metrics | {name: numerator / denominator for name, (numerator, denominator) in ratios.items() if denominator}


def _count_pixels(predicted: Sequence[MaskPair], true: Sequence[MaskPair], kind: str) -> _Pixels:
    indices = [np.flatnonzero(getattr(pair, kind)) for pair in predicted]
    intersections = np.zeros((len(predicted), len(true)), np.int64)
    for t, pair in enumerate(true):
        mask = getattr(pair, kind).ravel()
        intersections[:, t] = [np.count_nonzero(mask[i]) for i in indices]
    areas = np.array([len(i) for i in indices], np.int64)
    return _Pixels(intersections, areas, np.array([np.count_nonzero(getattr(p, kind)) for p in true], np.int64))


def _overlap(
    predicted: Sequence[MaskPair],
    true: Sequence[MaskPair],
    kind: str,
    pixels: _Pixels,
    matches: list[tuple[int, int]],
) -> Overlap:
    ious = pixels.ious()
    num_objects = max(len(predicted), len(true))
    intersection = int(sum(pixels.intersections[pair] for pair in matches))
    union = int(pixels.areas.sum() + pixels.true_areas.sum()) - intersection
    predicted_union, true_union = (_union([getattr(pair, kind) for pair in pairs]) for pairs in (predicted, true))
    if predicted_union is None or true_union is None:  # one side has no object, so there is nothing to intersect
        only_union = predicted_union if true_union is None else true_union
        num_both, num_either = 0, 0 if only_union is None else int(np.count_nonzero(only_union))
        union_iou = 1.0 if num_objects == 0 else 0.0
    else:
        num_both = int(np.count_nonzero(predicted_union & true_union))
        num_either = int(np.count_nonzero(predicted_union | true_union))
        union_iou = mask_iou(predicted_union, true_union)
    iou = float(sum(ious[pair] for pair in matches)) / num_objects if num_objects else 1.0
    return Overlap(iou, intersection, union, union_iou, num_both, num_either)


def _union(masks: list[Mask]) -> Mask | None:
    return np.asarray(np.logical_or.reduce(masks), bool) if masks else None


def _true_objects(
    predicted: Sequence[MaskPair], true: Sequence[MaskPair], pixels: dict[str, _Pixels], matches: list[tuple[int, int]]
) -> tuple[TrueObject, ...]:
    match_of = {t: p for p, t in matches}
    ious = {kind: pixels[kind].ious() for kind in MASK_KINDS}
    objects = []
    for t, pair in enumerate(true):
        p = match_of.get(t)
        if p is None:
            objects.append(TrueObject(pair.occlusion_rate, 0.0, 0.0, None))
            continue
        overlaps = pixels["amodal"].intersections[p, t] > 0
        error = abs(predicted[p].occlusion_rate - pair.occlusion_rate) if overlaps else None
        objects.append(
            TrueObject(pair.occlusion_rate, float(ious["amodal"][p, t]), float(ious["visible"][p, t]), error)
        )
    return tuple(objects)
