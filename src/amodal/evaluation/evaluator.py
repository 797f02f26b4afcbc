"""Scoring a model, a predictions file or a row of the registry on a dataset with both masks known."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from amodal.data.samples import AnnotatedDataset
from amodal.errors import InputError
from amodal.evaluation.answers import Predictor, check_threshold
from amodal.evaluation.asking import Answerer, Asked, Boxes, Kept, LastImage, Looked, cases
from amodal.evaluation.baselines import DEFAULT_BASELINES, ROWS
from amodal.evaluation.plan import Plan, boxes_from, lone_row, sam_rows, sizes_of, with_threshold
from amodal.evaluation.predictions import Prediction, predictions_file, read_by_object
from amodal.evaluation.report import EvaluationReport
from amodal.evaluation.scoring import Case, Scorer, answer_of, in_jobs
from amodal.evaluation.selection import digest
from amodal.evaluation.summary import Scored, Summary
from amodal.evaluation.tally import PART_IMAGES, PartTally, Tally
from amodal.evaluation.worst import Worst
from amodal.io.processes import in_processes
from amodal.io.progress import bar

MAIN = "(main)"
"""Key of the row that the report is about; no row of the registry is called so."""
NAMED_MISSING = 20
"""Ids of unanswered objects that a report lists; it counts them all."""


def evaluate(
    predictor: Predictor,
    dataset: AnnotatedDataset,
    *,
    protocol: str = "strict",
    box_source: str = "gt_visible",
    threshold: float | None = None,
    max_objects: int | None = None,
    batch_size: int = 32,
    baselines: bool = True,
    name: str = "model",
    progress: bool = True,
    plan: Plan | None = None,
    keep: Path | None = None,
) -> EvaluationReport:
    """Score a predictor and the baselines beside it.

    Args:
        predictor: answers boxes of an image.
        dataset: with amodal masks.
        protocol: `strict`, `c2f` or `cumulative`; see `metrics`.
        box_source: `gt_visible` (box of the true visible mask), `gt_amodal` or `predicted:FILE`.
        threshold: probability above which a pixel is foreground, for a predictor that can be called
            with one as `AmodalSegmenter` can; its own if None.
        max_objects: stop after so many objects, in file order.
        batch_size: boxes of an image handed over at once.
        baselines: score them too.
        name: the predictor's name in the report.
        progress: show a bar.
        plan: all of the above but the predictor's own, and more; the arguments are then not looked at.
        keep: file in which answers are kept as they come, so that a killed run goes on.

    Returns:
        Report; objects without a box cannot be asked about, score 0 and are counted and named in
        `options`. True visible masks that reach outside the amodal one are scored as the protocol
        says; a warning gives their number.

    Raises:
        InputError: unknown protocol or box source, a threshold for a predictor that takes none, a
            number below 1, a bad list, or no object with an amodal mask.
    """
    if plan is None:
        plan = Plan(
            protocol, max_objects=max_objects, baselines=DEFAULT_BASELINES if baselines else (), progress=progress
        )
    if batch_size < 1:
        raise InputError(f"batch_size: expected 1 or more, got {batch_size}")
    boxes = boxes_from(box_source, dataset)
    predictor, options = with_threshold(predictor, threshold)
    options = {"model": name, "box_source": box_source} | options
    load = LastImage()
    main: Answerer = Asked(predictor, boxes, load, batch_size)
    if keep is not None:
        about = {"objects": plan.selection().description, "images": [str(i.path) for i in dataset.images[:1]]}
        main = Kept(main, keep, options | about)
    report = run(main, dataset, plan, options, boxes, load, getattr(predictor, "has_visible", True))
    if isinstance(main, Kept):
        main.finish()
    return report


def evaluate_predictions(
    path: Path,
    dataset: AnnotatedDataset,
    plan: Plan,
    *,
    box_source: str | None = None,
    threshold: float | None = None,
    union_visible: bool = False,
    name: str | None = None,
) -> EvaluationReport:
    """Score a predictions file.

    Args:
        path: list of records that name their annotations.
        dataset: with amodal masks.
        plan: how, on which objects, with what beside it.
        box_source: what the file was made with, for the report and for the box of `filled_box`;
            None where that is not known.
        threshold: what the file was made with, for the report.
        union_visible: add each visible mask to its amodal one before scoring.
        name: of the row; the file's name if None.

    Returns:
        Report; annotated objects that the file does not have score 0 and are counted.

    Raises:
        InputError: a bad file, a bad plan, or a file none of whose objects are scored.
    """
    if threshold is not None:
        check_threshold(threshold)
    boxes = boxes_from(box_source or "gt_visible", dataset)
    records = read_by_object(path, sizes_of(dataset))
    options = {
        "model": name or path.name,
        "box_source": box_source,
        "threshold": threshold,
        "union_visible": union_visible,
    }
    main = Looked(records, union_visible)
    report = run(main, dataset, plan, options, boxes, LastImage(), records.have_visible)
    if report.options["num_without_answer"] == report.metrics["num_objects"]:
        raise InputError(f"predictions {path}: expected records of the annotated objects, got none of their ids")
    answered = report.metrics["num_objects"] - report.options["num_without_answer"]
    report.options["num_unused_predictions"] = len(records) - answered
    return report


def evaluate_row(
    name: str,
    dataset: AnnotatedDataset,
    plan: Plan,
    *,
    box_source: str = "gt_visible",
    threshold: float | None = None,
) -> EvaluationReport:
    """Score a row of the registry in the place of a model.

    Raises:
        InputError: unknown row, one that needs a model beside it, or a bad plan.
    """
    boxes, load = boxes_from(box_source, dataset), LastImage()
    main, options = lone_row(name, plan.sam, boxes, load, box_source, threshold)
    return run(main, dataset, plan, options, boxes, load, has_visible=False)


def run(
    main: Answerer | None,
    dataset: AnnotatedDataset,
    plan: Plan,
    options: dict[str, Any],
    boxes: Boxes,
    load: LastImage,
    has_visible: bool,
) -> EvaluationReport:
    """Ask, count and summarise.

    Args:
        main: the row that the report is about; None for a shape of the registry, which is named by
            `options["model"]`.
        dataset: with amodal masks.
        plan: as checked.
        options: of the main row, for the report.
        boxes: that the rows are given.
        load: shared by the rows that look at pixels.
        has_visible: the main row's answers come with visible masks.

    Raises:
        InputError: a bad list, or no object with an amodal mask.
    """
    selection = plan.selection()
    name = str(options["model"]) if main is None else MAIN
    beside = [b for b in plan.baselines if b != options["model"] and (has_visible or not ROWS[b].needs_own_visible)]
    scorer = Scorer((name, *beside), name)
    pixel_rows = sam_rows(beside, plan.sam, boxes, load)
    if isinstance(main, Looked) and not pixel_rows and plan.max_objects is None and plan.save_predictions is None:
        tally = _tally_parts(
            main, dataset, plan, PartTally(dataset, selection, boxes, scorer, plan.worst, main.union_visible)
        )
    else:
        answerers = ({} if main is None else {name: main}) | pixel_rows
        selection.check(dataset)
        tally = _tally_stream(cases(dataset, selection, answerers, boxes, plan.progress), plan, scorer)
    selection.check_found(tally.objects)
    if plan.pictures is not None and plan.worst:
        tally.worst.draw(plan.pictures, dataset)
    scored = tally.scored(scorer.rows)
    spilled = int((scored.counts[name].spilled > 0).sum())
    if spilled:
        warnings.warn(f"{spilled} true visible masks reach outside their amodal mask", stacklevel=3)
    if tally.missing:
        warnings.warn(f"{len(tally.missing)} of {len(tally.objects)} objects have no answer and score 0", stacklevel=3)
    options = options | {
        "format": dataset.format,
        "objects": selection.description,
        "objects_sha256": digest(tally.objects),
        "num_without_answer": len(tally.missing),
        "without_answer": tally.missing[:NAMED_MISSING],
        "num_visible_outside_amodal": spilled,
    }
    return _report(scored, name, beside, dataset, plan, options, tally.worst)


def _tally_parts(main: Looked, dataset: AnnotatedDataset, plan: Plan, function: PartTally) -> Tally:
    """Answers of a file: each process reads its own part of the dataset."""
    total = Tally(Worst(plan.worst, MAIN))
    parts = in_processes(function, function.parts(main.records), plan.workers)
    count = -(-len(dataset.images) // PART_IMAGES)
    for part in bar(parts, "evaluate", plan.progress, count):
        total.merge(part)
    return total


def _tally_stream(stream: Iterable[Case], plan: Plan, scorer: Scorer) -> Tally:
    """Answers that are being made: they are counted elsewhere while the next ones are asked for."""
    total, under_way = Tally(Worst(plan.worst, scorer.main)), deque[list[Case]]()

    def jobs() -> Iterator[list[Case]]:
        for job in in_jobs(stream):
            under_way.append(job)
            yield job

    with ExitStack() as stack:
        write = stack.enter_context(predictions_file(plan.save_predictions)) if plan.save_predictions else None
        for counts in in_processes(scorer, jobs(), plan.workers):
            done = under_way.popleft()
            total.add(done, counts)
            if write is not None:
                _write(write, done, scorer.main)
    return total


def _write(write: Callable[[Prediction], None], done: list[Case], main: str) -> None:
    for case in done:
        if main not in case.answers or case.answers[main] is not None:
            answer = answer_of(case, main, main)
            write(Prediction(case.image_id, case.annotation_id, case.category_id, answer))


def _report(
    scored: Scored,
    name: str,
    beside: list[str],
    dataset: AnnotatedDataset,
    plan: Plan,
    options: dict[str, Any],
    worst: Worst,
) -> EvaluationReport:
    summaries = {row: Summary(scored, row, plan.protocol) for row in (name, *beside)}
    own, drawn = summaries[name], plan.resampling
    metrics = own.overall(drawn)
    intervals = metrics.pop("intervals", {})
    if drawn is not None:
        options = options | {"intervals": {"resampled": "images", "resamples": drawn.resamples, "seed": drawn.seed}}
    return EvaluationReport(
        protocol=plan.protocol,
        options=options,
        metrics=metrics,
        intervals=intervals,
        by_occlusion=own.by_occlusion(drawn),
        by_category=own.by_category(dataset.categories, drawn),
        baselines={
            row: summaries[row].overall(drawn) | {"by_occlusion": summaries[row].by_occlusion()} for row in beside
        },
        worst=worst.lines(),
    )
