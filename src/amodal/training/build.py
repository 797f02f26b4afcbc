"""Builds the model, the task and the datasets that a recipe describes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from amodal.data.datasets import read_dataset
from amodal.data.samples import AnnotatedDataset
from amodal.data.splits import select_split
from amodal.errors import InputError
from amodal.models.bases.families import load_base
from amodal.models.detector import DetectorModel
from amodal.models.hub import find_source
from amodal.models.increments import bundled_models, model_type_of
from amodal.models.plug import PlugConfig, PlugModel
from amodal.training.build_aura import build_aura
from amodal.training.datasets.crops import ObjectCrops
from amodal.training.datasets.detection import DetectionImages, DetectionSource
from amodal.training.datasets.sampling import Batch, CropSource, StepSampler, TrainingSamples
from amodal.training.initial_weights import load_init, updated
from amodal.training.pretrained_trunk import new_segmenter, restore_trunk, visible_segmenter
from amodal.training.recipe import (
    AuraModelRecipe,
    DataRecipe,
    DetectionDataRecipe,
    DetectionSourceRecipe,
    DetectorModelRecipe,
    PlugModelRecipe,
    Recipe,
    SourceRecipe,
)
from amodal.training.tasks.detector import DetectorTask
from amodal.training.tasks.plug import PlugTask
from amodal.training.tasks.sam import SamTask


class TrainingTask(Protocol):
    """The losses of one kind of model, as the training loop uses them."""

    def prepare(self, model: nn.Module) -> nn.Module:
        """Make a built model ready for training."""

    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Named losses of a batch; training minimises their sum."""


