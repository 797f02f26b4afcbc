"""`amodal train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override, key.inner=value; repeat for more.")] = None,
    stop_after: Annotated[
        int | None, typer.Option(help="End with a checkpoint after this step; run again to go on.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Do not train: say what memory and steps it takes.")] = False,
    processes: Annotated[int, typer.Option(min=1, help="GPUs, for --plan.")] = 1,
    objects: Annotated[int | None, typer.Option(min=1, help="Training objects, for --plan.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train by a recipe; a run that was stopped goes on where it was.

    Example: amodal train recipes/plug/tiny.yaml --set training.steps=100
    """
    from amodal.training.recipe import load_recipe

    parsed = load_recipe(recipe, set_)
    if plan:
        from amodal.training.plan import plan as planned

        found = planned(parsed, processes=processes, objects=objects)
        typer.echo(json.dumps(found) if as_json else "\n".join(f"{name}: {value}" for name, value in found.items()))
        return
    from accelerate import PartialState

    from amodal.training.loop import train as run

    folder = run(parsed, progress=not as_json, stop_after=stop_after)
    if not PartialState().is_main_process:
        return
    typer.echo(json.dumps({"model": str(folder)}) if as_json else f"Best model: {folder}")
