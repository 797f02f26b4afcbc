"""`amodal data validate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amodal.cli.data_source import Annotations, AsJson, FormatName, Images, format_of

if TYPE_CHECKING:
    from amodal.data.validation.report import ValidationReport


def validate(
    annotations: Annotations,
    format_: FormatName = None,
    images: Images = None,
    report: Annotated[Path | None, typer.Option(help="File for the JSON report.")] = None,
    show: Annotated[int, typer.Option(min=0, help="Findings of each kind to print.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Look for everything that is known to go wrong in annotation files.

    Exits with 1 if errors were found, with 0 if there are only warnings or nothing.

    Example: amodal data validate --format kins2020 --annotations update_test_2020.json --images testing/image_2
    """
    from amodal.data.validation.validate import validate as check
    from amodal.io.files import write_whole

    found = check(format_of(annotations, format_), annotations, images, progress=not as_json)
    if report is not None:
        write_whole(report, json.dumps(found.to_json()), "report")
    if as_json:
        typer.echo(json.dumps(found.to_json()))
    else:
        _print(found, show)
        if report is not None:
            typer.echo(f"Written: {report}")
    if found.num_errors:
        raise typer.Exit(1)


def _print(found: ValidationReport, show: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from amodal.data.validation.report import ERRORS, WARNINGS, severity

    console = Console()
    table = Table("", "kind", "count", "what")
    for kind, count in found.kinds().items():
        colour = {"error": "red", "warning": "yellow"}[severity(kind)]
        table.add_row(f"[{colour}]{severity(kind)}[/{colour}]", kind, f"{count}", (ERRORS | WARNINGS)[kind])
    if found.faults:
        console.print(table)
    for kind in found.kinds():
        for fault in [f for f in found.faults if f.kind == kind][:show]:
            where = [f"image {fault.image_id}"] if fault.image_id is not None else []
            where += [f"annotation {fault.annotation_id}"] if fault.annotation_id is not None else []
            line = ": ".join(filter(None, [kind, ", ".join(where), fault.message]))
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    counts = f"{found.num_images} images, {found.num_objects} objects as {found.format}"
    faults = f"{found.num_errors} errors, {found.num_warnings} warnings"
    console.print(f"{found.annotations}: {counts}: {faults}", markup=False, highlight=False, soft_wrap=True)