class PromptedTask(TrainingTask, Protocol):
    """The losses of a promptable model, which predicts one object per prompt."""

    def predict(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Visible and amodal probabilities (B, P, S, S)."""


@dataclass
class TrainingSetup:
    """Model, task and data of a recipe."""

    model: nn.Module
    task: TrainingTask
    train: TrainingSamples
    validation: TrainingSamples
    mask_threshold: float


def build(recipe: Recipe, weights: Path | None = None) -> TrainingSetup:
    """Build the model, the task and the datasets of a recipe.

    The data are read first, so that a missing file is reported before a base is loaded.

    Args:
        recipe: a parsed recipe.
        weights: safetensors file with tensors that replace those of the model `recipe.init`: a checkpoint of the run
            that has saved this model.

    Raises:
        InputError: data or a base cannot be read, or settings contradict each other.
    """
    settings, seed = recipe.model, recipe.seed
    if recipe.training.gradient_checkpointing and recipe.task in ("sam", "detector"):
        raise InputError(f"training.gradient_checkpointing: expected false for task {recipe.task!r}, got true")
    if isinstance(settings, AuraModelRecipe):
        aura, aura_task, *samples = build_aura(recipe, weights)
        return TrainingSetup(aura_task.prepare(aura), aura_task, samples[0], samples[1], aura.config.mask_threshold)
    if isinstance(settings, DetectorModelRecipe):
        return _build_detector(settings, recipe, weights)
    if isinstance(settings, PlugModelRecipe):
        config = settings.config()
        train, validation = _object_crops(
            recipe, config.image_size, config.crop_scale, config.box_source, config.crop_extra_pixel
        )
        torch.manual_seed(seed)
        plug = PlugModel.from_base(settings.base, settings.config(), revision=settings.base_revision)
        if recipe.init is not None:
            _load_plug_init(plug, recipe.init, weights)
        elif settings.trunk_weights is not None:
            restore_trunk(plug, settings.trunk_weights)
        for crops in (train, validation):  # read before the base, which alone knows how its pixels are normalised
            crops.image_mean, crops.image_std = plug.config.family.image_mean, plug.config.family.image_std
        assert isinstance(recipe.data, DataRecipe)
        plug_task = PlugTask.from_recipe(plug.config, recipe.training, recipe.data.own_mask_share)
        return TrainingSetup(plug_task.prepare(plug), plug_task, train, validation, plug.config.mask_threshold)
    train, validation = _object_crops(recipe, settings.image_size, settings.crop_scale, "visible")
    torch.manual_seed(seed)
    sam = new_segmenter(settings, seed)
    if recipe.init is not None:
        load_init(sam, updated(_saved_segmenter(recipe.init), weights), recipe.init)
    weights_of_losses = settings.dice_weight, settings.quality_weight
    sam_task = SamTask(settings.points_share, *weights_of_losses, both_share=settings.both_share)
    return TrainingSetup(sam_task.prepare(sam), sam_task, train, validation, 0.5)


def step_sampler(
    recipe: Recipe, samples: TrainingSamples, start: int, stop: int, *, process_index: int = 0, num_processes: int = 1
) -> StepSampler:
    """Sampler of steps `start` to `stop` of a recipe for one of `num_processes` processes."""
    settings = recipe.training
    return StepSampler(
        samples.lengths,
        [source.weight for source in samples.sources],
        settings.batch_size,
        recipe.seed,
        start,
        stop,
        accumulation=settings.accumulation,
        process_index=process_index,
        num_processes=num_processes,
    )


def read_source(source: SourceRecipe) -> CropSource:
    """Read one dataset of a recipe, with its split and without its excluded categories."""
    whole = read_dataset(source.format, source.annotations, source.images)
    dataset = select_split(whole, source.split, source.validation_share, source.split_seed)
    if source.exclude_categories:
        dataset = _without_categories(dataset, set(source.exclude_categories))
    return CropSource(dataset, source.weight, source.min_visible_pixels)


def _without_categories(dataset: AnnotatedDataset, names: set[str]) -> AnnotatedDataset:
    unknown = names - set(dataset.categories.values())
    if unknown:
        raise InputError(f"exclude_categories: expected names of the dataset's categories, got {sorted(unknown)}")
    excluded = {key for key, name in dataset.categories.items() if name in names}
    images = tuple(
        replace(image, objects=tuple(o for o in image.objects if o.category_id not in excluded))
        for image in dataset.images
    )
    return replace(dataset, images=images)


def _object_crops(
    recipe: Recipe, image_size: int, crop_scale: float, box_source: Any, crop_extra_pixel: bool = False
) -> list[ObjectCrops]:
    """Training and validation crops of a recipe."""
    data = recipe.data
    assert isinstance(data, DataRecipe)
    return [
        ObjectCrops(
            [read_source(source) for source in sources],
            image_size=image_size,
            crop_scale=crop_scale,
            crop_extra_pixel=crop_extra_pixel,
            augmentation=augmentation,
            num_prompts=num_prompts,
            box_source=box_source,
            amodal_target=data.amodal_target,
            mask_prompt_share=data.mask_prompt_share,
            mask_prompt_noise=data.mask_prompt_noise,
        )
        for sources, augmentation, num_prompts in (
            (data.train, data.augmentation, data.num_prompts),
            (data.validation, None, 1),
        )
    ]


def _build_detector(settings: DetectorModelRecipe, recipe: Recipe, weights: Path | None) -> TrainingSetup:
    data = recipe.data
    assert isinstance(data, DetectionDataRecipe)
    train, validation = (
        DetectionImages(
            [_detection_source(source) for source in sources],
            image_size=settings.image_size,
            classes=settings.classes,
            augmentation=augmentation,
        )
        for sources, augmentation in ((data.train, data.augmentation), (data.validation, None))
    )
    base = load_base(settings.base, settings.base_revision, only="conv_prompt")
    trunk = base.model.vision_encoder.backbone.to(memory_format=torch.channels_last)
    torch.manual_seed(recipe.seed)
    model = DetectorModel(settings.config(base.origin.fingerprint), trunk)
    if recipe.init is not None:
        load_init(model, updated(DetectorModel.from_pretrained(recipe.init, trunk), weights), recipe.init)
    task = DetectorTask()
    return TrainingSetup(task.prepare(model), task, train, validation, settings.min_score)


def _detection_source(source: DetectionSourceRecipe) -> DetectionSource:
    read = read_source(source)
    return DetectionSource(read.dataset, read.weight, read.min_visible_pixels, source.all_annotated)


def _saved_segmenter(name: str) -> nn.Module:
    """A saved promptable segmenter, or the one that the visible branch of a saved PLUG model makes."""
    source = find_source(name, argument="init", bundled=bundled_models(), weights=False)
    if model_type_of(source.path) == PlugConfig.model_type:
        return visible_segmenter(PlugModel.from_pretrained(name))
    return load_base(name, only="conv_prompt").model


def _load_plug_init(model: PlugModel, name: str, weights: Path | None) -> None:
    """Start a PLUG model from the weights of a saved one of the same sizes."""
    saved = PlugModel.from_pretrained(name)
    if saved.config.prompted_encoder and not model.config.prompted_encoder:
        raise InputError(f"model.prompted_encoder: expected true, as in init {name!r}, got false")
    # A new prompt adapter starts at zero, so the model it is added to need not have one.
    load_init(model, updated(saved, weights), name, may_lack=lambda k: "prompt_adapter" in k.split("."))
