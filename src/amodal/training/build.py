"""From a recipe to the objects a training needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import SamConfig

from amodal.data.readers import read_dataset
from amodal.data.samples import AnnotatedDataset
from amodal.data.splits import select_split
from amodal.errors import InputError
from amodal.models.bases.sam import load_sam, new_sam
from amodal.models.plug import PlugModel
from amodal.training.aura import AuraModelRecipe, build_aura
from amodal.training.datasets.crops import ObjectCrops, Source
from amodal.training.feeding import Samples
from amodal.training.recipe import (
    DataRecipe,
    PlugModelRecipe,
    Recipe,
    SamModelRecipe,
    SourceRecipe,
    TrainingRecipe,
)
from amodal.training.tasks.aura import AuraTask
from amodal.training.tasks.plug import PlugTask
from amodal.training.tasks.sam import SamTask


class Task(Protocol):
    """What the loop asks of a task."""

    def prepare(self, model: nn.Module) -> nn.Module:
        """Make a built model ready for training."""

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Named losses of a batch; their sum is minimised."""


class PromptedTask(Task, Protocol):
    """A task whose objects are prompted, one answer a prompt."""

    def predict(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Visible and amodal probabilities (B, P, S, S)."""


@dataclass
class Training:
    """Model, task and data of a recipe."""

    model: nn.Module
    task: Task
    train: Samples
    validation: Samples
    mask_threshold: float


def build(recipe: Recipe) -> Training:
    """Build everything a recipe names, data first: a missing file shows before a base is loaded.

    Raises:
        InputError: data or a base that cannot be read.
    """
    settings = recipe.model
    if isinstance(settings, AuraModelRecipe):
        aura, asked, held_out = build_aura(recipe)
        answers = AuraTask(aura.config)
        return Training(answers.prepare(aura), answers, asked, held_out, aura.config.mask_threshold)
    assert isinstance(recipe.data, DataRecipe)
    plug = settings.config() if isinstance(settings, PlugModelRecipe) else None
    shape: Any = settings if plug is None else plug
    train, validation = (
        ObjectCrops(
            [read_source(source) for source in sources],
            image_size=shape.image_size,
            crop_scale=shape.crop_scale,
            augmentation=augmentation,
            num_prompts=num_prompts,
            box_source="visible" if plug is None else plug.box_source,  # type: ignore[arg-type]
        )
        for sources, augmentation, num_prompts in (
            (recipe.data.train, recipe.data.augmentation, recipe.data.num_prompts),
            (recipe.data.validation, None, 1),
        )
    )
    model, task, threshold = _model_and_task(settings, recipe.seed)
    if recipe.init is not None:
        _start_from(model, recipe.init)
    return Training(task.prepare(model), task, train, validation, threshold)


def _model_and_task(settings: SamModelRecipe | PlugModelRecipe, seed: int) -> tuple[nn.Module, PromptedTask, float]:
    """Untrained model, its task, and the probability above which a pixel is foreground."""
    torch.manual_seed(seed)
    if isinstance(settings, PlugModelRecipe):
        plug = PlugModel.from_base(settings.base, settings.config(), revision=settings.base_revision)
        config: Any = plug.config
        return plug, PlugTask(config), config.mask_threshold
    sam = new_sam(sam_config(settings), seed)
    return sam, SamTask(settings.points_share, settings.dice_weight, settings.quality_weight), 0.5


def _start_from(model: nn.Module, name: str) -> None:
    """Take over the weights of a saved model of the same kind and sizes."""
    given = PlugModel.from_pretrained(name) if isinstance(model, PlugModel) else load_sam(name).model
    if isinstance(model, PlugModel) and given.config.train_base and not model.config.train_base:
        raise InputError(
            f"init: expected a model on a frozen base with model.train_base=false, got {name!r}, whose own base "
            "an increment would leave out"
        )
    ours, theirs = model.state_dict(), given.state_dict()
    other = sorted(
        k for k in ours.keys() | theirs.keys() if k not in ours or k not in theirs or ours[k].shape != theirs[k].shape
    )
    if other:
        raise InputError(f"init: expected a model of the recipe's sizes, got {name!r}, which differs in {other[:2]}")
    model.load_state_dict(theirs)


def sam_config(settings: SamModelRecipe) -> SamConfig:
    """transformers' configuration of a SAM with the recipe's sizes."""
    channels = settings.output_channels
    return SamConfig(
        vision_config={
            "hidden_size": settings.hidden_size,
            "num_hidden_layers": settings.num_hidden_layers,
            "num_attention_heads": settings.num_attention_heads,
            "image_size": settings.image_size,
            "patch_size": settings.patch_size,
            "window_size": settings.window_size,
            "global_attn_indexes": settings.global_attn_indexes,
            "output_channels": channels,
            "num_pos_feats": channels // 2,
            "mlp_dim": 4 * settings.hidden_size,
        },
        prompt_encoder_config={
            "hidden_size": channels,
            "image_size": settings.image_size,
            "patch_size": settings.patch_size,
        },
        mask_decoder_config={
            "hidden_size": channels,
            "mlp_dim": 4 * channels,
            "num_attention_heads": settings.decoder_heads,
            "iou_head_hidden_dim": channels,
        },
    )


def read_source(source: SourceRecipe) -> Source:
    """Read one dataset of a recipe, with its split and without excluded categories."""
    dataset = select_split(read_dataset(source.format, source.annotations, source.images), source.split)
    if source.exclude_categories:
        dataset = _without(dataset, set(source.exclude_categories))
    return Source(dataset, source.weight, source.min_visible_pixels)


def total_steps(settings: TrainingRecipe, objects: int) -> int:
    """Optimiser steps of the whole training; an epoch is every object once on average."""
    if settings.steps is not None:
        return settings.steps
    assert settings.epochs is not None
    return max(settings.epochs * objects // (settings.batch_size * settings.accumulation), 1)


def learning_rate_factor(settings: TrainingRecipe, steps: int) -> Callable[[int], float]:
    """Factor on the learning rate by step: linear warm-up, then decay to 0 (PLUG section 4.2)."""

    def factor(step: int) -> float:
        if step < settings.warmup_steps:
            return (step + 1) / settings.warmup_steps
        done = (step - settings.warmup_steps) / max(steps - settings.warmup_steps, 1)
        return 1 - done if settings.decay == "linear" else 0.5 * (1 + math.cos(math.pi * min(done, 1)))

    return factor


def _without(dataset: AnnotatedDataset, names: set[str]) -> AnnotatedDataset:
    unknown = names - set(dataset.categories.values())
    if unknown:
        raise InputError(f"exclude_categories: expected names of the dataset's categories, got {sorted(unknown)}")
    left_out = {key for key, name in dataset.categories.items() if name in names}
    images = tuple(
        replace(image, objects=tuple(o for o in image.objects if o.category_id not in left_out))
        for image in dataset.images
    )
    return replace(dataset, images=images)
