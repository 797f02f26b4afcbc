"""`amodal evaluate report`: one table of several reports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
