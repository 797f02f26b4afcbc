"""Hiera, SAM 2's trunk: windowed attention whose stages halve the grid, with PLUG's adapters.

Same tensors and results as transformers' `Sam2MultiScaleBlock`, but faster:

- transformers computes a softmax between the heads of each token before the attention and throws it away.
- It pads the grid with zeros to whole windows. Here a window at the border keeps only its real tokens
  (`attention.window_groups`). Its n padded tokens have the same key and value, the bias of the projection, so they act
  as one key whose logit is theirs plus log(n).
- Both branches of PLUG run in one batch, and for inference the adapters are added to packed weights.

The first block of a stage has wider outputs than inputs, and pools its queries (2 x 2, maximum), so that its output
has half as many rows and columns. Windows have even sides there, so that pooling stays within them.

Axes: B batch, n heads, H W the token grid, h w the real tokens of one window, T = h * w, D head width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from amodal.nn.attention import AdaptedAttention, FoldedMlp, WindowGroup, join_groups, window_groups
from amodal.nn.kernels import softmax_attention
from amodal.nn.lora import ParallelLora
from amodal.nn.packing import Int8Linear, PackedLinear, Prepared, may_prepare, prepared_linear

if TYPE_CHECKING:
    from transformers.models.sam2.modeling_sam2 import (
        Sam2HieraDetModel,
        Sam2MultiScaleAttention,
        Sam2MultiScaleBlock,
    )


def max_pool(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """(B, H, W, C) to (B, H / stride, W / stride, C): the maximum of each rectangle."""
    pooled = F.max_pool2d(x.permute(0, 3, 1, 2), kernel_size=stride, stride=stride)
    return pooled.permute(0, 2, 3, 1)


def pooled_windows(group: WindowGroup, stride: tuple[int, int]) -> WindowGroup:
    """The same windows on the grid of the pooled queries."""
    (rows, columns), (h, w) = stride, group.shape
    return WindowGroup(
        slice(group.rows.start // rows, group.rows.stop // rows),
        slice(group.columns.start // columns, group.columns.stop // columns),
        (h // rows, w // columns),
    )


class HieraAttention(AdaptedAttention):
    """Replaces transformers' `Sam2MultiScaleAttention`: same tensors and names, no wasted work."""

    def __init__(self, attention: Sam2MultiScaleAttention) -> None:
        super().__init__(attention)
        stride: Any = attention.query_stride
        self.query_stride: tuple[int, int] | None = None if stride is None else (int(stride[0]), int(stride[1]))

    def forward(self, hidden_states: Tensor, window_size: int = 0) -> Tensor:
        """Attend within each window of the grid of tokens.

        Args:
            hidden_states: (B, H, W, C). With adapters for several branches the batch is branch-major,
                except in the block that separates the branches, where they share it.
            window_size: side of the windows; 0 attends within the whole grid.

        Returns:
            (B', H', W', C') with B' = branches * B in the block that separates the branches, else B; H' and W' are
            smaller than H and W by the stride of the queries.
        """
        H, W = hidden_states.shape[1:3]
        q, k, v = self._project(hidden_states)  # (B', H, W, C')
        stride = self.query_stride or (1, 1)
        if self.query_stride is not None:
            q = max_pool(q, self.query_stride)
        q, k, v = (self._split_heads(x) for x in (q, k, v))
        bands = []
        for band in window_groups((H, W), window_size):
            parts = []
            for group in band:
                pooled = pooled_windows(group, stride)
                mixed = self._attend(pooled.split(q), group.split(k), group.split(v), group, window_size)
                parts.append(pooled.join(mixed, q.shape[0]))
            bands.append(parts)
        return self._project_out(join_groups(bands))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, group: WindowGroup, window_size: int) -> Tensor:
        """Attention within the windows of one group: (B' * windows, n, T', D) queries to the same shape."""
        q = q * q.shape[-1] ** -0.5
        num_padded = window_size**2 - math.prod(group.shape) if window_size else 0
        if num_padded:
            key, value = (x.to(q.dtype)[:, None].expand(k.shape[0], -1, 1, -1) for x in self._padded_token())
            k = F.pad(torch.cat([k, key], dim=2), (0, 1))  # one more key, for the padded tokens, and one more column
            k[..., -1, -1] = math.log(num_padded)
            q = F.pad(q, (0, 1), value=1.0)
            v = torch.cat([v, value], dim=2)
        return softmax_attention(q, k, v)


