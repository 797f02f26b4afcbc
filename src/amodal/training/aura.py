"""AURA's part of a recipe, and what it builds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import create_model

from amodal.data.formats.reason_seg import read_reason_seg
from amodal.errors import InputError
from amodal.models.aura import AuraConfig, AuraModel
from amodal.models.aura.base import LoadedMllm, mllm_config_for, plain_settings
from amodal.models.aura.tiny import TinyMllmSizes, new_tiny_mllm, tiny_llava_config
from amodal.models.bases.sam import fingerprint, sam_config_for
from amodal.models.settings import sam_sizes
from amodal.training.datasets.conversations import PictureConversations, ReasonSource
from amodal.training.datasets.features import FeatureCache
from amodal.training.datasets.named_pictures import NamedPictures
from amodal.training.datasets.transforms import Augmentation
from amodal.training.sections import NotNegative, Positive, Share, Strict, config_fields

if TYPE_CHECKING:
    from amodal.training.recipe import Recipe

AuraSamples = PictureConversations | NamedPictures
_FILLED_IN = {"mllm", "mllm_base", "sam", "base", "seg_token_id", "naming_classes"}


class AuraModelRecipe(Strict):
    """Where the bases come from; `AURA_MODEL` adds every field of `AuraConfig` by its name.

    Either `mllm`, the hub id or folder of an image-text model, or `tiny`, the sizes of a small one
    from scratch; `base` is the SAM.
    """

    mllm: str | None = None
    mllm_revision: str | None = None
    tiny: TinyMllmSizes | None = None
    base: str
    base_revision: str | None = None

    def config(self, **more: Any) -> AuraConfig:
        """The model's configuration, without what only the bases know."""
        if (self.mllm is None) == (self.tiny is None):
            raise InputError("mllm: expected either 'mllm' or 'tiny', got both or none")
        if self.tiny is not None and not self.__dict__["train_mllm"]:
            raise InputError("train_mllm: expected true for an LLM from scratch ('tiny'), got false")
        names = {"mllm", "mllm_revision", "tiny", "base", "base_revision"}
        return AuraConfig(**self.model_dump(exclude=names), **more)


AURA_MODEL: type[AuraModelRecipe] = create_model(
    "AuraFields", __base__=AuraModelRecipe, **config_fields(AuraConfig.__init__, _FILLED_IN)
)


class ReasonSourceRecipe(Strict):
    """One question file with the annotations it names."""

    questions: str
    annotations: str
    images: str | None = None
    weight: NotNegative = 1.0


class AuraDataRecipe(Strict):
    """What is read.

    A sequence holds the conversations about one picture, up to `max_turns` turns and `max_tokens`
    tokens; the masks of `max_masks` of its mask tokens are learned (all by default).
    `feature_cache` is a folder for the frozen backbone's features. With the model's `box_weight`,
    the decoders get the true visible box of `hint_share` of the objects in training. `augmentation` is
    for a first stage that only names what it sees (`AuraConfig.names_only`): in a mirrored picture,
    words about left and right would be wrong.
    """

    train: list[ReasonSourceRecipe]
    validation: list[ReasonSourceRecipe]
    max_turns: Positive = 1
    max_tokens: Positive = 2048
    max_masks: Positive | None = None
    feature_cache: str | None = None
    hint_share: Share = 0.5
    augmentation: Augmentation | None = None


def sized_config(settings: AuraModelRecipe) -> AuraConfig:
    """The configuration with the sizes of its bases, no weights loaded.

    Raises:
        InputError: a base that cannot be found.
    """
    if settings.tiny is not None:
        mllm = tiny_llava_config(settings.tiny, settings.tiny.vocabulary)
    else:
        assert settings.mllm is not None
        mllm = mllm_config_for(settings.mllm)
    return settings.config(mllm=plain_settings(mllm), sam=sam_sizes(sam_config_for(settings.base)))


def read_sources(sources: list[ReasonSourceRecipe]) -> list[ReasonSource]:
    """Read question files. Raises `InputError` for what cannot be read."""
    return [ReasonSource(read_reason_seg(s.questions, s.annotations, s.images), s.weight) for s in sources]


