"""A detection head: from feature maps of several strides to a score, a box and class logits per cell.

The layout is that of FCOS (Tian et al., 2019): every cell near the centre of an object predicts the distances to the
four edges of its box, and one tower serves all strides. The score is trained as the IoU of the predicted box (Li et
al., "Generalized Focal Loss", 2020), so there is no branch for centredness.

Axes: B images, C channels, H W cells of a map, N cells of all maps, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EDGE_SCALE = 2.0
"""Distance to an edge, in strides, that a layer with zero weights predicts."""
MAX_LOG_EDGE = 4.0
"""Largest exponent of a distance; a larger one would overflow at the start of a training."""
FIRST_SCORE = 0.02
"""Score of all cells before training, as in the focal loss: almost all cells are background."""

NORM_GROUPS = 8
"""Groups of channels that are normalised together."""


class CellPredictions(NamedTuple):
    """What the head predicts per cell.

    Attributes:
        score_logits: (B, N), of the IoU of the box with an object.
        boxes: (B, N, 4) xyxy in pixels of the input.
        class_logits: (B, N, K).
    """

    score_logits: Tensor
    boxes: Tensor
    class_logits: Tensor


class DetectionHead(nn.Module):
    """A top-down path over the maps, then a tower with shared weights.

    The classes also read the coarsest map directly, in which a trunk that has learned to classify images tells kinds
    apart. That needs far fewer training samples than what passes through the narrow tower.

    Args:
        in_channels: channels of each map, finest first; the last one is a multiple of 8.
        strides: pixels per cell of each map; each is twice the one before.
        num_classes: K.
        channels: width of the head, a multiple of 8.
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], num_classes: int, channels: int) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, channels, 1, bias=False), nn.GroupNorm(NORM_GROUPS, channels))
            for c in in_channels
        )
        self.mix = nn.ModuleList(_block(channels) for _ in in_channels)
        self.tower = nn.Sequential(_block(channels), _block(channels))
        self.score = nn.Conv2d(channels, 1, 3, padding=1)
        self.edges = nn.Conv2d(channels, 4, 3, padding=1)
        self.classes = nn.Conv2d(channels, num_classes, 1)
        # The norm has no weights: with them, its backward pass in channels-last order crashes where, as here, the input
        # needs no gradient (torch 2.13).
        norm = nn.GroupNorm(NORM_GROUPS, in_channels[-1], affine=False)
        self.kinds = nn.Sequential(norm, nn.Conv2d(in_channels[-1], num_classes, 1))
        nn.init.zeros_(self.edges.weight)
        nn.init.zeros_(self.edges.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.score.bias, math.log(FIRST_SCORE / (1 - FIRST_SCORE)))  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> CellPredictions:
        """Predict from maps (B, C, H, W), finest first."""
        levels = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for index in range(len(levels) - 2, -1, -1):
            levels[index] = levels[index] + F.interpolate(levels[index + 1], size=levels[index].shape[-2:])
        kinds = self.kinds(maps[-1])
        outputs: list[tuple[Tensor, Tensor, Tensor]] = []
        for mix, x, stride in zip(self.mix, levels, self.strides, strict=True):
            x = self.tower(mix(x))
            distances = self.edges(x).float().clamp_max(MAX_LOG_EDGE).exp() * (EDGE_SCALE * stride)
            centres = cell_centres((x.shape[2], x.shape[3]), stride).to(distances)
            classes = self.classes(x) + F.interpolate(kinds, size=x.shape[-2:], mode="bilinear", align_corners=False)
            outputs.append((_rows(self.score(x))[..., 0], _boxes(centres, _rows(distances)), _rows(classes)))
        return CellPredictions(*(torch.cat(parts, 1) for parts in zip(*outputs, strict=True)))


def cell_centres(size: tuple[int, int], stride: int) -> Tensor:
    """(H * W, 2) centres (x, y) in pixels of the cells of a map, row by row."""
    ys, xs = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    return (torch.stack([xs, ys], -1).flatten(0, 1) + 0.5) * stride


def _boxes(centres: Tensor, distances: Tensor) -> Tensor:
    """(B, N, 4) xyxy from centres (N, 2) and the distances (B, N, 4) to the left, upper, right and lower edge."""
    return torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], -1)


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


def _block(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.GroupNorm(NORM_GROUPS, channels), nn.ReLU()
    )
