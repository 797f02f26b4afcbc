"""A multi-modal LLM made of a language model and a convolutional trunk that ImageNet has trained, joined as in LLaVA.

It is transformers' LLaVA. Its language model comes from a Python package, the hub or a folder, its vision tower is an
EfficientNet-Lite, and its projector makes words of what it sees (`WordProjector`). The language model is neither
trained nor stored with an AURA: an increment holds the tower, the projector, and what every AURA trains.

The trunk is not the one that makes the masks: training on masks removes what a trunk knows about kinds of objects
(docs/log/aura-models.md).

Axes: B images, S_mllm side of the square input in pixels, c cells of stride 32 along each side, n image tokens,
K words, D width of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from amodal.errors import InputError
from amodal.models.aura.configuration import AuraConfig
from amodal.models.aura.mllm import LoadedMllm, add_seg_token, build_mllm, load_mllm, sampled_fingerprint, start_rows
from amodal.models.aura.packaged import PACKAGED, fetched_folder
from amodal.models.aura.tower import STD, MapTower
from amodal.models.bases.efficientnet_lite import (
    EfficientNetLite,
    EfficientNetLiteConfig,
    pretrained_weights,
    weights_file,
)
from amodal.models.bases.families import hidden_progress_bars
from amodal.models.bases.protocol import IMAGE_MEAN, IMAGE_STD
from amodal.models.hub import Source, find_source
from amodal.models.increments import Origin

BACKGROUND = "background"
"""The word for an image token without any object."""

WORD_LOGIT = 20.0
"""Logit of a word that a phrase means exactly: articles and adjectives in the phrase make it less."""

IMAGE_TOKEN = "<image>"
MARKUP = ("<p>", "</p>")
"""Tokens around the words that name an object: one each instead of three, with rows that are trained."""

_CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% for c in m['content'] if c['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}<|im_end|>\n{% endfor %}"
)
"""The form of SmolLM2's conversations (ChatML), without its message from the system."""


class TrunkMllmRecipe(BaseModel):
    """A language model that reads a convolutional trunk.

    `language_model` is a name that `amodal models fetch` knows, a hub id or a folder. `image_size` is the side of its
    square image in pixels; one token stands for 32 x 32 of them. `trunk_weights` is a `.pth` file or an installed
    package that contains one; without it the trunk starts from random weights, for a training from a saved model.
    """

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    language_model: str
    revision: str | None = None
    image_size: int = Field(256, gt=0, multiple_of=EfficientNetLiteConfig.coarsest_stride)
    trunk_weights: str | None = None


class TrunkTowerConfig(PreTrainedConfig):
    """Settings of a `TrunkTower`.

    Args:
        image_size: side of the square input in pixels.
        words: names of what an image token can show; `BACKGROUND` alone if None.
    """

    model_type = "amodal_trunk_tower"
    patch_size = EfficientNetLiteConfig.coarsest_stride

    def __init__(self, image_size: int = 256, words: Sequence[str] | None = None, **kwargs: Any) -> None:
        self.image_size = image_size
        self.words = [BACKGROUND] if words is None else list(words)
        super().__init__(**kwargs)

    @property
    def trunk_config(self) -> EfficientNetLiteConfig:
        """Configuration of the trunk: EfficientNet-Lite0 without a top-down path."""
        return EfficientNetLiteConfig(mixed_channels=0)

    @property
    def hidden_size(self) -> int:
        """Width of a token: its cell of stride 32 and the four cells of stride 16 in it."""
        coarse, middle = self.trunk_config.channels(32), self.trunk_config.channels(16)
        return coarse + 4 * middle


class TrunkTower(MapTower):
    """The trunk's maps of stride 32 and 16 as tokens, normalised and with learned positions.

    The coarse map knows what an object is, the finer one where it ends; a token has the coarse cell and the four finer
    ones that it covers.
    """

    config_class = TrunkTowerConfig

    def __init__(self, config: TrunkTowerConfig) -> None:
        super().__init__(config)
        self.trunk = EfficientNetLite(config.trunk_config)
        self.add_positions()

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutput:
        """Images (B, 3, S_mllm, S_mllm) to tokens (B, c * c, D), also the only entry of `hidden_states`."""
        weight = self.trunk.stem.weight
        with torch.set_grad_enabled(torch.is_grad_enabled() and weight.requires_grad):
            maps = self.trunk.maps(pixel_values.to(weight.dtype))
        return self.tokens(torch.cat([maps[32], F.pixel_unshuffle(maps[16], 2)], dim=1))


