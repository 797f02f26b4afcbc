"""SAM's windowed attention with decomposed relative positions, by kernels that need no additive mask.

SAM adds to every attention logit a bias q·R_h[y, y'] + q·R_w[x, x']. As an additive mask the
bias is a (heads, T, T) tensor that needs a gradient, for which torch has no fused attention. The
same logit is an inner product of longer vectors:

    q' = [q * scale, q·R_h, q·R_w]        k' = [k, onehot(y'), onehot(x')]

so plain attention over q', k' (with v padded to their width) gives the same result.

SAM also pads the token grid with zeros to whole windows. Here a window at the border keeps only its
real tokens, so windows come in up to four shapes: whole ones, a narrow column at the right, a low
row at the bottom and one in the corner (`window_groups`). All padded tokens have the same key and
value, the bias of the projection. They act as one key whose logit is the log-sum-exp of theirs
(`padding_logit`), and none of them is projected or queried.

Axes: B batch (windows count as batch), n heads, H W the token grid, h w the real tokens of one
window and S its side with padding, T = h * w, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from amodal.nn.kernels import softmax_attention
from amodal.nn.lora import ParallelLora
from amodal.nn.packing import (
    Int8Linear,
    PackedLinear,
    Prepared,
    may_prepare,
    prepare_linear,
    prepared_linear,
    product_dtype,
)

if TYPE_CHECKING:
    from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionEncoder, SamVisionLayer


def resize_relative_positions(table: Tensor, size: int) -> Tensor:
    """Interpolate a relative-position table to another grid size.

    Args:
        table: (2 * old - 1, D), one row per signed distance.
        size: number of cells along the axis of the new grid.

    Returns:
        (2 * size - 1, D), linear interpolation as in SAM's `get_rel_pos`.
    """
    length = 2 * size - 1
    if table.shape[0] == length:
        return table
    rows = F.interpolate(table.float().T[None], size=length, mode="linear")[0].T
    return rows.to(table.dtype)


def relative_position_grid(table: Tensor, size: int) -> Tensor:
    """Select the rows of the table for every (query cell, key cell) pair of one axis.

    Args:
        table: (L, D) relative-position table; interpolated if L != 2 * size - 1.
        size: number of cells along the axis.

    Returns:
        (size, size, D); entry [i, j] belongs to distance i - j.
    """
    table = resize_relative_positions(table, size)
    cells = torch.arange(size, device=table.device)
    return table[cells[:, None] - cells[None, :] + size - 1]


def folded_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor,
    rel_w: Tensor,
    grid: tuple[int, int],
    padding: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Compute attention with decomposed relative positions and without an additive bias.

    Args:
        q: (B, n, T, D) queries, unscaled.
        k: (B, n, T, D) keys.
        v: (B, n, T, D) values.
        rel_h: (h, S, D) rows of `relative_position_grid`; S > h if the window has padded rows.
        rel_w: (w, S, D) likewise.
        grid: (h, w) with h * w = T, tokens in row-major order.
        padding: key and value of a padded token, (n, D) each; needed if S > h or S > w.

    Returns:
        (B, n, T, D).
    """
    (h, w), D = grid, q.shape[-1]
    q_grid = q.unflatten(2, (h, w))  # (B, n, h, w, D)
    q_rows = torch.einsum("bnhwd,hkd->bnhwk", q_grid, rel_h.to(q.dtype)).flatten(2, 3)  # (B, n, T, S)
    q_cols = torch.einsum("bnhwd,wkd->bnhwk", q_grid, rel_w.to(q.dtype)).flatten(2, 3)
    long = [q * D**-0.5, q_rows[..., :h], q_cols[..., :w]]
    eye_h = torch.eye(h, device=k.device, dtype=k.dtype).repeat_interleave(w, dim=0)  # (T, h)
    eye_w = torch.eye(w, device=k.device, dtype=k.dtype).repeat(h, 1)  # (T, w)
    cells = torch.cat([eye_h, eye_w], dim=-1).expand(*k.shape[:2], -1, -1)
    k_long = torch.cat([k, cells], dim=-1)  # (B, n, T, D + h + w)
    if q_rows.shape[-1] > h or q_cols.shape[-1] > w:
        assert padding is not None
        key, value = (x.to(q.dtype) for x in padding)
        long.append(padding_logit(q, key, q_rows, q_cols, grid))
        k_long = F.pad(k_long, (0, 1, 0, 1))  # one more key, for the padded tokens
        k_long[..., -1, -1] = 1
        v = torch.cat([v, value[:, None].expand(v.shape[0], -1, 1, -1)], dim=2)
    return softmax_attention(torch.cat(long, dim=-1), k_long, v)


