"""A small residual network as the vision tower of a LLaVA, for models trained from scratch.

A vision transformer learns to see from hundreds of millions of pictures. Where some ten thousand
are all there is, convolutions come to the same after a tenth of the time (docs/log.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, ResNetConfig, ResNetModel
from transformers.modeling_outputs import BaseModelOutput

_STD = 0.02


class ResNetTowerConfig(PreTrainedConfig):
    """Settings of a `ResNetTower`.

    Args:
        image_size: side of the square input in pixels.
        widths: channels of each stage; the first works at a quarter of the input's side, each
            further one at half of the one before.
        depth: residual blocks a stage.
    """

    model_type = "amodal_resnet_tower"

    def __init__(
        self, image_size: int = 128, widths: tuple[int, ...] = (48, 96, 192), depth: int = 2, **kwargs: Any
    ) -> None:
        self.image_size = image_size
        self.widths = list(widths)
        self.depth = depth
        super().__init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Width of a token."""
        return self.widths[-1]

    @property
    def patch_size(self) -> int:
        """Pixels of the input along each side of a token."""
        return int(2 ** (len(self.widths) + 1))


class ResNetTower(PreTrainedModel):
    """transformers' ResNet whose last feature map is read as tokens, row by row, with learned positions.

    At rest (no parameter trained) it stays in evaluation mode: its batch statistics rest too.
    """

    config_class = ResNetTowerConfig
    main_input_name = "pixel_values"

    def __init__(self, config: ResNetTowerConfig) -> None:
        super().__init__(config)
        self.resnet = ResNetModel(
            ResNetConfig(
                embedding_size=config.widths[0],
                hidden_sizes=config.widths,
                depths=[config.depth] * len(config.widths),
                layer_type="basic",
            )
        )
        cells = config.image_size // config.patch_size
        self.norm = nn.LayerNorm(config.hidden_size)
        self.position_embedding = nn.Embedding(cells * cells, config.hidden_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The ResNet initialises itself."""
        if module is getattr(self, "position_embedding", None):
            nn.init.normal_(self.position_embedding.weight, std=_STD)

    def train(self, mode: bool = True) -> ResNetTower:
        """Training mode, if there is something to train."""
        super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))
        return self

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutput:
        """Pictures (B, 3, S, S) to tokens (B, cells * cells, D), the one entry of `hidden_states` too."""
        pixels = pixel_values.contiguous(memory_format=torch.channels_last)
        features = self.resnet(pixels.to(self.norm.weight.dtype)).last_hidden_state
        tokens = self.norm(features.flatten(2).transpose(1, 2)) + self.position_embedding.weight
        return BaseModelOutput(last_hidden_state=tokens, hidden_states=(tokens,))


AutoConfig.register(ResNetTowerConfig.model_type, ResNetTowerConfig)
AutoModel.register(ResNetTowerConfig, ResNetTower)