class HieraBlock(GradientCheckpointingLayer):
    """Replaces transformers' `Sam2MultiScaleBlock`: same steps and names, but no padding.

    PLUG's branches separate inside the attention whose `ParallelLora.splits_branches` is set; what comes before it is
    computed once.
    """

    def __init__(self, block: Sam2MultiScaleBlock) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2 = block.layer_norm1, block.layer_norm2
        self.attn = HieraAttention(block.attn)
        self.mlp = FoldedMlp(block.mlp, block.mlp.activation, ("proj_in", "proj_out"))
        self.proj: nn.Linear | None = block.proj if block.dim != block.dim_out else None
        self.window_size: int = block.window_size
        self.widths: tuple[int, int] = (block.dim, block.dim_out)
        self._prepared_proj: Prepared[PackedLinear | Int8Linear] = Prepared()

    def train(self, mode: bool = True) -> HieraBlock:
        """Set the mode; training frees the weights that were prepared for inference."""
        if mode:
            self._prepared_proj.clear()
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B', H', W', C'); see `HieraAttention.forward`."""
        normed = self.layer_norm1(x)
        attended = self.attn(normed, self.window_size)
        if self.proj is not None:
            x = self._project_residual(self.proj, normed)
        lora = self.attn.lora
        if lora is not None and lora.splits_branches:
            x = x.repeat(lora.num_branches, 1, 1, 1)
        x = x + attended
        return x + self.mlp(self.layer_norm2(x))

    def _project_residual(self, proj: nn.Linear, normed: Tensor) -> Tensor:
        """The residual of a block that changes the width: (B, H, W, C) to (B, H', W', C')."""
        wide = prepared_linear(self._prepared_proj, proj, normed) if may_prepare(self, normed) else proj(normed)
        return wide if self.attn.query_stride is None else max_pool(wide, self.attn.query_stride)


def use_hiera_blocks(trunk: Sam2HieraDetModel) -> Sam2HieraDetModel:
    """Replace every block in place by a `HieraBlock`; weights and their names stay the same."""
    for index, block in enumerate(trunk.blocks):
        if not isinstance(block, HieraBlock):
            trunk.blocks[index] = HieraBlock(block)
    return trunk


def add_adapters(trunk: Sam2HieraDetModel, rank: int, alpha: float | None, num_branches: int) -> None:
    """Add adapters to Q and V of every block of a trunk of `HieraBlock`s; the first one separates the branches."""
    for index, block in enumerate(trunk.blocks):
        assert isinstance(block, HieraBlock)
        width, out_width = block.widths
        block.attn.lora = ParallelLora(
            width, rank, out_width=out_width, alpha=alpha, num_branches=num_branches, splits_branches=index == 0
        )


def trunk_stages(trunk: Sam2HieraDetModel, pixel_values: Tensor) -> list[Tensor]:
    """Compute the outputs of all stages, (B', H, W, C) each, finest first.

    Differs from transformers under autocast, where the residual stays in half precision. The position embeddings,
    interpolated to any grid by transformers' own code, are those of the windows plus those of the background.
    """
    x = trunk.patch_embed(pixel_values)  # (B, H, W, C)
    x = x + trunk._get_pos_embed(x.shape[1:3]).to(x.dtype)
    stages = []
    for index, block in enumerate(trunk.blocks):
        x = block(x)  # (branches * B, H, W, C) from the first block on, which separates the branches
        if index in trunk.stage_ends:
            stages.append(x)
    return stages
