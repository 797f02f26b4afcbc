"""The `reason` protocol: answers in words, each with any number of objects, visible and amodal.

One answer's IoU: its objects are paired with the true ones so that the sum of the amodal IoUs is
largest (Hungarian method, as many pairs as the shorter side has); the IoUs of the pairs, amodal or
visible, are summed and divided by the number of the longer side, so that whatever finds no partner
counts 0. Nothing said where nothing is true counts 1.

- `gIoU`: mean over answers. `_with_objects`: over those answers only that have a true object.
- `cIoU`: sum of intersections / sum of unions over all pairs; objects without a partner add their
  area to the unions.
- `_union`: the same two figures on the union of an answer's masks, as the papers on reasoning
  segmentation count that predict one mask an answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from amodal.ops.masks import mask_iou, occlusion_rate

Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.int64]
Figures = dict[str, float]


@dataclass(frozen=True)
class ObjectMasks:
    """What an answer says of one object.

    Attributes:
        visible: (H, W) bool.
        amodal: (H, W) bool.
        rate: occlusion rate in [0, 1]; that of the masks if None.
    """

    visible: Mask
    amodal: Mask
    rate: float | None = None

    @property
    def occlusion_rate(self) -> float:
        """As stated, else 1 - |visible| / |amodal|."""
        return occlusion_rate(self.visible, self.amodal) if self.rate is None else self.rate


class Overlap(NamedTuple):
    """Figures of one answer for one kind of mask.

    Attributes:
        iou: of the answer, see the module's text.
        intersection: pixels shared by partners.
        union: pixels of partners, and of objects without one.
        union_iou: IoU of the union of all masks.
        union_intersection: pixels of it.
        union_union: pixels of it.
    """

    iou: float
    intersection: int
    union: int
    union_iou: float
    union_intersection: int
    union_union: int


class TrueObject(NamedTuple):
    """One true object and what became of it.

    Attributes:
        rate: true occlusion rate.
        iou_amodal: with its partner, 0 without one.
        iou_visible: likewise.
        rate_error: |stated - true| of a partner that overlaps it, else None.
    """

    rate: float
    iou_amodal: float
    iou_visible: float
    rate_error: float | None


@dataclass(frozen=True)
class AnswerScore:
    """Everything the figures of a set of answers are made of.

    Attributes:
        num_predicted: objects in the answer.
        amodal: overlap of the amodal masks.
        visible: overlap of the visible masks.
        objects: the true ones.
        names_f1: F1 of the names as multisets, None where no names were given.
    """

    num_predicted: int
    amodal: Overlap
    visible: Overlap
    objects: tuple[TrueObject, ...]
    names_f1: float | None = None


def score_answer(
    predicted: Sequence[ObjectMasks],
    true: Sequence[ObjectMasks],
    names: tuple[Sequence[str], Sequence[str]] | None = None,
) -> AnswerScore:
    """Score one answer.

    Args:
        predicted: its objects.
        true: those it should have.
        names: what the predicted and the true objects are called, if names are to count.

    Raises:
        ValueError: masks of different sizes.
    """
    masks = [mask for thing in (*predicted, *true) for mask in (thing.visible, thing.amodal)]
    for given in masks:
        if given.shape != masks[0].shape:
            raise ValueError(f"masks: expected all of size {masks[0].shape}, got {given.shape}")
    shared = {kind: _intersections(predicted, true, kind) for kind in ("amodal", "visible")}
    pairs = match(*(shared["amodal"]))
    return AnswerScore(
        num_predicted=len(predicted),
        amodal=_overlap(predicted, true, "amodal", shared["amodal"], pairs),
        visible=_overlap(predicted, true, "visible", shared["visible"], pairs),
        objects=_true_objects(predicted, true, shared, pairs),
        names_f1=None if names is None else names_f1(*names),
    )


def match(intersections: Pixels, areas: Pixels, true_areas: Pixels) -> list[tuple[int, int]]:
    """Pairs (predicted, true) of the largest sum of IoUs; the same input gives the same pairs.

    Args:
        intersections: (P, T) pixels shared.
        areas: (P,) pixels predicted.
        true_areas: (T,) pixels true.
    """
    rows, columns = linear_sum_assignment(_ious(intersections, areas, true_areas), maximize=True)
    return [(int(p), int(t)) for p, t in zip(rows, columns, strict=True)]


def names_f1(predicted: Sequence[str], true: Sequence[str]) -> float:
    """F1 of two multisets of names; 1 if both are empty."""
    common = sum((Counter(predicted) & Counter(true)).values())
    total = len(predicted) + len(true)
    return 2 * common / total if total else 1.0


def summarise(scores: Sequence[AnswerScore], *, free: bool = True) -> Figures:
    """Figures of a set of answers.

    Args:
        scores: one an answer.
        free: the model wrote the answers itself; if not, which objects they name says nothing about it, and
            figures of that kind are left out.

    Returns:
        Figures by name; a mean over nothing and a quotient of nothing are left out.
    """
    figures: Figures = {}
    empty = [score for score in scores if not score.objects]
    full = [score for score in scores if score.objects]
    for kind in ("amodal", "visible"):
        figures |= _of_kind(kind, [getattr(s, kind) for s in scores], [getattr(s, kind) for s in full])
    errors = [t.rate_error for s in scores for t in s.objects if t.rate_error is not None]
    means: dict[str, list[float]] = {"occlusion_rate_error": errors}
    if free:
        means["no_object_accuracy"] = [float(s.num_predicted == 0) for s in empty]
        means["answered_with_object"] = [float(s.num_predicted > 0) for s in full]
        f1s = [s.names_f1 for s in scores if s.names_f1 is not None]
        means |= {"set_F1": f1s, "set_exact": [float(f1 == 1) for f1 in f1s]}
    figures |= {name: float(np.mean(values)) for name, values in means.items() if values}
    return figures | {
        "num_answers": len(scores),
        "num_without_object": len(empty),
        "num_objects": sum(len(s.objects) for s in scores),
        "num_predicted": sum(s.num_predicted for s in scores),
        "num_rates": len(errors),
    }


def _of_kind(kind: str, overlaps: list[Overlap], with_objects: list[Overlap]) -> Figures:
    means = {
        f"gIoU_{kind}": [o.iou for o in overlaps],
        f"gIoU_{kind}_with_objects": [o.iou for o in with_objects],
        f"gIoU_{kind}_union": [o.union_iou for o in overlaps],
    }
    quotients = {
        f"cIoU_{kind}": (sum(o.intersection for o in overlaps), sum(o.union for o in overlaps)),
        f"cIoU_{kind}_union": (sum(o.union_intersection for o in overlaps), sum(o.union_union for o in overlaps)),
    }
    figures = {name: float(np.mean(values)) for name, values in means.items() if values}
    return figures | {name: above / below for name, (above, below) in quotients.items() if below}


def _intersections(
    predicted: Sequence[ObjectMasks], true: Sequence[ObjectMasks], kind: str
) -> tuple[Pixels, Pixels, Pixels]:
    """(P, T) pixels shared, and (P,) and (T,) areas, of the masks of one kind."""
    where = [np.flatnonzero(getattr(thing, kind)) for thing in predicted]
    shared = np.zeros((len(predicted), len(true)), np.int64)
    for t, thing in enumerate(true):
        mask = getattr(thing, kind).ravel()
        shared[:, t] = [np.count_nonzero(mask[pixels]) for pixels in where]
    areas = np.array([len(pixels) for pixels in where], np.int64)
    return shared, areas, np.array([np.count_nonzero(getattr(thing, kind)) for thing in true], np.int64)


def _ious(shared: Pixels, areas: Pixels, true_areas: Pixels) -> npt.NDArray[np.float64]:
    """(P, T) IoUs; 1 where both masks are empty."""
    unions = areas[:, None] + true_areas[None] - shared
    return np.where(unions > 0, shared / np.maximum(unions, 1), 1.0)


def _overlap(
    predicted: Sequence[ObjectMasks],
    true: Sequence[ObjectMasks],
    kind: str,
    pixels: tuple[Pixels, Pixels, Pixels],
    pairs: list[tuple[int, int]],
) -> Overlap:
    shared, areas, true_areas = pixels
    ious = _ious(*pixels)
    longer = max(len(predicted), len(true))
    intersection = int(sum(shared[pair] for pair in pairs))
    union = int(areas.sum() + true_areas.sum()) - intersection
    sides = [_united([getattr(thing, kind) for thing in things]) for things in (predicted, true)]
    if sides[0] is None or sides[1] is None:
        lone = sides[0] if sides[1] is None else sides[1]
        both, either = 0, 0 if lone is None else int(np.count_nonzero(lone))
        union_iou = 1.0 if longer == 0 else 0.0
    else:
        both, either = int(np.count_nonzero(sides[0] & sides[1])), int(np.count_nonzero(sides[0] | sides[1]))
        union_iou = mask_iou(sides[0], sides[1])
    iou = float(sum(ious[pair] for pair in pairs)) / longer if longer else 1.0
    return Overlap(iou, intersection, union, union_iou, both, either)


def _united(masks: list[Mask]) -> Mask | None:
    return np.asarray(np.logical_or.reduce(masks), bool) if masks else None


def _true_objects(
    predicted: Sequence[ObjectMasks],
    true: Sequence[ObjectMasks],
    shared: dict[str, tuple[Pixels, Pixels, Pixels]],
    pairs: list[tuple[int, int]],
) -> tuple[TrueObject, ...]:
    partner = {t: p for p, t in pairs}
    amodal, visible = _ious(*shared["amodal"]), _ious(*shared["visible"])
    found = []
    for t, thing in enumerate(true):
        p = partner.get(t)
        if p is None:
            found.append(TrueObject(thing.occlusion_rate, 0.0, 0.0, None))
            continue
        overlaps = shared["amodal"][0][p, t] > 0
        error = abs(predicted[p].occlusion_rate - thing.occlusion_rate) if overlaps else None
        found.append(TrueObject(thing.occlusion_rate, float(amodal[p, t]), float(visible[p, t]), error))
    return tuple(found)
