"""The `amodal_ap` protocol: COCO's average precision on amodal and on visible masks.

Matching and accumulation are pycocotools' own: 101 recall points, IoU .50:.95, at most 1, 10 and
100 detections an image and category. AP by occlusion range is COCO's way with object sizes, the
hidden share in the place of the area: truth of another range is ignored, and a detection that
matches nothing counts in the range of its own hidden share, or in every range if it has no
visible mask.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from amodal.metrics.bootstrap import image_weights, percentile_interval
from amodal.metrics.ranges import EDGES
from amodal.metrics.ratios import Values
from amodal.ops.rle import Rle, rle_area

Kind = Literal["amodal", "visible"]
Figures = dict[str, float | None]

NAMES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)  # fmt: skip
"""In the order of pycocotools' `COCOeval.stats`."""
_MAIN = ("AP", "AP50", "AP75")
_NO_RANGE = -1  # of a detection without a visible mask


@dataclass(frozen=True, slots=True)
class Instance:
    """A true object or a detection.

    Attributes:
        image_id: of its image.
        category_id: of its category.
        amodal: amodal mask.
        visible: visible mask; None for a detection without one.
        range_index: of its hidden share, see `ranges`; `-1` where unknown.
        score: of a detection, larger is surer.
        iscrowd: true region of many objects: matches any number of detections and counts none.
    """

    image_id: int
    category_id: int
    amodal: Rle
    visible: Rle | None
    range_index: int = _NO_RANGE
    score: float = 1.0
    iscrowd: bool = False


class AveragePrecision:
    """AP of detections on one kind of mask.

    Args:
        truth: true objects, each with the mask of this kind.
        detections: detections; those without a mask of this kind are left out.
        image_sizes: (H, W) of every image, also those without objects.
        kind: which masks are compared.
    """

    def __init__(
        self,
        truth: Sequence[Instance],
        detections: Sequence[Instance],
        image_sizes: dict[int, tuple[int, int]],
        kind: Kind,
    ) -> None:
        self._truth, self._kind, self._sizes = truth, kind, image_sizes
        self._found = [d for d in detections if getattr(d, kind) is not None]
        self._categories = sorted({t.category_id for t in truth} | {d.category_id for d in self._found})
        self._overall = self._run(by_range=False)

    def figures(self) -> Figures:
        """The twelve figures that COCO prints, under `NAMES`; None where there is no truth."""
        with contextlib.redirect_stdout(io.StringIO()):
            self._overall.summarize()
        return {name: _known(value) for name, value in zip(NAMES, self._overall.stats, strict=True)}

    def by_category(self) -> dict[int, Figures]:
        """`AP`, `AP50`, `AP75` of each category."""
        precision = self._overall.eval["precision"]  # (T, R, K, A, M)
        return {c: _main(precision[:, :, k, 0, -1]) for k, c in enumerate(self._categories)}

    def by_range(self) -> list[Figures]:
        """`AP`, `AP50`, `AP75` of each occlusion range."""
        precision = self._run(by_range=True).eval["precision"]
        return [_main(precision[:, :, :, a, -1]) for a in range(precision.shape[3])]

    def intervals(self, resamples: int, seed: int) -> dict[str, list[float] | None]:
        """95 % intervals of `AP`, `AP50`, `AP75` from resampled images; matches stay as they are."""
        drawn = [self.weighted(w) for block in image_weights(len(self.image_ids), resamples, seed) for w in block]
        ends = percentile_interval(np.array(drawn))
        return {name: None if np.isnan(end).any() else end.tolist() for name, end in zip(_MAIN, ends, strict=True)}

    @property
    def image_ids(self) -> list[int]:
        """In the order of `weighted`."""
        return list(self._overall.params.imgIds)

    def weighted(self, weights: Values) -> list[float]:
        """`AP`, `AP50`, `AP75` if image i were there weights[i] times; NaN without truth."""
        return _mean_known(np.array([table.precision(weights) for table in self._tables]))  # (K, T)

    @cached_property
    def _tables(self) -> list[_Matches]:
        tables = (self._matches(k) for k in range(len(self._categories)))
        return [table for table in tables if table.num_truth.any()]

    def _run(self, by_range: bool) -> COCOeval:
        """pycocotools' evaluation; ids start at 1, as it takes a match with id 0 for none."""
        images = [{"id": i, "height": size[0], "width": size[1]} for i, size in self._sizes.items()]
        truth = [self._record(i + 1, t, by_range) for i, t in enumerate(self._truth)]
        found = [self._record(i + 1, d, by_range) for i, d in enumerate(self._found)]
        with contextlib.redirect_stdout(io.StringIO()):
            run = COCOeval(self._index(images, truth), self._index(images, found), "segm")
            if by_range:
                run.params.areaRng = [[i, i] for i in range(len(EDGES) + 1)]
                run.params.areaRngLbl = [str(i) for i in range(len(EDGES) + 1)]
            run.evaluate()
            run.accumulate()
        return run

    def _record(self, number: int, thing: Instance, by_range: bool) -> dict[str, Any]:
        mask = getattr(thing, self._kind)
        area: float = rle_area(mask)
        if by_range:  # NaN lies outside no range
            area = np.nan if thing.range_index == _NO_RANGE else thing.range_index
        return {
            "id": number,
            "image_id": thing.image_id,
            "category_id": thing.category_id,
            "segmentation": mask,
            "area": area,
            "iscrowd": int(thing.iscrowd),
            "score": thing.score,
        }

    def _index(self, images: list[dict[str, Any]], records: list[dict[str, Any]]) -> COCO:
        index = COCO()
        index.dataset = {"images": images, "annotations": records, "categories": [{"id": c} for c in self._categories]}
        index.createIndex()
        return index

    def _matches(self, category: int) -> _Matches:
        """What `COCOeval.evaluate` found for one category, all sizes."""
        params = self._overall.params
        num_images, num_ranges = len(params.imgIds), len(params.areaRng)
        first = category * num_ranges * num_images
        images = self._overall.evalImgs[first : first + num_images]
        num_truth = np.array([0 if e is None else np.count_nonzero(e["gtIgnore"] == 0) for e in images])
        known = [(i, e) for i, e in enumerate(images) if e is not None]
        if not known:
            nothing = np.zeros((len(params.iouThrs), 0), bool)
            return _Matches(np.zeros(0, int), nothing, nothing, num_truth)
        scores = np.concatenate([e["dtScores"] for _, e in known])
        order = np.argsort(-scores, kind="mergesort")  # as pycocotools: ties keep their order
        image = np.concatenate([np.full(len(e["dtScores"]), i) for i, e in known])[order]
        matched = np.concatenate([e["dtMatches"] for _, e in known], axis=1)[:, order] != 0
        ignored = np.concatenate([e["dtIgnore"] for _, e in known], axis=1)[:, order] != 0
        return _Matches(image.astype(int), matched & ~ignored, ~matched & ~ignored, num_truth)


