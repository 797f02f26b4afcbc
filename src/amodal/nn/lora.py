"""Parallel low-rank adapters on Q and V of a fused qkv projection (PLUG Eq. 3-4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ParallelLora(nn.Module):
    """Low-rank updates of Q and V for one or more branches that share all other weights.

    PLUG Eq. 3-4: Q_b = W_Q I_b + B_{Q,b} A_{Q,b} I_b, and the same for V, for the branches
    b in {v (visible), a (amodal)}. K is untouched. A is Kaiming-initialised and B zero, so a
    new adapter changes nothing; the update is scaled by alpha / rank as in LoRA.

    Args:
        width: C, input width of the projection, and output width of each of Q and V unless `out_width` is given.
        rank: r, inner width of each update.
        out_width: C', output width of each of Q and V where it differs, as between the stages of Hiera.
        alpha: scale numerator; None means `rank`, a scale of one.
        num_branches: number of adapter sets (2 for PLUG, 1 for plain LoRA).
        splits_branches: the incoming batch is shared by all branches and leaves this layer once per
            branch, branch-major. Set in the first layer, so that what comes before is computed once.
    """

    def __init__(
        self,
        width: int,
        rank: int,
        *,
        out_width: int | None = None,
        alpha: float | None = None,
        num_branches: int = 2,
        splits_branches: bool = False,
    ) -> None:
        super().__init__()
        self.num_branches = num_branches
        self.splits_branches = splits_branches
        self.scale = (rank if alpha is None else alpha) / rank
        # (branches, Q and V, r, C) and (branches, Q and V, C', r)
        self.down = nn.Parameter(torch.empty(num_branches, 2, rank, width))
        self.up = nn.Parameter(torch.zeros(num_branches, 2, out_width or width, rank))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise A as nn.Linear does (Kaiming uniform) and B with zeros."""
        bound = 1 / math.sqrt(self.down.shape[-1])
        nn.init.uniform_(self.down, -bound, bound)
        nn.init.zeros_(self.up)

    def forward(self, hidden_states: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add the updates to Q and V.

        Args:
            hidden_states: (B, H, W, C) input of the projection, branch-major unless
                `splits_branches`.
            q: (B, H, W, C') base projection; k and v likewise.

        Returns:
            q, k, v, each (B', H, W, C'), branch-major; B' = branches * B if `splits_branches`.
        """
        G, _, r, C = self.down.shape
        flat = hidden_states.reshape(-1, C)
        if self.splits_branches:
            # (G * 2r, C) at once on the shared input -> (G, tokens, 2r)
            low = (flat @ self.down.flatten(0, 2).to(flat.dtype).T).unflatten(-1, (G, 2 * r))
            low = low.transpose(0, 1)
            q, k, v = (x.repeat(G, 1, 1, 1) for x in (q, k, v))
        else:
            low = flat.unflatten(0, (G, -1)) @ self.down.flatten(1, 2).transpose(1, 2)
        low = low * self.scale
        up = self.up.transpose(2, 3)  # (G, 2, r, C')
        q = q + (low[..., :r] @ up[:, 0]).reshape(q.shape)
        v = v + (low[..., r:] @ up[:, 1]).reshape(v.shape)
        return q, k, v

    @torch.no_grad()
    def folded(self, weight: Tensor) -> Tensor:
        """Add each branch's update to the fused projection: W + scale * B A for Q and V.

        Args:
            weight: (3C', C) of the fused q, k, v projection.

        Returns:
            (branches, 3C', C) float32.
        """
        update = self.scale * (self.up.float() @ self.down.float())  # (G, 2, C', C)
        q, k, v = weight.float().chunk(3)
        return torch.stack([torch.cat([q + branch[0], k, v + branch[1]]) for branch in update])
