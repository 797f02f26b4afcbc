"""`amodal evaluate`."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amodal.errors import InputError
from amodal.io.files import no_file

if TYPE_CHECKING:
    from amodal.data.samples import AnnotatedDataset
    from amodal.evaluation.plan import Plan
    from amodal.evaluation.plug import PlugPredictor
    from amodal.evaluation.reason_report import ReasonReport
    from amodal.evaluation.report import EvaluationReport
    from amodal.evaluation.summary import Resampling

DEFAULT_MODEL = "plug-tiny"
PROTOCOLS = ("strict", "c2f", "cumulative", "amodal_ap", "reason")
RESAMPLES, RESAMPLES_AP = 1000, 200  # an AP takes far longer to resample than a mean

evaluate_app = typer.Typer(invoke_without_command=True)


@evaluate_app.callback()
def evaluate(
    context: typer.Context,
    annotations: Annotated[Path | None, typer.Option(help="Annotation file with amodal masks.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Bundled name, folder or hub id, or a row of the registry (see --baseline).")
    ] = None,
    predictions: Annotated[Path | None, typer.Option(help="Predictions file, in the place of a model.")] = None,
    format_: Annotated[str, typer.Option("--format", help="Format of the annotations.")] = "canonical",
    images: Annotated[Path | None, typer.Option(help="Folder of the images.")] = None,
    protocol: Annotated[str, typer.Option(help="strict, c2f, cumulative, amodal_ap or reason.")] = "strict",
    questions: Annotated[Path | None, typer.Option(help="Question file about the annotated images (reason).")] = None,
    teacher_forced: Annotated[
        bool, typer.Option(help="Give the model the true words, score the masks (reason).")
    ] = False,
    max_questions: Annotated[int | None, typer.Option(min=1, help="Ask the first N conversations (reason).")] = None,
    objects: Annotated[Path | None, typer.Option(help="Score only these: imageid_annoid lines.")] = None,
    box_source: Annotated[
        str | None, typer.Option(help="gt_visible (a model's default), gt_amodal or predicted:FILE.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Probability of foreground, the model's own by default; for a file: what it was made with."),
    ] = None,
    union_visible: Annotated[
        bool | None,
        typer.Option(help="Add the predicted visible mask to the amodal one; by default so for models, not for files."),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(help="Row beside the model, repeat for more; by default all that need no network."),
    ] = None,
    baselines: Annotated[bool, typer.Option(help="Rows beside the model at all.")] = True,
    sam: Annotated[str, typer.Option(help="Base of the rows sam and sam_amodal_box.")] = "sam-tiny",
    max_objects: Annotated[int | None, typer.Option(min=1, help="Score only the first N objects.")] = None,
    worst: Annotated[int, typer.Option(min=0, help="List the N worst objects; with --out, draw them.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for report.json, table.txt, plot.png; X.json: the report alone.")
    ] = None,
    save_predictions: Annotated[Path | None, typer.Option(help="File to write the model's answers to.")] = None,
    resamples: Annotated[
        int | None,
        typer.Option(min=0, help=f"Of the intervals, 0 for none; {RESAMPLES} ({RESAMPLES_AP} with amodal_ap)."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the intervals.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that count; as many as pay by default.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Score a model or a predictions file, baselines beside it; compare two reports.

    A run with --out that was stopped goes on where it was.

    Example: amodal evaluate --model plug-tiny --annotations data/scenes-val/annotations.json
    """
    if context.invoked_subcommand is not None:
        return
    if annotations is None:
        raise InputError("annotations: expected --annotations FILE, got none")
    if model is not None and predictions is not None:
        raise InputError("model: expected --model or --predictions, got both")
    _check_out(out)
    folder = out if out is not None and _is_folder(out) else None
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol: expected one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    if protocol == "reason":
        from amodal.cli.evaluation_reason import evaluate_answers

        given = {
            "predictions": predictions, "objects": objects, "box_source": box_source, "threshold": threshold,
            "union_visible": union_visible, "baseline": baseline, "max_objects": max_objects, "worst": worst or None,
            "save_predictions": save_predictions, "format": None if format_ == "canonical" else format_,
        }  # fmt: skip
        answers = evaluate_answers(
            questions, annotations, images, model=model, teacher_forced=teacher_forced, max_questions=max_questions,
            device=device, answers=None if folder is None else folder / "answers.jsonl",
            unsuitable=given, progress=not as_json,
        )  # fmt: skip
        _show(answers, out, as_json)
        return
    if questions is not None or teacher_forced or max_questions is not None:
        raise InputError(f"questions: expected with the protocol 'reason' only, got {protocol!r}")
    from amodal.data.readers import read_dataset

    dataset = read_dataset(format_, annotations, images)
    from amodal.evaluation.baselines import DEFAULT_BASELINES
    from amodal.evaluation.detection import PROTOCOL
    from amodal.evaluation.plan import Plan
    from amodal.evaluation.scoring import pick_workers
    from amodal.evaluation.summary import Resampling

    count = (RESAMPLES_AP if protocol == PROTOCOL else RESAMPLES) if resamples is None else resamples
    resampling = Resampling(count, seed) if count else None
    ask = _Asked(model or DEFAULT_MODEL, predictions, box_source, threshold, union_visible, device)
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always", UserWarning)
        if protocol == PROTOCOL:
            given = {"objects": objects, "max_objects": max_objects, "worst": worst or None, "baseline": baseline}
            report = ask.average_precision(dataset, given, resampling, save_predictions, not as_json)
        else:
            beside = (tuple(baseline) if baseline else DEFAULT_BASELINES) if baselines else ()
            plan = Plan(
                protocol=protocol,
                objects=objects,
                max_objects=max_objects,
                baselines=beside,
                sam=sam,
                workers=workers or pick_workers(max_objects or dataset.num_objects, 1 + len(beside)),
                resampling=resampling,
                worst=worst,
                pictures=folder / "worst" if folder is not None and worst else None,
                save_predictions=save_predictions,
                progress=not as_json,
            )
            report = ask.score(dataset, plan, None if folder is None else folder / "answers.partial.jsonl")
    for note in noted:
        if note.category is UserWarning:
            print(f"amodal: warning: {note.message}", file=sys.stderr)
    _show(report, out, as_json)


