"""The `reason` protocol: written answers, each with any number of objects, visible and amodal masks.

IoU of one answer: predicted objects are matched to true objects so that the sum of the amodal IoUs is largest
(Hungarian method). The IoUs of the matched pairs, amodal or visible, are summed and divided by the larger of the two
numbers of objects, so an unmatched object counts as 0. An answer without objects to a question without objects
scores 1.

- `gIoU`: mean over answers. `gIoU_*_with_objects`: mean over the answers that have a true object.
- `gIoU_*_per_image`: mean over images of the mean over the answers about the image.
- `mIoU`: mean over the true objects; an unmatched one counts as 0.
- `cIoU`: sum of intersections / sum of unions over all pairs; an unmatched object adds its area to the unions.
- `*_union`: gIoU and cIoU on the union of the masks of an answer, as in papers on reasoning segmentation that predict
  one mask per answer.

Each metric is a ratio of two sums over answers (`AnswerRatio`), so that whole images can be resampled for its interval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from amodal.metrics.intervals import ratio_intervals
from amodal.ops.arrays import Mask
from amodal.ops.masks import iou_of_counts, mask_iou
from amodal.ops.occlusion import occlusion_rate

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
ReasonMetrics = dict[str, float]
MASK_KINDS = ("amodal", "visible")
"""Objects are matched by the first kind that is scored."""


@dataclass(frozen=True)
class MaskPair:
    """The two masks of one object, predicted or true. A prediction may lack one of them.

    Attributes:
        visible: (H, W) bool, or None.
        amodal: (H, W) bool, or None.
        rate: occlusion rate in [0, 1] as the model predicts it; None to compute it from the masks.
    """

    visible: Mask | None
    amodal: Mask | None
    rate: float | None = None

    @property
    def occlusion_rate(self) -> float | None:
        """Predicted occlusion rate if there is one, else 1 - |visible| / |amodal|; None without both masks."""
        if self.rate is None and self.visible is not None and self.amodal is not None:
            return occlusion_rate(self.visible, self.amodal)
        return self.rate


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
        iou_amodal: IoU with the amodal mask of its match; 0 if unmatched, None if amodal masks are not scored.
        iou_visible: IoU with the visible mask of its match; 0 if unmatched, None if visible masks are not scored.
        rate_error: |predicted - true| occlusion rate; None unless the matched masks overlap and the rate is known.
    """

    rate: float
    iou_amodal: float | None
    iou_visible: float | None
    rate_error: float | None


@dataclass(frozen=True)
class AnswerScore:
    """Score of one answer, from which the metrics of a set of answers are computed.

    Attributes:
        num_predicted: number of objects in the answer.
        amodal: overlap of the amodal masks; None if they are not scored.
        visible: overlap of the visible masks; None if they are not scored.
        objects: the true objects.
        names_f1: F1 of the object names as multisets; None if no names were given.
    """

    num_predicted: int
    amodal: Overlap | None
    visible: Overlap | None
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


class AnswerRatio(NamedTuple):
    """Contributions of N answers to a metric, which is sum(numerators) / sum(denominators).

    Attributes:
        numerators: (N,).
        denominators: (N,).
    """

    numerators: FloatArray
    denominators: FloatArray