def padding_logit(q: Tensor, key: Tensor, q_rows: Tensor, q_cols: Tensor, grid: tuple[int, int]) -> Tensor:
    """Compute the logit of the one key that stands for all padded tokens of a window.

    The padded tokens are all columns of the rows below the grid, and the columns right of it in
    the grid's own rows. Their logits q·key * scale + rows[y'] + cols[x'] differ by position only,
    and over a rectangle the log-sum-exp of rows[y'] + cols[x'] is a sum of two.

    Args:
        q: (B, n, T, D) queries.
        key: (n, D) of a padded token.
        q_rows: (B, n, T, S) relative logits of the window's rows, real ones first.
        q_cols: (B, n, T, S) likewise of its columns.
        grid: (h, w) real tokens.

    Returns:
        (B, n, T, 1) in the precision of q.
    """
    (h, w), D = grid, q.shape[-1]
    rows, cols = q_rows.float(), q_cols.float()
    areas = []
    if rows.shape[-1] > h:
        areas.append(rows[..., h:].logsumexp(-1) + cols.logsumexp(-1))
    if cols.shape[-1] > w:
        areas.append(rows[..., :h].logsumexp(-1) + cols[..., w:].logsumexp(-1))
    positions = areas[0] if len(areas) == 1 else torch.logaddexp(*areas)
    own = torch.einsum("bntd,nd->bnt", q, key).float() * D**-0.5
    return (own + positions).to(q.dtype)[..., None]


@dataclass(frozen=True)
class WindowGroup:
    """A part of the token grid that divides into windows of one shape.

    Attributes:
        rows: rows of the grid they cover.
        columns: columns of the grid they cover.
        shape: (h, w) real tokens of each.
    """

    rows: slice
    columns: slice
    shape: tuple[int, int]

    def split(self, x: Tensor) -> Tensor:
        """Cut (B, H, W, n, D) of the whole grid into (B * windows, n, h * w, D) of this group."""
        h, w = self.shape
        part = x[:, self.rows, self.columns].unflatten(2, (-1, w)).unflatten(1, (-1, h))
        part = part.permute(0, 1, 3, 5, 2, 4, 6)  # (B, rows, columns, n, h, w, D)
        return part.reshape(-1, x.shape[3], h * w, x.shape[4])

    def join(self, x: Tensor, batch: int) -> Tensor:
        """Join (B * windows, n, h * w, D) to the (B, rows, columns, n * D) part of the grid."""
        h, w = self.shape
        down = (self.rows.stop - self.rows.start) // h
        part = x.reshape(batch, down, -1, x.shape[1], h, w, x.shape[-1])
        part = part.permute(0, 1, 4, 2, 5, 3, 6)  # (B, down, h, across, w, n, D)
        return part.flatten(5).flatten(3, 4).flatten(1, 2)


def window_groups(grid: tuple[int, int], window_size: int) -> list[list[WindowGroup]]:
    """Divide the grid into groups, as SAM's padded windows do.

    Args:
        grid: (H, W).
        window_size: side of a whole window; with 0 the whole grid is one window.

    Returns:
        Bands from top to bottom, each a list of groups from left to right.
    """
    H, W = grid
    if window_size == 0:
        return [[WindowGroup(slice(0, H), slice(0, W), grid)]]
    return [
        [WindowGroup(rows, columns, (h, w)) for columns, w in _pieces(W, window_size)]
        for rows, h in _pieces(H, window_size)
    ]


def join_groups(parts: list[list[Tensor]]) -> Tensor:
    """Join parts of the grid, in the order of `window_groups`, to (B, H, W, C)."""
    bands = [band[0] if len(band) == 1 else torch.cat(band, dim=2) for band in parts]
    return bands[0] if len(bands) == 1 else torch.cat(bands, dim=1)


