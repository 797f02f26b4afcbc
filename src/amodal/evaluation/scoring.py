"""From predictions to pixel counts per object, and from counts to metrics.

Masks are counted in their run-length encoding, a few hundred objects per job, in one process or several. Results of
parts of a dataset add up to the result of the whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from amodal.data.samples import AnnotatedDataset
from amodal.errors import InputError
from amodal.evaluation.boxes import BoxSource
from amodal.evaluation.matching import MatchedRecords, ObjectRecords
from amodal.evaluation.rows import Case, FileRow, cases_of_image, prediction_of
from amodal.evaluation.selection import ObjectKey, ObjectSelection
from amodal.evaluation.worst import WorstObjects
from amodal.metrics.intervals import OcclusionRange, range_indices, ratio_intervals
from amodal.metrics.mask_protocols import (
    MASK_PROTOCOLS,
    BoolArray,
    CountsRow,
    IntArray,
    PixelCounts,
    Ratios,
    count_pixels,
)
from amodal.ops.rle import count_components

OBJECTS_PER_JOB = 256
IMAGES_PER_PART = 64
MIN_MASKS_FOR_PROCESSES = 50_000
"""Smallest number of masks that several processes score faster: starting them takes a second, one mask 0.2 ms."""

RowMetrics = dict[str, Any]


@dataclass(frozen=True)
class Scorer:
    """Counts the pixels of cases.

    Attributes:
        rows: names of the rows to count, in the order of the result.
        main: row whose visible masks the baselines may use; the first of `rows`.
        counts_components: count the connected components of the main row's amodal masks.
    """

    rows: tuple[str, ...]
    main: str
    counts_components: bool = False

    def __call__(self, cases: list[Case]) -> IntArray:
        """Return (N, number of rows, fields of `PixelCounts`) int64."""
        table = np.array([[self._count(case, name) for name in self.rows] for case in cases], np.int64)
        if self.counts_components:
            column = PixelCounts._fields.index("num_components")
            table[:, 0, column] = count_components([prediction_of(case, self.main, self.main).amodal for case in cases])
        return table

    def _count(self, case: Case, name: str) -> CountsRow:
        prediction = prediction_of(case, name, self.main)
        return count_pixels(
            prediction.amodal, case.amodal, case.visible, prediction.visible, is_detected=case.is_detected
        )


def pick_num_workers(num_objects: int, num_rows: int) -> int:
    """Return the number of processes that score this many objects fastest."""
    return 1 if num_objects * num_rows < MIN_MASKS_FOR_PROCESSES else min(os.cpu_count() or 1, 8)


def split_into_jobs(cases: Iterable[Case]) -> Iterator[list[Case]]:
    """Group cases into lists that are worth sending to another process."""
    job: list[Case] = []
    for case in cases:
        job.append(case)
        if len(job) == OBJECTS_PER_JOB:
            yield job
            job = []
    if job:
        yield job


@dataclass(frozen=True)
class ScoredObjects:
    """Pixel counts of all objects of an evaluation, in file order.

    Attributes:
        image_ids: (N,) image of each object.
        category_ids: (N,) category of each object.
        counts: pixel counts by name of the row.
    """

    image_ids: npt.NDArray[np.int64]
    category_ids: npt.NDArray[np.int64]
    counts: dict[str, PixelCounts]


@dataclass
class Tally:
    """Collects the counts of objects in file order.

    Attributes:
        worst: the objects with the lowest IoU.
        keys: (image id, annotation id, category id) per object.
        tables: counts, (n, number of rows, fields) each.
        missing: annotation ids of objects without a prediction.
    """

    worst: WorstObjects
    keys: list[tuple[int, int, int]] = field(default_factory=list)
    tables: list[IntArray] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)

    def add(self, cases: list[Case], counts: IntArray) -> None:
        """Add objects with their counts (n, number of rows, fields); the first row is the main one."""
        main = self.worst.main
        self.keys += [(case.image_id, case.annotation_id, case.category_id) for case in cases]
        self.missing += [c.annotation_id for c in cases if main in c.predictions and c.predictions[main] is None]
        self.tables.append(counts)
        self.worst.add(cases, counts[:, 0])

    def merge(self, other: Tally) -> None:
        """Add the objects of the following part of the dataset."""
        self.keys += other.keys
        self.tables += other.tables
        self.missing += other.missing
        self.worst.merge(other.worst)

    @property
    def object_keys(self) -> list[ObjectKey]:
        """(image id, annotation id) per object."""
        return [key[:2] for key in self.keys]

    def scored_objects(self, rows: tuple[str, ...]) -> ScoredObjects:
        """Return the counts of all objects by row."""
        table = np.concatenate(self.tables)  # (N, rows, fields)
        images, _, categories = np.array(self.keys, np.int64).T
        return ScoredObjects(
            images, categories, {row: PixelCounts.from_rows(table[:, i]) for i, row in enumerate(rows)}
        )


DatasetPart = tuple[range, ObjectRecords | MatchedRecords]
"""Positions of images in the dataset, and the records of a predictions file for them."""


@dataclass(frozen=True)
class PartScorer:
    """Reads and scores a part of a dataset whose predictions are in a file; can run in any process.

    Attributes:
        dataset: dataset with amodal masks.
        selection: objects to score.
        boxes: source of the boxes that the baselines may use.
        scorer: counts the rows.
        num_worst: number of the worst objects to keep.
        union_visible: unite each amodal mask with the visible mask.
    """

    dataset: AnnotatedDataset
    selection: ObjectSelection
    boxes: BoxSource
    scorer: Scorer
    num_worst: int
    union_visible: bool

    def __call__(self, part: DatasetPart) -> Tally:
        """Score one part."""
        positions, records = part
        tally = Tally(WorstObjects(self.num_worst, self.scorer.main))
        rows = {self.scorer.main: FileRow(records, self.union_visible)}
        images = [self.dataset.images[position] for position in positions]
        per_image = (cases_of_image(image, self.selection.objects_of(image), rows, self.boxes) for image in images)
        for job in split_into_jobs(chain.from_iterable(per_image)):
            tally.add(job, self.scorer(job))
        return tally

    def parts(self, records: ObjectRecords | MatchedRecords) -> Iterator[DatasetPart]:
        """Split the dataset and the records of its predictions file into parts."""
        for start in range(0, len(self.dataset.images), IMAGES_PER_PART):
            positions = range(start, min(start + IMAGES_PER_PART, len(self.dataset.images)))
            yield positions, records.subset(self.dataset.images[i].id for i in positions)


@dataclass(frozen=True)
class Resampling:
    """How confidence intervals are computed: number of resamples and seed of the draws."""

    num_resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("num_resamples", self.num_resamples), ("seed", self.seed)):
            if value < 0:
                raise InputError(f"{name}: expected 0 or more, got {value}")


class RowSummary:
    """Metrics of one row under one protocol.

    Args:
        scored: pixel counts of all objects.
        row: name of the row.
        protocol: key of `MASK_PROTOCOLS`.
    """

    def __init__(self, scored: ScoredObjects, row: str, protocol: str) -> None:
        counts = scored.counts[row]
        self._ratios: Ratios = MASK_PROTOCOLS[protocol](counts)
        self._images = np.unique(scored.image_ids, return_inverse=True)[1]
        self._categories = scored.category_ids
        self._ranges = range_indices(counts.occluded_share)

    def overall(self, resampling: Resampling | None = None) -> RowMetrics:
        """Return the metrics of all objects, with `intervals` if a resampling is given."""
        return self._metrics_of_groups([np.ones(len(self._images), bool)], resampling)[0]

    def by_occlusion(self, resampling: Resampling | None = None) -> list[RowMetrics]:
        """Return the metrics per occlusion range."""
        ranges = OcclusionRange.all()
        groups = self._metrics_of_groups([self._ranges == i for i in range(len(ranges))], resampling)
        return [{"above": r.above, "up_to": r.up_to} | g for r, g in zip(ranges, groups, strict=True)]

    def by_category(self, names: dict[int, str], resampling: Resampling | None = None) -> list[RowMetrics]:
        """Return the metrics per category that has objects."""
        present = [int(c) for c in np.unique(self._categories)]
        groups = self._metrics_of_groups([self._categories == c for c in present], resampling)
        return [{"category_id": c, "name": names.get(c, str(c))} | g for c, g in zip(present, groups, strict=True)]

    def _metrics_of_groups(self, groups: list[BoolArray], resampling: Resampling | None) -> list[RowMetrics]:
        rows: list[RowMetrics] = []
        for selected in groups:
            metrics: RowMetrics = {name: ratio.value(selected) for name, ratio in self._ratios.items()}
            num_occluded = int((self._ratios["mIoU_occ"].counted & selected).sum())
            rows.append(metrics | {"num_objects": int(selected.sum()), "num_occluded": num_occluded})
        if resampling is not None:
            self._add_intervals(rows, groups, resampling)
        return rows

    def _add_intervals(self, rows: list[RowMetrics], groups: list[BoolArray], resampling: Resampling) -> None:
        """Add the intervals of all metrics of all groups, with one matrix product over columns (group, metric)."""
        numerators = self._sum_per_image([r.numerator * group for group in groups for r in self._ratios.values()])
        denominators = self._sum_per_image([r.denominator * group for group in groups for r in self._ratios.values()])
        ends = ratio_intervals(numerators, denominators, num_resamples=resampling.num_resamples, seed=resampling.seed)
        ends_of_groups = ends.reshape(len(groups), len(self._ratios), 2)
        for row, ends_of_group in zip(rows, ends_of_groups, strict=True):
            row["intervals"] = {
                name: None if np.isnan(end).any() else [float(e) for e in end]
                for name, end in zip(self._ratios, ends_of_group, strict=True)
            }

    def _sum_per_image(self, columns: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
        num_images = int(self._images.max()) + 1
        return np.stack([np.bincount(self._images, column, num_images) for column in columns], axis=1)