def score_answer(
    predicted: Sequence[MaskPair],
    true: Sequence[MaskPair],
    names: tuple[Sequence[str], Sequence[str]] | None = None,
    kinds: Sequence[str] = MASK_KINDS,
) -> AnswerScore:
    """Score one answer.

    Args:
        predicted: objects in the answer.
        true: objects that the answer should have, with both masks.
        names: names of the predicted and of the true objects; None to leave names out of the score.
        kinds: kinds of masks that the predicted objects have, of `MASK_KINDS` and in their order.

    Raises:
        ValueError: the masks do not all have the same size.
    """
    masks = [mask for pair in (*predicted, *true) for mask in (pair.visible, pair.amodal) if mask is not None]
    for mask in masks:
        if mask.shape != masks[0].shape:
            raise ValueError(f"masks: expected all of size {masks[0].shape}, got {mask.shape}")
    pixels = {kind: _count_pixels(predicted, true, kind) for kind in kinds}
    matches = match_objects(*pixels[kinds[0]])
    overlaps = {kind: _overlap(predicted, true, kind, pixels[kind], matches) for kind in kinds}
    return AnswerScore(
        num_predicted=len(predicted),
        amodal=overlaps.get("amodal"),
        visible=overlaps.get("visible"),
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


def summarize(scores: Sequence[AnswerScore], image_ids: Sequence[int], *, free: bool = True) -> ReasonMetrics:
    """Compute the metrics of a set of answers.

    Args:
        scores: one score per answer.
        image_ids: image of each answer.
        free: as for `metric_ratios`.

    Returns:
        Metrics by name; one with a denominator of 0 (a mean over nothing) is left out.
    """
    ratios = metric_ratios(scores, image_ids, free=free)
    values = {name: (float(ratio.numerators.sum()), float(ratio.denominators.sum())) for name, ratio in ratios.items()}
    metrics = {name: numerator / denominator for name, (numerator, denominator) in values.items() if denominator}
    return metrics | {
        "num_answers": len(scores),
        "num_without_object": sum(not s.objects for s in scores),
        "num_objects": sum(len(s.objects) for s in scores),
        "num_predicted": sum(s.num_predicted for s in scores),
        "num_rates": sum(t.rate_error is not None for s in scores for t in s.objects),
    }


def summary_intervals(
    scores: Sequence[AnswerScore],
    image_ids: Sequence[int],
    *,
    free: bool = True,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, list[float] | None]:
    """Compute the 95 % interval of each metric of `summarize` from resampled images.

    Args:
        scores: one score per answer.
        image_ids: image of each answer.
        free: as for `metric_ratios`.
        num_resamples: how often the images are drawn with replacement.
        seed: of the draws.

    Returns:
        Lower and upper end by name; None where fewer than two images contribute.
    """
    ratios = metric_ratios(scores, image_ids, free=free)
    units = np.unique(np.array(image_ids), return_inverse=True)[1]
    num_images = int(units.max(initial=-1)) + 1
    sums = np.zeros((2, num_images, len(ratios)))
    for k, ratio in enumerate(ratios.values()):
        for total, values in zip(sums[:, :, k], ratio, strict=True):
            np.add.at(total, units, values)
    ends = ratio_intervals(*sums, num_resamples=num_resamples, seed=seed)
    return {
        name: None if np.isnan(pair).any() else [float(end) for end in pair]
        for name, pair in zip(ratios, ends, strict=True)
    }


def metric_ratios(scores: Sequence[AnswerScore], image_ids: Sequence[int], *, free: bool) -> dict[str, AnswerRatio]:
    """Return the contributions of answers to each metric, by name.

    Args:
        scores: one score per answer.
        image_ids: image of each answer.
        free: whether the model wrote the answers itself. If it did not, the metrics of which objects it names are
            left out, because the given words decide them.
    """
    has_objects = np.array([bool(s.objects) for s in scores], np.float64)
    num_of_image = Counter(image_ids)
    per_image = np.array([1 / num_of_image[i] for i in image_ids], np.float64)  # weights of 1 per image
    ratios: dict[str, AnswerRatio] = {}
    for kind in MASK_KINDS:
        if all(getattr(s, kind) is not None for s in scores):
            ratios |= _overlap_ratios(kind, scores, has_objects, per_image)
    errors = [[t.rate_error for t in s.objects if t.rate_error is not None] for s in scores]
    ratios["occlusion_rate_error"] = _sums_and_counts(errors)
    if free:
        shows = np.array([s.num_predicted > 0 for s in scores], np.float64)
        ratios["no_object_accuracy"] = AnswerRatio((1 - shows) * (1 - has_objects), 1 - has_objects)
        ratios["answered_with_object"] = AnswerRatio(shows * has_objects, has_objects)
        f1s = [[] if s.names_f1 is None else [s.names_f1] for s in scores]
        ratios["set_F1"] = _sums_and_counts(f1s)
        ratios["set_exact"] = _sums_and_counts([[float(f1 == 1) for f1 in of_answer] for of_answer in f1s])
    return ratios


def _overlap_ratios(
    kind: str, scores: Sequence[AnswerScore], has_objects: FloatArray, per_image: FloatArray
) -> dict[str, AnswerRatio]:
    overlaps: list[Overlap] = [getattr(s, kind) for s in scores]
    fields = np.array(overlaps, np.float64).reshape(len(overlaps), len(Overlap._fields)).T
    iou, intersection, union, union_iou, union_intersection, union_union = fields
    each = np.ones(len(scores))
    return {
        f"gIoU_{kind}": AnswerRatio(iou, each),
        f"gIoU_{kind}_per_image": AnswerRatio(iou * per_image, per_image),
        f"gIoU_{kind}_with_objects": AnswerRatio(iou * has_objects, has_objects),
        f"gIoU_{kind}_union": AnswerRatio(union_iou, each),
        f"mIoU_{kind}": _sums_and_counts([[getattr(t, f"iou_{kind}") for t in s.objects] for s in scores]),
        f"cIoU_{kind}": AnswerRatio(intersection, union),
        f"cIoU_{kind}_union": AnswerRatio(union_intersection, union_union),
    }


def _sums_and_counts(values: list[list[float]]) -> AnswerRatio:
    """Contributions to the mean of all values, some per answer."""
    return AnswerRatio(
        np.array([sum(of_answer) for of_answer in values], np.float64),
        np.array([len(of_answer) for of_answer in values], np.float64),
    )


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
    ious = {kind: counts.ious() for kind, counts in pixels.items()}
    first = next(iter(pixels.values()))
    objects = []
    for t, pair in enumerate(true):
        p, true_rate = match_of.get(t), pair.occlusion_rate
        assert true_rate is not None
        matched = {kind: 0.0 if p is None else float(table[p, t]) for kind, table in ious.items()}
        error = None
        if p is not None and first.intersections[p, t] > 0:
            rate = predicted[p].occlusion_rate
            error = None if rate is None else abs(rate - true_rate)
        objects.append(TrueObject(true_rate, matched.get("amodal"), matched.get("visible"), error))
    return tuple(objects)
