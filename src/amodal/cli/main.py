"""Entry point of the command line, with one line of output and an exit code per kind of error."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated

import typer

from amodal.cli.ask import ask
from amodal.cli.data import data_app
from amodal.cli.environment import add_variables, with_option_names
from amodal.cli.evaluation import evaluate_app
from amodal.cli.evaluation_report import compare, panel, report
from amodal.cli.export import export_app
from amodal.cli.info import info
from amodal.cli.label import label_app
from amodal.cli.label_backend import backend
from amodal.cli.mcp import mcp
from amodal.cli.models import models_app
from amodal.cli.reasonseg import reasonseg_app
from amodal.cli.segment import batch, segment
from amodal.cli.serve import serve
from amodal.cli.train import train
from amodal.errors import InputError, InputWarning
from amodal.io.processes import keep_freed_memory
from amodal.version import __version__

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 and the number of the signal."""

app = typer.Typer(
    help="Amodal segmentation: predict the complete shape of every object, "
    "including the parts that other objects hide. Each option has an environment variable, such as "
    "AMODAL_SEGMENT_MODEL for --model of `amodal segment`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for command in (segment, batch, ask, train, info, serve, mcp):
    app.command()(command)
evaluate_app.command()(compare)
evaluate_app.command()(report)
evaluate_app.command()(panel)
label_app.command()(backend)
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(export_app, name="export", help="Write results and models in the formats of other tools.")
app.add_typer(label_app, name="label", help="Predict masks, correct them in Label Studio and collect them.")
app.add_typer(data_app, name="data", help="Inspect, validate, convert, draw and synthesize datasets.")
app.add_typer(models_app, name="models")
app.add_typer(reasonseg_app, name="reasonseg", help="Generate, check, review and export question-answer data.")


def _version(show: bool) -> None:
    if show:
        typer.echo(f"amodal {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: command and options; those of the process if None.

    Returns:
        0 on success, 2 on bad input, 3 if some of many images or objects were skipped, 130 if interrupted, and 1 on
        any other error. An error prints one line on stderr; with AMODAL_DEBUG=1 any other error is raised with its
        traceback.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.formatwarning = _warning_line
    command = add_variables(typer.main.get_command(app))
    try:
        code = command(args=arguments, standalone_mode=False)
        if code == INTERRUPTED:  # typer turns an interrupt into this code without a word
            return _fail("interrupted", INTERRUPTED)
        return code if isinstance(code, int) else 0
    except InputError as error:
        given = sys.argv[1:] if arguments is None else arguments
        return _fail(with_option_names(" ".join(str(error).split()), command, given), 2)
    except (typer.Abort, KeyboardInterrupt):
        return _fail("interrupted", INTERRUPTED)
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error; typer may bring its own copy of click
            return _fail(" ".join(error.format_message().split()), 2)
        if os.environ.get("AMODAL_DEBUG", "").lower() not in ("", "0", "false", "no"):
            raise
        summary = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return _fail(f"{summary} (set AMODAL_DEBUG=1 for the traceback)", 1)


def _warning_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning about the input as one line; other warnings keep their category."""
    kind = "warning" if issubclass(category, InputWarning) else category.__name__
    return f"amodal: {kind}: {' '.join(str(message).split())}\n"


def _fail(message: str, code: int) -> int:
    print(f"amodal: {message}", file=sys.stderr)
    return code


def run() -> None:
    """Run the command line as a console script."""
    keep_freed_memory()
    sys.exit(main())
