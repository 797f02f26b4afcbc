"""`amodal info`."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from amodal.errors import InputError


def info(
    model: Annotated[str, typer.Argument(help="Model (bundled name, folder, hub id), base, or YAML recipe.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key of a recipe, key.inner=value; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Print the number of parameters of a model, a base or a recipe without loading weights.

    For a base (SAM, SAM 2, ...), it also says where PLUG would add adapters, with the paper's rank.

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
    adapters = counts.pop("adapters", None)
    for name, count in counts.items():
        typer.echo(f"{name:>15} {count:>13,}" if isinstance(count, int) else f"{name:>15} {count:>13}")
    if adapters is not None:
        places = Counter(re.sub(r"\d+", "*", name) for name in adapters["modules"])
        told = ", ".join(f"{number} x {place}" for place, number in places.items())
        typer.echo(
            f"PLUG (rank {adapters['rank']}, {adapters['branches']} branches) adds {adapters['parameters']:,} "
            f"parameters to {adapters['layers']} of {told}"
        )


def _counts(config: Any) -> dict[str, Any]:
    from amodal.models.aura import AuraConfig
    from amodal.models.aura.modeling import parameter_counts as of_aura
    from amodal.models.bases.promptable import describe_base
    from amodal.models.plug import PlugConfig
    from amodal.models.plug.modeling import parameter_counts as of_plug

    if isinstance(config, AuraConfig):
        return dict(of_aura(config))
    if isinstance(config, PlugConfig):
        return dict(of_plug(config))
    return describe_base(config, PlugConfig().adapters())


def _model_config(name: str) -> Any:
    from amodal.models.aura import AuraConfig
    from amodal.models.bases.families import base_config, preset_names
    from amodal.models.bases.promptable import base_title
    from amodal.models.hub import find_source
    from amodal.models.increments import bundled_models, model_type_of, read_config
    from amodal.models.plug import PlugConfig

    if name in preset_names() or base_title(name) is not None:
        return base_config(name)
    others = f"a base ({', '.join(preset_names())}), "
    path = find_source(name, argument="model", bundled=bundled_models(), weights=False, others=others).path
    if base_title(path) is not None:
        return base_config(path)
    if not path.is_dir():
        raise InputError(f"model {name}: expected a folder with config.json, got a file")
    return read_config(path, AuraConfig if model_type_of(path) == "aura" else PlugConfig)


def _recipe_config(path: str, overrides: list[str] | None) -> Any:
    from amodal.models.bases.families import base_config
    from amodal.training.build_aura import sized_config
    from amodal.training.recipe import AuraModelRecipe, PlugModelRecipe, load_recipe

    settings = load_recipe(path, overrides).model
    if isinstance(settings, AuraModelRecipe):
        return sized_config(settings)
    if not isinstance(settings, PlugModelRecipe):
        raise InputError(f"recipe {path}: expected a PLUG or AURA recipe, got another task")
    return settings.config(sam=base_config(settings.base))
