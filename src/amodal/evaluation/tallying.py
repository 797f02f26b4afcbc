"""Adding up the scores of all objects, which several processes count."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from amodal.evaluation.predictions import PredictionRecord, predictions_file
from amodal.evaluation.rows import Case, FileRow, prediction_of
from amodal.evaluation.scoring import IMAGES_PER_PART, PartScorer, Scorer, Tally, split_into_jobs
from amodal.evaluation.worst import WorstObjects
from amodal.io.processes import in_processes
from amodal.io.progress import progress_bar


def tally_parts(main: FileRow, score_part: PartScorer, num_workers: int, progress: bool) -> Tally:
    """Score predictions of a file; each process reads its own part of the dataset."""
    total = Tally(WorstObjects(score_part.num_worst, score_part.scorer.main))
    parts = in_processes(score_part, score_part.parts(main.records), num_workers)
    num_parts = -(-len(score_part.dataset.images) // IMAGES_PER_PART)
    for part in progress_bar(parts, "evaluate", progress, num_parts):
        total.merge(part)
    return total


def tally_cases(
    cases: Iterable[Case], scorer: Scorer, num_worst: int, save_predictions: Path | None, num_workers: int
) -> Tally:
    """Score predictions as they are made; other processes count them while the next ones are predicted."""
    total, pending = Tally(WorstObjects(num_worst, scorer.main)), deque[list[Case]]()

    def jobs() -> Iterator[list[Case]]:
        for job in split_into_jobs(cases):
            pending.append(job)
            yield job

    with ExitStack() as stack:
        write = None if save_predictions is None else stack.enter_context(predictions_file(save_predictions))
        for counts in in_processes(scorer, jobs(), num_workers):
            job = pending.popleft()
            total.add(job, counts)
            if write is not None:
                _write_predictions(write, job, scorer.main)
    return total


def _write_predictions(write: Callable[[PredictionRecord], None], job: list[Case], main: str) -> None:
    for case in job:
        if main not in case.predictions or case.predictions[main] is not None:
            masks = prediction_of(case, main, main)
            write(PredictionRecord(case.image_id, case.annotation_id, case.category_id, masks))