def build_aura(recipe: Recipe) -> tuple[AuraModel, AuraSamples, AuraSamples]:
    """Untrained model, training and validation data of a recipe.

    Raises:
        InputError: data or bases that cannot be read, or settings that do not go together.
    """
    settings, data = recipe.model, recipe.data
    assert isinstance(settings, AuraModelRecipe) and isinstance(data, AuraDataRecipe)
    train, validation = read_sources(data.train), read_sources(data.validation)
    model = _build_model(settings, train, recipe)
    config = model.config
    if config.names_only:
        named, held_out = _named_pictures(model, data, train, validation)
        return model, named, held_out
    if data.augmentation is not None:
        raise InputError("data.augmentation: expected none where words are learned, got one")
    cache = _feature_cache(data, model)
    assert model.processor is not None
    sets = [
        PictureConversations(
            sources,
            model.processor,
            max_turns=data.max_turns,
            max_tokens=data.max_tokens,
            max_masks=masks,
            cells=_image_cells(config) if config.naming_weight > 0 or config.box_weight > 0 else 0,
            classes=config.naming_classes,
            features=cache,
            hint_share=hints if config.box_weight > 0 else None,
        )
        for sources, masks, hints in ((train, data.max_masks, data.hint_share), (validation, None, 0.0))
    ]
    if cache is not None:
        _fill(cache, model, sets)
    return model, sets[0], sets[1]


def _named_pictures(
    model: AuraModel, data: AuraDataRecipe, train: list[ReasonSource], validation: list[ReasonSource]
) -> list[NamedPictures]:
    processor, config = model.processor, model.config
    assert processor is not None
    return [
        NamedPictures(
            sources,
            processor,
            cells=_image_cells(config),
            classes=config.naming_classes,
            augmentation=augmentation,
        )
        for sources, augmentation in ((train, data.augmentation), (validation, None))
    ]


def _build_model(settings: AuraModelRecipe, train: list[ReasonSource], recipe: Recipe) -> AuraModel:
    config = settings.config()
    if config.naming_weight > 0:
        categories = [number for source in train for number in source.dataset.categories]
        config.naming_classes = max(categories, default=0) + 1
    given = None if recipe.init is None else AuraModel.from_pretrained(recipe.init)
    torch.manual_seed(recipe.seed)
    mllm: LoadedMllm | str
    if settings.tiny is not None:
        known = None if given is None or given.processor is None else given.processor.mllm
        mllm = new_tiny_mllm(settings.tiny, _texts(train), recipe.seed, known)
    else:
        assert settings.mllm is not None
        mllm = settings.mllm
    frozen = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.training.precision, torch.float32)
    model = AuraModel.from_base(
        mllm,
        settings.base,
        config,
        revision=settings.base_revision,
        mllm_revision=settings.mllm_revision,
        mllm_dtype=torch.float32 if config.train_mllm else frozen,
    )
    if given is not None:
        _take_over(model, given, str(recipe.init))
    return model


def _take_over(model: AuraModel, given: AuraModel, name: str) -> None:
    """Start from the weights of a saved model of the same sizes; parts that it lacks stay new."""
    ours, theirs = model.state_dict(), given.state_dict()
    other = sorted(k for k in theirs if k not in ours or ours[k].shape != theirs[k].shape)
    if other:
        raise InputError(f"init: expected a model of the recipe's sizes, got {name!r}, which differs in {other[:2]}")
    model.load_state_dict(theirs, strict=False)


def _texts(sources: list[ReasonSource]) -> list[str]:
    turns = [turn for source in sources for c in source.dataset.conversations for turn in c.turns]
    return [text for turn in turns for text in (turn.question, turn.with_token(""))]


def _image_cells(config: AuraConfig) -> int:
    vision = config.mllm_config().vision_config
    return int(vision.image_size) // int(vision.patch_size)


def _feature_cache(data: AuraDataRecipe, model: AuraModel) -> FeatureCache | None:
    if data.feature_cache is None:
        return None
    if model.config.train_vision:
        raise InputError("data.feature_cache: expected none where the backbone is trained along, got a folder")
    mark = f"{fingerprint(model.vision_encoder)} {model.config.image_size}"
    return FeatureCache(Path(data.feature_cache), mark)


def _fill(cache: FeatureCache, model: AuraModel, sets: list[PictureConversations]) -> None:
    processor = model.processor
    assert processor is not None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.vision_encoder.to(device)
    images = {image.path: image for dataset in sets for image in dataset.images()}
    with torch.no_grad():
        cache.fill(
            images.values(),
            lambda image: processor.sam_pixels(image.load()),
            lambda pixels: model.encode_image(pixels.to(device)),
        )
    model.vision_encoder.cpu()
