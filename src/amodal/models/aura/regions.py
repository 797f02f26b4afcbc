"""What `aura-small` sees: the regions of an image, found by the detector of its base, looked at one by one, and named.

A region is cut out and enlarged before it is named, so that the trunk sees an object as it saw those of ImageNet. That
names more objects right than reading what a few cells of the whole image show (docs/log/aura-models.md). It is the
second stage of Fast R-CNN (Girshick, 2015), on crops instead of pooled features, because an object of 40 pixels would
be one cell of the trunk's map. The paper has no such part; its multi-modal language model is pretrained.

Axes: B images, S side of the square image in pixels, R regions per image, N regions of the whole batch, K words (0 is
the background), c cells along each side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.models.bases.efficientnet_lite import EfficientNetLite

MARGIN = 1.3
"""Side of the square that is cut out, relative to the longer side of the box."""
HIDDEN = 384
"""Width of the layer before the words."""
PLACE_CELLS = 4
"""Cells along each side of the map from which the box is corrected."""
PLACE_CHANNELS = 64
PLACE_HIDDEN = 128
DROPOUT = 0.2


class RegionLogits(NamedTuple):
    """What a `RegionReader` predicts of N crops.

    Attributes:
        words: (N, K) logits of what the region shows; 0 is no object.
        rates: (N,) logits of the occlusion rate.
        edges: (N, 4) corrections of the box, in units of its longer side.
        quality: (N,) logits of the IoU of the corrected box with the object's visible box.
    """

    words: Tensor
    rates: Tensor
    edges: Tensor
    quality: Tensor


class Regions(NamedTuple):
    """The regions of B images, in the frame of the LLM, [0, 1].

    Attributes:
        boxes_xyxy_mllm: (B, R, 4) corrected visible boxes.
        word_probs: (B, R, K).
        quality: (B, R) predicted IoU of the box, 0 for padding.
        rates: (B, R) predicted occlusion rate.
    """

    boxes_xyxy_mllm: Tensor
    word_probs: Tensor
    quality: Tensor
    rates: Tensor

    def evidence(self) -> Tensor:
        """(B, R, K): how sure it is that a region is the box of this word."""
        return self.word_probs * self.quality[..., None]

    def cell_probs(self, cells: int) -> Tensor:
        """What each cell of a square grid shows: (B, cells * cells, K), row by row, which sums to 1.

        The probability of a word is the largest, over the regions, of the evidence times the covered share of the cell;
        the background has the rest.
        """
        edges = torch.linspace(0, 1, cells + 1, device=self.quality.device, dtype=self.quality.dtype)
        low, high = self.boxes_xyxy_mllm[..., None, :2], self.boxes_xyxy_mllm[..., None, 2:]
        covered = torch.minimum(high, edges[1:, None]) - torch.maximum(low, edges[:-1, None])
        shares = covered.clamp_min(0) * cells  # (B, R, cells, 2)
        share = (shares[..., None, 1] * shares[:, :, None, :, 0]).flatten(2)  # (B, R, cells * cells)
        objects = (self.evidence()[:, :, None, 1:] * share[..., None]).amax(1)
        total = objects.sum(-1, keepdim=True)
        objects = objects / total.clamp_min(1)
        return torch.cat([(1 - total).clamp_min(0), objects], dim=-1)


class LearnedRegions(NamedTuple):
    """What a training of regions reads.

    Attributes:
        boxes_xyxy_mllm: (B, R, 4) in [0, 1], as they were looked at.
        logits: of the B * R regions, image by image.
        corrected_xyxy_mllm: (B, R, 4) in [0, 1].
    """

    boxes_xyxy_mllm: Tensor
    logits: RegionLogits
    corrected_xyxy_mllm: Tensor


class RegionReader(nn.Module):
    """Names crops, corrects their boxes, and predicts how much of each object is hidden.

    Args:
        trunk: an EfficientNet-Lite without a top-down path, pretrained on ImageNet.
        num_words: K.
        size: side of a crop in pixels, a multiple of 32.
    """

    def __init__(self, trunk: EfficientNetLite, num_words: int, size: int) -> None:
        super().__init__()
        self.size, self.trunk = size, trunk
        width = trunk.config.channels(32) + trunk.config.channels(16)
        self.norm, self.hidden = nn.LayerNorm(width), nn.Linear(width, HIDDEN)
        self.word, self.rate = nn.Linear(HIDDEN, num_words), nn.Linear(HIDDEN, 1)
        self.reduce = nn.Conv2d(width, PLACE_CHANNELS, 1)
        self.place_norm = nn.LayerNorm(PLACE_CHANNELS * PLACE_CELLS**2)
        self.place = nn.Linear(PLACE_CHANNELS * PLACE_CELLS**2, PLACE_HIDDEN)
        self.edges, self.quality = nn.Linear(PLACE_HIDDEN, 4), nn.Linear(PLACE_HIDDEN, 1)
        for linear in (self.edges, self.quality):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, crops: Tensor) -> RegionLogits:
        """Predict from crops (N, 3, size, size), normalised as the image is."""
        maps = self.trunk.maps(crops.to(self.trunk.stem.weight.dtype))
        coarse, middle = maps[32], maps[16]
        pooled = torch.cat([coarse.mean((2, 3)), middle.mean((2, 3))], dim=1)
        hidden = F.dropout(F.gelu(self.hidden(self.norm(pooled))), DROPOUT, self.training)
        grids = [F.adaptive_avg_pool2d(level, PLACE_CELLS) for level in (coarse, middle)]
        places = self.reduce(torch.cat(grids, dim=1)).flatten(1)
        place = F.gelu(self.place(self.place_norm(places)))
        return RegionLogits(
            self.word(hidden).float(),
            self.rate(hidden)[:, 0].float(),
            self.edges(place).float(),
            self.quality(place)[:, 0].float(),
        )

    def look(self, pixel_values: Tensor, boxes_xyxy: Tensor) -> tuple[RegionLogits, Tensor]:
        """Predict from images and the boxes of their regions.

        Args:
            pixel_values: (B, 3, S, S) normalised.
            boxes_xyxy: (B, R, 4) in [0, 1].

        Returns:
            The predictions of B * R regions, image by image, and their corrected boxes (B * R, 4) in [0, 1].
        """
        logits = self(cut_out(pixel_values, boxes_xyxy, self.size))
        boxes = boxes_xyxy.flatten(0, 1).float()
        return logits, (boxes + logits.edges * longer_sides(boxes)).clamp(0, 1)

    def regions(self, pixel_values: Tensor, boxes_xyxy: Tensor, known: Tensor) -> Regions:
        """The regions of images; `known` (B, R) is False for padding. See `look`."""
        logits, boxes = self.look(pixel_values, boxes_xyxy)
        batch = boxes_xyxy.shape[:2]
        return Regions(
            boxes.unflatten(0, batch),
            logits.words.softmax(-1).unflatten(0, batch),
            logits.quality.sigmoid().view(batch) * known,
            logits.rates.sigmoid().view(batch),
        )


def longer_sides(boxes_xyxy: Tensor) -> Tensor:
    """Longer side (..., 1) of boxes (..., 4)."""
    return (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).amax(-1, keepdim=True)


@torch.no_grad()
def cut_out(pixel_values: Tensor, boxes_xyxy: Tensor, size: int) -> Tensor:
    """Cut squares around boxes out of images and resize them; outside of an image all pixels are 0.

    Args:
        pixel_values: (B, 3, S, S) normalised, so that 0 is the mean colour.
        boxes_xyxy: (B, R, 4) in [0, 1].
        size: side of a crop in pixels.

    Returns:
        (B * R, 3, size, size), image by image.
    """
    S = pixel_values.shape[-1]
    boxes = boxes_xyxy.float() * S
    sides = (longer_sides(boxes) * MARGIN).clamp_min(2)
    corners = ((boxes[..., :2] + boxes[..., 2:]) / 2 - sides / 2).round().long()
    steps = sides[..., 0].round().long().clamp_min(2)
    crops = []
    for image, starts, lengths in zip(pixel_values.float(), corners.tolist(), steps.tolist(), strict=True):
        for (left, top), side in zip(starts, lengths, strict=True):
            inner = image[:, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
            before, above = max(-left, 0), max(-top, 0)
            padding = (before, side - before - inner.shape[2], above, side - above - inner.shape[1])
            square = F.pad(inner, padding)[None]
            crops.append(F.interpolate(square, (size, size), mode="bilinear", antialias=True))
    return torch.cat(crops)
