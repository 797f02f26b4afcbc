"""Entry point: one clear line for a mistake, a code that says whose it was."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

import amodal
from amodal.cli.allocator import keep_freed_memory
from amodal.cli.ask import ask
from amodal.cli.batch import batch
from amodal.cli.bench import bench
from amodal.cli.data import data_app
from amodal.cli.evaluation import evaluate_app
from amodal.cli.export import export_app
from amodal.cli.info import info
from amodal.cli.label import label_app
from amodal.cli.reasonseg import reasonseg_app
from amodal.cli.segment import segment
from amodal.cli.serve import serve
from amodal.cli.train import train
from amodal.errors import InputError

app = typer.Typer(
    help="See whole objects behind what hides them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for command in (segment, batch, ask, train, info, serve, bench):
    app.command()(command)
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(export_app, name="export", help="Results and models in other tools' forms.")
app.add_typer(label_app, name="label", help="Predictions to correct in Label Studio, and back.")
app.add_typer(data_app, name="data", help="Look at datasets, check, convert, draw and make them.")
app.add_typer(reasonseg_app, name="reasonseg", help="Make question-answer data for amodal reasoning segmentation.")


def _version(show: bool) -> None:
    if show:
        typer.echo(f"amodal {amodal.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 on success, 2 on a user's mistake (one line on stderr), 1 on anything else; set
        AMODAL_DEBUG=1 to see the traceback of the latter.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        code = app(args=arguments, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except InputError as error:
        return _fail(" ".join(str(error).split()), 2)
    except (typer.Abort, KeyboardInterrupt):
        return _fail("stopped", 1)
    except Exception as error:
        if hasattr(error, "format_message"):  # usage errors; typer may carry a click of its own
            return _fail(" ".join(error.format_message().split()), 2)
        if os.environ.get("AMODAL_DEBUG"):
            raise
        summary = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return _fail(f"{summary} (AMODAL_DEBUG=1 shows where)", 1)


def _fail(message: str, code: int) -> int:
    print(f"amodal: {message}", file=sys.stderr)
    return code


def run() -> None:
    """Console script."""
    keep_freed_memory()
    sys.exit(main())
