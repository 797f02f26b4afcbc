"""What is kept of scored objects: ids and counts, the unanswered, the worst. Parts add up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from amodal.data.samples import AnnotatedDataset
from amodal.evaluation.asking import Boxes, Looked, cases_of
from amodal.evaluation.predictions import Records
from amodal.evaluation.scoring import Case, Scorer
from amodal.evaluation.selection import Key, Selection
from amodal.evaluation.summary import Scored
from amodal.evaluation.worst import Worst
from amodal.metrics.counts import Counts, Numbers

PART_IMAGES = 64


@dataclass
class Tally:
    """Scored objects in file order.

    Attributes:
        worst: the worst of them.
        keys: (image id, annotation id, category id) of each.
        tables: counts, (n, rows, fields) each.
        missing: annotation ids of objects without an answer.
    """

    worst: Worst
    keys: list[tuple[int, int, int]] = field(default_factory=list)
    tables: list[Numbers] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)

    def add(self, cases: list[Case], counts: Numbers) -> None:
        """Keep some objects with their counts (n, rows, fields), those of the main row first."""
        main = self.worst.main
        self.keys += [(case.image_id, case.annotation_id, case.category_id) for case in cases]
        self.missing += [c.annotation_id for c in cases if main in c.answers and c.answers[main] is None]
        self.tables.append(counts)
        self.worst.add(cases, counts[:, 0])

    def merge(self, other: Tally) -> None:
        """Add the objects of the part that comes next."""
        self.keys += other.keys
        self.tables += other.tables
        self.missing += other.missing
        self.worst.merge(other.worst)

    @property
    def objects(self) -> list[Key]:
        """(image id, annotation id) of each object."""
        return [key[:2] for key in self.keys]

    def scored(self, rows: tuple[str, ...]) -> Scored:
        """The counts by row, in one piece."""
        table = np.concatenate(self.tables)  # (N, rows, fields)
        images, annotations, categories = np.array(self.keys, np.int64).T
        return Scored(images, annotations, categories, {row: Counts.of_rows(table[:, i]) for i, row in enumerate(rows)})


Part = tuple[range, Records]
"""Positions of images, and what a predictions file says about them."""


@dataclass(frozen=True)
class PartTally:
    """Reads and scores a part of a dataset whose answers are in a file, in any process.

    Attributes:
        dataset: with amodal masks.
        selection: of the objects.
        boxes: that the shapes of the registry may look at.
        scorer: of the rows.
        worst: how many of the worst objects are kept.
        union_visible: add each visible mask to its amodal one.
    """

    dataset: AnnotatedDataset
    selection: Selection
    boxes: Boxes
    scorer: Scorer
    worst: int
    union_visible: bool

    def __call__(self, part: Part) -> Tally:
        """The tally of a part."""
        positions, records = part
        tally, answerers = (
            Tally(Worst(self.worst, self.scorer.main)),
            {self.scorer.main: Looked(records, self.union_visible)},
        )
        for position in positions:
            image = self.dataset.images[position]
            cases = list(cases_of(image, self.selection.things(image), answerers, self.boxes))
            if cases:
                tally.add(cases, self.scorer(cases))
        return tally

    def parts(self, records: Records) -> Iterator[Part]:
        """The whole dataset in parts."""
        for start in range(0, len(self.dataset.images), PART_IMAGES):
            positions = range(start, min(start + PART_IMAGES, len(self.dataset.images)))
            yield positions, records.part(self.dataset.images[i].id for i in positions)
