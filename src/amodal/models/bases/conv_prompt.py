"""The family of convolutional promptable segmenters (`ConvPromptModel`): a trunk, and a small U-Net per prompt.

The mask decoders of SAM attend between a few tokens of a prompt and the image. That takes many training samples to
learn. Here prompts are drawn as maps, which the convolutions of a small U-Net mix with the features of the image at
every level: with tens of thousands of training crops instead of millions this gives better masks
(`docs/log/plug-models.md`). A mask prompt works as well as a box.

The trunk is EfficientNet-Lite. PLUG's adapters are added to its 1x1 convolutions in the stages of stride 16 and 32.
With a prompt adapter (`PlugConfig.prompted_encoder`), these stages also get the maps of the prompt, so that the whole
network knows which object is meant.

Axes: B images (or crops), P prompts (objects) per image, C channels, H W input pixels, h w cells of a map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from amodal.models.bases.efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig
from amodal.models.bases.prompt_maps import NUM_MAPS, PromptMaps
from amodal.models.bases.protocol import (
    Adapters,
    BaseFamily,
    ImageFeatures,
    PromptEmbeddings,
    Prompts,
    per_branch,
    rows_of,
)
from amodal.nn.convolutions import add_adapters, last_stages
from amodal.nn.prompted_unet import PromptedUNet

_PROBE_SIZE = 64


class ConvPromptConfig(PreTrainedConfig):
    """Sizes of a convolutional promptable segmenter.

    Args:
        trunk: settings of `EfficientNetLiteConfig`.
        image_size: side of the square input in pixels, a multiple of 32.
        widths: channels of the U-Net at stride 2, 4, 8, 16 and 32.
        blocks: blocks of the U-Net at stride 4, 8, 16 and 32.
    """

    model_type = "conv_prompt"

    def __init__(
        self,
        trunk: Mapping[str, Any] | None = None,
        image_size: int = 192,
        widths: tuple[int, ...] = (16, 48, 96, 128, 160),
        blocks: tuple[int, ...] = (1, 2, 3, 2),
        **kwargs: Any,
    ) -> None:
        self.trunk = dict(trunk or {})
        self.image_size = image_size
        self.widths = list(widths)
        self.blocks = list(blocks)
        super().__init__(**kwargs)

    @property
    def trunk_config(self) -> EfficientNetLiteConfig:
        """Configuration of the trunk."""
        return EfficientNetLiteConfig(**self.trunk)


@dataclass
class ConvPromptOutput(ModelOutput):
    """What the model returns for B images with P prompts each.

    Attributes:
        pred_masks: (B, P, 1, H / 2, W / 2) logits.
        iou_scores: (B, P, 1) predicted IoU.
    """

    pred_masks: Tensor | None = None
    iou_scores: Tensor | None = None


class ConvPromptModel(PreTrainedModel):
    """Images and prompts to one visible mask per prompt."""

    config_class = ConvPromptConfig
    base_model_prefix = "segmenter"
    main_input_name = "pixel_values"

    def __init__(self, config: ConvPromptConfig) -> None:
        super().__init__(config)
        self.vision_encoder = ConvPromptEncoder(config, Adapters(rank=0))
        self.prompt_encoder = PromptMaps(config.image_size)
        self.mask_decoder = _decoder(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Layers initialise themselves."""

    def get_input_embeddings(self) -> None:
        """Return None: FSDP2 asks for word embeddings to shard them alone, and there are none."""
        return None

    def forward(
        self,
        pixel_values: Tensor,
        input_boxes: Tensor | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_masks: Tensor | None = None,
        mask_given: Tensor | None = None,
        multimask_output: bool = False,
    ) -> ConvPromptOutput:
        """Masks of B images with P prompts each.

        Args:
            pixel_values: (B, 3, H, W) normalised.
            input_boxes: (B, P, 4) xyxy; this and the other prompts are those of `Prompts`.
            multimask_output: must be False; there is one mask per prompt.
        """
        features = per_branch(self.vision_encoder(pixel_values), 1)[0]
        prompts = Prompts(input_boxes, input_points, input_labels, input_masks, mask_given)
        embedded = _embedded(self.prompt_encoder, prompts, features.embedding.dtype)
        logits, quality = self.mask_decoder(features, embedded)
        return ConvPromptOutput(pred_masks=logits[:, :, None], iou_scores=quality[..., None])


