"""`amodal evaluate`: one command per family of protocols."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amodal.cli.evaluation_outputs import boxes_file, check_saved, is_folder, model_files, output_folder, resume_file_of
from amodal.cli.options import open_dataset
from amodal.errors import InputError
from amodal.models.names import DEFAULT_ASSISTANT, DEFAULT_SEGMENTER

if TYPE_CHECKING:
    from amodal.evaluation.reason_report import ReasonReport
    from amodal.evaluation.report import EvaluationReport


evaluate_app = typer.Typer(
    no_args_is_help=True, help="Score models and predictions under the protocols of the field, and compare reports."
)

# The panels of `--help`: options that are used together.
INPUT, OBJECTS, MASKS, ANSWERS = "What is scored", "Objects and boxes", "Masks", "Questions and answers"
BASELINES, OUTPUT, COMPUTATION = "Baselines", "Output", "Computation"

AnnotationsOption = Annotated[Path, typer.Option(metavar="FILE", help="Amodal annotation file.", rich_help_panel=INPUT)]
ModelOption = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Bundled name, folder or hub id.", rich_help_panel=INPUT)
]
PredictionsOption = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Score this file instead of a model.", rich_help_panel=INPUT)
]
FormatOption = Annotated[
    str | None,
    typer.Option("--format", metavar="NAME", help="Annotation format; default: guessed.", rich_help_panel=INPUT),
]
ImagesOption = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the images.", rich_help_panel=INPUT)]
MatchOption = Annotated[
    str,
    typer.Option("--match", metavar="HOW", help="Find images by path or name.", rich_help_panel=INPUT),
]
BoxSourceOption = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE",
        help="gt_visible, gt_visible_mask, gt_amodal, predicted:FILE.",
        rich_help_panel=OBJECTS,
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(metavar="P", help="Foreground probability.", rich_help_panel=MASKS),
]
UnionOption = Annotated[
    bool | None,
    typer.Option(help="Unite both masks.", show_default=False, rich_help_panel=MASKS),
]
CleanOption = Annotated[
    bool | None,
    typer.Option(help="Clean the masks of a model.", show_default=False, rich_help_panel=MASKS),
]
SavePredictionsOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the predictions to a file.", rich_help_panel=OUTPUT)
]
OutOption = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Folder, or X.json for the report.", rich_help_panel=OUTPUT)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as JSON.", rich_help_panel=OUTPUT)]
SeedOption = Annotated[
    int, typer.Option(min=0, metavar="N", help="Seed of the resampling.", rich_help_panel=COMPUTATION)
]
DtypeOption = Annotated[
    str, typer.Option(metavar="NAME", help="auto, float32, bfloat16, int8.", rich_help_panel=COMPUTATION)
]
DeviceOption = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, ...", rich_help_panel=COMPUTATION)]


@evaluate_app.command()
def masks(
    annotations: AnnotationsOption,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Bundled name, folder, hub id, baseline.", rich_help_panel=INPUT)
    ] = None,
    visible_from: Annotated[
        str | None, typer.Option(metavar="NAME", help="Promptable segmenter for visible masks.", rich_help_panel=INPUT)
    ] = None,
    predictions: PredictionsOption = None,
    format_: FormatOption = None,
    images: ImagesOption = None,
    match: MatchOption = "path",
    protocol: Annotated[
        str, typer.Option(metavar="NAME", help="strict, c2f or cumulative.", rich_help_panel=INPUT)
    ] = "strict",
    objects: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with lines imageid_annoid.", rich_help_panel=OBJECTS)
    ] = None,
    max_objects: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the first N objects.", rich_help_panel=OBJECTS)
    ] = None,
    box_source: BoxSourceOption = None,
    match_iou: Annotated[
        float | None, typer.Option(metavar="IOU", help="Smallest IoU of a match (0.5).", rich_help_panel=OBJECTS)
    ] = None,
    any_category: Annotated[
        bool, typer.Option("--any-category", help="Match across categories.", rich_help_panel=OBJECTS)
    ] = False,
    threshold: ThresholdOption = None,
    union_visible: UnionOption = None,
    clean: CleanOption = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Score only this one; repeatable.", rich_help_panel=BASELINES),
    ] = None,
    baselines: Annotated[
        bool, typer.Option(help="Also score baselines.", show_default=False, rich_help_panel=BASELINES)
    ] = True,
    sam: Annotated[
        str,
        typer.Option(metavar="BASE", help="SAM base.", rich_help_panel=BASELINES),
    ] = "sam-small",
    out: OutOption = None,
    save_predictions: SavePredictionsOption = None,
    worst: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="List and draw the N worst.", rich_help_panel=OUTPUT),
    ] = 0,
    as_json: JsonOption = False,
    resamples: Annotated[
        int, typer.Option(min=0, metavar="N", help="Resamples; 0: no intervals.", rich_help_panel=COMPUTATION)
    ] = 1000,
    seed: SeedOption = 0,
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Number of processes that count pixels.", rich_help_panel=COMPUTATION),
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    plan: Annotated[
        bool, typer.Option("--plan", help="Only print the time and memory needed.", rich_help_panel=COMPUTATION)
    ] = False,
    processes: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of GPUs, for --plan.", rich_help_panel=COMPUTATION)
    ] = 1,
) -> None:
    """Score one mask per annotated object: mean IoU, full and occluded.

    With --out, a stopped run is resumed.

    Example: amodal evaluate masks --annotations data/scenes-val/annotations.json
    """
    inputs = [annotations, predictions, objects, boxes_file(box_source), *model_files(model, visible_from, sam)]
    folder = output_folder(out, inputs)
    _check_one_input(model, predictions, save_predictions)
    if predictions is None and (any_category or match_iou is not None):
        raise InputError("match-iou, any-category: expected with --predictions only, got a model")
    if baseline and not baselines:
        raise InputError("baseline: expected --baseline or --no-baselines, got both")
    dataset = open_dataset(annotations, format_, images, match)
    check_saved(save_predictions, out, inputs, dataset)
    from amodal.evaluation.baselines import BASELINES as ALL_BASELINES
    from amodal.evaluation.baselines import DEFAULT_BASELINES
    from amodal.evaluation.boxes import default_box_source
    from amodal.evaluation.evaluator import (
        EvaluationSettings,
        evaluate_baseline,
        evaluate_predictions,
        evaluate_share,
    )
    from amodal.evaluation.matching import DEFAULT_MATCH_IOU
    from amodal.evaluation.resume import Processes
    from amodal.evaluation.scoring import Resampling

    launched = Processes.launched(device)
    place = launched.device(device)
    settings = EvaluationSettings(
        protocol=protocol,
        objects=objects,
        max_objects=max_objects,
        baselines=(tuple(baseline) if baseline else DEFAULT_BASELINES) if baselines else (),
        sam=sam,
        device=place,
        num_workers=workers,
        resampling=Resampling(resamples, seed) if resamples else None,
        num_worst=worst,
        worst_folder=folder / "worst" if folder is not None and worst else None,
        save_predictions=save_predictions,
        progress=not as_json,
    )
    name, source = model or DEFAULT_SEGMENTER, box_source or default_box_source(dataset)
    if visible_from is not None and (predictions is not None or name in ALL_BASELINES):
        raise InputError(f"visible-from: expected together with a model, got {predictions or name}")
    if plan and (predictions is not None or name in ALL_BASELINES):
        raise InputError(f"plan: expected a model, got {predictions or name}")
    if predictions is None and name in ALL_BASELINES:
        _check_no_model_options(name, clean, union_visible, dtype)
    with launched.one_writer(None if plan else out):
        with warnings_on_stderr():
            if predictions is not None:
                report = evaluate_predictions(
                    predictions,
                    dataset,
                    settings,
                    box_source=box_source,
                    threshold=threshold,
                    union_visible=bool(union_visible),
                    clean=clean,
                    match_iou=DEFAULT_MATCH_IOU if match_iou is None else match_iou,
                    match_category=not any_category,
                )
            elif name in ALL_BASELINES:
                report = evaluate_baseline(name, dataset, settings, box_source=source, threshold=threshold)
            else:
                from amodal.inference.segmenter import AmodalSegmenter
                from amodal.models.increments import model_contents

                segmenter = AmodalSegmenter.from_pretrained(name, device=place, dtype=dtype, visible_from=visible_from)
                how: dict[str, Any] = {
                    "box_source": source,
                    "threshold": threshold,
                    "union_visible": union_visible is not False,
                    "clean": bool(clean),
                }
                if plan:
                    from amodal.evaluation.plan import plan_evaluation

                    _show_plan(plan_evaluation(segmenter, dataset, settings, processes=processes, **how), as_json)
                    return
                scored = evaluate_share(
                    segmenter,
                    dataset,
                    settings,
                    launched,
                    **how,
                    name=name,
                    resume_file=resume_file_of(out),
                    contents=None if out is None else model_contents(model=name, visible_from=visible_from),
                )
                if scored is None:  # the first process has the report
                    return
                report = scored
        _show(report, out, as_json)


@evaluate_app.command()
def detections(
    annotations: AnnotationsOption,
    model: ModelOption = None,
    predictions: PredictionsOption = None,
    format_: FormatOption = None,
    images: ImagesOption = None,
    match: MatchOption = "path",
    box_source: BoxSourceOption = None,
    threshold: ThresholdOption = None,
    union_visible: UnionOption = None,
    clean: CleanOption = None,
    out: OutOption = None,
    save_predictions: SavePredictionsOption = None,
    as_json: JsonOption = False,
    resamples: Annotated[
        int, typer.Option(min=0, metavar="N", help="Resamples; 0: no intervals.", rich_help_panel=COMPUTATION)
    ] = 200,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Score detections with COCO's average precision, amodal and visible.

    Records of a predictions file need a category and a score.

    Example: amodal evaluate detections --predictions mine.json --annotations data/scenes-val/annotations.json
    """
    inputs = [annotations, predictions, boxes_file(box_source), *model_files(model)]
    output_folder(out, inputs)
    _check_one_input(model, predictions, save_predictions)
    dataset = open_dataset(annotations, format_, images, match)
    check_saved(save_predictions, out, inputs, dataset)
    from amodal.evaluation.baselines import BASELINES as ALL_BASELINES
    from amodal.evaluation.boxes import BoxSource, default_box_source
    from amodal.evaluation.detection import detections_from_file, detections_from_model, evaluate_detections
    from amodal.evaluation.predictions import image_sizes
    from amodal.evaluation.resume import Processes
    from amodal.evaluation.rows import UNKNOWN_COMPUTATION, ImageCache, ModelRow
    from amodal.evaluation.scoring import Resampling

    name, source = model or DEFAULT_SEGMENTER, box_source or default_box_source(dataset)
    with Processes().one_writer(out):
        with warnings_on_stderr():
            if predictions is not None:
                found = detections_from_file(predictions, dataset, bool(union_visible))
                options = {
                    "box_source": box_source,
                    "threshold": threshold,
                    "model": predictions.name,
                    "union_visible": bool(union_visible),
                    **UNKNOWN_COMPUTATION,
                    "clean": clean,
                }
            elif name in ALL_BASELINES:
                raise InputError(f"model: expected a model for the protocol amodal_ap, got the baseline {name!r}")
            else:
                from amodal.inference.segmenter import AmodalSegmenter

                boxes = BoxSource.parse(source, image_sizes(dataset))  # before the model is loaded
                row = ModelRow(
                    AmodalSegmenter.from_pretrained(name, device=device),
                    boxes,
                    ImageCache(),
                    threshold,
                    union_visible is not False,
                    clean=bool(clean),
                )
                found = detections_from_model(row, dataset, progress=not as_json, save_predictions=save_predictions)
                options = {"model": name, "box_source": source} | row.options
            resampling = Resampling(resamples, seed) if resamples else None
            report = evaluate_detections(found, dataset, options, resampling)
        _show(report, out, as_json)


