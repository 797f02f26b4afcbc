"""Where in the image a `[SEG]` points: the region that is chosen, of an LLM that reads words.

Axes: N `[SEG]` tokens of the whole batch, B conversations, R regions per image, K words that they can be, D width of
the LLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from amodal.models.aura.regions import Regions

MIN_LIKENESS = 1e-3
"""Added to the evidence that a region shows what words mean, so that its logarithm is finite."""


@dataclass
class Pointed:
    """Where the decoders look for each of N objects.

    Attributes:
        boxes_xyxy_sam: (N, 4) visible boxes in [0, 1] of the backbone's frame.
        logits: (N, R) of the choice of a region.
        regions_xyxy_sam: (N, R, 4) boxes that the logits choose from; None if the boxes are given.
    """

    boxes_xyxy_sam: Tensor
    logits: Tensor
    regions_xyxy_sam: Tensor | None = None

    def hinted(self, hints_xyxy_sam: Tensor) -> Pointed:
        """The same with the boxes (N, 4) of a hint where there is one: not NaN."""
        return replace(self, boxes_xyxy_sam=torch.where(hints_xyxy_sam.isnan(), self.boxes_xyxy_sam, hints_xyxy_sam))

    def of(self, chosen: Tensor) -> Pointed:
        """The same of some of the objects: a mask (N,) or indices."""
        regions = None if self.regions_xyxy_sam is None else self.regions_xyxy_sam[chosen]
        return Pointed(self.boxes_xyxy_sam[chosen], self.logits[chosen], regions)


def boxes_in_sam(boxes_xyxy_mllm: Tensor, mllm_to_sam: Tensor | None) -> Tensor:
    """Boxes (N, ..., 4) moved from the frame of the LLM to that of the backbone.

    Args:
        boxes_xyxy_mllm: in [0, 1].
        mllm_to_sam: (N, 4) of `AuraProcessor.mllm_to_sam` for each image; None for square images, whose two frames are
            the same.
    """
    if mllm_to_sam is None:
        return boxes_xyxy_mllm
    moves = mllm_to_sam.to(boxes_xyxy_mllm).view(len(boxes_xyxy_mllm), *[1] * (boxes_xyxy_mllm.dim() - 2), 4)
    scale, shift = moves.split(2, dim=-1)
    return (boxes_xyxy_mllm * torch.cat([scale] * 2, dim=-1) + torch.cat([shift] * 2, dim=-1)).clamp(0, 1)


def phrase_means(embeddings: Tensor, tokens: Tensor, seg_token_id: int, markup: Sequence[int]) -> Tensor:
    """The mean embedding of the marked words that each `[SEG]` follows, in reading order.

    Args:
        embeddings: (B, T, D) of the tokens.
        tokens: (B, T); a negative one ends an answer.
        seg_token_id: id of the `[SEG]` token.
        markup: ids of the tokens before and after words that name an object.

    Returns:
        (N, D); zeros for a `[SEG]` without marked words before it in the same answer.
    """
    before, after = markup
    nothing = embeddings.new_zeros(1, embeddings.shape[-1])
    means = [nothing[:0]]
    for row, answer in zip(embeddings, tokens.tolist(), strict=True):
        start, mean = None, nothing
        for position, token in enumerate(answer):
            if token == before:
                start = position + 1
            elif token == after and start is not None:
                mean = row[start:position].mean(0, keepdim=True) if start < position else nothing
                start = None
            elif token == seg_token_id:
                means.append(mean)
            elif token < 0:
                start, mean = None, nothing
    return torch.cat(means)


class RegionPointer(nn.Module):
    """Chooses the region of the object that a `[SEG]` stands for, for an LLM whose image tokens name regions.

    A region fits as well as its evidence for the words before the `[SEG]`; the state of the `[SEG]` decides between
    several objects of the same name. Differs from the paper, which has no boxes: because the language model
    reads which objects there are, and the detector of the base knows where they end.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        last = nn.Linear(width, width)
        nn.init.zeros_(last.weight)  # states have no effect before they are trained
        nn.init.zeros_(last.bias)
        self.query = nn.Sequential(nn.Linear(width, width), nn.ReLU(), last)
        self.norm = nn.LayerNorm(width)
        self.key = nn.Linear(width + 4, width)

    def forward(
        self,
        states: Tensor,
        regions: Regions,
        words: Tensor,
        image_index: Tensor,
        phrases: Tensor,
        mllm_to_sam: Tensor | None = None,
    ) -> Pointed:
        """Choose a region for each `[SEG]`.

        Args:
            states: (N, D) of the `[SEG]`s; zeros for an object without one.
            regions: of the B images.
            words: (K, D) embeddings of the words.
            image_index: (N,) index of each `[SEG]`'s image.
            phrases: (N, K) of `AuraModel.phrases`; zeros for a `[SEG]` without words, which may be any object.
            mllm_to_sam: (B, 4) of `AuraProcessor.mllm_to_sam`; None for square images, whose two frames are the same.
        """
        dtype = self.key.weight.dtype
        shown = self.norm(regions.word_probs.to(dtype) @ words.to(dtype))
        keys = self.key(torch.cat([shown, regions.boxes_xyxy_mllm.to(dtype)], dim=-1))[image_index]
        logits = (keys @ self.query(states.to(dtype))[..., None])[..., 0].float() * states.shape[-1] ** -0.5
        wanted = torch.where(phrases.any(-1, keepdim=True), phrases, torch.ones_like(phrases)).float()
        wanted = torch.cat([torch.zeros_like(wanted[:, :1]), wanted[:, 1:]], dim=1)  # the background is no object
        evidence = (regions.evidence().float()[image_index] @ wanted[..., None])[..., 0]
        logits = logits + (evidence + MIN_LIKENESS).log()
        moves = None if mllm_to_sam is None else mllm_to_sam[image_index]
        boxes = boxes_in_sam(regions.boxes_xyxy_mllm[image_index], moves)
        best = logits.argmax(-1, keepdim=True)
        chosen = boxes.gather(1, best[..., None].expand(-1, -1, 4))[:, 0]
        return Pointed(chosen, logits, boxes)
