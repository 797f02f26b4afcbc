"""`amodal info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from amodal.errors import InputError


def info(
    model: Annotated[str, typer.Argument(help="Model (bundled name, folder, hub id) or YAML recipe.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key of a recipe, key.inner=value; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Print the number of parameters of a model or a recipe without loading weights.

    Example: amodal info recipes/plug/kins-vit-h.yaml --set model.lora_rank=8 --json
    """
    if Path(model).suffix in (".yaml", ".yml"):
        config = _recipe_config(model, set_)
    elif set_:
        raise InputError("--set: expected a recipe to override, got a model")
    else:
        config = _model_config(model)
    counts = _counts(config)
    if as_json:
        typer.echo(json.dumps(counts))
        return
    for name, count in counts.items():
        typer.echo(f"{name:>15} {count:>13,}")


def _counts(config: Any) -> dict[str, int]:
    from amodal.models.aura import AuraConfig
    from amodal.models.aura.modeling import parameter_counts as of_aura
    from amodal.models.plug.modeling import parameter_counts as of_plug

    return of_aura(config) if isinstance(config, AuraConfig) else of_plug(config)


def _model_config(name: str) -> Any:
    from amodal.models.aura import AuraConfig
    from amodal.models.increments import read_config, resolve_folder
    from amodal.models.plug import PlugConfig

    folder = resolve_folder(name)
    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type")
    except (OSError, ValueError, AttributeError):
        kind = None  # read_config raises the error
    return read_config(folder, AuraConfig if kind == "aura" else PlugConfig)


def _recipe_config(path: str, overrides: list[str] | None) -> Any:
    from amodal.models.bases.families import base_config
    from amodal.training.build import sized_config
    from amodal.training.recipe import AuraModelRecipe, PlugModelRecipe, load_recipe

    settings = load_recipe(path, overrides).model
    if isinstance(settings, AuraModelRecipe):
        return sized_config(settings)
    if not isinstance(settings, PlugModelRecipe):
        raise InputError(f"recipe {path}: expected a PLUG or AURA recipe, got another task")
    return settings.config(sam=base_config(settings.base))
