"""Windows of a token grid without padding.

SAM pads the grid with zeros to a multiple of the window. Here a window at the border keeps only
its real tokens, so windows come in up to four shapes: whole ones, a narrow column at the right,
a low row at the bottom and one in the corner. What the missing tokens do to the attention is
`attention.padding_logits`.

Axes: B batch, n heads, H W the token grid, h w the real tokens of one window, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class WindowGroup:
    """Neighbouring windows of one shape.

    Attributes:
        rows: rows of the grid they cover.
        columns: columns of the grid they cover.
        shape: (h, w) real tokens of each.
    """

    rows: slice
    columns: slice
    shape: tuple[int, int]

    def split(self, x: Tensor) -> Tensor:
        """(B, H, W, n, D) of the whole grid to (B * windows, n, h * w, D) of this group."""
        h, w = self.shape
        part = x[:, self.rows, self.columns].unflatten(2, (-1, w)).unflatten(1, (-1, h))
        part = part.permute(0, 1, 3, 5, 2, 4, 6)  # (B, rows, columns, n, h, w, D)
        return part.reshape(-1, x.shape[3], h * w, x.shape[4])

    def join(self, x: Tensor, batch: int) -> Tensor:
        """(B * windows, n, h * w, D) to the (B, rows, columns, n * D) part of the grid."""
        h, w = self.shape
        down = (self.rows.stop - self.rows.start) // h
        part = x.reshape(batch, down, -1, x.shape[1], h, w, x.shape[-1])
        part = part.permute(0, 1, 4, 2, 5, 3, 6)  # (B, down, h, across, w, n, D)
        return part.flatten(5).flatten(3, 4).flatten(1, 2)


def window_groups(grid: tuple[int, int], window_size: int) -> list[list[WindowGroup]]:
    """Groups that tile the grid as SAM's padded windows do.

    Args:
        grid: (H, W).
        window_size: side of a whole window; 0 makes the grid one window.

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
    """Parts of the grid in the order of `window_groups` to (B, H, W, C)."""
    bands = [band[0] if len(band) == 1 else torch.cat(band, dim=2) for band in parts]
    return bands[0] if len(bands) == 1 else torch.cat(bands, dim=1)


def _pieces(length: int, window: int) -> list[tuple[slice, int]]:
    """The stretch of whole windows and what is left of it, each with its window's length."""
    whole = length // window * window
    pieces = [(slice(0, whole), window), (slice(whole, length), length - whole)]
    return [(stretch, side) for stretch, side in pieces if stretch.stop > stretch.start]