@evaluate_app.command()
def answers(
    annotations: Annotated[
        Path, typer.Option(metavar="FILE", help="Canonical annotation file.", rich_help_panel=INPUT)
    ],
    questions: Annotated[Path, typer.Option(metavar="FILE", help="Questions about its images.", rich_help_panel=INPUT)],
    model: ModelOption = None,
    predictions: PredictionsOption = None,
    images: ImagesOption = None,
    match: MatchOption = "path",
    teacher_forced: Annotated[
        bool,
        typer.Option(help="Give the true words, score the masks only.", show_default=False, rich_help_panel=ANSWERS),
    ] = False,
    max_questions: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the first N conversations.", rich_help_panel=ANSWERS)
    ] = None,
    union_visible: UnionOption = None,
    clean: CleanOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
    resamples: Annotated[
        int, typer.Option(min=0, metavar="N", help="Resamples; 0: no intervals.", rich_help_panel=COMPUTATION)
    ] = 1000,
    seed: SeedOption = 0,
    batch_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Conversations per forward pass.", rich_help_panel=COMPUTATION)
    ] = 8,
    device: DeviceOption = "auto",
    dtype: Annotated[
        str, typer.Option(metavar="NAME", help="auto, float32 or bfloat16.", rich_help_panel=COMPUTATION)
    ] = "auto",
) -> None:
    """Score written answers with masks (protocol reason).

    A stopped run with --out DIR is resumed. DIR/answers.jsonl has the answers, and --predictions scores such a file.

    Example: amodal evaluate answers --annotations scenes/annotations.json --questions scenes/questions.json
    """
    folder = output_folder(out, [annotations, questions, predictions, *model_files(model)])
    _check_one_input(model, predictions)
    if predictions is not None:
        _check_no_cleaning(predictions, clean)
    from amodal.data.reason_seg import read_reason_seg

    annotated = open_dataset(annotations, "canonical", images, match)
    dataset = read_reason_seg(questions, annotated)
    from amodal.evaluation.reason import evaluate_answers, evaluate_reason
    from amodal.evaluation.resume import Processes
    from amodal.evaluation.scoring import Resampling

    resampling = Resampling(resamples, seed) if resamples else None
    with Processes().one_writer(out):
        if predictions is not None:
            report = evaluate_answers(
                predictions,
                dataset,
                annotations=annotated,
                teacher_forced=teacher_forced,
                union_visible=bool(union_visible),
                max_conversations=max_questions,
                resampling=resampling,
                progress=not as_json,
            )
        else:
            from amodal.inference.assistant import AmodalAssistant

            name = model or DEFAULT_ASSISTANT
            report = evaluate_reason(
                AmodalAssistant.from_pretrained(name, device=device, dtype=dtype),
                dataset,
                teacher_forced=teacher_forced,
                clean=bool(clean),
                union_visible=union_visible is not False,
                batch_size=batch_size,
                max_conversations=max_questions,
                name=name,
                answers=None if folder is None else folder / "answers.jsonl",
                resampling=resampling,
                progress=not as_json,
            )
        _show(report, out, as_json)


