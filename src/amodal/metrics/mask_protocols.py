"""The protocols `strict`, `c2f` and `cumulative`: mean IoU of predicted masks, one prediction per annotated object.

All three follow from the same pixel counts per object (`PixelCounts`). A protocol turns the counts of N objects into
named `Ratio`s, and the metric of any set of objects is the sum of the numerators over the sum of the denominators of
that set. Means, occlusion ranges, categories and confidence intervals therefore need no code per protocol.

Notation, all masks at full image size: P predicted amodal mask, G true amodal mask, V true visible mask, W predicted
visible mask. Each protocol has a `full` metric (P against G), an `occ` metric (P∖V against G∖V: the occluded part,
taken outside the *true* visible mask) and, where visible masks were predicted, a `visible` metric (W against V).
`strict` also has two metrics of what people notice first in a mask, `false_occlusion_rate` and `single_component`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from amodal.metrics.intervals import FloatArray, OcclusionRange, range_indices
from amodal.ops.arrays import Mask
from amodal.ops.masks import iou_of_counts
from amodal.ops.occlusion import MIN_OCCLUSION_RATE
from amodal.ops.rle import Rle, count_components, encode_mask, rle_as_bytes

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
CountsRow = tuple[int, ...]
"""Counts of one object, in the order of the fields of `PixelCounts`."""

C2F_FULL_EPSILON = 1e-10
C2F_OCC_EPSILON = 1e-6

MAX_RATE_OF_UNOCCLUDED = 0.05
"""Largest predicted occlusion rate with which an object that is not occluded counts as reported correctly."""


class PixelCounts(NamedTuple):
    """Pixel counts of N objects, each field (N,) int64.

    Attributes:
        intersection: |P∩G|.
        union: |P∪G|.
        occluded_intersection: |(P∖V) ∩ (G∖V)|.
        occluded_union: |(P∖V) ∪ (G∖V)|.
        amodal_area: |G|.
        visible_area: |V|.
        occluded_area: |G∖V|.
        spilled_area: |V∖G|; 0 where the annotation is consistent.
        visible_intersection: |W∩V|.
        visible_union: |W∪V|; -1 where no visible mask was predicted.
        occluded_area_pred: |P∖W|; -1 where no visible mask was predicted.
        is_detected: 1 for a detection of C2F-Seg's released data, which `c2f` counts even where V is empty; 0 for all
            other objects.
        num_components: connected components of P (8-connectivity); -1 where they were not counted.
    """

    intersection: IntArray
    union: IntArray
    occluded_intersection: IntArray
    occluded_union: IntArray
    amodal_area: IntArray
    visible_area: IntArray
    occluded_area: IntArray
    spilled_area: IntArray
    visible_intersection: IntArray
    visible_union: IntArray
    occluded_area_pred: IntArray
    is_detected: IntArray
    num_components: IntArray

    @classmethod
    def from_rows(cls, rows: Iterable[CountsRow] | IntArray) -> PixelCounts:
        """Build the counts from one row per object."""
        table = np.asarray(rows if isinstance(rows, np.ndarray) else list(rows), np.int64)
        return cls(*table.reshape(-1, len(cls._fields)).T)

    @property
    def occluded_share(self) -> FloatArray:
        """|G∖V| / |G|, (N,) in [0, 1]; 0 for an empty G.

        This is the occlusion rate where V lies inside G, and it stays consistent with `occluded_area` where V does
        not.
        """
        return np.asarray(self.occluded_area / np.maximum(self.amodal_area, 1), np.float64)

    @property
    def amodal_area_pred(self) -> IntArray:
        """|P|, (N,)."""
        return self.intersection + self.union - self.amodal_area

    @property
    def occluded_share_pred(self) -> FloatArray:
        """|P∖W| / |P|, (N,) in [0, 1]: the predicted occlusion rate; 0 for an empty P, meaningless without a W."""
        return np.asarray(self.occluded_area_pred / np.maximum(self.amodal_area_pred, 1), np.float64)


def count_pixels(
    amodal_pred: Rle,
    amodal_true: Rle,
    visible_true: Rle,
    visible_pred: Rle | None = None,
    *,
    is_detected: bool = False,
) -> CountsRow:
    """Count the pixels of one object on run lengths, without decoding any mask.

    Components are not counted, because `count_components` counts those of many masks at a time.

    Args:
        amodal_pred: P.
        amodal_true: G.
        visible_true: V.
        visible_pred: W, or None.
        is_detected: whether the object is a detection of C2F-Seg's released data.

    Raises:
        ValueError: the masks do not all have the same size.
    """
    masks = [amodal_pred, amodal_true, visible_true, *([visible_pred] if visible_pred else [])]
    for rle in masks:
        if list(rle["size"]) != list(amodal_true["size"]):
            raise ValueError(f"masks: expected all of size {list(amodal_true['size'])}, got {list(rle['size'])}")
    P, G, V, *W = (rle_as_bytes(rle) for rle in masks)
    PG = _intersect(P, G)
    regions = [P, G, V, PG, _intersect(P, V), _intersect(G, V), _intersect(PG, V)]
    regions += [W[0], _intersect(W[0], V), _intersect(W[0], P)] if W else []
    p, g, v, pg, pv, gv, pgv, *w = (int(n) for n in coco_mask.area(regions))
    occluded_intersection = pg - pgv
    visible_intersection, visible_union = (w[1], w[0] + v - w[1]) if w else (0, -1)
    return (
        pg,
        p + g - pg,
        occluded_intersection,
        (p - pv) + (g - gv) - occluded_intersection,
        g,
        v,
        g - gv,
        v - gv,
        visible_intersection,
        visible_union,
        p - w[2] if w else -1,
        int(is_detected),
        -1,
    )


def _intersect(a: Rle, b: Rle) -> Rle:
    merged: Rle = coco_mask.merge([a, b], True)
    return merged


@dataclass(frozen=True)
class Ratio:
    """One metric over N objects, as a ratio of two sums.

    Attributes:
        numerator: (N,) contribution of each object to the numerator.
        denominator: (N,) contribution of each object to the denominator.
        counted: (N,) bool, the objects that the metric is reported to be about.
    """

    numerator: FloatArray
    denominator: FloatArray
    counted: BoolArray

    def value(self, selected: BoolArray | None = None) -> float | None:
        """Return the metric of the selected objects (all if None); None if the denominator is 0."""
        numerator = self.numerator if selected is None else self.numerator[selected]
        denominator = self.denominator if selected is None else self.denominator[selected]
        total = denominator.sum()
        return float(numerator.sum() / total) if total > 0 else None


Ratios = dict[str, Ratio]


def strict_ratios(counts: PixelCounts) -> Ratios:
    """`strict`: means over objects.

    full: |P∩G| / |P∪G| over all objects. occ: the same of P∖V and G∖V, over the objects whose G∖V is not empty. The
    IoU of two empty masks is 1.

    `false_occlusion_rate`: share of the objects with |G∖V| / |G| below `MIN_OCCLUSION_RATE` that have |P∖W| / |P| above
    `MAX_RATE_OF_UNOCCLUDED`, where visible masks were predicted. `single_component`: share of the P that are one
    connected component, among those that are not empty, where components were counted.
    """
    everything = np.ones(len(counts.union), bool)
    ratios = {
        "mIoU_full": _mean(iou_of_counts(counts.intersection, counts.union), everything),
        "mIoU_occ": _mean(iou_of_counts(counts.occluded_intersection, counts.occluded_union), counts.occluded_area > 0),
    }
    known = counts.visible_union >= 0
    if known.any():
        ratios["mIoU_visible"] = _mean(iou_of_counts(counts.visible_intersection, counts.visible_union), known)
        complete = known & (counts.occluded_share < MIN_OCCLUSION_RATE)
        ratios["false_occlusion_rate"] = _share(counts.occluded_share_pred > MAX_RATE_OF_UNOCCLUDED, complete)
    if (counts.num_components >= 0).any():
        ratios["single_component"] = _share(counts.num_components == 1, counts.num_components > 0)
    return ratios


def c2f_ratios(counts: PixelCounts) -> Ratios:
    """`c2f`: the metrics in the tables of C2F-Seg and PLUG, including two quirks of C2F-Seg's code.

    full: (|P∩G| + 1e-10) / (|P∪G| + 1e-10), mean over objects. occ: with P_o = (P - V) > 0.5 and G_o = (G - V) > 0.5,
    the IoU is |P_o∩G_o| / (|P_o∪G_o| + 1e-6), so two empty masks give 0. The *sum* of the IoUs runs over all objects,
    but the *count* leaves out each object whose signed sum of (G - V) over the image is 0. Two quirks follow and are
    kept, because the published numbers contain them: an object that is not occluded but whose V reaches outside G is
    counted, with an IoU of 0; and where the two areas cancel exactly, the IoU is added but the object is not counted.
    An annotated object whose V is empty is not counted either, and one whose G is empty as well is subtracted from the
    count: `counts` of the published loaders. A detected object (`PixelCounts.is_detected`: a line of their lists that
    names an entry of the pickle) has `counts` 1 even if its V is empty.
    """
    everything = np.ones(len(counts.union), bool)
    occ = counts.occluded_intersection / (counts.occluded_union + C2F_OCC_EPSILON)
    signed_sum = counts.amodal_area - counts.visible_area  # of (G - V) over the image
    published_counts = (counts.visible_area > 0) | (counts.is_detected > 0)
    weight = published_counts.astype(np.float64) - (signed_sum == 0)
    ratios = {
        "mIoU_full": _mean(_c2f_full(counts.intersection, counts.union), everything),
        "mIoU_occ": Ratio(occ, weight, weight > 0),
    }
    known = counts.visible_union >= 0
    if known.any():
        ratios["mIoU_visible"] = _mean(_c2f_full(counts.visible_intersection, counts.visible_union), known)
    return ratios


def cumulative_ratios(counts: PixelCounts) -> Ratios:
    """`cumulative` (PCNet, SDAmodal): intersections and unions are summed over the dataset before dividing.

    full: Σ|P∩G| / Σ|P∪G| over all objects. occ: the same restricted to pixels outside V. Large objects therefore
    weigh more. The metrics keep the name mIoU, under which those papers print them.
    """
    everything = np.ones(len(counts.union), bool)
    occ = _pooled(counts.occluded_intersection, counts.occluded_union, everything)
    ratios = {
        "mIoU_full": _pooled(counts.intersection, counts.union, everything),
        "mIoU_occ": Ratio(occ.numerator, occ.denominator, counts.occluded_area > 0),
    }
    known = counts.visible_union >= 0
    if known.any():
        ratios["mIoU_visible"] = _pooled(counts.visible_intersection, counts.visible_union, known)
    return ratios


MASK_PROTOCOLS: dict[str, Callable[[PixelCounts], Ratios]] = {
    "strict": strict_ratios,
    "c2f": c2f_ratios,
    "cumulative": cumulative_ratios,
}
"""Protocols that score one prediction per annotated object."""


def _mean(values: FloatArray, counted: BoolArray) -> Ratio:
    """Mean of `values` over the counted objects."""
    return Ratio(np.where(counted, values, 0.0), counted.astype(np.float64), counted)


def _share(holds: BoolArray, counted: BoolArray) -> Ratio:
    """Share of the counted objects for which something holds."""
    return _mean(holds.astype(np.float64), counted)


def _c2f_full(intersection: IntArray, union: IntArray) -> FloatArray:
    return np.asarray((intersection + C2F_FULL_EPSILON) / (np.maximum(union, 0) + C2F_FULL_EPSILON), np.float64)


def _pooled(intersection: IntArray, union: IntArray, counted: BoolArray) -> Ratio:
    return Ratio(np.where(counted, intersection, 0).astype(float), np.where(counted, union, 0).astype(float), counted)


@dataclass
class StrictIoU:
    """The `strict` protocol for masks that come one by one, for example in a notebook or a test.

    Example:
        >>> scores = StrictIoU()
        >>> scores.update(amodal_pred, amodal_true, visible_true)
        >>> scores.compute()["mIoU_full"]

    Attributes:
        rows: counts per object so far.
    """

    rows: list[CountsRow] = field(default_factory=list)

    def update(
        self, amodal_pred: Mask, amodal_true: Mask, visible_true: Mask, visible_pred: Mask | None = None
    ) -> None:
        """Add one object; all masks are (H, W) bool of the same size.

        Raises:
            ValueError: the masks do not all have the same size.
        """
        visible, amodal = None if visible_pred is None else encode_mask(visible_pred), encode_mask(amodal_pred)
        counts = count_pixels(amodal, encode_mask(amodal_true), encode_mask(visible_true), visible)
        self.rows.append((*counts[:-1], int(count_components([amodal])[0])))

    @property
    def counts(self) -> PixelCounts:
        """Pixel counts of all objects so far."""
        return PixelCounts.from_rows(self.rows)

    @property
    def num_spilled(self) -> int:
        """Number of true visible masks that reach outside their amodal mask."""
        return int((self.counts.spilled_area > 0).sum())

    def compute(self) -> dict[str, float]:
        """Return the metrics of `strict_ratios` in [0, 1], with the numbers of objects behind them.

        A mean over no objects is 0; `mIoU_visible` and `false_occlusion_rate` are left out if no visible mask was
        predicted.
        """
        return self._metrics(np.ones(len(self.rows), bool))

    def by_occlusion(self) -> list[dict[str, float]]:
        """Return the same as `compute` per `OcclusionRange`."""
        indices = range_indices(self.counts.occluded_share)
        return [
            {"above": r.above, "up_to": r.up_to} | self._metrics(indices == i)
            for i, r in enumerate(OcclusionRange.all())
        ]

    def _metrics(self, selected: BoolArray) -> dict[str, float]:
        ratios = strict_ratios(self.counts)
        metrics = {name: ratio.value(selected) or 0.0 for name, ratio in ratios.items()}
        num_occluded = int((ratios["mIoU_occ"].counted & selected).sum())
        return metrics | {"num_objects": int(selected.sum()), "num_occluded": num_occluded}
