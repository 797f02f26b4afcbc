"""Where in the image a `[SEG]` points: the image tokens that it attends to, and the box that is predicted from them.

Axes: N `[SEG]` tokens of the whole batch, B conversations, n = c * c image tokens of the LLM, K words that they can be,
D width of the LLM.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.errors import InputError

MIN_LIKENESS = 1e-3
"""Added to the probability that an image token shows what words mean, so that its logarithm is finite."""


@dataclass
class Pointed:
    """Where a model with boxes looks for each of N objects.

    Attributes:
        boxes_xyxy_sam: (N, 4) visible boxes in [0, 1] of the backbone's frame.
        logits: (N, n) attention to the image tokens.
        maps_sam: (N, c, c) attention to each place of the backbone's frame relative to the largest, in [0, 1].
    """

    boxes_xyxy_sam: Tensor
    logits: Tensor
    maps_sam: Tensor

    def hinted(self, hints_xyxy_sam: Tensor) -> Pointed:
        """The same with the boxes (N, 4) of a hint where there is one: not NaN."""
        return replace(self, boxes_xyxy_sam=torch.where(hints_xyxy_sam.isnan(), self.boxes_xyxy_sam, hints_xyxy_sam))

    def of(self, chosen: Tensor) -> Pointed:
        """The same of some of the objects: a mask (N,) or indices."""
        return Pointed(self.boxes_xyxy_sam[chosen], self.logits[chosen], self.maps_sam[chosen])


def attention_maps(logits: Tensor, mllm_to_sam: Tensor) -> Tensor:
    """The maps of `Pointed`, moved from the frame of the LLM to that of the backbone.

    Args:
        logits: (N, c * c) attention to the image tokens, row by row.
        mllm_to_sam: (N, 4) of `AuraProcessor.mllm_to_sam` for the image of each object.

    Returns:
        (N, c, c); 0 outside of what the LLM sees.

    Raises:
        InputError: the image tokens are no square.
    """
    attention = logits.softmax(-1)
    cells = math.isqrt(attention.shape[-1])
    if cells**2 != attention.shape[-1]:
        raise InputError(f"box_weight: expected a square number of image tokens, got {attention.shape[-1]}")
    maps = (attention / attention.amax(-1, keepdim=True)).view(-1, 1, cells, cells)
    centres = (torch.arange(cells, device=maps.device, dtype=maps.dtype) + 0.5) / cells
    points = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1)  # (c, c, 2) x and y in [0, 1]
    scale, shift = mllm_to_sam.to(maps)[:, None, None].split(2, dim=-1)
    return F.grid_sample(maps, 2 * (points - shift) / scale - 1, align_corners=False)[:, 0]


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


class BoxReader(nn.Module):
    """Predicts the visible box of the object that a `[SEG]` state stands for.

    The state attends to the image tokens that the LLM read; the box is predicted from the state and
    what it attended to. Differs from the paper, which has no box: because a small LLM learns which
    image tokens to attend to ten times sooner than how to say in one vector where they are.

    Args:
        width: D.
        num_tokens: n, if the box also depends on the attention to each of them: which tokens show the object says most
            about its box. 0 for a box from the state and what it attended to alone, with any n.
    """

    def __init__(self, width: int, num_tokens: int = 0) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.norm = nn.LayerNorm(width)
        first, last = nn.Linear(width, width), nn.Linear(width, width)
        box = nn.Linear(2 * width + num_tokens, width)
        with torch.no_grad():  # states have no effect at first, and a stage without words leaves it so: its are zeros
            first.bias.zero_()
            last.weight.zero_()
            box.weight[:, :width] = 0
        self.query = nn.Sequential(first, nn.ReLU(), last)
        self.key = nn.Linear(width, width)
        self.box = nn.Sequential(box, nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(
        self,
        states: Tensor,
        image_tokens: Tensor,
        image_index: Tensor,
        phrases: Tensor | None = None,
        name_logits: Tensor | None = None,
        mllm_to_sam: Tensor | None = None,
    ) -> Pointed:
        """Predict where each `[SEG]` is.

        Args:
            states: (N, D) of the `[SEG]`s; zeros for an object without one.
            image_tokens: (B, n, D) that the LLM read.
            image_index: (N,) index of each `[SEG]`'s image.
            phrases: (N, K) of `AuraModel.phrases`, with `name_logits` (B, n, K) of `AuraModel.recorded_names`.
            mllm_to_sam: (B, 4) of `AuraProcessor.mllm_to_sam`; None for square images, whose two frames are the same.

        Raises:
            InputError: the model's `box_tokens` is not n, or n is no square number.
        """
        if self.num_tokens not in (0, image_tokens.shape[1]):
            raise InputError(
                f"box_tokens: expected {image_tokens.shape[1]}, the number of image tokens, got {self.num_tokens}"
            )
        dtype = self.key.weight.dtype
        states, tokens = states.to(dtype), self.norm(image_tokens.to(dtype)[image_index])
        logits = (self.key(tokens) @ self.query(states)[..., None])[..., 0].float() * states.shape[-1] ** -0.5
        if phrases is not None and name_logits is not None:
            shown = name_logits.float().softmax(-1)[image_index]
            logits = logits + ((shown @ phrases.float()[..., None])[..., 0] + MIN_LIKENESS).log()
        attention = logits.softmax(-1).to(tokens.dtype)
        read = [states, (attention[:, None] @ tokens)[:, 0]]
        if self.num_tokens:
            read.append(attention * self.num_tokens**0.5)
        centre, size = self.box(torch.cat(read, dim=-1)).float().sigmoid().split(2, dim=-1)
        boxes_xyxy = torch.cat([centre - size / 2, centre + size / 2], dim=-1).clamp(0, 1)
        if mllm_to_sam is None:
            mllm_to_sam = boxes_xyxy.new_tensor([[1.0, 1.0, 0.0, 0.0]]).expand(len(image_tokens), -1)
        moves = mllm_to_sam.to(boxes_xyxy)[image_index]
        scale, shift = moves.split(2, dim=-1)
        boxes_xyxy = (boxes_xyxy * scale.repeat(1, 2) + shift.repeat(1, 2)).clamp(0, 1)
        return Pointed(boxes_xyxy, logits, attention_maps(logits, moves))
