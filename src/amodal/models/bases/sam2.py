"""The SAM 2 family (`Sam2Model`): SAM 2 and 2.1 in the sizes tiny, small, base-plus and large, for single images.

What differs from SAM: the trunk is Hiera, whose stages halve the grid and widen the channels; a feature pyramid turns
the stages into the embedding (stride 16) and two maps of high resolution (stride 4 and 8) that the mask decoder adds
to its upscaled tokens. Of the memory that SAM 2 uses in videos only one constant remains: `no_memory_embedding` is
added to the embedding.

Axes: B images (or crops), P prompts (objects) per image, C channels, h w feature cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, Sam2Config, Sam2Model, SamVisionConfig
from transformers.models.sam2.modeling_sam2 import Sam2MaskDecoder, Sam2PromptEncoder, Sam2VisionModel

from amodal.models.bases.prompts import (
    Float32PositionalEmbedding,
    embed_prompts,
    keep_single_mask,
    single_mask_weights,
)
from amodal.models.bases.protocol import (
    Adapters,
    BaseFamily,
    ImageFeatures,
    PromptEmbeddings,
    Prompts,
    per_branch,
    rows_of,
)
from amodal.nn.decoding import decode_one_mask
from amodal.nn.hiera import add_adapters, trunk_stages, use_hiera_blocks

_PARTS = ("vision_config", "prompt_encoder_config", "mask_decoder_config")


def _preset(
    width: int, heads: int, blocks: list[int], global_blocks: list[int], background: int = 7, third_window: int = 14
) -> dict[str, Any]:
    """Settings of a published trunk; each stage doubles the width and the number of heads."""
    widths = [width * 2**stage for stage in range(4)]
    trunk = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": width,
        "num_attention_heads": heads,
        "blocks_per_stage": blocks,
        "embed_dim_per_stage": widths,
        "num_attention_heads_per_stage": [heads * 2**stage for stage in range(4)],
        "window_size_per_stage": [8, 4, third_window, third_window // 2],
        "global_attention_blocks": global_blocks,
        "window_positional_embedding_background_size": [background, background],
    }
    return {"vision_config": {"backbone_config": trunk, "backbone_channel_list": widths[::-1]}}


class Sam2Family(BaseFamily):
    """SAM 2 in image mode, with adapters on Q and V of every block of Hiera (PLUG Eq. 3-4).

    Widths change at the first block of each stage, so that its adapters have other input than output widths. Queries
    are pooled after the projection, adapters included.
    """

    model_type = "sam2"
    aliases = ("sam2_video",)  # the published checkpoints are those of the video model
    title = "SAM 2"
    config_class = Sam2Config
    model_class: ClassVar[type[PreTrainedModel]] = Sam2Model
    # Sizes of the four published models (configurations in Meta's repository sam2, `configs/sam2.1`).
    presets: ClassVar[Mapping[str, dict[str, Any]]] = {
        "sam2.1-tiny": _preset(96, 1, [1, 2, 7, 2], [5, 7, 9]),
        "sam2.1-small": _preset(96, 1, [1, 2, 11, 2], [7, 10, 13]),
        "sam2.1-base-plus": _preset(112, 2, [2, 3, 16, 3], [12, 16, 20], background=14),
        "sam2.1-large": _preset(144, 2, [2, 6, 36, 4], [23, 33, 43], third_window=16),
    }
    hub_ids: ClassVar[Mapping[str, str]] = {
        f"facebook/{version}-hiera-{size}": f"sam2.1-{size}"
        for version in ("sam2", "sam2.1")
        for size in ("tiny", "small", "base-plus", "large")
    }

    def sizes(self, config: PreTrainedConfig) -> dict[str, Any]:
        """The configurations of the three parts, without transformers' bookkeeping."""
        parts = {name: _differences(getattr(config, name)) for name in _PARTS}
        parts["vision_config"]["backbone_config"] = _differences(config.vision_config.backbone_config)
        return {"model_type": self.model_type} | parts

    def at_size(self, sizes: Mapping[str, Any], image_size: int) -> Sam2Config:
        """The trunk runs at any size; the sizes of the maps and the coordinates of prompts follow the input."""
        vision, prompts = dict(sizes["vision_config"]), dict(sizes["prompt_encoder_config"])
        stride = _patch_stride(sizes)
        vision["backbone_config"] = dict(vision["backbone_config"]) | {"image_size": [image_size, image_size]}
        vision["backbone_feature_sizes"] = [[image_size // (stride * 2**level)] * 2 for level in range(3)]
        prompts |= {"image_size": image_size, "patch_size": 4 * stride}
        return Sam2Config(
            vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=dict(sizes["mask_decoder_config"])
        )

    def native_size(self, sizes: Mapping[str, Any]) -> int:
        """Side of the square input."""
        return int(sizes["prompt_encoder_config"].get("image_size", 1024))

    def stride(self, sizes: Mapping[str, Any]) -> int:
        """Pixels per cell of the coarsest stage, in whole windows of the position embedding."""
        trunk = sizes["vision_config"]["backbone_config"]
        window = trunk.get("window_size_per_stage", [8])[0]
        return _patch_stride(sizes) * math.lcm(window, 2 ** trunk.get("num_query_pool_stages", 3))

    def layers(self, encoder: Any) -> list[nn.Module]:
        """The blocks of the trunk."""
        return list(encoder.backbone.blocks)

    def build_encoder(self, config: Any, adapters: Adapters) -> Sam2Encoder:
        """See `Sam2Encoder`."""
        return Sam2Encoder(config, adapters)

    def build_prompt_encoder(self, config: Any) -> Sam2PromptEncoder:
        """transformers' prompt encoder with coordinates in float32, and separate embeddings of points and corners."""
        prompts = config.prompt_encoder_config
        encoder = Sam2PromptEncoder(prompts)
        features = SamVisionConfig(num_pos_feats=prompts.hidden_size // 2)
        encoder.shared_embedding = Float32PositionalEmbedding(features)
        encoder.point_embed = SeparateEmbeddings(prompts.num_point_embeddings, prompts.hidden_size)
        return encoder

    def build_decoder(self, config: Any) -> SingleMaskSam2Decoder:
        """See `SingleMaskSam2Decoder`."""
        return SingleMaskSam2Decoder(config.mask_decoder_config)

    def point_parameters(self, prompt_encoder: Any) -> list[nn.Parameter]:
        """The embeddings of the labels of points. Boxes use that of no point, after their two corners."""
        return [embed.weight for embed in list(prompt_encoder.point_embed)[:2]]

    def new_model(self, config: Any, seed: int = 0) -> Sam2Model:
        """See `new_sam2`."""
        return new_sam2(config, seed)

    def base_weights(self, model: Any) -> dict[str, Tensor]:
        """The trunk, the pyramid and `no_memory_embedding`."""
        state: dict[str, Tensor] = model.vision_encoder.state_dict()
        return state | {"no_memory_embedding": model.no_memory_embedding.detach()}

    def load_prompt_encoder(self, prompt_encoder: nn.Module, model: PreTrainedModel) -> None:
        """Copy all of it."""
        state = dict(model.prompt_encoder.state_dict())
        for index, row in enumerate(state.pop("point_embed.weight")):
            state[f"point_embed.{index}.weight"] = row[None]
        prompt_encoder.load_state_dict(state)

    def load_decoder(self, decoder: nn.Module, model: PreTrainedModel) -> None:
        """Copy what makes the first mask."""
        weights = single_mask_weights(model.mask_decoder)
        decoder.load_state_dict({k: v for k, v in weights.items() if not k.startswith("pred_obj_score_head.")})

    def encode(self, encoder: Any, pixel_values: Tensor, num_branches: int) -> tuple[ImageFeatures, ...]:
        """Encode all branches in one pass over a batch that the first block multiplies."""
        return per_branch(encoder(pixel_values), num_branches)

    def embed_prompts(self, prompt_encoder: Any, prompts: Prompts) -> PromptEmbeddings:
        """See `prompts.embed_prompts`."""
        return embed_prompts(prompt_encoder, prompts, empty_point=True)

    def decode(
        self,
        decoder: nn.Module,
        features: ImageFeatures,
        prompts: PromptEmbeddings,
        image_index: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits (R, P, 4h, 4w) and quality (R, P)."""
        logits, quality = decoder(features, prompts, image_index)
        return logits, quality


class Sam2Encoder(nn.Module):
    """SAM 2's trunk, feature pyramid and `no_memory_embedding`, with PLUG's adapters.

    Args:
        config: `Sam2Config` at the input's size.
        adapters: their size.
    """

    def __init__(self, config: Any, adapters: Adapters) -> None:
        super().__init__()
        vision = Sam2VisionModel(config.vision_config)
        self.backbone = use_hiera_blocks(vision.backbone)
        self.neck = vision.neck
        self.no_memory_embedding = nn.Parameter(torch.zeros(1, 1, config.vision_config.fpn_hidden_size))
        if adapters.rank > 0:
            add_adapters(self.backbone, adapters.rank, adapters.alpha, adapters.num_branches)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the embedding, (B', C, H / 16, W / 16), and the maps of stride 4 and 8; see `encode`."""
        fine, middle, embedding, *_ = pyramid(self.neck, trunk_stages(self.backbone, pixel_values))
        memory = self.no_memory_embedding.to(embedding.dtype).reshape(1, -1, 1, 1)
        return [embedding + memory, fine, middle]


def pyramid(neck: Any, stages: list[Tensor]) -> list[Tensor]:
    """Combine the stages of a trunk by transformers' feature pyramid, whose position encodings are not needed here.

    Args:
        neck: transformers' `Sam2VisionNeck`.
        stages: (B, H, W, C) each, finest first.

    Returns:
        (B, C', H, W) of each stage, finest first.
    """
    maps: list[Tensor] = []
    last = len(stages) - 1
    for level in range(last, -1, -1):
        lateral = neck.convs[last - level](stages[level].permute(0, 3, 1, 2))
        if level in neck.fpn_top_down_levels and level != last:
            lateral = lateral + F.interpolate(maps[0], scale_factor=2.0, mode="nearest")
        maps.insert(0, lateral)
    return maps


class SeparateEmbeddings(nn.ModuleList):
    """Rows of an embedding as separate parameters, so that those of points stay frozen and those of corners train."""

    def __init__(self, num_rows: int, width: int) -> None:
        super().__init__(nn.Embedding(1, width) for _ in range(num_rows))

    @property
    def weight(self) -> Tensor:
        """(rows, C)."""
        return torch.cat([embed.weight for embed in self])  # type: ignore[misc]

    def forward(self, indices: Tensor) -> Tensor:
        """(...) integers to (..., C)."""
        return F.embedding(indices, self.weight)


class SingleMaskSam2Decoder(Sam2MaskDecoder):
    """SAM 2's mask decoder that returns the mask of its first mask token only.

    As in `SingleMaskDecoder` the other masks' tokens stay and what only their masks need is left out; so is the head
    that predicts whether the object is present. Differs from SAM 2: at inference that one replaces an unstable first
    mask by the best of the other three, which serve ambiguous clicks.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        keep_single_mask(self)
        del self.pred_obj_score_head

    def forward(
        self, features: ImageFeatures, prompts: PromptEmbeddings, image_index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (R, P, 4h, 4w) and predicted quality (R, P); see `BaseFamily.decode` and `decode_one_mask`."""
        fine, middle = features.high_resolution
        embedding = rows_of(features.embedding, image_index)
        positions = prompts.positions.expand_as(embedding)
        maps = (rows_of(self.conv_s0(fine), image_index), rows_of(self.conv_s1(middle), image_index))
        return decode_one_mask(self, embedding, positions, prompts.sparse, prompts.dense, maps)


def new_sam2(config: Any, seed: int = 0) -> Sam2Model:
    """Make a SAM 2 with random weights that can be trained from scratch.

    As in `new_sam`, all layers start by torch's defaults, the trunk's linear maps as in ViT (Xavier), and the position
    embeddings, which transformers leaves at zero, with a standard deviation of 0.02.
    """
    torch.manual_seed(seed)
    model = Sam2Model(config)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
            module.reset_parameters()
    trunk = model.vision_encoder.backbone
    for module in trunk.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    for parameter in (trunk.pos_embed, trunk.pos_embed_window, model.no_memory_embedding):
        nn.init.trunc_normal_(parameter, std=0.02)
    features = model.shared_image_embedding.positional_embedding
    nn.init.normal_(features)
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(features)
    return model


def _patch_stride(sizes: Mapping[str, Any]) -> int:
    stride = sizes["vision_config"]["backbone_config"].get("patch_stride", 4)
    return int(stride if isinstance(stride, int) else stride[0])


def _differences(config: PreTrainedConfig) -> dict[str, Any]:
    """The settings that are not transformers' defaults, without bookkeeping."""
    return {key: value for key, value in config.to_diff_dict().items() if key != "transformers_version"}
