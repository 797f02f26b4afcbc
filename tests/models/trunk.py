"""A tiny convolutional trunk with the parts of RepViT, registered in transformers, for bases on such trunks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput


class TinyTrunkConfig(PreTrainedConfig):
    """Widths of the four stages; `wrapped` hides the stages' inputs, as a trunk that norms its outputs does."""

    model_type = "tiny_convolutional_trunk"

    def __init__(self, widths: tuple[int, ...] = (8, 16, 24, 32), wrapped: bool = False, **kwargs: object) -> None:
        self.widths = list(widths)
        self.wrapped = wrapped
        super().__init__(**kwargs)


@dataclass
class TinyTrunkOutput(ModelOutput):
    """Maps of stride 4, 8, 16 and 32, (B, C, H, W) each."""

    last_hidden_state: list[Tensor] | None = None
    hidden_states: None = None


class TinyBlock(nn.Module):
    """Depthwise convolution, squeeze-and-excitation and an MLP of 1x1 convolutions, with a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mixer = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, groups=width), nn.BatchNorm2d(width))
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 4, 1), nn.ReLU(), nn.Conv2d(4, width, 1), nn.Sigmoid()
        )
        self.mlp = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.GELU(),
            nn.Conv2d(2 * width, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.mixer(x) * self.gate(x)
        return x + self.mlp(x)


class TinyTrunk(PreTrainedModel):
    """A stem of stride 4 and four stages, all but the first of which halve the resolution."""

    config_class = TinyTrunkConfig
    main_input_name = "pixel_values"

    def __init__(self, config: TinyTrunkConfig) -> None:
        super().__init__(config)
        widths = config.widths
        self.stem = nn.Conv2d(3, widths[0], 4, stride=4)
        self.stages = nn.ModuleList([TinyBlock(widths[0])])
        for before, width in pairwise(widths):
            # A pointwise convolution of stride 2, as in ResNets.
            self.stages.append(nn.Sequential(nn.Conv2d(before, width, 1, stride=2), TinyBlock(width)))
        self.post_init()

    def forward(self, pixel_values: Tensor) -> TinyTrunkOutput:
        maps, x = list[Tensor](), self.stem(pixel_values)
        for stage in self.stages:
            x = stage(x)
            maps.append(torch.relu(x) if self.config.wrapped else x)
        return TinyTrunkOutput(last_hidden_state=maps)


AutoConfig.register(TinyTrunkConfig.model_type, TinyTrunkConfig, exist_ok=True)
AutoModel.register(TinyTrunkConfig, TinyTrunk, exist_ok=True)
