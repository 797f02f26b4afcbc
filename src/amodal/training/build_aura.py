"""Builds the model, the task and the datasets of a recipe for AURA."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amodal.data.datasets import read_dataset
from amodal.data.reason_seg import ReasonDataset, read_reason_seg
from amodal.data.samples import AnnotatedDataset
from amodal.data.splits import is_validation
from amodal.errors import InputError
from amodal.models.aura import AuraConfig, AuraModel
from amodal.models.aura.mllm import LoadedMllm, mllm_config_for, plain_settings
from amodal.models.aura.trunk_mllm import BACKGROUND, is_trunk_mllm, new_trunk_mllm, trunk_mllm_config
from amodal.models.bases.families import base_config, family_of, load_base
from amodal.models.bases.protocol import ImageFeatures, fingerprint_of
from amodal.questions.facts import UNNAMED_KIND
from amodal.training.datasets.conversations import FeatureCache, ImageConversations
from amodal.training.datasets.named_images import HINT_ERROR, Kind, NamedImages
from amodal.training.datasets.sampling import UNNAMED, ReasonSource
from amodal.training.initial_weights import load_init, updated
from amodal.training.recipe import (
    AuraDataRecipe,
    AuraModelRecipe,
    ReasonSourceRecipe,
    Recipe,
)
from amodal.training.tasks.aura import AuraTask

AuraSamples = ImageConversations | NamedImages


def sized_config(settings: AuraModelRecipe) -> AuraConfig:
    """The configuration of an AURA model with the sizes of its bases, without loading weights.

    Raises:
        InputError: a base cannot be found.
    """
    base = base_config(settings.base)
    if settings.trunk_mllm is not None:
        mllm = trunk_mllm_config(settings.trunk_mllm, settings.base)
    else:
        assert settings.mllm is not None
        mllm = mllm_config_for(settings.mllm)
    return settings.config(mllm=plain_settings(mllm), sam=family_of(base).sizes(base))


def build_aura(recipe: Recipe, weights: Path | None) -> tuple[AuraModel, AuraTask, AuraSamples, AuraSamples]:
    """Build model, task, training samples and validation samples of a recipe for AURA; see `build`."""
    settings, data = recipe.model, recipe.data
    assert isinstance(settings, AuraModelRecipe) and isinstance(data, AuraDataRecipe)
    train, validation = _read_reason_sources(data.train, data.validation)
    names = sorted({name for source in train for name in source.dataset.categories.values()})
    train, validation = _with_classes(train, names), _with_classes(validation, names)
    model = _aura_model(settings, names, recipe, weights)
    make_samples = _named_images if model.config.without_words else _image_conversations
    train_samples, validation_samples = make_samples(model, data, train, validation)
    return model, AuraTask(model.config, getattr(validation_samples, "families", ())), train_samples, validation_samples


def _read_reason_sources(*lists: list[ReasonSourceRecipe]) -> tuple[list[ReasonSource], ...]:
    """Read lists of sources; annotations that several question files share are read once."""
    read: dict[tuple[str, str | None], AnnotatedDataset] = {}

    def annotations(source: ReasonSourceRecipe) -> AnnotatedDataset:
        key = (source.annotations, source.images)
        if key not in read:
            read[key] = read_dataset("canonical", *key)
        return read[key]

    return tuple([ReasonSource(_reason_split(s, annotations(s)), s.weight) for s in sources] for sources in lists)


def _with_classes(sources: list[ReasonSource], names: list[str]) -> list[ReasonSource]:
    """Number the categories of all sources alike: 1 + index of the name in `names`, `UNNAMED` for "object"."""
    numbers = {name: number for number, name in enumerate(names, 1)} | {UNNAMED_KIND: UNNAMED}

    def classes(categories: dict[int, str]) -> dict[int, int]:
        return {key: numbers[name] for key, name in categories.items() if name in numbers}

    return [replace(source, classes=classes(source.dataset.categories)) for source in sources]


def _reason_split(source: ReasonSourceRecipe, annotations: AnnotatedDataset) -> ReasonDataset:
    """Read the conversations about the images of a split; the categories stay those of the whole dataset."""
    dataset = read_reason_seg(source.questions, annotations)
    if source.split == "all":
        return dataset
    wanted, share, seed = source.split == "validation", source.validation_share, source.split_seed
    conversations = tuple(c for c in dataset.conversations if is_validation(c.image.path.name, share, seed) == wanted)
    return replace(dataset, conversations=conversations)


def _aura_model(settings: AuraModelRecipe, names: list[str], recipe: Recipe, weights: Path | None) -> AuraModel:
    """An untrained AURA model, or one with the weights of `recipe.init`."""
    config = settings.config()
    saved = None if recipe.init is None else AuraModel.from_pretrained(recipe.init)
    torch.manual_seed(recipe.seed)
    base = load_base(settings.base, settings.base_revision)
    frozen_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.training.precision, torch.float32)
    dtype = torch.float32 if config.train_mllm else frozen_dtype
    mllm: LoadedMllm | str
    if settings.trunk_mllm is not None:
        words = _words(saved, names, config)
        mllm = new_trunk_mllm(settings.trunk_mllm, settings.base, words, recipe.seed, dtype)
    else:
        assert settings.mllm is not None
        mllm = settings.mllm
    model = AuraModel.from_base(mllm, base, config, mllm_revision=settings.mllm_revision, mllm_dtype=dtype)
    if saved is not None:
        updated(saved, weights)
        load_init(model, saved, str(recipe.init), may_lack=lambda _: True)
    return model


def _words(saved: AuraModel | None, names: list[str], config: AuraConfig) -> list[str]:
    """The words that a new projector names image tokens with: those of the model to start from, or of the data."""
    words = [BACKGROUND, *names]
    if saved is None or not is_trunk_mllm(saved.mllm.config):
        return words
    known: list[str] = saved.mllm.config.vision_config.words
    if config.naming_weight > 0 and known != words:
        different = sorted(set(known) ^ set(words))
        raise InputError(
            f"init: expected a model that names the kinds of the data, got one that differs in {different[:3]}"
        )
    return known


def _named_images(
    model: AuraModel, data: AuraDataRecipe, train: list[ReasonSource], validation: list[ReasonSource]
) -> tuple[NamedImages, NamedImages]:
    processor, config = model.processor, model.config
    assert processor is not None
    num_found = config.mllm_config().vision_config.num_regions if config.order_only else None
    kind: Kind = "regions" if config.names_only else "objects"
    samples, held_out = (
        NamedImages(
            sources,
            processor,
            augmentation=augmentation,
            kind=kind,
            max_masks=max_masks,
            box_error=box_error,
            num_found=num_found,
        )
        for sources, augmentation, max_masks, box_error in (
            (train, data.augmentation, data.max_masks, HINT_ERROR),
            (validation, None, None, 0.0),
        )
    )
    return samples, held_out


def _image_conversations(
    model: AuraModel, data: AuraDataRecipe, train: list[ReasonSource], validation: list[ReasonSource]
) -> tuple[ImageConversations, ImageConversations]:
    config = model.config
    if data.augmentation is not None:
        raise InputError("data.augmentation: expected none for a model that learns to answer, got one")
    if data.separate_conversations and config.mllm["model_type"] != "llava":
        raise InputError(
            "data.separate_conversations: expected false for an LLM that is not of LLaVA's class, whose tokens have "
            "one position each, got true"
        )
    cache = _feature_cache(data, model)
    assert model.processor is not None
    samples, held_out = (
        ImageConversations(
            sources,
            model.processor,
            max_turns=data.max_turns,
            max_tokens=data.max_tokens,
            max_conversations=data.max_conversations,
            separate=data.separate_conversations,
            max_masks=max_masks,
            features=cache,
            hint_share=hint_share if config.reads_words else None,
            with_families=held_out_images,
            with_decisions=config.decision_weight > 0,
        )
        for sources, max_masks, hint_share, held_out_images in (
            (train, data.max_masks, data.hint_share, False),
            (validation, None, 0.0, True),
        )
    )
    if cache is not None:
        _fill(cache, model, [*samples.images(), *held_out.images()])
    return samples, held_out


def _feature_cache(data: AuraDataRecipe, model: AuraModel) -> FeatureCache | None:
    if data.feature_cache is None:
        return None
    if model.config.train_vision:
        raise InputError("data.feature_cache: expected none for a backbone that is trained, got a folder")
    identity = fingerprint_of(model.vision_encoder.state_dict())
    return FeatureCache(Path(data.feature_cache), f"{identity} {model.config.image_size}")


def _fill(cache: FeatureCache, model: AuraModel, images: list[Any]) -> None:
    """Compute the features that the cache lacks, on a GPU if there is one; each process computes its share of them.

    All processes must see the same cache. They share the images and not the missing ones, of which each process would
    have another list as soon as the first features are written.
    """
    processor = model.processor
    assert processor is not None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.vision_encoder.to(device)
    is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank, count = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if is_distributed else (0, 1)
    with torch.no_grad():
        cache.fill(
            list({image.path: image for image in images}.values())[rank::count],
            lambda image: processor.pixels_sam(image.load()),
            lambda pixels: _one_map(model.encode_image(pixels.to(device))),
        )
    model.vision_encoder.cpu()
    if is_distributed:
        torch.distributed.barrier()


def _one_map(features: ImageFeatures) -> Tensor:
    if features.high_resolution:
        raise InputError("data.feature_cache: expected none for a backbone with maps of high resolution, got a folder")
    return features.embedding
