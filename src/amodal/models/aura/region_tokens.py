"""How the regions of an image are described to a language model: a list, best region first, in words.

Each region has five image tokens (`FACTS`): what it shows, how much of it is hidden, what hides it, what it hides, and
how it differs from others: where it is among those of its name, and how large it is. Each token is the mean of the
embeddings of words, weighted by how probable they are. A language model has learned to find an entry of a list and to
copy from it; it needs much more training to compare places in a grid of cells (docs/log/aura-models.md).

Axes: B images, R regions per image, L regions in the list, K names (0 is the background), A further words.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.models.aura.regions import Regions
from amodal.ops.boxes import without_overlaps

WORDS = ("whole", "hidden", "nothing", "only", "left", "middle", "right", "small", "large")
"""The words besides names; their order is that of the last axis of `described`."""

FACTS = ("name", "hidden", "hidden by", "hides", "place and size")
"""What each of the image tokens of a region says."""

MAX_OVERLAP = 0.5
"""Largest IoU of two boxes in the list; of boxes that overlap more, the one with less evidence is another view."""

MIN_EVIDENCE = 0.25
"""Evidence of a region that counts when sizes are compared."""


def described(regions: Regions, count: int) -> Tensor:
    """The probability of each word for each image token: (B, L * 5, K + A), which sums to 1, region by region.

    Where the list is shorter than `count`, its last entries are background.

    Args:
        regions: of B images.
        count: L.
    """
    chosen = _listed(regions, count)
    names = _of(regions.evidence(), chosen)[..., 1:]  # (B, L, K - 1)
    sure = names.sum(-1, keepdim=True).clamp(0, 1)
    hides = _of(_of(regions.hides, chosen).transpose(1, 2), chosen).transpose(1, 2)  # (B, L, L)
    boxes, rates = _of(regions.boxes_xyxy_mllm, chosen), _of(regions.rates[..., None], chosen)
    facts = [
        F.pad(names, (0, len(WORDS))),
        _further(names, whole=1 - rates, hidden=rates) * sure,
        _pairs(names, hides.transpose(1, 2)) * sure,
        _pairs(names, hides) * sure,
        (_places(names, boxes) + _sizes(names, boxes, sure)) / 2 * sure,
    ]
    tokens = torch.stack(facts, dim=2).flatten(1, 2)
    return torch.cat([(1 - tokens.sum(-1, keepdim=True)).clamp(0, 1), tokens], dim=-1)


@torch.no_grad()
def _listed(regions: Regions, count: int) -> Tensor:
    """Indices (B, L) of the regions in the list; -1 where there are no more."""
    scores = regions.evidence()[..., 1:].sum(-1)
    listed = torch.full((len(scores), count), -1, device=scores.device)
    for row, score, boxes in zip(listed, scores, regions.boxes_xyxy_mllm, strict=True):
        order = score.argsort(descending=True, stable=True)
        order = order[score[order] > 0]
        kept = without_overlaps(boxes[order].double().cpu().numpy(), MAX_OVERLAP)[:count]
        row[: len(kept)] = order[torch.from_numpy(kept).to(order.device)]
    return listed


def _of(values: Tensor, chosen: Tensor) -> Tensor:
    """Values (B, R, M) of the chosen regions (B, L): (B, L, M), zeros for -1."""
    index = chosen.clamp(min=0)[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, index) * (chosen >= 0)[..., None]


def _further(names: Tensor, **weights: Tensor) -> Tensor:
    """Tokens (B, L, K - 1 + A) of words besides names, from a weight (B, L, 1) per word."""
    nothing = torch.zeros_like(names[..., :1])
    return torch.cat([torch.zeros_like(names), *(weights.get(word, nothing) for word in WORDS)], dim=-1)


def _pairs(names: Tensor, related: Tensor) -> Tensor:
    """Tokens that name the regions that are related to each region: (B, L, L) probabilities, by row."""
    found = related @ names
    total = found.sum(-1, keepdim=True)
    tokens = _further(names, nothing=(1 - total).clamp_min(0))
    return torch.cat([found / total.clamp_min(1), tokens[..., names.shape[-1] :]], dim=-1)


def _places(names: Tensor, boxes: Tensor) -> Tensor:
    """Tokens that say where a region is among those that show the same: left, middle, right, or the only one."""
    alike = names / names.sum(-1, keepdim=True).clamp_min(1e-6) @ names.transpose(1, 2)
    centres = (boxes[..., 0] + boxes[..., 2]) / 2
    further_left = (centres[:, None] < centres[..., None]).to(alike)  # [b, i, j]: j is left of i
    further_right = (centres[:, None] > centres[..., None]).to(alike)
    before = (alike * further_left).sum(-1, keepdim=True).clamp(max=1)
    after = (alike * further_right).sum(-1, keepdim=True).clamp(max=1)
    return _further(
        names,
        only=(1 - before) * (1 - after),
        left=(1 - before) * after,
        middle=before * after,
        right=before * (1 - after),
    )


def _sizes(names: Tensor, boxes: Tensor, sure: Tensor) -> Tensor:
    """Tokens that say how large the box of a region is: relative to the largest and to the smallest of the list."""
    areas = (boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(-1, keepdim=True)
    counts = sure >= MIN_EVIDENCE
    largest = torch.where(counts, areas, 0.0).amax(1, keepdim=True).clamp_min(1e-6)
    smallest = torch.where(counts, areas, 1.0).amin(1, keepdim=True)
    large, small = (areas / largest).clamp(max=1), (smallest / areas.clamp_min(1e-6)).clamp(max=1)
    total = (large + small).clamp_min(1)
    return _further(names, large=large / total, small=small / total)