def _pieces(length: int, window: int) -> list[tuple[slice, int]]:
    """The part that whole windows cover and the rest, each with the length of its windows."""
    whole = length // window * window
    pieces = [(slice(0, whole), window), (slice(whole, length), length - whole)]
    return [(part, side) for part, side in pieces if part.stop > part.start]


class AdaptedAttention(nn.Module):
    """The projections of an attention with fused q, k, v, with adapters and with weights packed for inference.

    Takes over the weights of `attention`, a module with `qkv`, `proj` and `num_attention_heads`. With `lora` set, Q
    and V get the low-rank terms of PLUG Eq. 3-4; K stays as in the base.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.num_attention_heads: int = attention.num_attention_heads
        self.qkv: nn.Linear = attention.qkv
        self.proj: nn.Linear = attention.proj
        self.lora: ParallelLora | None = None
        self.int8 = False  # see `use_int8`
        self._prepared_qkv: Prepared[list[PackedLinear | Int8Linear]] = Prepared()
        self._prepared_proj: Prepared[PackedLinear | Int8Linear] = Prepared()

    def train(self, mode: bool = True) -> Any:
        """Set the mode; training frees the weights that were prepared for inference."""
        if mode:
            self._prepared_qkv.clear()
            self._prepared_proj.clear()
        return super().train(mode)

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values (B', H, W, C); without gradients from weights with the adapters added."""
        if may_prepare(self, x):
            return self._project_prepared(x)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return (q, k, v) if self.lora is None else self.lora(x, q, k, v)

    def _project_prepared(self, x: Tensor) -> tuple[Tensor, ...]:
        lora, dtype, rows = self.lora, product_dtype(x), x[..., 0].numel()
        weight, bias = self.qkv.weight, self.qkv.bias
        prepare = partial(prepare_linear, bias=bias, dtype=dtype, rows=rows, int8=self.int8)
        if lora is None:
            branches = self._prepared_qkv.get([weight, bias], (dtype, self.int8), lambda: [prepare(weight)])
            inputs = [x]
        else:
            branches = self._prepared_qkv.get(
                [weight, bias, lora.down, lora.up],
                (dtype, self.int8, lora.scale),
                lambda: [prepare(w) for w in lora.folded(weight)],
            )
            inputs = [x] * len(branches) if lora.splits_branches else list(x.chunk(len(branches)))
        projected = [branch(part) for branch, part in zip(branches, inputs, strict=True)]
        return (projected[0] if len(projected) == 1 else torch.cat(projected)).chunk(3, dim=-1)

    def _project_out(self, x: Tensor) -> Tensor:
        if not may_prepare(self, x):
            return self.proj(x)
        return prepared_linear(self._prepared_proj, self.proj, x, int8=self.int8)

    def _padded_token(self) -> tuple[Tensor, Tensor]:
        """Key and value (n, D) of a token that is zero before the projection: its bias."""
        bias = self.qkv.bias if self.qkv.bias is not None else self.qkv.weight.new_zeros(self.qkv.out_features)
        _, key, value = bias.unflatten(0, (3, self.num_attention_heads, -1))
        return key, value

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_attention_heads, -1))  # (B, H, W, n, D)


