"""What `aura-small` sees: the regions of an image, found by the detector of its base, looked at one by one, and named.

A region is cut out and enlarged before it is named, so that the trunk sees an object as it saw those of ImageNet. That
names more objects right than reading what a few cells of the whole image show (docs/log/aura-models.md). It is the
second stage of Fast R-CNN (Girshick, 2015), on crops instead of pooled features, because an object of 40 pixels would
be one cell of the trunk's map. The paper has no such part; its multi-modal language model is pretrained.

Axes: B images, S side of the square image in pixels, R regions per image, N regions of the whole batch, K words (0 is
the background), F features of a region, C channels and c cells along each side of its grid.
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
ORDER_HIDDEN = 128
"""Width of the layer before the occlusion order."""
NUM_GEOMETRY = 16
"""Numbers of `pair_geometry` per pair."""
NEIGHBOUR_DISTANCE = 0.02
"""Largest distance of two boxes, relative to the image, of which one may show what hides the other."""


class RegionLogits(NamedTuple):
    """What a `RegionReader` predicts of N crops.

    Attributes:
        words: (N, K) logits of what the region shows; 0 is no object.
        rates: (N,) logits of the occlusion rate.
        edges: (N, 4) corrections of the box, in units of its longer side.
        quality: (N,) logits of the IoU of the corrected box with the object's visible box.
        features: (N, F) what the crop shows as a whole, for `OcclusionOrder`.
        grid: (N, C, c, c) what it shows where, likewise.
    """

    words: Tensor
    rates: Tensor
    edges: Tensor
    quality: Tensor
    features: Tensor
    grid: Tensor


class Regions(NamedTuple):
    """The regions of B images, in the frame of the LLM, [0, 1].

    Attributes:
        boxes_xyxy_mllm: (B, R, 4) corrected visible boxes.
        word_probs: (B, R, K).
        quality: (B, R) predicted IoU of the box, 0 for padding.
        rates: (B, R) predicted occlusion rate.
        hides: (B, R, R) how probable it is that the first region's object hides a part of the second's.
    """

    boxes_xyxy_mllm: Tensor
    word_probs: Tensor
    quality: Tensor
    rates: Tensor
    hides: Tensor

    def evidence(self) -> Tensor:
        """(B, R, K): how sure it is that a region is the box of this word."""
        return self.word_probs * self.quality[..., None]


class LearnedRegions(NamedTuple):
    """What a training of regions reads.

    Attributes:
        boxes_xyxy_mllm: (B, R, 4) in [0, 1], as they were looked at.
        logits: of the B * R regions, image by image.
        corrected_xyxy_mllm: (B, R, 4) in [0, 1].
        order: (B, R, R) logits of `OcclusionOrder`.
    """

    boxes_xyxy_mllm: Tensor
    logits: RegionLogits
    corrected_xyxy_mllm: Tensor
    order: Tensor


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
        self.order = OcclusionOrder(HIDDEN + PLACE_HIDDEN, PLACE_CHANNELS)

    def forward(self, crops: Tensor) -> RegionLogits:
        """Predict from crops (N, 3, size, size), normalised as the image is."""
        maps = self.trunk.maps(crops.to(self.trunk.stem.weight.dtype))
        coarse, middle = maps[32], maps[16]
        pooled = torch.cat([coarse.mean((2, 3)), middle.mean((2, 3))], dim=1)
        named = F.gelu(self.hidden(self.norm(pooled)))
        hidden = F.dropout(named, DROPOUT, self.training)
        grids = [F.adaptive_avg_pool2d(level, PLACE_CELLS) for level in (coarse, middle)]
        grid = self.reduce(torch.cat(grids, dim=1))
        place = F.gelu(self.place(self.place_norm(grid.flatten(1))))
        return RegionLogits(
            self.word(hidden).float(),
            self.rate(hidden)[:, 0].float(),
            self.edges(place).float(),
            self.quality(place)[:, 0].float(),
            torch.cat([named, place], dim=-1).float(),
            grid.float(),
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
        logits, flat = self.look(pixel_values, boxes_xyxy)
        batch = boxes_xyxy.shape[:2]
        boxes = flat.unflatten(0, batch)
        hides = self.order(logits, boxes_xyxy, boxes).sigmoid() * (
            known[:, :, None] & known[:, None] & neighbours(boxes)
        )
        return Regions(
            boxes,
            logits.words.softmax(-1).unflatten(0, batch),
            logits.quality.sigmoid().view(batch) * known,
            logits.rates.sigmoid().view(batch),
            hides,
        )


class OcclusionOrder(nn.Module):
    """Says of each pair of regions of an image how probable it is that one object hides a part of the other.

    It reads what the crops of both show, as a whole and where both boxes overlap, how much of each is hidden, and where
    the boxes lie to each other.

    Args:
        width: F.
        channels: C.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.norm, self.norm_shared = nn.LayerNorm(width), nn.LayerNorm(channels)
        self.front, self.behind = nn.Linear(width, ORDER_HIDDEN), nn.Linear(width, ORDER_HIDDEN, bias=False)
        self.shared_front = nn.Linear(channels, ORDER_HIDDEN, bias=False)
        self.shared_behind = nn.Linear(channels, ORDER_HIDDEN, bias=False)
        self.geometry = nn.Linear(NUM_GEOMETRY, ORDER_HIDDEN, bias=False)
        self.logit = nn.Linear(ORDER_HIDDEN, 1)

    def forward(self, logits: RegionLogits, looked_xyxy: Tensor, boxes_xyxy: Tensor) -> Tensor:
        """Logits (B, R, R), of the first region's object in front.

        No gradient flows into what the regions show: the order is learned on what the other losses made.

        Args:
            logits: of B * R regions, image by image.
            looked_xyxy: (B, R, 4) boxes in [0, 1] that were cut out.
            boxes_xyxy: (B, R, 4) the corrected boxes.
        """
        batch, boxes = boxes_xyxy.shape[:2], boxes_xyxy.detach()
        features = self.norm(logits.features.detach().to(self.norm.weight.dtype)).unflatten(0, batch)
        seen = torch.stack([logits.rates.sigmoid(), logits.quality.sigmoid()], dim=-1).detach().unflatten(0, batch)
        grid = logits.grid.detach().flatten(2).unflatten(0, batch)
        shared = cell_shares(looked_xyxy, shared_boxes(boxes), PLACE_CELLS) @ grid.transpose(-1, -2)  # (B, R, R, C)
        shared = self.norm_shared(shared.to(features.dtype))
        noisy = F.dropout(features, DROPOUT, self.training)
        pairs = (
            self.front(noisy)[:, :, None]
            + self.behind(noisy)[:, None]
            + self.shared_front(shared)
            + self.shared_behind(shared.transpose(1, 2))
            + self.geometry(pair_geometry(boxes, seen).to(features.dtype))
        )
        return self.logit(F.dropout(F.gelu(pairs), DROPOUT, self.training))[..., 0].float()


