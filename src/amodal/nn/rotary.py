"""SAM 3's ViT layers: windowed attention with rotary positions, by fast kernels and with PLUG's adapters.

Same results as transformers' `Sam3ViTLayer`. Q, K and V are one projection here, so that adapters and packed weights
are those of SAM's attention.

transformers pads the grid with zeros to whole windows. Here a window at the border keeps only its real tokens
(`attention.window_groups`). The padded tokens have the bias of the projection as key and value; their keys differ by
rotation only, so they are constants that no token needs to be projected for.

Axes: B batch, n heads, H W the token grid, h w the real tokens of one window and S its side, T = h * w, D head width.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from amodal.nn.attention import AdaptedAttention, FoldedMlp, WindowGroup, join_groups, window_groups
from amodal.nn.kernels import softmax_attention


def rotations(grid: tuple[int, int], scale: float, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angle of every cell and channel, (h, w, D) each, in float32.

    Args:
        grid: (h, w).
        scale: of the coordinates.
        frequencies: (D / 4,). The first half of the channels rotates with x, the second with y, in pairs.
    """
    y, x = (torch.arange(n, device=frequencies.device) * scale for n in grid)
    h, w = grid
    angles = torch.cat(
        [
            (x[:, None] * frequencies)[None].expand(h, -1, -1),
            (y[:, None] * frequencies)[:, None].expand(-1, w, -1),
        ],
        dim=-1,
    ).repeat_interleave(2, dim=-1)
    return angles.cos(), angles.sin()


def rotated(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate pairs of channels: (..., n, D) by (..., 1, D), in float32 at least."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    even, odd = wide.unflatten(-1, (-1, 2)).unbind(-1)
    return (wide * cosines + torch.stack([-odd, even], dim=-1).flatten(-2) * sines).to(x.dtype)


class RotaryAttention(AdaptedAttention):
    """Replaces transformers' `Sam3ViTRoPEAttention`, with one projection `qkv` instead of three.

    Args:
        attention: transformers' attention; its weights are loaded by `fused_projections`.
        window_size: the windows' side S, to which the coordinates of a global layer are scaled.
        theta: base of the frequencies.
    """

    def __init__(self, attention: Any, window_size: int, theta: float) -> None:
        width, heads = attention.hidden_size, attention.num_attention_heads
        super().__init__(
            SimpleNamespace(qkv=nn.Linear(width, 3 * width), proj=attention.o_proj, num_attention_heads=heads)
        )
        self.pretrained_window: int = window_size
        self.head_width: int = width // heads
        self.theta = theta

    def forward(self, hidden_states: Tensor, window_size: int) -> Tensor:
        """Attend within each window of the grid of tokens; see `FoldedAttention.forward`.

        Args:
            hidden_states: (B, H, W, C).
            window_size: side of the windows; 0 attends within the whole grid.

        Returns:
            (B', H, W, C) with B' = branches * B in the layer that separates the branches, else B.
        """
        H, W = hidden_states.shape[1:3]
        q, k, v = (self._split_heads(x) for x in self._project(hidden_states))  # (B', H, W, n, D)
        cosines, sines = self._rotations((window_size or H, window_size or W), hidden_states.device)
        bands = [
            [group.join(self._attend(q, k, v, group, cosines, sines), q.shape[0]) for group in band]
            for band in window_groups((H, W), window_size)
        ]
        return self._project_out(join_groups(bands))

    def _rotations(self, sides: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
        half = self.head_width // 2
        powers = torch.arange(0, half, 2, device=device, dtype=torch.float32) / half
        return rotations(sides, self.pretrained_window / sides[1], 1.0 / self.theta**powers)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, group: WindowGroup, cosines: Tensor, sines: Tensor) -> Tensor:
        """Attention within the windows of one group: (B' * windows, n, T, D)."""
        h, w = group.shape
        turn = [x[:h, :w].flatten(0, 1) for x in (cosines, sines)]  # (T, D)
        q, k, v = (group.split(x) for x in (q, k, v))
        q, k = rotated(q, *turn), rotated(k, *turn)
        if group.shape != tuple(cosines.shape[:2]):
            H, W = cosines.shape[:2]
            padded = [i * W + j for i in range(H) for j in range(W) if i >= h or j >= w]
            key, value = (x.to(q.dtype)[:, None] for x in self._padded_token())  # (n, 1, D)
            turn = [x.flatten(0, 1)[padded] for x in (cosines, sines)]
            keys = rotated(key, *turn)  # (n, padded tokens, D)
            k = torch.cat([k, keys.expand(len(k), -1, -1, -1)], dim=2)
            v = torch.cat([v, value.expand(len(v), -1, keys.shape[1], -1)], dim=2)
        return softmax_attention(q * self.head_width**-0.5, k, v)


class RotaryLayer(GradientCheckpointingLayer):
    """Replaces transformers' `Sam3ViTLayer`: same steps, but no padding.

    PLUG's branches separate inside the attention whose `ParallelLora.splits_branches` is set.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2 = layer.layer_norm1, layer.layer_norm2
        theta = layer.config.rope_parameters["rope_theta"]
        self.attention = RotaryAttention(layer.attention, layer.config.window_size, theta)
        self.mlp = FoldedMlp(layer.mlp, layer.mlp.activation_fn, ("fc1", "fc2"))
        self.window_size: int = layer.window_size

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B', H, W, C); B' = branches * B in the layer that separates them, else B."""
        attended = self.attention(self.layer_norm1(x), self.window_size)
        lora = self.attention.lora
        if lora is not None and lora.splits_branches:
            x = x.repeat(lora.num_branches, 1, 1, 1)
        x = x + attended
        return x + self.mlp(self.layer_norm2(x))


def fused_projections(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of transformers' layers as `RotaryLayer`'s, with Q, K and V in one tensor."""
    fused = {}
    for name, tensor in state.items():
        if "attention.q_proj." in name:
            parts = [state[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            fused[name.replace(".q_proj.", ".qkv.")] = torch.cat(parts)
        elif "attention.k_proj." not in name and "attention.v_proj." not in name:
            fused[name.replace("attention.o_proj.", "attention.proj.")] = tensor
    return fused
