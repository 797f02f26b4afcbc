"""Attention with decomposed relative positions, folded so that fused kernels run.

SAM adds to every attention logit a bias q·R_h[y, y'] + q·R_w[x, x']. As an additive mask the
bias is a (heads, T, T) tensor that needs a gradient, and torch leaves its fused attention. The
same logit is an inner product of longer vectors:

    q' = [q * scale, q·R_h, q·R_w]        k' = [k, onehot(y'), onehot(x')]

so plain attention over q', k' (with v padded to their width) gives the same result.

Axes: B batch (windows count as batch), n heads, H W the token grid, T = H * W, D head width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.nn.lora import ParallelLora

if TYPE_CHECKING:
    from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionEncoder

# On a processor a window of SAM's size is faster as two plain products than fused: its logits
# fit in cache, and v needs no padding.
PLAIN_PRODUCT_MAX_TOKENS = 256


def resize_relative_positions(table: Tensor, size: int) -> Tensor:
    """Interpolate a relative-position table to another grid size.

    Args:
        table: (2 * old - 1, D), one row a signed distance.
        size: cells along the axis of the new grid.

    Returns:
        (2 * size - 1, D), linear interpolation as in SAM's `get_rel_pos`.
    """
    length = 2 * size - 1
    if table.shape[0] == length:
        return table
    rows = F.interpolate(table.float().T[None], size=length, mode="linear")[0].T
    return rows.to(table.dtype)


def relative_position_grid(table: Tensor, size: int) -> Tensor:
    """Rows of the table for every (query cell, key cell) pair of one axis.

    Args:
        table: (L, D) relative-position table; interpolated if L != 2 * size - 1.
        size: cells along the axis.

    Returns:
        (size, size, D); entry [i, j] belongs to distance i - j.
    """
    table = resize_relative_positions(table, size)
    cells = torch.arange(size, device=table.device)
    return table[cells[:, None] - cells[None, :] + size - 1]


def folded_attention(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, grid: tuple[int, int]) -> Tensor:
    """Attention with decomposed relative positions and no additive bias.

    Args:
        q: (B, n, T, D) queries, unscaled.
        k: (B, n, T, D) keys.
        v: (B, n, T, D) values.
        rel_h: (H, H, D) rows by `relative_position_grid`.
        rel_w: (W, W, D) likewise.
        grid: (H, W) with H * W = T, tokens in row-major order.

    Returns:
        (B, n, T, D).
    """
    (H, W), D = grid, q.shape[-1]
    q_grid = q.unflatten(2, (H, W))  # (B, n, H, W, D)
    q_rows = torch.einsum("bnhwd,hkd->bnhwk", q_grid, rel_h.to(q.dtype)).flatten(2, 3)
    q_cols = torch.einsum("bnhwd,wkd->bnhwk", q_grid, rel_w.to(q.dtype)).flatten(2, 3)
    q_long = torch.cat([q * D**-0.5, q_rows, q_cols], dim=-1)  # (B, n, T, D + H + W)

    eye_h = torch.eye(H, device=k.device, dtype=k.dtype).repeat_interleave(W, dim=0)  # (T, H)
    eye_w = torch.eye(W, device=k.device, dtype=k.dtype).repeat(H, 1)  # (T, W)
    cells = torch.cat([eye_h, eye_w], dim=-1).expand(*k.shape[:2], -1, -1)
    k_long = torch.cat([k, cells], dim=-1)

    if q.device.type == "cpu" and H * W <= PLAIN_PRODUCT_MAX_TOKENS:
        return (q_long @ k_long.transpose(-2, -1)).softmax(-1) @ v
    v_long = F.pad(v, (0, H + W))  # fused kernels want one width for q, k and v
    return F.scaled_dot_product_attention(q_long, k_long, v_long, scale=1.0)[..., :D]


class FoldedAttention(nn.Module):
    """Drop-in for transformers' `SamVisionAttention`: same tensors, same names, fused kernels.

    Takes over the weights of `attention`. With `lora` set, Q and V get the low-rank terms of
    PLUG Eq. 3-4; K stays as SAM made it.
    """

    def __init__(self, attention: SamVisionAttention) -> None:
        super().__init__()
        self.num_attention_heads: int = attention.num_attention_heads
        self.qkv = attention.qkv
        self.proj = attention.proj
        self.use_rel_pos: bool = attention.use_rel_pos
        if self.use_rel_pos:
            self.rel_pos_h = attention.rel_pos_h
            self.rel_pos_w = attention.rel_pos_w
        self.lora: ParallelLora | None = None

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, None]:
        """Attend within each grid of tokens.

        Args:
            hidden_states: (B, H, W, C). With adapters for several branches the batch is either
                branch-major already, or (for the layer where the branches part) shared by all.

        Returns:
            (B', H, W, C) with B' = branches * B where the branches part here, else B; and None
            in the place of the attention weights, which fused kernels do not give.
        """
        _, H, W, C = hidden_states.shape
        q, k, v = self.qkv(hidden_states).chunk(3, dim=-1)  # (B, H, W, C) each
        if self.lora is not None:
            q, k, v = self.lora(hidden_states, q, k, v)
        q, k, v = (self._split_heads(x) for x in (q, k, v))
        if self.use_rel_pos:
            rel_h = relative_position_grid(self.rel_pos_h, H)
            rel_w = relative_position_grid(self.rel_pos_w, W)
            out = folded_attention(q, k, v, rel_h, rel_w, (H, W))
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        out = out.transpose(1, 2).reshape(-1, H, W, C)
        return self.proj(out), None

    def _split_heads(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        n = self.num_attention_heads
        return x.reshape(B, H * W, n, C // n).transpose(1, 2)  # (B, n, T, D)


def use_folded_attention(encoder: SamVisionEncoder) -> SamVisionEncoder:
    """Replace the attention of every layer in place; weights and their names stay the same."""
    for layer in encoder.layers:
        if not isinstance(layer.attn, FoldedAttention):
            layer.attn = FoldedAttention(layer.attn)
    return encoder