AutoConfig.register(TrunkTowerConfig.model_type, TrunkTowerConfig)
AutoModel.register(TrunkTowerConfig, TrunkTower)


class WordProjector(nn.Module):
    """Features of the trunk to image tokens that the language model reads like words.

    An image token is the mean of the embeddings of `words`, weighted by how probable each is for what the token shows.
    Differs from LLaVA's projector, whose tokens may be anything: because a language model has learned to look up words
    that it has read before, and so needs little training to use these. A trained vector that was added to the mean
    became twice as large as the words, which were then ignored (docs/log/aura-models.md).

    Args:
        config: of the LLM; its `vision_config` names the words.
    """

    words: Tensor

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__()
        tower: Any = config.vision_config
        width: int = config.text_config.hidden_size
        self.linear_1 = nn.Linear(tower.hidden_size, width)
        self.name = nn.Linear(width, len(tower.words))
        for linear in (self.linear_1, self.name):
            nn.init.trunc_normal_(linear.weight, std=STD)
            nn.init.zeros_(linear.bias)
        self.register_buffer("words", torch.zeros(len(tower.words), width))

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, n, D_trunk) of the tower to image tokens (B, n, D); `name` computes the logits of the words."""
        hidden = F.gelu(self.linear_1(features))
        return self.name(hidden).softmax(-1) @ self.words

    def meaning(self, phrases: Tensor) -> Tensor:
        """Mean embeddings (N, D) of phrases to the probability (N, K) of each word; zeros for a phrase of zeros."""
        centre = self.words.mean(0)
        words, means = F.normalize(self.words - centre, dim=-1), F.normalize(phrases - centre, dim=-1)
        return (WORD_LOGIT * means @ words.T).softmax(-1) * phrases.any(-1, keepdim=True)


def new_trunk_mllm(
    settings: TrunkMllmRecipe, words: Sequence[str] | None = None, seed: int = 0, dtype: torch.dtype | None = None
) -> LoadedMllm:
    """Join a language model and a trunk by a new projector, and make the processor.

    Args:
        settings: names the language model and the trunk's weights.
        words: names of what an image token can show; `BACKGROUND` alone if None.
        seed: of projector and positions.
        dtype: of the language model's weights; float32 if None.

    Raises:
        InputError: the language model or the trunk's weights cannot be found or read.
    """
    tower = TrunkTowerConfig(image_size=settings.image_size, words=words)
    weights = None
    if settings.trunk_weights is not None:
        weights = pretrained_weights(weights_file(settings.trunk_weights), tower.trunk_config)
    source = _source(settings.language_model, settings.revision)
    loaded = _joined(tower, source, settings.language_model, seed, dtype)
    if weights is not None:
        model: Any = loaded.model
        model.model.vision_tower.trunk.load_state_dict(weights)
    return loaded


def load_recorded_mllm(config: AuraConfig, other: str | Path | None, dtype: torch.dtype | None) -> PreTrainedModel:
    """Load the LLM that an increment was trained on, with the `[SEG]` token added.

    Of a language model that reads a trunk, this is the language model alone.

    Args:
        config: of the increment.
        other: another place of the same LLM; the recorded one if None.
        dtype: of the weights; their own if None, and float32 in a language model that reads a trunk.

    Raises:
        InputError: the LLM cannot be found or read, or has other weights.
    """
    origin, settings = Origin.from_record(config.mllm_base), config.mllm_config()
    name, revision = origin.location(other, "mllm")
    if is_trunk_mllm(settings):
        loaded = _joined(settings.vision_config, _source(name, revision), name, 0, dtype)
    else:
        loaded = load_mllm(name, revision, dtype)
    origin.check(loaded.origin, "mllm")
    add_seg_token(loaded.model, loaded.processor, config.seg_token)
    return loaded.model


def build_configured_mllm(config: AuraConfig) -> PreTrainedModel:
    """Build the LLM of a configuration, of whatever kind, with weights as transformers initialises them."""
    model: Any = build_mllm(config)
    if is_trunk_mllm(model.config):
        model.model.multi_modal_projector = WordProjector(model.config)
    return model


def trunk_mllm_config(settings: TrunkMllmRecipe) -> LlavaConfig:
    """The configuration of `new_trunk_mllm`'s model, with `[SEG]`, without loading weights.

    Raises:
        InputError: as for `new_trunk_mllm`.
    """
    text = AutoConfig.from_pretrained(_source(settings.language_model, settings.revision).path, trust_remote_code=False)
    image_token = text.vocab_size
    text.vocab_size += 2 + len(MARKUP)  # the image token, the markup and `[SEG]`
    return _llava_config(TrunkTowerConfig(image_size=settings.image_size), text, image_token)


def is_trunk_mllm(config: Any) -> bool:
    """Whether the configuration of an LLM is that of a `new_trunk_mllm`."""
    vision = getattr(config, "vision_config", None)
    return getattr(vision, "model_type", None) == TrunkTowerConfig.model_type


def is_joint(name: str) -> bool:
    """Whether a tensor of this name in the LLM of `new_trunk_mllm` is stored with an AURA: tower and projector."""
    return name.startswith(("model.multi_modal_projector.", "model.vision_tower."))


def _source(name: str | Path, revision: str | None) -> Source:
    if str(name) in PACKAGED:
        return Source(fetched_folder(str(name)))
    others = f"a packaged model ({', '.join(PACKAGED)}), "
    return find_source(name, argument="language_model", bundled={}, revision=revision, others=others)


def _joined(
    tower: TrunkTowerConfig, source: Source, name: str | Path, seed: int, dtype: torch.dtype | None
) -> LoadedMllm:
    try:
        with hidden_progress_bars():
            language: Any = AutoModelForCausalLM.from_pretrained(source.path, dtype="auto", trust_remote_code=False)
        tokenizer: Any = AutoTokenizer.from_pretrained(source.path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(
            f"language_model: expected a causal language model of transformers, got {str(name)!r} "
            f"({' '.join(str(error).split()):.120})"
        ) from error
    origin = Origin(str(name), source.revision, sampled_fingerprint(language))
    language = language.to(dtype or torch.float32)
    known = len(tokenizer)
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    tokenizer.add_tokens(list(MARKUP))
    language.resize_token_embeddings(max(len(tokenizer), language.config.vocab_size), mean_resizing=False)
    image_token, *markup = tokenizer.convert_tokens_to_ids([IMAGE_TOKEN, *MARKUP])
    start_rows(language, [image_token, *markup], known)
    config = _llava_config(tower, language.config, image_token)
    torch.manual_seed(seed)
    with torch.device("meta"):
        model: Any = LlavaForConditionalGeneration(config)
    model.model.language_model, model.lm_head = language.model, language.lm_head
    model.model.vision_tower = TrunkTower(tower)
    model.model.multi_modal_projector = projector = WordProjector(config)
    projector.words.copy_(_word_embeddings(tower.words, tokenizer, language.get_input_embeddings().weight))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return LoadedMllm(model.eval(), _processor(tower, tokenizer), origin, tuple(markup))


def _llava_config(tower: TrunkTowerConfig, text: PreTrainedConfig, image_token: int) -> LlavaConfig:
    return LlavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_index=image_token,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=text.tie_word_embeddings,
    )


@torch.no_grad()
def _word_embeddings(words: Sequence[str], tokenizer: Any, weight: Tensor) -> Tensor:
    """The mean input embedding (K, D) of the tokens of each word."""
    tokens = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words]
    return torch.stack([weight[ids].float().mean(0) for ids in tokens])


def _processor(tower: TrunkTowerConfig, tokenizer: Any) -> Any:
    side = tower.image_size
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=IMAGE_MEAN,
        image_std=IMAGE_STD,
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=tower.patch_size,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=_CHAT_TEMPLATE,
    )
