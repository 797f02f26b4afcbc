"""Recipes: strict YAML that says everything about a training."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, SerializeAsAny, ValidationError, create_model

from amodal.data.splits import Split
from amodal.errors import InputError
from amodal.models.plug import PlugConfig
from amodal.training.aura import AURA_MODEL, AuraDataRecipe, AuraModelRecipe, ReasonSourceRecipe
from amodal.training.datasets.transforms import Augmentation
from amodal.training.sections import NotNegative, Positive, Share, Strict, config_fields


class SamModelRecipe(Strict):
    """Sizes of a SAM trained from scratch (names as in transformers)."""

    image_size: Positive = 128
    patch_size: Positive = 8
    hidden_size: Positive = 160
    num_hidden_layers: Positive = 6
    num_attention_heads: Positive = 4
    window_size: Positive = 8
    global_attn_indexes: list[int] = [2, 5]
    output_channels: Positive = 128
    decoder_heads: Positive = 4
    points_share: Share = 0.2
    dice_weight: float = 1.0
    quality_weight: float = 0.2
    crop_scale: float = 2.0


class PlugModelRecipe(Strict):
    """Where the base comes from; `PLUG_MODEL` adds every field of `PlugConfig` by its name."""

    base: str
    base_revision: str | None = None

    def config(self, **more: Any) -> PlugConfig:
        """The model's configuration, without what only the base knows."""
        fields = self.model_dump(exclude={"base", "base_revision"})
        return PlugConfig(**fields, **more)


PLUG_MODEL: type[PlugModelRecipe] = create_model(
    "PlugFields", __base__=PlugModelRecipe, **config_fields(PlugConfig.__init__, {"sam", "base"})
)


class SourceRecipe(Strict):
    """One dataset."""

    format: str
    annotations: str
    images: str | None = None
    split: Split = "all"
    weight: NotNegative = 1.0
    exclude_categories: list[str] = []
    min_visible_pixels: Positive = 1


class DataRecipe(Strict):
    """What is read and how it is varied."""

    train: list[SourceRecipe]
    validation: list[SourceRecipe]
    augmentation: Augmentation = Augmentation()
    num_prompts: Positive = 1


class TrainingRecipe(Strict):
    """The optimisation. Defaults are PLUG's (section 4.2) where it states a value.

    `batch_size` counts crops over all processes; `accumulation` batches make one step.
    `optimizer` "muon" takes Muon for the linear maps and AdamW for the rest, at one rate.
    `clip_grad_norm` 0 does not clip. `ema` is the decay of a moving average of the weights, which
    then is what is validated and saved; 0 keeps none. `max_minutes` ends a call with a
    checkpoint; the schedule goes by steps all the same. `steps` 0 saves the untrained model.
    `gradient_checkpointing` computes activations a second time instead of keeping them.
    `picture_objects` validation objects are drawn at every validation.
    """

    steps: Annotated[int, Field(ge=0)] | None = None
    epochs: Positive | None = None
    batch_size: Positive = 8
    accumulation: Positive = 1
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: NotNegative = 0.1
    warmup_steps: Annotated[int, Field(ge=0)] = 250
    decay: Literal["linear", "cosine"] = "cosine"
    precision: Literal["no", "bf16", "fp16"] = "bf16"
    clip_grad_norm: NotNegative = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    compile: bool = False
    gradient_checkpointing: bool = False
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    workers: Annotated[int, Field(ge=0)] = 1
    log_every: Positive = 20
    validate_every: Positive = 500
    validation_objects: Positive = 512
    checkpoint_every: Positive = 250
    picture_objects: Annotated[int, Field(ge=0)] = 6
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = ["tensorboard"]


class Recipe(Strict):
    """A training: task, model, data and optimisation.

    `init` is a model (folder or bundled name) of the same sizes whose weights the training starts
    from, instead of random ones or the base's.
    """

    task: Literal["sam", "plug", "aura"]
    init: str | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    output: str
    model: SamModelRecipe | SerializeAsAny[PlugModelRecipe] | SerializeAsAny[AuraModelRecipe]
    data: DataRecipe | AuraDataRecipe
    training: TrainingRecipe


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe and apply `key.inner=value` overrides (values are YAML).

    Raises:
        InputError: no such file, broken YAML, unknown key, wrong type, or a value that the model
            cannot have; the message names the key.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"recipe: expected a file, got {str(path)!r}, which does not exist")
    try:
        content = _load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path}: expected YAML, got {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"recipe {path}: expected a mapping, got {type(content).__name__}")
    content = _unshared(content)
    for override in overrides or []:
        _override(content, override)
    return parse_recipe(content, str(path))


