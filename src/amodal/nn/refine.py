"""Refine module (PLUG Eq. 11): corrects the amodal mask from both masks, their uncertainty and the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

IN_CHANNELS = 7  # image 3, two probability maps, two uncertainty maps
CACHE_BYTES_PER_THREAD = 2**20


class ResidualBlock(nn.Module):
    """ResNet's basic block.

    Differs from ResNet: GroupNorm instead of batch normalisation, because statistics over a batch
    would make an object's mask depend on the other objects in the batch.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        groups = max(g for g in (1, 2, 4, 8) if channels % g == 0)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        y = torch.relu_(self.norm1(self.conv1(x)))
        return torch.relu_(self.norm2(self.conv2(y)).add_(x))


class RefineModule(nn.Module):
    """Fuses both coarse masks into a correction of the amodal logits (PLUG Eq. 11).

    The last layer starts at zero, so that an untrained module changes nothing.

    Args:
        num_blocks: number of residual blocks; the paper uses one and allows more.
        channels: width of the blocks.
    """

    def __init__(self, num_blocks: int = 1, channels: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(IN_CHANNELS, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(num_blocks)))
        self.head = nn.Conv2d(channels, 1, 1)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        image: Tensor,
        visible_probs: Tensor,
        amodal_probs: Tensor,
        visible_uncertainty: Tensor,
        amodal_uncertainty: Tensor,
    ) -> Tensor:
        """Predict the correction of the amodal logits.

        Args:
            image: (N, 3, H, W) normalised crop.
            visible_probs: (N, 1, H, W) coarse visible mask in [0, 1]; `amodal_probs` likewise.
            visible_uncertainty: (N, 1, H, W) in [0, ln 2]; `amodal_uncertainty` likewise.

        Returns:
            (N, 1, H, W), added to the coarse amodal logits.
        """
        x = torch.cat([image, visible_probs, amodal_probs, visible_uncertainty, amodal_uncertainty], dim=1)
        if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._correct(x)
        # On a CPU: channels last, and as many objects at once as fit into the cache.
        x = x.to(memory_format=torch.channels_last)
        size = self.stem.out_channels * x.shape[2] * x.shape[3] * x.element_size()
        objects = max(1, CACHE_BYTES_PER_THREAD * torch.get_num_threads() // size)
        return torch.cat([self._correct(part) for part in x.split(objects)])

    def _correct(self, x: Tensor) -> Tensor:
        """(N, 7, H, W) to (N, 1, H, W)."""
        return self.head(self.blocks(torch.relu_(self.stem(x))))
