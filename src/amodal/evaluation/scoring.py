"""Counting pixels of many objects, a few hundred a job; masks travel and stay encoded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from amodal.data.samples import Box
from amodal.evaluation.answers import Answer
from amodal.evaluation.baselines import ROWS, Known
from amodal.metrics.counts import Numbers, Row, count_pixels
from amodal.ops.rle import Rle, encode_empty

JOB_OBJECTS = 256
POOL_FROM = 50_000
"""Masks to score below which starting processes costs more than it saves: a second against 0.2 ms each."""


class Case(NamedTuple):
    """One object to score.

    Attributes:
        image_id: of its image.
        annotation_id: its own.
        category_id: of its category.
        visible: true visible mask.
        amodal: true amodal mask.
        box: that the model was given, if any.
        answers: by row name; None for an object that the row could not be asked about.
    """

    image_id: int
    annotation_id: int
    category_id: int
    visible: Rle
    amodal: Rle
    box: Box | None
    answers: dict[str, Answer | None]


@dataclass(frozen=True)
class Scorer:
    """Turns cases into counts.

    Attributes:
        rows: names of the rows to count, in the order of the result; those that a case has no
            entry for are shapes of the registry.
        main: the row whose visible mask the registry's shapes may look at.
    """

    rows: tuple[str, ...]
    main: str

    def __call__(self, cases: list[Case]) -> Numbers:
        """(N, rows, fields of `Counts`) int64."""
        return np.array([[self._count(case, name) for name in self.rows] for case in cases], np.int64)

    def _count(self, case: Case, name: str) -> Row:
        given = answer_of(case, name, self.main)
        return count_pixels(given.amodal, case.amodal, case.visible, given.visible)


def answer_of(case: Case, name: str, main: str) -> Answer:
    """What a row says about an object: its own answer, a shape of the registry, or nothing."""
    if name not in case.answers:
        shape, own = ROWS[name].shape, case.answers.get(main)
        assert shape is not None
        return Answer(shape(Known(case.visible, case.box, own.visible if own else None)), None)
    answer = case.answers[name]
    if answer is None:
        nothing = encode_empty(case.amodal["size"])
        return Answer(nothing, nothing, 0.0)
    return answer


def pick_workers(num_objects: int, num_rows: int) -> int:
    """Processes that pay for so many objects under so many rows."""
    return 1 if num_objects * num_rows < POOL_FROM else min(os.cpu_count() or 1, 8)


def in_jobs(cases: Iterable[Case]) -> Iterator[list[Case]]:
    """Cases in pieces that are worth sending to another process."""
    job: list[Case] = []
    for case in cases:
        job.append(case)
        if len(job) == JOB_OBJECTS:
            yield job
            job = []
    if job:
        yield job
