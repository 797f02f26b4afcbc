"""Where a mask token points: what a small model needs beside the paper's embedding.

Axes: N mask tokens, n image tokens of the LLM, D its width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BoxReader(nn.Module):
    """The visible box of what a mask token means, read where it points.

    The state chooses softly among the image tokens as the LLM gets them; the box is read off the
    state and what it has chosen. Not in the paper, whose LLM says in one vector where an object is:
    a small one learns what to look at ten times sooner than how to say where that was.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.key = nn.Linear(width, width)
        self.box = nn.Sequential(
            nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)
        )

    def forward(self, states: Tensor, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """States (N, D) and the image tokens of each one's picture (N, n, D).

        Returns:
            (N, 4) boxes xyxy in [0, 1] and (N, n) logits of the choice, float32.
        """
        seen = self.norm(image_tokens)
        logits = (self.key(seen) @ self.query(states)[..., None])[..., 0].float() * states.shape[-1] ** -0.5
        chosen = (logits.softmax(-1).to(seen.dtype)[:, None] @ seen)[:, 0]
        centre, size = self.box(torch.cat([states, chosen], dim=-1)).float().sigmoid().split(2, dim=-1)
        return torch.cat([centre - size / 2, centre + size / 2], dim=-1).clamp(0, 1), logits