def _overlaps(boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Corners (B, R, R, 2) of what each pair of boxes (B, R, 4) shares; the first is larger where they are apart."""
    first, second = boxes_xyxy[:, :, None], boxes_xyxy[:, None]
    return torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])


def shared_boxes(boxes_xyxy: Tensor) -> Tensor:
    """What each pair of boxes (B, R, 4) in [0, 1] shares: (B, R, R, 4); a small box between two that do not overlap."""
    low, high = _overlaps(boxes_xyxy)
    middle, half = (low + high) / 2, ((high - low) / 2).clamp_min(NEIGHBOUR_DISTANCE / 2)
    return torch.cat([middle - half, middle + half], dim=-1)


def cell_shares(looked_xyxy: Tensor, areas_xyxy: Tensor, cells: int) -> Tensor:
    """How an area is spread over the cells of a region's crop.

    Args:
        looked_xyxy: (B, R, 4) boxes that were cut out.
        areas_xyxy: (B, R, R, 4), in the crop of the first region.
        cells: c.

    Returns:
        (B, R, R, c * c), which sums to 1, or to 0 for an area outside of the crop.
    """
    sides = longer_sides(looked_xyxy)[:, :, None].clamp_min(1e-3) * MARGIN
    starts = (looked_xyxy[..., :2] + looked_xyxy[..., 2:])[:, :, None] / 2 - sides / 2
    low, high = (((ends - starts) / sides * cells)[..., None] for ends in areas_xyxy.split(2, dim=-1))
    edges = torch.arange(cells, device=low.device, dtype=low.dtype)
    covered = (torch.minimum(high, edges + 1) - torch.maximum(low, edges)).clamp_min(0)  # (B, R, R, 2, c)
    shares = (covered[..., 1, :, None] * covered[..., 0, None, :]).flatten(-2)
    return shares / shares.sum(-1, keepdim=True).clamp_min(1e-6)


def pair_geometry(boxes_xyxy: Tensor, seen: Tensor) -> Tensor:
    """How the boxes of all pairs lie to each other, and what is seen of both: (B, R, R, 16).

    Of each box: the place and the sides of the other one relative to its longer side, its lower edge, and the share of
    a square of its longer side that both cover. Then the occlusion rates and box qualities of both.

    Args:
        boxes_xyxy: (B, R, 4) in [0, 1].
        seen: (B, R, 2) occlusion rates and qualities.
    """
    R = boxes_xyxy.shape[1]
    first = boxes_xyxy[:, :, None].expand(-1, -1, R, -1)
    second = first.transpose(1, 2)
    low, high = _overlaps(boxes_xyxy)
    shared = (high - low).clamp_min(0).prod(-1, keepdim=True)
    parts = []
    for one, other in ((first, second), (second, first)):
        side = longer_sides(one).clamp_min(1e-3)
        centres = (other[..., :2] + other[..., 2:] - one[..., :2] - one[..., 2:]) / 2
        sizes = (other[..., 2:] - other[..., :2]).clamp(max=5 * side)
        parts += [centres / side, sizes / side / 2, one[..., 3:], shared / side**2]
    rates = seen[:, :, None].expand(-1, -1, R, -1)
    return torch.cat([*parts, rates, rates.transpose(1, 2)], dim=-1)


def neighbours(boxes_xyxy: Tensor) -> Tensor:
    """Which pairs of different boxes (B, R, 4) overlap or nearly touch: (B, R, R) bool."""
    low, high = _overlaps(boxes_xyxy)
    others = ~torch.eye(boxes_xyxy.shape[1], dtype=torch.bool, device=boxes_xyxy.device)
    return (low - high < NEIGHBOUR_DISTANCE).all(-1) & others


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
