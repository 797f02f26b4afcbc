"""`amodal evaluate report` and `compare`: what is made of the reports of other commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amodal.cli.evaluation import warnings_on_stderr
from amodal.cli.options import FormatName, MatchBy, open_dataset, require_no_image
from amodal.errors import InputError
from amodal.io.files import require_no_input

if TYPE_CHECKING:
    from amodal.evaluation.reason_report import ReasonComparison
    from amodal.evaluation.report import Comparison


def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Report or its folder; LABEL=PATH names the row.")
    ],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for table.md and figure1.png.")] = None,
) -> None:
    """Put reports of `evaluate masks` in one table, with parameter counts, and plot accuracy over size.

    Reports of one label on different objects share a row, as KINS and COCOA do in the tables of PLUG.

    Example: amodal evaluate report ViT-B=runs/kins-b ViT-B=runs/cocoa-b ViT-H=runs/kins-h --out tables
    """
    from amodal.evaluation.tables import RunTable

    table = RunTable.read(runs)
    typer.echo(table.markdown(), nl=False)
    if out is not None:
        typer.echo(f"Written: {table.save_folder(out)}")


def panel(
    annotations: Annotated[Path, typer.Option(metavar="FILE", help="Amodal annotation file.")],
    predictions: Annotated[
        list[str], typer.Option(metavar="NAME=PATH", help="Predictions of a method; one column each; repeatable.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="PNG file to write.")],
    format_: FormatName = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the images.")] = None,
    match: MatchBy = "path",
    object_: Annotated[
        list[str] | None,
        typer.Option("--object", metavar="ID", help="Draw this one, imageid_annoid; repeatable."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Without --object: the first N occluded ones.")] = 6,
) -> None:
    """Draw a figure with one row per object: the image, the annotated truth, and the mask of each method.

    Example: amodal evaluate panel --annotations a.json --predictions A=a.json --predictions B=b.json --out figure.png
    """
    from PIL import Image

    from amodal.evaluation.matching import read_by_object
    from amodal.evaluation.panel import draw_methods
    from amodal.evaluation.selection import parse_object_key
    from amodal.io.files import atomic_path

    if out.suffix.lower() != ".png" or out.is_dir():
        raise InputError(f"out: expected a PNG file, got {str(out)!r}")
    dataset, methods = open_dataset(annotations, format_, images, match), dict[str, Any]()
    require_no_input(out, [annotations, *(Path(text.partition("=")[2]) for text in predictions)])
    require_no_image(out, dataset)
    for text in predictions:
        name, equals, path = text.partition("=")
        if not equals or not name or name in methods:
            raise InputError(f"predictions: expected NAME=PATH with one name per method, got {text!r}")
        methods[name] = read_by_object(Path(path), dataset)
    objects = []
    for text in object_ or []:
        key = parse_object_key(text)
        if key is None:
            raise InputError(f"object: expected imageid_annoid, got {text!r}")
        objects.append(key)
    figure = Image.fromarray(draw_methods(dataset, methods, objects or None, count))
    with atomic_path(out) as temporary:
        figure.save(temporary)
    typer.echo(f"Written: {out}")


def compare(
    first: Annotated[Path, typer.Argument(help="Report, folder with a report, or predictions.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    allow: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Option that may differ, such as threshold; repeatable.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Annotations to score predictions on.")
    ] = None,
    format_: FormatName = None,
    protocol: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of predictions; default: that of the other report.")
    ] = None,
    objects: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Score predictions of these: imageid_annoid lines.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare two reports on the same objects, of one protocol or of two.

    Example: amodal evaluate compare runs/a runs/b/report.json
    """
    from amodal.evaluation.evaluator import EvaluationSettings, evaluate_predictions
    from amodal.evaluation.predictions import is_predictions
    from amodal.evaluation.reason_report import ReasonReport, compare_reason, is_reason_report
    from amodal.evaluation.report import EvaluationReport
    from amodal.evaluation.report import compare as compare_reports
    from amodal.metrics.mask_protocols import MASK_PROTOCOLS

    of_files = [path for path in (first, second) if is_predictions(path)]
    if any(is_reason_report(path) for path in (first, second) if path not in of_files):
        both = (ReasonReport.load(first), ReasonReport.load(second))
        _show_comparison(compare_reason(*both, tuple(allow or ())), as_json)
        return
    if of_files and annotations is None:
        raise InputError(f"annotations: expected --annotations to score {str(of_files[0])!r} with, got none")
    reports = {path: EvaluationReport.load(path) for path in (first, second) if path not in of_files}
    protocols = [protocol] if protocol else [r.protocol for r in reports.values() if r.protocol in MASK_PROTOCOLS]
    settings = EvaluationSettings([*protocols, "strict"][0], objects, baselines=(), resampling=None, progress=False)
    with warnings_on_stderr():
        for path in of_files:
            reports[path] = evaluate_predictions(path, open_dataset(annotations or Path(), format_, None), settings)
        comparison = compare_reports(reports[first], reports[second], tuple(allow or ()))
    _show_comparison(comparison, as_json)


def _show_comparison(comparison: Comparison | ReasonComparison, as_json: bool) -> None:
    from rich.console import Console

    if as_json:
        typer.echo(json.dumps(comparison.to_json()))
        return
    for table in comparison.tables():
        Console().print(table)