def parse_recipe(content: dict[str, Any], name: str = "recipe") -> Recipe:
    """Check a recipe's content. Raises `InputError` naming the first wrong key."""
    task = content.get("task")
    models: dict[str, type[Strict]] = {"sam": SamModelRecipe, "plug": PLUG_MODEL, "aura": AURA_MODEL}
    if not isinstance(task, str) or task not in models:
        raise InputError(f"recipe {name}: task: expected 'sam', 'plug' or 'aura', got {task!r}")
    sections: dict[str, type[Strict]] = {
        "model": models[task], "data": AuraDataRecipe if task == "aura" else DataRecipe
    }  # fmt: skip
    parsed = {}
    for section, kind in sections.items():
        try:
            parsed[section] = kind.model_validate(_tupled(content.get(section) or {}))
        except ValidationError as error:
            raise InputError(f"recipe {name}: {_first_problem(error, (section,))}") from error
    try:
        recipe = Recipe.model_validate(_tupled(content) | parsed)
    except ValidationError as error:
        raise InputError(f"recipe {name}: {_first_problem(error, ())}") from error
    if (recipe.training.steps is None) == (recipe.training.epochs is None):
        raise InputError(f"recipe {name}: training: expected either 'steps' or 'epochs', got both or none")
    if isinstance(recipe.model, PlugModelRecipe | AuraModelRecipe):
        try:
            recipe.model.config()
        except InputError as error:
            raise InputError(f"recipe {name}: model.{error}") from error
    return recipe


def _override(content: dict[str, Any], override: str) -> None:
    """Apply one `key.inner=value`; a number names an entry of a list, as in `data.train.0.weight`."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set: expected key=value, got {override!r}")
    try:
        value = _load_yaml(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {key}: expected a YAML value, got {text!r}") from error
    *parents, last = key.split(".")
    section: Any = content
    for parent in parents:
        name = _name_in(section, parent, key)
        if isinstance(section, dict) and section.get(name) is None:
            section[name] = {}
        section = section[name]
    section[_name_in(section, last, key)] = value


def _name_in(section: Any, name: str, key: str) -> Any:
    """`name` as the key of a mapping or the index of a list."""
    if isinstance(section, dict):
        return name
    if not isinstance(section, list):
        raise InputError(f"--set: expected {key!r} to name a key of a section, got a value above it")
    if not name.isdecimal() or int(name) >= len(section):
        raise InputError(f"--set: expected a number below {len(section)} in {key!r}, got {name!r}")
    return int(name)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers: PyYAML alone reads `1e-3` as text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _load_yaml(text: str) -> Any:
    return yaml.load(text, _Loader)


def _unshared(value: Any) -> Any:
    """A copy in which a part used twice by a YAML alias is two, each open to its own override."""
    if isinstance(value, dict):
        return {k: _unshared(v) for k, v in value.items()}
    return [_unshared(v) for v in value] if isinstance(value, list) else value


def _tupled(value: Any) -> Any:
    """YAML has no tuples; make those that strict types expect."""
    if isinstance(value, dict):
        return {
            k: tuple(v) if k in ("betas", "scale", "wide_scale") and isinstance(v, list) else _tupled(v)
            for k, v in value.items()
        }
    return [_tupled(v) for v in value] if isinstance(value, list) else value


def _first_problem(error: ValidationError, prefix: tuple[str, ...]) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in (*prefix, *problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key{_suggestion(str(problem['loc'][-1]))}"
    if problem["type"] == "missing":
        return f"{where}: expected a value, got none"
    expected = problem["msg"].removeprefix("Input should be ").removeprefix("Value should be ")
    return f"{where}: expected {expected}, got {problem['input']!r:.80}"


def _suggestion(key: str) -> str:
    sections = (
        Recipe, DataRecipe, SourceRecipe, AuraDataRecipe, ReasonSourceRecipe, TrainingRecipe, Augmentation,
        SamModelRecipe, PLUG_MODEL, AURA_MODEL,
    )  # fmt: skip
    known = {name for section in sections for name in section.model_fields}
    close = difflib.get_close_matches(key, known, n=1)
    return f", expected perhaps {close[0]!r}" if close else ""
