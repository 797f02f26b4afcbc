"""A small U-Net that turns the features of an image and the maps of a prompt into one mask.

Axes: R rows of P prompts each, N = R * P objects, C channels, h w cells of the embedding, whose stride is 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.nn.convolutions import DepthwiseConv


class PromptedUNet(nn.Module):
    """Features and prompts to a mask and its predicted quality.

    The maps of the prompt are added at every level, from stride 32 to stride 2, so that the receptive field of what
    depends on the prompt is the whole input, and the outline of a mask prompt keeps its detail.

    Args:
        in_channels: channels of the features of stride 2, 4 and 8.
        num_maps: number of maps per prompt.
        widths: channels at stride 2, 4, 8, 16 and 32.
        blocks: number of blocks at stride 4, 8, 16 and 32. Of those at stride 8 and 16 the last one works on the way
            up, the others on the way down.
    """

    def __init__(self, in_channels: Sequence[int], num_maps: int, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        w2, w4, w8, w16, w32 = widths
        self.lateral = nn.ModuleList(nn.Conv2d(c, w, 1) for c, w in zip(in_channels, (w2, w4, w8), strict=True))
        self.prompt = nn.ModuleList(nn.Conv2d(num_maps, w, 1) for w in widths)
        self.down = nn.ModuleList([nn.Conv2d(w8, w16, 2, stride=2), nn.Conv2d(w16, w32, 2, stride=2)])
        self.up = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in ((w32, w16), (w16, w8), (w8, w4), (w4, w2)))
        self.before = nn.ModuleList([_blocks(w8, blocks[1] - 1), _blocks(w16, blocks[2] - 1), _blocks(w32, blocks[3])])
        self.after = nn.ModuleList([_blocks(w16, 1), _blocks(w8, 1), _blocks(w4, blocks[0])])
        self.token = nn.Linear(w8, w8 + w16 + w32)
        nn.init.zeros_(self.token.weight)
        nn.init.zeros_(self.token.bias)
        self.token_match = nn.Parameter(torch.zeros(w8))
        self.norm = nn.GroupNorm(_groups(w2), w2)
        self.head = nn.Sequential(nn.Conv2d(w2, w2, 3, padding=1), nn.ReLU(), nn.Conv2d(w2, 1, 1))
        self.iou_prediction_head = nn.Sequential(nn.Linear(w32, w32), nn.ReLU(), nn.Linear(w32, 1))

    def forward(self, features: Any, prompts: Any) -> tuple[Tensor, Tensor]:
        """Decode the masks of all prompts.

        Args:
            features: `ImageFeatures` of R images: the embedding of stride 8 and the maps of stride 2 and 4. The
                embedding may also be that of each object, (R * P, C, h, w).
            prompts: `PromptEmbeddings`: `dense` (R, P, maps, 4h, 4w), and `sparse` (R, P, n, C) tokens in the width of
                stride 8, for instance of a language model; n may be 0.

        Returns:
            Logits (R, P, 4h, 4w) and predicted quality (R, P).
        """
        fine, middle = features.high_resolution
        R, P = prompts.dense.shape[:2]
        given = [prompts.dense.flatten(0, 1)]  # of stride 2, 4, ..., 32
        for stride in (2, 2, 2, 2):
            given.append(F.avg_pool2d(given[-1], stride))
        drawn = [conv(maps) for conv, maps in zip(self.prompt, given, strict=True)]
        x2, x4, x8 = (
            _per_prompt(conv(x), R * P) + maps
            for conv, x, maps in zip(self.lateral, (fine, middle, features.embedding), drawn, strict=False)
        )
        b8, b16, b32 = self._token_biases(prompts.sparse.flatten(0, 1), x8)
        x8 = self.before[0](x8 + b8)
        x16 = self.before[1](self.down[0](x8) + drawn[3] + b16)
        x32 = self.before[2](self.down[1](x16) + drawn[4] + b32)
        x16 = self.after[0](x16 + _twice(self.up[0](x32)))
        x8 = self.after[1](x8 + _twice(self.up[1](x16)))
        x4 = self.after[2](x4 + _twice(self.up[2](x8)))
        logits = self.head(torch.relu(self.norm(x2 + _twice(self.up[3](x4)))))
        quality = self.iou_prediction_head(x32.mean((2, 3)))
        return logits.unflatten(0, (R, P))[:, :, 0], quality.reshape(R, P)

    def token_parameters(self) -> list[nn.Parameter]:
        """The parameters that only tokens reach."""
        return [self.token_match, *self.token.parameters()]

    def _token_biases(self, tokens: Tensor, x8: Tensor) -> tuple[Tensor | float, Tensor | float, Tensor | float]:
        """What tokens (N, n, C) add at stride 8, 16 and 32; they start with no effect."""
        if tokens.shape[1] == 0:
            return 0.0, 0.0, 0.0
        token = tokens.mean(1)
        widths = [x8.shape[1], self.down[0].out_channels, self.down[1].out_channels]
        biases = self.token(token)[:, :, None, None].split(widths, dim=1)
        match = torch.einsum("nc,nchw->nhw", token, x8)[:, None] * x8.shape[1] ** -0.5
        return biases[0] + match * self.token_match[:, None, None], biases[1], biases[2]


class MixingBlock(nn.Module):
    """A depthwise 5x5 convolution, then two 1x1 convolutions with twice the channels between them; residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv(width, width, 5, padding=2, groups=width)
        self.norm = nn.GroupNorm(_groups(width), width)
        self.expand = nn.Conv2d(width, 2 * width, 1)
        self.project = nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to the same shape."""
        out: Tensor = self.project(torch.relu(self.expand(self.norm(self.depthwise(x)))))
        return x + out


def _blocks(width: int, number: int) -> nn.Sequential:
    return nn.Sequential(*(MixingBlock(width) for _ in range(number)))


def _groups(width: int) -> int:
    return max(g for g in (1, 2, 4, 8) if width % g == 0)


def _per_prompt(x: Tensor, objects: int) -> Tensor:
    """Repeat the maps of images for each of their objects; maps of objects stay as they are."""
    return x if x.shape[0] == objects else x.repeat_interleave(objects // x.shape[0], 0)


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
