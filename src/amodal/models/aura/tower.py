"""What the vision towers on feature maps have in common: cells as tokens, normalised and with learned positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

STD = 0.02
"""Standard deviation of new weights."""


class MapTower(PreTrainedModel):
    """A vision tower whose tokens are the cells of a feature map.

    Its configuration has `image_size`, `patch_size` (pixels along each side of a cell) and `hidden_size` (D).
    """

    main_input_name = "pixel_values"

    def add_positions(self) -> None:
        """Make norm and positions, after the layers that compute the map."""
        config: Any = self.config
        cells = config.image_size // config.patch_size
        self.norm = nn.LayerNorm(config.hidden_size)
        self.position_embedding = nn.Embedding(cells * cells, config.hidden_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the positions; the layers that compute the map initialise themselves."""
        if module is getattr(self, "position_embedding", None):
            nn.init.normal_(self.position_embedding.weight, std=STD)

    def tokens(self, cells: Tensor) -> BaseModelOutput:
        """A map (B, D, c, c) to tokens (B, c * c, D), also the only entry of `hidden_states`."""
        tokens = self.norm(cells.flatten(2).transpose(1, 2).to(self.norm.weight.dtype))
        tokens = tokens + self.position_embedding.weight
        return BaseModelOutput(last_hidden_state=tokens, hidden_states=(tokens,))
