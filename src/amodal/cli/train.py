"""`amodal train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key of the recipe, key.inner=value; repeatable.")
    ] = None,
    stop_after: Annotated[
        int | None, typer.Option(min=1, help="Stop with a checkpoint after this step; a later call resumes.")
    ] = None,
    fork: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Start a new run in the folder NAME beside the recipe's output, from the last weights of that run.",
        ),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print memory and number of steps without training.")] = False,
    processes: Annotated[int, typer.Option(min=1, help="Number of GPUs, for --plan.")] = 1,
    objects: Annotated[
        int | None, typer.Option(min=1, help="Number of training objects, for --plan of a recipe with epochs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a model by a recipe, or resume a run that was stopped, with the recipe that it began with.

    Example: amodal train recipes/plug/small.yaml --set training.steps=100
    """
    from amodal.training.recipe import load_recipe

    parsed = load_recipe(recipe, set_)
    if plan:
        from amodal.training.plan import plan as compute_plan

        values = compute_plan(parsed, processes=processes, objects=objects)
        typer.echo(json.dumps(values) if as_json else "\n".join(f"{name}: {value}" for name, value in values.items()))
        return
    from accelerate import PartialState

    from amodal.training.loop import train as run_training

    folder = run_training(parsed, progress=not as_json, stop_after=stop_after, fork=fork)
    if not PartialState().is_main_process:
        return
    typer.echo(json.dumps({"model": str(folder)}) if as_json else f"Best model: {folder}")
