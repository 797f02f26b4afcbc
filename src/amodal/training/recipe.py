"""Recipes: strict YAML that says everything about a training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from amodal.data.splits import Split
from amodal.data.transforms import Augmentation
from amodal.errors import InputError
from amodal.models.plug import PlugConfig

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """A section: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


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
    """Where the base comes from, and every field of `PlugConfig` under its own name."""

    base: str
    base_revision: str | None = None
    image_size: int = 512
    lora_rank: int = 16
    lora_alpha: float | None = None
    parallel_lora: bool = True
    visible_branch: bool = True
    point_loss: bool = True
    refine: bool = True
    refine_blocks: int = 1
    refine_channels: int = 64
    epsilon: int = 3
    num_points: int = 256
    oversample: int = 4
    importance: float = 0.75
    alpha: float = 0.1
    beta: float = 0.1
    dice_weight: float = 0.0
    iou_weight: float = 0.0
    train_base: bool = False
    crop_scale: float = 2.0
    mask_threshold: float = 0.3
    box_source: Literal["visible", "amodal"] = "visible"

    def config(self, **more: Any) -> PlugConfig:
        """The model's configuration, without what only the base knows."""
        fields = self.model_dump(exclude={"base", "base_revision"})
        return PlugConfig(**fields, **more)


class SourceRecipe(Strict):
    """One dataset."""

    format: str
    annotations: str
    images: str | None = None
    split: Split = "all"
    weight: float = 1.0
    exclude_categories: list[str] = []
    min_visible_pixels: Positive = 1


class DataRecipe(Strict):
    """What is read and how it is varied."""

    train: list[SourceRecipe]
    validation: list[SourceRecipe]
    augmentation: Augmentation = Augmentation()
    num_prompts: Positive = 1


class TrainingRecipe(Strict):
    """The optimisation. Defaults are PLUG's (section 4.2) where it states a value."""

    steps: Positive | None = None
    epochs: Positive | None = None
    batch_size: Positive = 8
    accumulation: Positive = 1
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.1
    warmup_steps: int = 250
    decay: Literal["linear", "cosine"] = "cosine"
    precision: Literal["no", "bf16", "fp16"] = "bf16"
    clip_grad_norm: float = 1.0
    workers: int = 1
    log_every: Positive = 20
    validate_every: Positive = 500
    validation_objects: Positive = 512
    checkpoint_every: Positive = 250


class Recipe(Strict):
    """A training: task, model, data and optimisation."""

    task: Literal["sam", "plug"]
    seed: int = 0
    output: str
    model: SamModelRecipe | PlugModelRecipe
    data: DataRecipe
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
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path}: expected YAML, got {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"recipe {path}: expected a mapping, got {type(content).__name__}")
    for override in overrides or []:
        _override(content, override)
    return parse_recipe(content, str(path))


def parse_recipe(content: dict[str, Any], name: str = "recipe") -> Recipe:
    """Check a recipe's content. Raises `InputError` naming the first wrong key."""
    task = content.get("task")
    models = {"sam": SamModelRecipe, "plug": PlugModelRecipe}
    if task not in models:
        raise InputError(f"recipe {name}: task: expected 'sam' or 'plug', got {task!r}")
    try:
        model = models[task].model_validate(_tupled(content.get("model", {})))
    except ValidationError as error:
        raise InputError(f"recipe {name}: {_first_problem(error, ('model',))}") from error
    try:
        recipe = Recipe.model_validate(_tupled(content) | {"model": model})
    except ValidationError as error:
        raise InputError(f"recipe {name}: {_first_problem(error, ())}") from error
    if (recipe.training.steps is None) == (recipe.training.epochs is None):
        raise InputError(f"recipe {name}: training: expected either 'steps' or 'epochs', got both or none")
    return recipe


def _override(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise InputError(f"--set: expected key=value, got {override!r}")
    *parents, last = key.split(".")
    section = content
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise InputError(f"--set: expected {key!r} to name a key of a section, got a value above it")
    section[last] = yaml.safe_load(value)


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
        return f"{where}: unknown key"
    return f"{where}: expected {problem['msg'].removeprefix('Input should be ')}, got {problem['input']!r}"
