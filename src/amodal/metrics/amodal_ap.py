"""The `amodal_ap` protocol: COCO's average precision, on amodal and on visible masks.

Matching and accumulation are pycocotools' own: 101 recall points, IoU thresholds .50:.95, at most 1, 10 and 100
detections per image and category. AP by occlusion range works like COCO's AP by object size, with the occlusion rate
instead of the area: true objects of another range are ignored, and an unmatched detection counts as wrong in the
range of its own occlusion rate, or in every range if it has no visible mask.
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

from amodal.metrics.intervals import EDGES, FloatArray, image_weights, percentile_interval
from amodal.ops.rle import Rle, rle_area

MaskKind = Literal["amodal", "visible"]
APMetrics = dict[str, float | None]

METRIC_NAMES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)  # fmt: skip
"""In the order of pycocotools' `COCOeval.stats`."""
_MAIN = ("AP", "AP50", "AP75")
UNKNOWN_RANGE = -1
"""Range index of a detection without a visible mask."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A true object or a detection.

    Attributes:
        image_id: image it belongs to.
        category_id: its category.
        amodal: amodal mask.
        visible: visible mask; None for a detection without one.
        range_index: index of its `OcclusionRange`; `UNKNOWN_RANGE` without a visible mask.
        score: confidence of a detection, higher is more confident.
        iscrowd: whether it is a true region of many objects, which may match any number of detections and does not
            count as missed.
    """

    image_id: int
    category_id: int
    amodal: Rle
    visible: Rle | None
    range_index: int = UNKNOWN_RANGE
    score: float = 1.0
    iscrowd: bool = False


