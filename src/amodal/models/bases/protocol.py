"""What PLUG asks of the promptable segmenter it builds on, whatever its architecture.

One `BaseFamily` per architecture (SAM, SAM 2, ...) says how to make the three parts of a base, what runs before and
after PLUG's adapters, and how prompts become masks. A family has no state: the parts it makes are plain modules that
`PlugModel` owns, under the names `vision_encoder`, `prompt_encoder`, `visible_decoder` and `amodal_decoder`.
`amodal.models.bases.families` finds the family of a configuration, and loads bases.

A new family is one file with a subclass and one line in `families.FAMILIES`. It implements the abstract methods; the
others have defaults that suit a base with transformers' module names (`vision_encoder`, `prompt_encoder`,
`mask_decoder`).

Axes: B images (or crops), P prompts (objects) per image, C channels, H W input pixels, h w feature cells.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from amodal.models.increments import Origin

# ImageNet's mean and standard deviation of RGB in [0, 1], which SAM and SAM 2 were trained with.
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)

ADAPTER_NAMES = {"lora", "prompt_adapter"}
"""Names of the submodules that PLUG adds to an encoder."""


class ImageFeatures(NamedTuple):
    """Features of images for one branch: what a mask decoder reads besides the prompts.

    Attributes:
        embedding: (B, C, h, w).
        high_resolution: further maps for the decoder, finest first, (B, C', n * h, n * w) each; empty in SAM.
    """

    embedding: Tensor
    high_resolution: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Prompts:
    """Prompts of P objects per image, in pixels of the network's input; at least one kind is given.

    Attributes:
        boxes: (B, P, 4) xyxy.
        points: (B, P, K, 2), (x, y).
        labels: (B, P, K), together with `points`: 1 on the object, 0 not on it, -1 not a point, -10 padding.
        masks: (B, P, H', W') bool, or float logits, of any resolution.
        mask_given: (B, P) bool, which objects have a mask; all if None.
    """

    boxes: Tensor | None = None
    points: Tensor | None = None
    labels: Tensor | None = None
    masks: Tensor | None = None
    mask_given: Tensor | None = None


@dataclass(frozen=True)
class PromptEmbeddings:
    """Embedded prompts, the inputs of the mask decoders.

    Attributes:
        sparse: (B, P, n, C) embeddings of points and corners of boxes, n per prompt.
        dense: (B, C, h, w) embedding of no mask, or (B, P, C, h, w) embeddings of the mask prompts.
        positions: (1, C, h, w) of the image tokens.
    """

    sparse: Tensor
    dense: Tensor
    positions: Tensor


@dataclass(frozen=True)
class Adapters:
    """What PLUG adds to an encoder: low-rank adapters, and optionally a prompt adapter.

    Attributes:
        rank: inner width; 0 for none.
        alpha: scale numerator; None means the rank.
        num_branches: number of adapter sets, one per branch.
        prompted: add the prompt adapter, through which prompts reach the encoder (`BaseFamily.encode_objects`).
    """

    rank: int
    alpha: float | None = None
    num_branches: int = 1
    prompted: bool = False


@dataclass(frozen=True)
class LoadedBase:
    """A base in memory, and where its weights came from."""

    model: PreTrainedModel
    origin: Origin


class BaseFamily(ABC):
    """One architecture of promptable segmenters.

    Attributes:
        model_type: transformers' name of the architecture, the `model_type` of its configurations.
        aliases: further `model_type`s whose checkpoints hold such a model, e.g. those of its video form.
        title: name for messages.
        config_class: transformers' configuration.
        model_class: transformers' model.
        presets: names and settings of published sizes, for use without a download.
        hub_ids: hub repositories and their preset.
        image_mean: subtracted from RGB in [0, 1].
        image_std: divides the result.
        keeps_aspect_ratio: whether its own preparation of an image resizes the longer side and pads the rest; otherwise
            the image is resized to a square.
        has_prompt_adapter: whether its encoder can have a prompt adapter (`encode_objects`).
    """

    model_type: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    title: ClassVar[str]
    config_class: ClassVar[type[PreTrainedConfig]]
    model_class: ClassVar[type[PreTrainedModel]]
    presets: ClassVar[Mapping[str, dict[str, Any]]] = {}
    hub_ids: ClassVar[Mapping[str, str]] = {}
    image_mean: ClassVar[tuple[float, float, float]] = IMAGE_MEAN
    image_std: ClassVar[tuple[float, float, float]] = IMAGE_STD
    keeps_aspect_ratio: ClassVar[bool] = False
    has_prompt_adapter: ClassVar[bool] = False

    # Configuration

    @abstractmethod
    def sizes(self, config: PreTrainedConfig) -> dict[str, Any]:
        """The part of a base's configuration that defines it, as `PlugConfig.sam` stores it."""

    @abstractmethod
    def at_size(self, sizes: Mapping[str, Any], image_size: int) -> PreTrainedConfig:
        """The configuration of the base `sizes` for square inputs of `image_size` pixels."""

    @abstractmethod
    def native_size(self, sizes: Mapping[str, Any]) -> int:
        """Side in pixels of the square input that the base was trained with."""

    @abstractmethod
    def stride(self, sizes: Mapping[str, Any]) -> int:
        """Pixels per feature cell; the side of the input must be a multiple of it."""

    # Parts

    @abstractmethod
    def build_encoder(self, config: PreTrainedConfig, adapters: Adapters) -> nn.Module:
        """Make the image encoder with adapters, as submodules named `lora` or `prompt_adapter` (see `is_adapter`)."""

    @abstractmethod
    def build_prompt_encoder(self, config: PreTrainedConfig) -> nn.Module:
        """Make the prompt encoder.

        It has `shared_embedding` with the fixed Fourier features `positional_embedding`, and `mask_embed`, which
        serves mask prompts only.
        """

    @abstractmethod
    def build_decoder(self, config: PreTrainedConfig) -> nn.Module:
        """Make a mask decoder for one mask per prompt. Its `iou_prediction_head` predicts the mask's quality."""

    @abstractmethod
    def point_parameters(self, prompt_encoder: nn.Module) -> list[nn.Parameter]:
        """The parameters of a prompt encoder that neither boxes nor masks use."""

    def token_parameters(self, decoder: nn.Module) -> list[nn.Parameter]:
        """The parameters of a mask decoder that no box, point or mask reaches, but tokens of a language model do."""
        return []

    def layers(self, encoder: nn.Module) -> list[nn.Module]:
        """The repeated layers of an encoder, each of which can be checkpointed or sharded by itself."""
        return list(encoder.layers)  # type: ignore[arg-type]

    # Weights

    @abstractmethod
    def new_model(self, config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
        """Make a base with random weights that can be trained from scratch."""

    def fit_encoder_weights(self, weights: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert an encoder's tensors to another input size.

        Args:
            weights: state of an encoder, without or with adapters.
            target: state of an encoder that differs only in its input size.
        """
        return weights

    def base_weights(self, model: PreTrainedModel) -> dict[str, Tensor]:
        """The tensors of a base that stay frozen, by their names in the encoder of `build_encoder`."""
        state: dict[str, Tensor] = model.vision_encoder.state_dict()
        return state

    def load_encoder(self, encoder: nn.Module, model: PreTrainedModel) -> None:
        """Copy a base into an encoder, fitted to its input size; adapters stay as they are."""
        own = encoder.state_dict()
        encoder.load_state_dict(own | self.fit_encoder_weights(self.base_weights(model), own))

    @abstractmethod
    def load_prompt_encoder(self, prompt_encoder: nn.Module, model: PreTrainedModel) -> None:
        """Copy a base's prompt encoder."""

    @abstractmethod
    def load_decoder(self, decoder: nn.Module, model: PreTrainedModel) -> None:
        """Copy a base's mask decoder."""

    def fingerprint(self, model: PreTrainedModel) -> str:
        """Identify the frozen weights of a base."""
        return fingerprint_of(self.base_weights(model))

    # Computation

    @abstractmethod
    def encode(self, encoder: nn.Module, pixel_values: Tensor, num_branches: int) -> tuple[ImageFeatures, ...]:
        """Encode images once for all branches; what comes before the first adapter is computed once.

        Args:
            encoder: of `build_encoder`.
            pixel_values: (B, 3, H, W) normalised.
            num_branches: number of adapter sets that the encoder was built with.

        Returns:
            Features of B images per branch.
        """

    def encode_objects(
        self, encoder: nn.Module, branches: tuple[ImageFeatures, ...], prompts: PromptEmbeddings
    ) -> tuple[ImageFeatures, ...]:
        """Run what the encoder computes once per object; by default nothing.

        Args:
            encoder: of `build_encoder`.
            branches: features of B images per branch, from `encode`.
            prompts: of P objects per image.

        Returns:
            Features per branch. If the encoder has a prompt adapter, the embeddings are those of the objects, (B * P,
            C, h, w); otherwise `branches`.
        """
        return branches

    @abstractmethod
    def embed_prompts(self, prompt_encoder: nn.Module, prompts: Prompts) -> PromptEmbeddings:
        """Embed the prompts of B * P objects."""

    @abstractmethod
    def decode(
        self,
        decoder: nn.Module,
        features: ImageFeatures,
        prompts: PromptEmbeddings,
        image_index: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode all prompts of all images in one call.

        Args:
            decoder: of `build_decoder`.
            features: of B images.
            prompts: R rows of P prompts each.
            image_index: (R,) the image that each row of prompts belongs to; None if row i belongs to image i. What the
                decoder computes from an image alone is computed once per image.

        Returns:
            Logits (R, P, H', W') at the decoder's own resolution, and predicted quality (R, P).
        """


def is_adapter(name: str) -> bool:
    """Whether a tensor of this name belongs to what PLUG adds to an encoder."""
    return not ADAPTER_NAMES.isdisjoint(name.split("."))


def rows_of(maps: Tensor, image_index: Tensor | None) -> Tensor:
    """Select the image of each row of prompts: (B, ...) to (R, ...); see `BaseFamily.decode`."""
    return maps if image_index is None else maps[image_index]


def per_branch(maps: Sequence[Tensor], num_branches: int) -> tuple[ImageFeatures, ...]:
    """Divide maps of a doubled batch, (branches * B, C, h, w) and branch-major, into the features of each branch.

    Args:
        maps: the embedding first, then the maps of high resolution, finest first.
        num_branches: number of branches in the batch.
    """
    parts = zip(*(x.unflatten(0, (num_branches, -1)).unbind() for x in maps), strict=True)
    return tuple(ImageFeatures(embedding, tuple(fine)) for embedding, *fine in parts)


def fingerprint_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 bytes of tensors, the first 32 digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().to(torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