@evaluate_app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Report of `amodal evaluate`.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    allow: Annotated[
        list[str] | None, typer.Option(help="Option that may differ: box_source, threshold, union_visible.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Two reports side by side; refused where protocols, options or objects differ.

    Example: amodal evaluate compare runs/a/report.json runs/b/report.json
    """
    from rich.console import Console

    from amodal.evaluation.comparison import compare as put_side_by_side
    from amodal.evaluation.report import EvaluationReport

    comparison = put_side_by_side(EvaluationReport.load(first), EvaluationReport.load(second), tuple(allow or ()))
    if as_json:
        typer.echo(json.dumps(comparison.to_json()))
    else:
        Console().print(comparison.table())


class _Asked:
    """What is scored, and how its masks are made."""

    def __init__(
        self,
        model: str,
        predictions: Path | None,
        box_source: str | None,
        threshold: float | None,
        union_visible: bool | None,
        device: str,
    ) -> None:
        self.model, self.predictions, self.device = model, predictions, device
        self.box_source, self.threshold, self.union_visible = box_source, threshold, union_visible

    def score(self, dataset: AnnotatedDataset, plan: Plan, keep: Path | None) -> EvaluationReport:
        """Under a protocol with one answer an object."""
        from amodal.evaluation.baselines import ROWS
        from amodal.evaluation.evaluator import evaluate as score
        from amodal.evaluation.evaluator import evaluate_predictions, evaluate_row

        if self.predictions is not None:
            return evaluate_predictions(
                self.predictions,
                dataset,
                plan,
                box_source=self.box_source,
                threshold=self.threshold,
                union_visible=bool(self.union_visible),
            )
        source = self.box_source or "gt_visible"
        if self.model in ROWS:
            return evaluate_row(self.model, dataset, plan, box_source=source, threshold=self.threshold)
        return score(self._predictor(), dataset, box_source=source, name=self.model, plan=plan, keep=keep)

    def average_precision(
        self,
        dataset: AnnotatedDataset,
        unsuitable: Mapping[str, object],
        resampling: Resampling | None,
        save_predictions: Path | None,
        progress: bool,
    ) -> EvaluationReport:
        """Under `amodal_ap`; `unsuitable` are the values of options that it has no use for."""
        from amodal.evaluation.baselines import ROWS
        from amodal.evaluation.detection import PROTOCOL, detections_of_file, detections_of_model, evaluate_detections

        for name, value in unsuitable.items():
            if value is not None:
                raise InputError(f"{name}: expected none with {PROTOCOL}, which scores all detections, got {value}")
        options = {"box_source": self.box_source, "threshold": self.threshold}
        if self.predictions is not None:
            if save_predictions is not None:
                raise InputError("save-predictions: expected a model to ask, got a predictions file")
            united = bool(self.union_visible)
            found = detections_of_file(self.predictions, dataset, united)
            options |= {"model": self.predictions.name, "union_visible": united}
            return evaluate_detections(found, dataset, options, resampling)
        if self.model in ROWS:
            raise InputError(f"model: expected a model with {PROTOCOL}, got the registry's row {self.model!r}")
        predictor, source = self._predictor(), self.box_source or "gt_visible"
        found = detections_of_model(predictor, dataset, source, progress=progress, save_predictions=save_predictions)
        options |= {
            "model": self.model,
            "box_source": source,
            "threshold": predictor.threshold,
            "union_visible": predictor.union_visible,
        }
        return evaluate_detections(found, dataset, options, resampling)

    def _predictor(self) -> PlugPredictor:
        from amodal.evaluation.plug import PlugPredictor
        from amodal.inference.segmenter import AmodalSegmenter

        segmenter = AmodalSegmenter.from_pretrained(self.model, device=self.device)
        united = True if self.union_visible is None else self.union_visible
        return PlugPredictor.of(segmenter, threshold=self.threshold, union_visible=united)


def _is_folder(out: Path) -> bool:
    return out.suffix != ".json"


def _check_out(out: Path | None) -> None:
    """Before hours of work. Raises `InputError` for a place that cannot be written to."""
    if out is None:
        return
    if _is_folder(out):
        no_file(out)
    above = next(parent for parent in (out.absolute(), *out.absolute().parents) if parent.exists())
    if not above.is_dir() and above != out.absolute():
        raise InputError(f"out: expected a folder that can be made, got {str(out)!r}, but {str(above)!r} is a file")
    if not _is_folder(out) and out.is_dir():
        raise InputError(f"out: expected a file, got the folder {str(out)!r}")


def _show(report: EvaluationReport | ReasonReport, out: Path | None, as_json: bool) -> None:
    from rich.console import Console

    written = None if out is None else (report.save_folder(out) if _is_folder(out) else report.save(out))
    if as_json:
        typer.echo(json.dumps(report.to_json()))
        return
    console = Console()
    for table in report.tables():
        console.print(table)
    if written is not None:
        console.print(f"Written: {written}", soft_wrap=True)
