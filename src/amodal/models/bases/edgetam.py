"""The EdgeTAM family (`EdgeTamModel`): SAM 2's layout on a convolutional trunk, for single images.

Any trunk serves that transformers builds from `backbone_config` and that returns its maps of stride 4, 8, 16 and 32,
(B, C, H, W) each, as `last_hidden_state`. That of the published EdgeTAM is RepViT-M1 from the package timm.

Differs from PLUG: a convolutional trunk has no Q and V. Low-rank pairs are added to its 1x1 convolutions instead, in
the stages that make the two coarsest maps.

Axes: B images (or crops), C channels, H W cells of a map.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import EdgeTamConfig, EdgeTamModel, PreTrainedConfig, PreTrainedModel
from transformers.models.edgetam.modeling_edgetam import EdgeTamVisionModel

from amodal.errors import InputError
from amodal.models.bases.protocol import Adapters
from amodal.models.bases.sam2 import Sam2Family, pyramid
from amodal.nn.convolutions import add_adapters, last_stages

_PROBE_SIZE = 256  # of the image with which the trunk's stages are found, a multiple of every usual stride


class EdgeTamFamily(Sam2Family):
    """EdgeTAM: SAM 2's prompt encoder, decoder and feature pyramid on a convolutional trunk."""

    model_type = "edgetam"
    aliases = ("edgetam_video",)  # the published checkpoint is that of the video model
    title = "EdgeTAM"
    config_class: ClassVar[type[PreTrainedConfig]] = EdgeTamConfig
    model_class: ClassVar[type[PreTrainedModel]] = EdgeTamModel
    presets: ClassVar[Mapping[str, dict[str, Any]]] = {}  # a configuration of the published trunk needs timm
    hub_ids: ClassVar[Mapping[str, str]] = {}

    def at_size(self, sizes: Mapping[str, Any], image_size: int) -> Any:
        """Convolutions run at any size; the sizes of the maps and the coordinates of prompts follow the input."""
        cell = int(sizes["prompt_encoder_config"].get("patch_size", 16))
        maps = [[image_size * n // cell] * 2 for n in (4, 2, 1)]
        return EdgeTamConfig(
            vision_config=dict(sizes["vision_config"]) | {"backbone_feature_sizes": maps},
            prompt_encoder_config=dict(sizes["prompt_encoder_config"]) | {"image_size": image_size},
            mask_decoder_config=dict(sizes["mask_decoder_config"]),
        )

    def stride(self, sizes: Mapping[str, Any]) -> int:
        """Pixels per cell of the coarsest map of the trunk."""
        return 2 * int(sizes["prompt_encoder_config"].get("patch_size", 16))

    def layers(self, encoder: Any) -> list[nn.Module]:
        """None: the blocks of a convolutional trunk are not made for it."""
        return []

    def build_encoder(self, config: Any, adapters: Adapters) -> Any:
        """See `EdgeTamEncoder`."""
        return EdgeTamEncoder(config, adapters)

    def new_model(self, config: Any, seed: int = 0) -> Any:
        """See `new_edgetam`."""
        return new_edgetam(config, seed)


class EdgeTamEncoder(nn.Module):
    """A convolutional trunk, SAM 2's feature pyramid and `no_memory_embedding`, with adapters.

    Batch norm always uses the statistics of the base, also in training: they belong to the frozen base, and with those
    of the batch an object's mask would depend on the other objects.

    Args:
        config: `EdgeTamConfig` at the input's size.
        adapters: their size.

    Raises:
        InputError: the trunk has no module that takes its map of stride 8.
    """

    def __init__(self, config: Any, adapters: Adapters) -> None:
        super().__init__()
        vision = EdgeTamVisionModel(config.vision_config)
        self.backbone, self.neck = vision.backbone, vision.neck
        self.no_memory_embedding = nn.Parameter(torch.zeros(1, 1, config.vision_config.fpn_hidden_size))
        self.num_branches = 1
        if adapters.rank > 0:
            self.num_branches = adapters.num_branches
            first, convolutions = self._adapted_stages(config)
            add_adapters(self.backbone, first, convolutions, adapters.rank, adapters.alpha, self.num_branches)
        self.train(self.training)

    def _adapted_stages(self, config: Any) -> tuple[str, list[str]]:
        """Names of the module where the two coarsest stages begin, and of their 1x1 convolutions."""
        # A caller that counts memory under fake tensors cannot run a trunk on the meta device.
        with unset_fake_temporarily(), torch.device("meta"):
            trunk = EdgeTamVisionModel(config.vision_config).backbone.eval()
            found = last_stages(trunk, torch.empty(1, 3, _PROBE_SIZE, _PROBE_SIZE))
        if found is None:
            kind = config.vision_config.backbone_config.model_type
            raise InputError(
                f"base: expected a trunk with a module that takes its third coarsest map, got {kind!r} without one"
            )
        return found

    def train(self, mode: bool = True) -> EdgeTamEncoder:
        """Set the mode of all but batch norm."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the embedding, (B', C, H / 16, W / 16), and the maps of stride 4 and 8; see `encode`."""
        maps = list(self.backbone(pixel_values).last_hidden_state)
        last = len(maps) - 1
        mixed = [level == last or level in self.neck.fpn_top_down_levels for level in range(len(maps))]
        batch = self.num_branches * pixel_values.shape[0]
        stages = [self._of_all_branches(x, batch) if is_mixed else x for x, is_mixed in zip(maps, mixed, strict=True)]
        levels = pyramid(self.neck, [x.permute(0, 2, 3, 1) for x in stages])
        fine, middle, embedding = (self._of_all_branches(x, batch) for x in levels[:3])
        memory = self.no_memory_embedding.to(embedding.dtype).reshape(1, -1, 1, 1)
        return [embedding + memory, fine, middle]

    def _of_all_branches(self, x: Tensor, batch: int) -> Tensor:
        """Repeat a map from before the first adapter for every branch."""
        return x if x.shape[0] == batch else x.repeat(self.num_branches, 1, 1, 1)


def new_edgetam(config: Any, seed: int = 0) -> EdgeTamModel:
    """Make an EdgeTAM with random weights that can be trained from scratch: all layers start by torch's defaults."""
    torch.manual_seed(seed)
    model = EdgeTamModel(config)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding | _BatchNorm):
            module.reset_parameters()
    nn.init.trunc_normal_(model.no_memory_embedding, std=0.02)
    features = model.shared_image_embedding.positional_embedding
    nn.init.normal_(features)
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(features)
    return model
