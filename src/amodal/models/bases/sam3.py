"""The SAM 3 family (`Sam3TrackerModel`): the part of SAM 3 that segments what points, boxes and masks prompt for.

What differs from SAM 2: the trunk is a plain ViT with windows and rotary positions, and the maps of stride 1/4 and 1/2
of a patch are made from its output. Prompt encoder and mask decoder are SAM 2's. The text prompts of SAM 3 are not
used. The published weights (facebook/sam3) are gated; nothing here was run with them.

As in the original code, `no_memory_embedding` is added to the embedding. Differs from transformers 5.23 with the
default `scale_factors`: because that adds it to the map of half the resolution, which no mask is read from.

Axes: B images (or crops), C channels, h w feature cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, Sam3TrackerConfig, Sam3TrackerModel
from transformers.models.sam3.modeling_sam3 import Sam3VisionModel

from amodal.models.bases.protocol import Adapters
from amodal.models.bases.sam2 import Sam2Family
from amodal.nn.lora import ParallelLora
from amodal.nn.rotary import RotaryLayer, fused_projections


class Sam3Family(Sam2Family):
    """SAM 3's tracker for single images, with adapters on Q and V of every layer (PLUG Eq. 3-4)."""

    model_type = "sam3_tracker"
    aliases = ("sam3_tracker_video",)
    title = "SAM 3 tracker"
    config_class: ClassVar[type[PreTrainedConfig]] = Sam3TrackerConfig
    model_class: ClassVar[type[PreTrainedModel]] = Sam3TrackerModel
    presets: ClassVar[Mapping[str, dict[str, Any]]] = {}  # the published weights are gated, and none of them was run
    hub_ids: ClassVar[Mapping[str, str]] = {}
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)

    def at_size(self, sizes: Mapping[str, Any], image_size: int) -> Any:
        """Positions are tiled or computed; the sizes of the maps and the coordinates of prompts follow the input."""
        vision = dict(sizes["vision_config"])
        vision["backbone_config"] = dict(vision["backbone_config"]) | {"image_size": image_size}
        cells = image_size // self.stride(sizes)
        vision["backbone_feature_sizes"] = [[n * cells] * 2 for n in (4, 2, 1)]
        return Sam3TrackerConfig(
            vision_config=vision,
            prompt_encoder_config=dict(sizes["prompt_encoder_config"]) | {"image_size": image_size},
            mask_decoder_config=dict(sizes["mask_decoder_config"]),
        )

    def native_size(self, sizes: Mapping[str, Any]) -> int:
        """Side of the square input."""
        return int(sizes["prompt_encoder_config"].get("image_size", 1008))

    def stride(self, sizes: Mapping[str, Any]) -> int:
        """Side of a patch."""
        return int(sizes["vision_config"]["backbone_config"].get("patch_size", 14))

    def layers(self, encoder: Any) -> list[nn.Module]:
        """The layers of the ViT."""
        return list(encoder.backbone.layers)

    def build_encoder(self, config: Any, adapters: Adapters) -> Any:
        """See `Sam3Encoder`."""
        return Sam3Encoder(config, adapters)

    def new_model(self, config: Any, seed: int = 0) -> Any:
        """See `new_sam3`."""
        return new_sam3(config, seed)

    def base_weights(self, model: Any) -> dict[str, Tensor]:
        """The ViT, the pyramid's three levels and `no_memory_embedding`."""
        levels = tuple(f"neck.fpn_layers.{level}." for level in range(3))
        state = {
            name: tensor
            for name, tensor in model.vision_encoder.state_dict().items()
            if not name.startswith("neck.fpn_layers.") or name.startswith(levels)
        }
        return fused_projections(state) | {"no_memory_embedding": model.no_memory_embedding.detach()}


class Sam3Encoder(nn.Module):
    """SAM 3's ViT, three levels of its pyramid and `no_memory_embedding`, with PLUG's adapters.

    Args:
        config: `Sam3TrackerConfig` at the input's size.
        adapters: their size.
    """

    def __init__(self, config: Any, adapters: Adapters) -> None:
        super().__init__()
        vision = Sam3VisionModel(config.vision_config)
        self.backbone, self.neck = vision.backbone, vision.neck
        self.neck.fpn_layers = self.neck.fpn_layers[:3]  # the fourth, of half the resolution, serves text prompts
        self.no_memory_embedding = nn.Parameter(torch.zeros(1, 1, config.vision_config.fpn_hidden_size))
        width = config.vision_config.backbone_config.hidden_size
        for index, plain in enumerate(self.backbone.layers):
            layer = RotaryLayer(plain)
            if adapters.rank > 0:
                layer.attention.lora = ParallelLora(
                    width,
                    adapters.rank,
                    alpha=adapters.alpha,
                    num_branches=adapters.num_branches,
                    splits_branches=index == 0,
                )
            self.backbone.layers[index] = layer

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the embedding, (B', C, h, w), and the maps of (4h, 4w) and (2h, 2w); see `encode`."""
        patch = self.backbone.embeddings.patch_size
        x = self.backbone.embeddings(pixel_values).unflatten(1, (pixel_values.shape[2] // patch, -1))
        x = self.backbone.layer_norm(x)
        for layer in self.backbone.layers:
            x = layer(x)  # (branches * B, h, w, C) from the first layer on, which separates the branches
        fine, middle, embedding = (level(x.permute(0, 3, 1, 2)) for level in self.neck.fpn_layers)
        memory = self.no_memory_embedding.to(embedding.dtype).reshape(1, -1, 1, 1)
        return [embedding + memory, fine, middle]


def new_sam3(config: Any, seed: int = 0) -> Sam3TrackerModel:
    """Make a SAM 3 tracker with random weights that can be trained from scratch.

    As in `new_sam`, all layers start by torch's defaults, the ViT's linear maps by Xavier, and the absolute positions
    with a standard deviation of 0.02.
    """
    torch.manual_seed(seed)
    model = Sam3TrackerModel(config)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
            module.reset_parameters()
    trunk = model.vision_encoder.backbone
    for module in trunk.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    for parameter in (trunk.embeddings.position_embeddings, model.no_memory_embedding):
        nn.init.trunc_normal_(parameter, std=0.02)
    features = model.shared_image_embedding.positional_embedding
    nn.init.normal_(features)
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(features)
    return model
