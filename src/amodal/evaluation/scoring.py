"""Counting pixels of many objects, in this process or in several.

Masks travel and stay encoded; a job is a few hundred objects, and only a few jobs are under way
at a time, so memory does not grow with the set.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from amodal.data.samples import Box
from amodal.evaluation.answers import Answer
from amodal.evaluation.baselines import ROWS, Known
from amodal.metrics.counts import Numbers, Row, count_pixels
from amodal.ops.rle import Rle, encode_empty

Job = TypeVar("Job")
Result = TypeVar("Result")

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


def in_processes(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int = 1) -> Iterator[Result]:
    """Results in the order of the jobs; the function travels once, a few jobs at a time."""
    if workers == 1:
        yield from map(function, jobs)
        return
    # Spawned, not forked: a fork copies the locks of torch's and OpenCV's threads as they are.
    context = multiprocessing.get_context("spawn")
    under_way: deque[Future[Result]] = deque()
    with ProcessPoolExecutor(workers, context, _start, (function,)) as pool:
        try:
            for job in jobs:
                under_way.append(pool.submit(_call, job))
                if len(under_way) > 2 * workers:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def pick_workers(num_objects: int, num_rows: int) -> int:
    """Processes that pay for so many objects under so many rows."""
    return 1 if num_objects * num_rows < POOL_FROM else min(os.cpu_count() or 1, 8)


_function: Callable[[Any], Any] | None = None  # of a worker process


def _start(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function


def _call(job: Any) -> Any:
    assert _function is not None
    return _function(job)


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
