"""Builds the model, the task and the datasets that a recipe describes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import SamConfig

from amodal.data.datasets import read_dataset
from amodal.data.reason_seg import ReasonDataset, read_reason_seg
from amodal.data.samples import AnnotatedDataset
from amodal.data.splits import is_validation, select_split
from amodal.errors import InputError
from amodal.models.aura import AuraConfig, AuraModel
from amodal.models.aura.mllm import LoadedMllm, mllm_config_for, plain_settings
from amodal.models.aura.tiny_mllm import new_tiny_mllm, tiny_llava_config
from amodal.models.aura.trunk_mllm import BACKGROUND, is_trunk_mllm, new_trunk_mllm, trunk_mllm_config
from amodal.models.bases.families import base_config, family_of, load_base
from amodal.models.bases.protocol import ImageFeatures, fingerprint_of
from amodal.models.bases.sam import new_sam
from amodal.models.detector import DetectorModel
from amodal.models.plug import PlugModel
from amodal.training.datasets.conversations import FeatureCache, ImageConversations
from amodal.training.datasets.crops import ObjectCrops
from amodal.training.datasets.detection import DetectionImages, DetectionSource
from amodal.training.datasets.named_images import NamedImages
from amodal.training.datasets.sampling import Batch, CropSource, ReasonSource, StepSampler, TrainingSamples
from amodal.training.pretrained_trunk import new_segmenter
from amodal.training.recipe import (
    AuraDataRecipe,
    AuraModelRecipe,
    DataRecipe,
    DetectionDataRecipe,
    DetectionSourceRecipe,
    DetectorModelRecipe,
    PlugModelRecipe,
    ReasonSourceRecipe,
    Recipe,
    SamModelRecipe,
    SourceRecipe,
)
from amodal.training.tasks.aura import AuraTask
from amodal.training.tasks.detector import DetectorTask
from amodal.training.tasks.plug import PlugTask
from amodal.training.tasks.sam import SamTask

AUXILIARY_HEADS = ("naming_head", "meaning_head")
"""Parts of an AURA that only losses use; a training that has no such loss leaves those of its first model out."""

AuraSamples = ImageConversations | NamedImages


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
    if isinstance(settings, AuraModelRecipe):
        return _build_aura(recipe, weights)
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
        for crops in (train, validation):  # read before the base, which alone knows how its pixels are normalised
            crops.image_mean, crops.image_std = plug.config.family.image_mean, plug.config.family.image_std
        plug_task = PlugTask.from_recipe(plug.config, recipe.training)
        return TrainingSetup(plug_task.prepare(plug), plug_task, train, validation, plug.config.mask_threshold)
    train, validation = _object_crops(recipe, settings.image_size, settings.crop_scale, "visible")
    torch.manual_seed(seed)
    sam: Any = new_sam(sam_config(settings), seed) if settings.trunk == "vit" else new_segmenter(settings, seed)
    if recipe.init is not None:
        saved = load_base(recipe.init, only="sam" if settings.trunk == "vit" else "conv_prompt").model
        _load_init(sam, _updated(saved, weights), recipe.init)
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


def sized_config(settings: AuraModelRecipe) -> AuraConfig:
    """The configuration of an AURA model with the sizes of its bases, without loading weights.

    Raises:
        InputError: a base cannot be found.
    """
    base = base_config(settings.base)
    if settings.tiny is not None:
        mllm = tiny_llava_config(settings.tiny, settings.tiny.vocabulary)
    elif settings.trunk_mllm is not None:
        mllm = trunk_mllm_config(settings.trunk_mllm)
    else:
        assert settings.mllm is not None
        mllm = mllm_config_for(settings.mllm)
    return settings.config(mllm=plain_settings(mllm), sam=family_of(base).sizes(base))


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
    if recipe.training.gradient_checkpointing:
        raise InputError("training.gradient_checkpointing: expected false for task 'detector', got true")
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
        _load_init(model, _updated(DetectorModel.from_pretrained(recipe.init, trunk), weights), recipe.init)
    task = DetectorTask()
    return TrainingSetup(task.prepare(model), task, train, validation, settings.min_score)


def _detection_source(source: DetectionSourceRecipe) -> DetectionSource:
    read = read_source(source)
    return DetectionSource(read.dataset, read.weight, read.min_visible_pixels, source.all_annotated)


def _updated(saved: nn.Module, weights: Path | None) -> nn.Module:
    """Replace the tensors of a saved model that a file contains, in place."""
    if weights is None:
        return saved
    own_state, tensors = saved.state_dict(), load_file(weights)
    different = sorted(k for k, v in tensors.items() if k not in own_state or own_state[k].shape != v.shape)
    if different:
        raise InputError(
            f"fork: expected the checkpoint and the model of one run, got {str(weights)!r}, "
            f"which differs from the model in {different[:2]}"
        )
    saved.load_state_dict(tensors, strict=False)
    return saved


def _load_plug_init(model: PlugModel, name: str, weights: Path | None) -> None:
    """Start a PLUG model from the weights of a saved one of the same sizes."""
    saved = PlugModel.from_pretrained(name)
    if saved.config.train_base and not model.config.train_base:
        raise InputError(
            f"init: expected a model on a frozen base with model.train_base=false, got {name!r}, whose own base "
            "an increment would leave out"
        )
    _load_init(model, _updated(saved, weights), name)


def _load_init(model: nn.Module, saved: nn.Module, name: str, *, allow_missing: bool = False) -> None:
    """Load the weights of a saved model of the same sizes; with `allow_missing` it may lack parts of `model`."""
    own_state, saved_state = model.state_dict(), saved.state_dict()
    names: Iterable[str] = saved_state.keys() if allow_missing else own_state.keys() | saved_state.keys()
    different = sorted(
        k for k in names if k not in own_state or k not in saved_state or own_state[k].shape != saved_state[k].shape
    )
    if different:
        raise InputError(
            f"init: expected a model of the recipe's sizes, got {name!r}, which differs in {different[:2]}"
        )
    model.load_state_dict(saved_state, strict=not allow_missing)


def _build_aura(recipe: Recipe, weights: Path | None) -> TrainingSetup:
    settings, data = recipe.model, recipe.data
    assert isinstance(settings, AuraModelRecipe) and isinstance(data, AuraDataRecipe)
    train, validation = _read_reason_sources(data.train, data.validation)
    names = sorted({name for source in train for name in source.dataset.categories.values()})
    train, validation = _with_classes(train, names), _with_classes(validation, names)
    model = _aura_model(settings, train, names, recipe, weights)
    make_samples = _named_images if model.config.without_words else _image_conversations
    train_samples, validation_samples = make_samples(model, data, train, validation)
    task = AuraTask(model.config, getattr(validation_samples, "families", ()))
    return TrainingSetup(task.prepare(model), task, train_samples, validation_samples, model.config.mask_threshold)


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
    """Number the categories of all sources alike: 1 + index of the name in `names`."""
    numbers = {name: number for number, name in enumerate(names, 1)}

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


def _aura_model(
    settings: AuraModelRecipe, train: list[ReasonSource], names: list[str], recipe: Recipe, weights: Path | None
) -> AuraModel:
    """An untrained AURA model, or one with the weights of `recipe.init`."""
    config = settings.config()
    if config.naming_weight > 0:
        config.naming_classes = len(names) + 1
    saved = None if recipe.init is None else AuraModel.from_pretrained(recipe.init)
    torch.manual_seed(recipe.seed)
    base = load_base(settings.base, settings.base_revision)
    frozen_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.training.precision, torch.float32)
    dtype = torch.float32 if config.train_mllm else frozen_dtype
    mllm: LoadedMllm | str
    if settings.tiny is not None:
        processor = None if saved is None or saved.processor is None else saved.processor.mllm
        mllm = new_tiny_mllm(settings.tiny, _texts(train), recipe.seed, processor)
    elif settings.trunk_mllm is not None:
        mllm = new_trunk_mllm(settings.trunk_mllm, _words(saved, names, config), recipe.seed, dtype)
    else:
        assert settings.mllm is not None
        mllm = settings.mllm
    model = AuraModel.from_base(mllm, base, config, mllm_revision=settings.mllm_revision, mllm_dtype=dtype)
    if saved is not None:
        _updated(saved, weights)
        for head in AUXILIARY_HEADS:
            if getattr(model, head) is None:
                setattr(saved, head, None)
        _load_init(model, saved, str(recipe.init), allow_missing=True)
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


def _texts(sources: list[ReasonSource]) -> list[str]:
    turns = [turn for source in sources for c in source.dataset.conversations for turn in c.turns]
    return [text for turn in turns for text in (turn.question, turn.with_token(""))]


def _named_images(
    model: AuraModel, data: AuraDataRecipe, train: list[ReasonSource], validation: list[ReasonSource]
) -> tuple[NamedImages, NamedImages]:
    processor, cells, classes = model.processor, _image_cells(model.config), model.config.naming_classes
    assert processor is not None
    if not model.config.names_only and not model.config.has_boxes:
        raise InputError("model.box_tokens: expected more than 0 to find objects without words, got 0")
    samples, held_out = (
        NamedImages(
            sources,
            processor,
            cells=cells,
            classes=classes,
            augmentation=augmentation,
            with_objects=not model.config.names_only,
            max_masks=max_masks,
        )
        for sources, augmentation, max_masks in ((train, data.augmentation, data.max_masks), (validation, None, None))
    )
    return samples, held_out


def _image_conversations(
    model: AuraModel, data: AuraDataRecipe, train: list[ReasonSource], validation: list[ReasonSource]
) -> tuple[ImageConversations, ImageConversations]:
    config = model.config
    if data.augmentation is not None:
        raise InputError("data.augmentation: expected none for a model that learns to answer, got one")
    cache = _feature_cache(data, model)
    assert model.processor is not None
    samples, held_out = (
        ImageConversations(
            sources,
            model.processor,
            max_turns=data.max_turns,
            max_tokens=data.max_tokens,
            max_conversations=data.max_conversations,
            max_masks=max_masks,
            cells=_image_cells(config) if config.naming_weight > 0 or config.has_boxes else 0,
            classes=config.naming_classes,
            features=cache,
            hint_share=hint_share if config.has_boxes else None,
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


def _image_cells(config: AuraConfig) -> int:
    vision = config.mllm_config().vision_config
    return int(vision.image_size) // int(vision.patch_size)


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