class ConvPromptFamily(BaseFamily):
    """Convolutional segmenters whose prompts are maps."""

    model_type = "conv_prompt"
    title = "convolutional promptable segmenter"
    config_class = ConvPromptConfig
    model_class = ConvPromptModel
    has_prompt_adapter = True

    def sizes(self, config: PreTrainedConfig) -> dict[str, Any]:
        """The sizes of `ConvPromptConfig`."""
        names = ("trunk", "image_size", "widths", "blocks")
        return {"model_type": self.model_type} | {name: getattr(config, name) for name in names}

    def at_size(self, sizes: Mapping[str, Any], image_size: int) -> ConvPromptConfig:
        """Convolutions run at any size."""
        settings = {name: value for name, value in sizes.items() if name != "model_type"}
        return ConvPromptConfig(**settings | {"image_size": image_size})

    def native_size(self, sizes: Mapping[str, Any]) -> int:
        """Side of the square input."""
        return int(sizes["image_size"])

    def stride(self, sizes: Mapping[str, Any]) -> int:
        """Pixels per cell of the coarsest map."""
        return EfficientNetLiteConfig.coarsest_stride

    def build_encoder(self, config: Any, adapters: Adapters) -> ConvPromptEncoder:
        """See `ConvPromptEncoder`."""
        return ConvPromptEncoder(config, adapters)

    def build_prompt_encoder(self, config: Any) -> PromptMaps:
        """See `PromptMaps`; it has no weights."""
        return PromptMaps(config.image_size)

    def build_decoder(self, config: Any) -> PromptedUNet:
        """See `PromptedUNet`."""
        return _decoder(config)

    def point_parameters(self, prompt_encoder: nn.Module) -> list[nn.Parameter]:
        """None: points are maps."""
        return []

    def token_parameters(self, decoder: Any) -> list[nn.Parameter]:
        """Those of the decoder's input of tokens."""
        parameters: list[nn.Parameter] = decoder.token_parameters()
        return parameters

    def layers(self, encoder: nn.Module) -> list[nn.Module]:
        """None: the blocks of a convolutional trunk are too small to be sharded."""
        return []

    def new_model(self, config: Any, seed: int = 0) -> ConvPromptModel:
        """Make a segmenter with random weights; all layers start by torch's defaults."""
        torch.manual_seed(seed)
        return ConvPromptModel(config)

    def load_prompt_encoder(self, prompt_encoder: nn.Module, model: PreTrainedModel) -> None:
        """Nothing to copy."""

    def load_decoder(self, decoder: nn.Module, model: PreTrainedModel) -> None:
        """Copy all of it."""
        source: Any = model
        decoder.load_state_dict(source.mask_decoder.state_dict())

    def encode(self, encoder: Any, pixel_values: Tensor, num_branches: int) -> tuple[ImageFeatures, ...]:
        """Encode all branches in one pass; the stages of stride 2 to 8 run once for all of them.

        With a prompt adapter only these stages run here: the embedding is the map of stride 8 before the adapter.
        """
        if encoder.prompt_adapter is None:
            return per_branch(encoder(pixel_values), num_branches)
        maps = encoder.backbone.fine_maps(pixel_values)
        return (ImageFeatures(maps[8], (maps[2], maps[4])),) * num_branches

    def encode_objects(
        self, encoder: Any, branches: tuple[ImageFeatures, ...], prompts: PromptEmbeddings
    ) -> tuple[ImageFeatures, ...]:
        """With a prompt adapter, run the stages of stride 16 and 32 for each object."""
        if encoder.prompt_adapter is None:
            return branches
        images = branches[0]
        objects = per_branch([encoder.encode_objects(images.embedding, prompts.dense)], encoder.num_branches)
        return tuple(ImageFeatures(branch.embedding, images.high_resolution) for branch in objects)

    def embed_prompts(self, prompt_encoder: Any, prompts: Prompts) -> PromptEmbeddings:
        """Draw the prompts as maps: `dense` (B, P, 9, H / 2, W / 2); there are no tokens."""
        return _embedded(prompt_encoder, prompts, torch.float32)

    def decode(
        self,
        decoder: nn.Module,
        features: ImageFeatures,
        prompts: PromptEmbeddings,
        image_index: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits (R, P, H / 2, W / 2) and quality (R, P)."""
        fine = tuple(rows_of(x, image_index) for x in features.high_resolution)
        logits, quality = decoder(ImageFeatures(rows_of(features.embedding, image_index), fine), prompts)
        return logits, quality


class ConvPromptEncoder(nn.Module):
    """The trunk with PLUG's adapters, and optionally a prompt adapter.

    The prompt adapter is a 1x1 convolution that adds the maps of a prompt to the map of stride 8. It starts at zero.

    Args:
        config: `ConvPromptConfig`.
        adapters: what is added to the trunk.
    """

    def __init__(self, config: Any, adapters: Adapters) -> None:
        super().__init__()
        self.backbone = EfficientNetLite(config.trunk_config)
        self.prompt_adapter = None
        if adapters.prompted:
            self.prompt_adapter = nn.Conv2d(NUM_MAPS, config.trunk_config.channels(8), 1, bias=False)
            nn.init.zeros_(self.prompt_adapter.weight)
        self.num_branches = 1
        if adapters.rank > 0:
            self.num_branches = adapters.num_branches
            # A caller that counts memory under fake tensors cannot run a trunk on the meta device.
            with unset_fake_temporarily(), torch.device("meta"):
                found = last_stages(EfficientNetLite(config.trunk_config), torch.empty(1, 3, _PROBE_SIZE, _PROBE_SIZE))
            assert found is not None
            add_adapters(self.backbone, *found, adapters.rank, adapters.alpha, adapters.num_branches)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the embedding, (B', C, H / 8, W / 8), and the maps of stride 2 and 4, branch-major."""
        fine, middle, embedding = self.backbone(pixel_values).last_hidden_state
        return [embedding, *(self._of_all_branches(x, embedding.shape[0]) for x in (fine, middle))]

    def encode_objects(self, x: Tensor, maps: Tensor) -> Tensor:
        """The map of stride 8, (B, C, h, w), and the maps of prompts, (B, P, 9, 4h, 4w), to embeddings of objects.

        Returns:
            (G * B * P, C', h, w) for G branches, in the order of the axes.
        """
        assert self.prompt_adapter is not None
        drawn = self.prompt_adapter(F.avg_pool2d(maps.flatten(0, 1), maps.shape[-1] // x.shape[-1]))
        x = (x.repeat_interleave(maps.shape[1], 0) + drawn).contiguous(memory_format=torch.channels_last)
        return self.backbone.mixed({8: x} | self.backbone.coarse_maps(x))

    def _of_all_branches(self, x: Tensor, batch: int) -> Tensor:
        """Repeat a map from before the first adapter for every branch."""
        return x if x.shape[0] == batch else x.repeat(self.num_branches, 1, 1, 1)


def _decoder(config: ConvPromptConfig) -> PromptedUNet:
    trunk = config.trunk_config
    channels = (trunk.stages[0][4], trunk.stages[1][4], trunk.mixed_channels)
    return PromptedUNet(channels, NUM_MAPS, config.widths, config.blocks)


def _embedded(encoder: PromptMaps, prompts: Prompts, dtype: torch.dtype) -> PromptEmbeddings:
    maps = encoder(prompts).to(dtype)
    return PromptEmbeddings(maps.new_zeros(*maps.shape[:2], 0, 1), maps, maps.new_zeros(1, 0, 1, 1))