class FoldedAttention(AdaptedAttention):
    """Replaces transformers' `SamVisionAttention`: same tensors and names, faster kernels."""

    def __init__(self, attention: SamVisionAttention) -> None:
        super().__init__(attention)
        self.use_rel_pos: bool = attention.use_rel_pos
        if self.use_rel_pos:
            self.rel_pos_h = attention.rel_pos_h
            self.rel_pos_w = attention.rel_pos_w

    def forward(self, hidden_states: Tensor, window_size: int = 0) -> tuple[Tensor, None]:
        """Attend within each window of the grid of tokens.

        Args:
            hidden_states: (B, H, W, C). With adapters for several branches the batch is branch-major,
                except in the first layer that processes the branches separately, where they share it.
            window_size: side of SAM's windows; 0 attends within the whole grid.

        Returns:
            (B', H, W, C) with B' = branches * B in the layer that separates the branches, else B; and
            None instead of the attention weights, which fused kernels do not compute.
        """
        H, W = hidden_states.shape[1:3]
        q, k, v = (self._split_heads(x) for x in self._project(hidden_states))  # (B', H, W, n, D)
        bands = [
            [group.join(self._attend(q, k, v, group, window_size), q.shape[0]) for group in band]
            for band in window_groups((H, W), window_size)
        ]
        return self._project_out(join_groups(bands)), None

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, group: WindowGroup, window_size: int) -> Tensor:
        """Attention within the windows of one group: (B' * windows, n, h * w, D)."""
        (h, w), D = group.shape, q.shape[-1]
        sides = (window_size or h, window_size or w)
        if self.use_rel_pos:
            rel_h = relative_position_grid(self.rel_pos_h, sides[0])[:h]
            rel_w = relative_position_grid(self.rel_pos_w, sides[1])[:w]
        else:
            rel_h, rel_w = q.new_zeros(h, sides[0], D), q.new_zeros(w, sides[1], D)
        padding = self._padded_token() if sides != group.shape else None
        q, k, v = (group.split(x) for x in (q, k, v))
        return folded_attention(q, k, v, rel_h, rel_w, group.shape, padding)


class FoldedMlp(nn.Module):
    """Two linear maps with an activation between them, whose weights are packed for inference.

    Replaces transformers' `SamMLPBlock` and, with other names, the MLPs of later bases.

    Args:
        mlp: module that has the linear maps.
        act: the activation.
        names: attributes of the linear maps in `mlp`, which they keep.
    """

    def __init__(self, mlp: nn.Module, act: nn.Module, names: tuple[str, str] = ("lin1", "lin2")) -> None:
        super().__init__()
        self.names = names
        for name in names:
            self.add_module(name, getattr(mlp, name))
        self.act = act
        self.int8 = False  # see `use_int8`
        self._prepared: tuple[Prepared[PackedLinear | Int8Linear], Prepared[PackedLinear | Int8Linear]]
        self._prepared = Prepared(), Prepared()

    def train(self, mode: bool = True) -> FoldedMlp:
        """Set the mode; training frees the weights that were prepared for inference."""
        if mode:
            for prepared in self._prepared:
                prepared.clear()
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        first, second = (getattr(self, name) for name in self.names)
        if not may_prepare(self, x):
            return second(self.act(first(x)))
        hidden = prepared_linear(self._prepared[0], first, x, activation=self.act, int8=self.int8)
        return prepared_linear(self._prepared[1], second, hidden, int8=self.int8)


class FoldedLayer(GradientCheckpointingLayer):
    """Replaces transformers' `SamVisionLayer`: same steps and names, but no padding.

    PLUG's branches separate inside the attention whose `ParallelLora.splits_branches` is set; what
    comes before it is computed once.
    """

    def __init__(self, layer: SamVisionLayer) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2 = layer.layer_norm1, layer.layer_norm2
        self.attn = FoldedAttention(layer.attn)
        self.mlp = FoldedMlp(layer.mlp, layer.mlp.act)
        self.window_size: int = layer.window_size

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B', H, W, C); B' = branches * B in the layer that separates them, else B."""
        attended, _ = self.attn(self.layer_norm1(x), self.window_size)
        lora = self.attn.lora
        if lora is not None and lora.splits_branches:
            x = x.repeat(lora.num_branches, 1, 1, 1)
        x = x + attended
        return x + self.mlp(self.layer_norm2(x))


def use_folded_attention(encoder: SamVisionEncoder) -> SamVisionEncoder:
    """Replace every layer in place by a `FoldedLayer`; weights and their names stay the same."""
    for index, layer in enumerate(encoder.layers):
        if not isinstance(layer, FoldedLayer):
            encoder.layers[index] = FoldedLayer(layer)
    return encoder


def use_int8(encoder: nn.Module, on: bool = True) -> None:
    """Switch 8-bit products on or off in an encoder's attention and MLPs, at inference on a CPU."""
    for module in encoder.modules():
        if isinstance(module, AdaptedAttention | FoldedMlp):
            module.int8 = on