class AveragePrecision:
    """Average precision of detections on one kind of mask.

    Args:
        truth: true objects, each with a mask of this kind.
        detections: detections; those without a mask of this kind are ignored.
        image_sizes: (H, W) of every image by id, including images without objects.
        kind: which masks are compared.
    """

    def __init__(
        self,
        truth: Sequence[Instance],
        detections: Sequence[Instance],
        image_sizes: dict[int, tuple[int, int]],
        kind: MaskKind,
    ) -> None:
        self._truth, self._kind, self._sizes = truth, kind, image_sizes
        self._detections = [d for d in detections if getattr(d, kind) is not None]
        self._categories = sorted({t.category_id for t in truth} | {d.category_id for d in self._detections})
        self._overall = self._run(by_range=False)

    def metrics(self) -> APMetrics:
        """Return the twelve metrics that COCO prints, by `METRIC_NAMES`; None where there are no true objects."""
        with contextlib.redirect_stdout(io.StringIO()):
            self._overall.summarize()
        return {name: _or_none(value) for name, value in zip(METRIC_NAMES, self._overall.stats, strict=True)}

    def by_category(self) -> dict[int, APMetrics]:
        """Return `AP`, `AP50` and `AP75` per category id."""
        precision = self._overall.eval["precision"]  # (T, R, K, A, M)
        return {c: _main(precision[:, :, k, 0, -1]) for k, c in enumerate(self._categories)}

    def by_range(self) -> list[APMetrics]:
        """Return `AP`, `AP50` and `AP75` per occlusion range."""
        precision = self._run(by_range=True).eval["precision"]
        return [_main(precision[:, :, :, a, -1]) for a in range(precision.shape[3])]

    def intervals(self, num_resamples: int, seed: int) -> dict[str, list[float] | None]:
        """Return 95 % intervals of `AP`, `AP50` and `AP75` from resampled images.

        Detections are matched once; resampling an image repeats or drops its matches. An interval is None where fewer
        than two images have true objects, because the spread of a single image is unknown.
        """
        if np.count_nonzero(np.any([table.num_truth > 0 for table in self._tables], axis=0)) < 2:
            return dict.fromkeys(_MAIN)
        blocks = image_weights(len(self.image_ids), num_resamples, seed)
        ends = percentile_interval(np.array([self.weighted(weights) for block in blocks for weights in block]))
        return {name: None if np.isnan(end).any() else end.tolist() for name, end in zip(_MAIN, ends, strict=True)}

    @property
    def image_ids(self) -> list[int]:
        """Image ids, in the order in which `weighted` takes its weights."""
        return list(self._overall.params.imgIds)

    def weighted(self, weights: FloatArray) -> list[float]:
        """Return `AP`, `AP50` and `AP75` as if image i occurred weights[i] times; NaN without true objects."""
        return _mean_over_categories(np.array([table.precision(weights) for table in self._tables]))  # (K, T)

    @cached_property
    def _tables(self) -> list[_Matches]:
        tables = (self._matches(k) for k in range(len(self._categories)))
        return [table for table in tables if table.num_truth.any()]

    def _run(self, by_range: bool) -> COCOeval:
        """Run pycocotools' evaluation. Ids start at 1, because pycocotools reads a match with id 0 as no match."""
        images = [{"id": i, "height": size[0], "width": size[1]} for i, size in self._sizes.items()]
        truth = [self._record(i + 1, t, by_range) for i, t in enumerate(self._truth)]
        detections = [self._record(i + 1, d, by_range) for i, d in enumerate(self._detections)]
        with contextlib.redirect_stdout(io.StringIO()):
            run = COCOeval(self._index(images, truth), self._index(images, detections), "segm")
            if by_range:
                run.params.areaRng = [[i, i] for i in range(len(EDGES) + 1)]
                run.params.areaRngLbl = [str(i) for i in range(len(EDGES) + 1)]
            run.evaluate()
            run.accumulate()
        return run

    def _record(self, record_id: int, instance: Instance, by_range: bool) -> dict[str, Any]:
        mask = getattr(instance, self._kind)
        area: float = rle_area(mask)
        if by_range:  # no comparison with NaN is true, so pycocotools never treats it as outside a range
            area = np.nan if instance.range_index == UNKNOWN_RANGE else instance.range_index
        return {
            "id": record_id,
            "image_id": instance.image_id,
            "category_id": instance.category_id,
            "segmentation": mask,
            "area": area,
            "iscrowd": int(instance.iscrowd),
            "score": instance.score,
        }

    def _index(self, images: list[dict[str, Any]], records: list[dict[str, Any]]) -> COCO:
        index = COCO()
        index.dataset = {"images": images, "annotations": records, "categories": [{"id": c} for c in self._categories]}
        index.createIndex()
        return index

    def _matches(self, category: int) -> _Matches:
        """Collect the matches that `COCOeval.evaluate` found for one category, over all object sizes."""
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
    """Detections of one category, in descending order of score.

    Attributes:
        image: (D,) index of the image of each detection.
        true_positive: (T, D) bool, matched at each of T IoU thresholds.
        false_positive: (T, D) bool, not matched.
        num_truth: (I,) number of true objects per image.
    """

    image: npt.NDArray[np.int64]
    true_positive: npt.NDArray[np.bool_]
    false_positive: npt.NDArray[np.bool_]
    num_truth: npt.NDArray[np.int64]

    def precision(self, weights: FloatArray) -> FloatArray:
        """Return AP (T,) as if image i occurred weights[i] times; NaN without true objects."""
        num_truth = self.num_truth @ weights
        if num_truth == 0:
            return np.full(len(self.true_positive), np.nan)
        if not len(self.image):
            return np.zeros(len(self.true_positive))
        detection_weights = weights[self.image]
        true_positives = np.cumsum(self.true_positive * detection_weights, axis=1)
        false_positives = np.cumsum(self.false_positive * detection_weights, axis=1)
        recall = true_positives / num_truth
        precision = true_positives / (true_positives + false_positives + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall_points = np.linspace(0, 1, 101)
        means = np.zeros(len(recall))
        for t in range(len(recall)):
            reached = np.searchsorted(recall[t], recall_points, side="left")
            means[t] = envelope[t][reached[reached < recall.shape[1]]].sum() / len(recall_points)
        return means


def _main(precision: FloatArray) -> APMetrics:
    """AP, AP50 and AP75 of (T, R, ...) precisions; pycocotools writes -1 where there are no true objects."""
    parts = (precision, precision[0], precision[5])
    return {n: float(p[p > -1].mean()) if (p > -1).any() else None for n, p in zip(_MAIN, parts, strict=True)}


def _mean_over_categories(precision: FloatArray) -> list[float]:
    """AP, AP50 and AP75 of (K, T) precisions, over the categories with true objects; NaN if there are none."""
    known = precision[~np.isnan(precision).any(axis=1)] if len(precision) else precision
    if not len(known):
        return [np.nan] * len(_MAIN)
    return [float(known.mean()), float(known[:, 0].mean()), float(known[:, 5].mean())]


def _or_none(value: float) -> float | None:
    return None if value < 0 else float(value)
