"""A multi-modal LLM made of a language model and a tower that names the regions of an image, joined as in LLaVA.

It is transformers' LLaVA. Its language model comes from a Python package, the hub or a folder, its vision tower finds
regions and names them (`regions.py`), and its projector makes words of a list of them (`region_tokens.py`). The
language model is neither trained nor stored with an AURA: an increment holds the tower, and what every AURA trains.

The trunk that names is not the one that makes the masks: training on masks removes what a trunk knows about kinds of
objects (docs/log/aura-models.md).

Axes: B images, S_mllm side of the square input in pixels, R regions per image, n image tokens, K names of regions, A
further words, D width of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from amodal.models.aura.configuration import TRUNK_TOWER, AuraConfig
from amodal.models.aura.mllm import LoadedMllm, add_seg_token, build_mllm, load_mllm, sampled_fingerprint, start_rows
from amodal.models.aura.packaged import PACKAGED, fetched_folder
from amodal.models.aura.region_tokens import FACTS, WORDS, described
from amodal.models.aura.regions import LearnedRegions, RegionReader, Regions
from amodal.models.bases.conv_prompt import ConvPromptConfig
from amodal.models.bases.efficientnet_lite import (
    EfficientNetLite,
    EfficientNetLiteConfig,
    pretrained_weights,
    weights_file,
)
from amodal.models.bases.families import base_config, hidden_progress_bars
from amodal.models.bases.protocol import IMAGE_MEAN, IMAGE_STD, LoadedBase
from amodal.models.detector import DetectorConfig, DetectorModel, detector_folder, read_detector_config
from amodal.models.hub import Source, find_source
from amodal.models.increments import Origin

BACKGROUND = "background"
"""The word for a region without any object."""

FINDER_SCORE = 0.06
"""Smallest score of a box that is looked at."""

MIN_PROB = 1e-6
"""Smallest probability of a word in an image token, so that its logarithm is finite."""

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
    """A language model that reads the names of regions.

    `language_model` is a name that `amodal models fetch` knows, a hub id or a folder. `image_size` is the side of its
    square image in pixels. The detector of the base finds `num_regions` boxes in the image at `finder_size` pixels, and
    each of them is looked at with `region_size` pixels; the language model reads about the best `num_listed` of them.
    `trunk_weights` is a `.pth` file or an installed package that contains one; without it the trunk starts from random
    weights, for a training from a saved model.
    """

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    language_model: str
    revision: str | None = None
    image_size: int = Field(384, gt=0)
    finder_size: int = Field(256, gt=0, multiple_of=EfficientNetLiteConfig.coarsest_stride)
    region_size: int = Field(128, gt=0, multiple_of=EfficientNetLiteConfig.coarsest_stride)
    num_regions: int = Field(32, gt=0)
    num_listed: int = Field(12, gt=0)
    trunk_weights: str | None = None


class TrunkTowerConfig(PreTrainedConfig):
    """Settings of a `TrunkTower`.

    Args:
        image_size: side of the square input in pixels.
        finder_size: side of the input of the detector that finds the regions.
        region_size: side of the crops that are named.
        num_regions: maximum number of regions per image.
        num_listed: number of regions that the language model reads about.
        words: names of what a region can show; `BACKGROUND` alone if None.
        finder: settings of the base's detector (`DetectorConfig`).
        finder_trunk: settings of the base's trunk (`EfficientNetLiteConfig`).
    """

    model_type = TRUNK_TOWER

    def __init__(
        self,
        image_size: int = 384,
        finder_size: int = 256,
        region_size: int = 128,
        num_regions: int = 32,
        num_listed: int = 12,
        words: Sequence[str] | None = None,
        finder: dict[str, Any] | None = None,
        finder_trunk: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.image_size, self.finder_size, self.region_size = image_size, finder_size, region_size
        self.num_regions, self.num_listed = num_regions, num_listed
        self.words = [BACKGROUND] if words is None else list(words)
        self.finder, self.finder_trunk = finder or {}, finder_trunk or {}
        super().__init__(**kwargs)

    @property
    def trunk_config(self) -> EfficientNetLiteConfig:
        """Configuration of the trunk that names: EfficientNet-Lite0 without a top-down path."""
        return EfficientNetLiteConfig(mixed_channels=0)

    @property
    def hidden_size(self) -> int:
        """Numbers per image token: one for each word."""
        return len(self.words) + len(WORDS)

    @property
    def num_tokens(self) -> int:
        """Image tokens."""
        return self.num_listed * len(FACTS)


@dataclass
class TowerOutput(BaseModelOutput):
    """What a `TrunkTower` sees.

    Attributes:
        last_hidden_state: (B, n, K + A) logarithms of the probabilities of the words of each image token.
        regions: of the images.
    """

    regions: Regions | None = None


class TrunkTower(PreTrainedModel):
    """Finds the regions of an image, names them, and lists them in words.

    The detector that finds them is that of the base (`AuraModel.load_base`), frozen. A tower that is not trained stays
    in evaluation mode, so that later stages learn on what an answer reads.
    """

    config_class = TrunkTowerConfig
    main_input_name = "pixel_values"

    def __init__(self, config: TrunkTowerConfig) -> None:
        super().__init__(config)
        self.reader = RegionReader(EfficientNetLite(config.trunk_config), len(config.words), config.region_size)
        trunk = EfficientNetLite(EfficientNetLiteConfig(**config.finder_trunk))
        self.finder = DetectorModel(DetectorConfig(**config.finder), trunk).requires_grad_(False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Layers initialise themselves."""

    def train(self, mode: bool = True) -> TrunkTower:
        """Set the mode; what is not trained stays in evaluation mode."""
        super().train(mode and self.reader.word.weight.requires_grad)
        self.reader.order.train(mode and self.reader.order.logit.weight.requires_grad)
        return self

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> TowerOutput:
        """Look at images (B, 3, S_mllm, S_mllm)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.reader.word.weight.requires_grad):
            boxes, known = self.find(pixel_values)
            regions = self.reader.regions(pixel_values, boxes, known)
            logs = described(regions, self.config.num_listed).clamp_min(MIN_PROB).log()
        return TowerOutput(last_hidden_state=logs, hidden_states=(logs,), regions=regions)

    @torch.no_grad()
    def find(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, R, 4) in [0, 1] of what may be objects, best first, and whether there is one (B, R).

        The others are the box of the whole image.
        """
        config, size = self.config, self.config.finder_size
        pixels = F.interpolate(pixel_values.float(), (size, size), mode="bilinear", antialias=True)
        found = self.finder.detect(pixels.to(next(self.finder.parameters()).dtype), FINDER_SCORE)
        boxes = pixel_values.new_tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float32)
        boxes = boxes.repeat(len(pixel_values), config.num_regions, 1)
        known = torch.zeros(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
        for index, detections in enumerate(found):
            best = torch.from_numpy(detections.boxes[: config.num_regions]).to(boxes) / size
            boxes[index, : len(best)], known[index, : len(best)] = best, True
        return boxes, known

    def learn(self, pixel_values: Tensor, proposals_xyxy_mllm: Tensor, ranks: Tensor) -> LearnedRegions:
        """Predict for training: from given boxes, and from some of those that the detector finds.

        Args:
            pixel_values: (B, 3, S_mllm, S_mllm).
            proposals_xyxy_mllm: (B, P, 4) in [0, 1].
            ranks: (B, Q) which of the found boxes; the last one if there are fewer.
        """
        found, _ = self.find(pixel_values)
        chosen = found.gather(1, ranks.clamp(max=self.config.num_regions - 1)[..., None].expand(-1, -1, 4))
        boxes = torch.cat([proposals_xyxy_mllm.to(chosen), chosen], dim=1)
        logits, corrected = self.reader.look(pixel_values, boxes)
        corrected = corrected.view_as(boxes)
        return LearnedRegions(boxes, logits, corrected, self.reader.order(logits, boxes, corrected))


AutoConfig.register(TrunkTowerConfig.model_type, TrunkTowerConfig)
AutoModel.register(TrunkTowerConfig, TrunkTower)


class WordProjector(nn.Module):
    """Makes image tokens that the language model reads like words.

    An image token is the mean of the embeddings of `words`, weighted by how probable each is.
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
        self.num_names = len(tower.words)
        self.register_buffer("words", torch.zeros(tower.hidden_size, config.text_config.hidden_size))

    @property
    def names(self) -> Tensor:
        """(K, D) embeddings of the names of regions."""
        return self.words[: self.num_names]

    def forward(self, word_logits: Tensor) -> Tensor:
        """Logits (B, n, K + A) of the words to image tokens (B, n, D)."""
        return word_logits.softmax(-1).to(self.words.dtype) @ self.words

    def meaning(self, phrases: Tensor) -> Tensor:
        """Mean embeddings (N, D) of phrases to the probability (N, K) of each name; zeros for a phrase of zeros."""
        centre = self.names.mean(0)
        names, means = F.normalize(self.names - centre, dim=-1), F.normalize(phrases - centre, dim=-1)
        return (WORD_LOGIT * means @ names.T).softmax(-1) * phrases.any(-1, keepdim=True)


def base_finder(name: str | Path, revision: str | None = None) -> dict[str, Any]:
    """The settings `finder` and `finder_trunk` of a tower whose detector is that of a base.

    Raises:
        InputError: there is no such base, or it has no detector.
    """
    config: Any = base_config(name)
    folder = detector_folder(name, revision) if isinstance(config, ConvPromptConfig) else None
    if folder is None:
        raise _no_detector(name)
    detector = vars(read_detector_config(folder))
    del detector["base_fingerprint"]  # that of the base is in the AURA's own configuration
    trunk = config.trunk_config.to_dict()
    return {
        "finder": detector,
        "finder_trunk": {name: trunk[name] for name in ("stem_channels", "stages", "mixed_channels")},
    }


def load_finder(tower: TrunkTower, base: LoadedBase) -> None:
    """Copy the detector of a base into a tower.

    Raises:
        InputError: the base has none, or one of other sizes.
    """
    name, encoder = base.origin.name_or_path, base.model.vision_encoder
    folder = None if name is None else detector_folder(name, base.origin.revision)
    if folder is None:
        raise _no_detector(name)
    theirs = DetectorModel.from_pretrained(folder, encoder.backbone, base.origin.fingerprint)
    try:
        tower.finder.load_state_dict(theirs.state_dict())
    except RuntimeError:
        raise InputError(f"base {name}: expected the detector that the model was built for, got another one") from None


def _no_detector(base: str | Path | None) -> InputError:
    return InputError(
        f"base {base}: expected a base with a detector, which finds the regions that the language model reads, got one "
        "without"
    )


def new_trunk_mllm(
    settings: TrunkMllmRecipe,
    base: str | Path,
    words: Sequence[str] | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> LoadedMllm:
    """Join a language model and a tower by a new projector, and make the processor.

    The weights of the detector come later, with the base (`AuraModel.load_base`).

    Args:
        settings: names the language model and the trunk's weights.
        base: bundled name, folder or hub id of the base whose detector finds the regions.
        words: names of what an image token can show; `BACKGROUND` alone if None.
        seed: of the layers that are new.
        dtype: of the language model's weights; float32 if None.

    Raises:
        InputError: the language model or the trunk's weights cannot be found or read, or the base has no detector.
    """
    tower = _tower_config(settings, base, words)
    weights = None
    if settings.trunk_weights is not None:
        weights = pretrained_weights(weights_file(settings.trunk_weights), tower.trunk_config)
    source = _source(settings.language_model, settings.revision)
    loaded = _joined(tower, source, settings.language_model, seed, dtype)
    if weights is not None:
        model: Any = loaded.model
        model.model.vision_tower.reader.trunk.load_state_dict(weights)
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


def trunk_mllm_config(settings: TrunkMllmRecipe, base: str | Path) -> LlavaConfig:
    """The configuration of `new_trunk_mllm`'s model, with `[SEG]`, without loading weights.

    Raises:
        InputError: as for `new_trunk_mllm`.
    """
    text = AutoConfig.from_pretrained(_source(settings.language_model, settings.revision).path, trust_remote_code=False)
    image_token = text.vocab_size
    text.vocab_size += 2 + len(MARKUP)  # the image token, the markup and `[SEG]`
    return _llava_config(_tower_config(settings, base, None), text, image_token)


def _tower_config(settings: TrunkMllmRecipe, base: str | Path, words: Sequence[str] | None) -> TrunkTowerConfig:
    sizes = settings.model_dump(include={"image_size", "finder_size", "region_size", "num_regions", "num_listed"})
    return TrunkTowerConfig(words=words, **sizes, **base_finder(base))


def is_trunk_mllm(config: Any) -> bool:
    """Whether the configuration of an LLM is that of a `new_trunk_mllm`."""
    vision = getattr(config, "vision_config", None)
    return getattr(vision, "model_type", None) == TRUNK_TOWER


def is_joint(name: str) -> bool:
    """Whether a tensor of this name in the LLM of `new_trunk_mllm` is stored with an AURA: tower and projector.

    The tower's detector is not: it comes with the base.
    """
    return name.startswith(("model.multi_modal_projector.", "model.vision_tower.reader."))


def is_occlusion_order(name: str) -> bool:
    """Whether a tensor of this name in the LLM of `new_trunk_mllm` belongs to the occlusion order of its regions."""
    return name.startswith("model.vision_tower.reader.order.")


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
    projector.words.copy_(_word_embeddings([*tower.words, *WORDS], tokenizer, language.get_input_embeddings().weight))
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
        patch_size=side,  # all image tokens are additional ones
        vision_feature_select_strategy="full",
        num_additional_image_tokens=tower.num_tokens - 1,
        chat_template=_CHAT_TEMPLATE,
    )