@dataclass(frozen=True)
class _Matches:
    """Detections of one category in falling order of score.

    Attributes:
        image: (D,) index of each one's image.
        right: (T, D) bool, matched at each IoU threshold.
        wrong: (T, D) bool, matched with nothing.
        num_truth: (I,) true objects an image.
    """

    image: npt.NDArray[np.int64]
    right: npt.NDArray[np.bool_]
    wrong: npt.NDArray[np.bool_]
    num_truth: npt.NDArray[np.int64]

    def precision(self, weights: Values) -> Values:
        """(T,) mean over COCO's recall points when image i is there weights[i] times; NaN without truth."""
        num_truth = self.num_truth @ weights
        if num_truth == 0:
            return np.full(len(self.right), np.nan)
        if not len(self.image):
            return np.zeros(len(self.right))
        share = weights[self.image]
        right, wrong = np.cumsum(self.right * share, axis=1), np.cumsum(self.wrong * share, axis=1)
        recall = right / num_truth
        precision = right / (right + wrong + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        points = np.linspace(0, 1, 101)
        means = np.zeros(len(right))
        for t in range(len(right)):
            at = np.searchsorted(recall[t], points, side="left")
            means[t] = envelope[t][at[at < recall.shape[1]]].sum() / len(points)
        return means


def _main(precision: Values) -> Figures:
    """(T, R, ...) precisions to AP, AP50, AP75; -1 marks what has no truth."""
    parts = (precision, precision[0], precision[5])
    return {n: float(p[p > -1].mean()) if (p > -1).any() else None for n, p in zip(_MAIN, parts, strict=True)}


def _mean_known(precision: Values) -> list[float]:
    """(K, T) APs of categories to AP, AP50, AP75 over those with truth; NaN without any."""
    known = precision[~np.isnan(precision).any(axis=1)] if len(precision) else precision
    if not len(known):
        return [np.nan] * len(_MAIN)
    return [float(known.mean()), float(known[:, 0].mean()), float(known[:, 5].mean())]


def _known(value: float) -> float | None:
    return None if value < 0 else float(value)