def _show_plan(values: dict[str, Any], as_json: bool) -> None:
    typer.echo(json.dumps(values) if as_json else "\n".join(f"{name}: {value}" for name, value in values.items()))


def _check_no_cleaning(other: str | Path, clean: bool | None) -> None:
    """Check that masks which no model makes are not to be cleaned."""
    if clean:
        what = "the baseline" if isinstance(other, str) else "the file"
        raise InputError(f"clean: expected with a model or a predictions file of masks, got {what} {str(other)!r}")


def _check_no_model_options(baseline: str, clean: bool | None, union_visible: bool | None, dtype: str) -> None:
    """Check that the options of a model, which a baseline ignores, are not given for one."""
    _check_no_cleaning(baseline, clean)
    for name, value, default in (("union-visible", bool(union_visible), False), ("dtype", dtype, "auto")):
        if value != default:
            raise InputError(f"{name}: expected with a model only, got the baseline {baseline!r}")


def _check_one_input(model: str | None, predictions: Path | None, save_predictions: Path | None = None) -> None:
    if model is not None and predictions is not None:
        raise InputError("model: expected --model or --predictions, got both")
    if predictions is not None and save_predictions is not None:
        raise InputError("save-predictions: expected with a model, got a predictions file")


@contextmanager
def warnings_on_stderr() -> Iterator[None]:
    """Print each warning of the evaluation as one line at the end."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        if warning.category is UserWarning:
            print(f"amodal: warning: {warning.message}", file=sys.stderr)


def _show(report: EvaluationReport | ReasonReport, out: Path | None, as_json: bool) -> None:
    """Write the report if an output path is given, and print it."""
    from rich.console import Console

    written = None if out is None else (report.save_folder(out) if is_folder(out) else report.save(out))
    if as_json:
        typer.echo(json.dumps(report.to_json()))
        return
    console = Console()
    for table in report.tables():
        console.print(table)
    if written is not None:
        console.print(f"Written: {written}", soft_wrap=True)
