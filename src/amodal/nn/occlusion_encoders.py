"""AURA's two occlusion encoders (AURA section 3.3, Fig. 3).

Axes: N objects, C channels, h w cells of the mask decoder's output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BACKGROUND, VISIBLE, OCCLUDED = 0, 1, 2
"""Classes of the occlusion-aware spatial map M_sp."""


class OcclusionConditionEncoder(nn.Module):
    """Refined embedding e_r to occlusion-aware embedding e_oa and occlusion rate (Fig. 3a).

    The paper states inputs and outputs but no layers. Here a residual two-layer perceptron computes
    e_oa. Its last layer starts at zero, so that a new model's amodal decoder starts from e_r. A second
    perceptron predicts the rate from e_oa.

    Args:
        width: C of the embeddings.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.update = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.rate = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise such that e_oa = e_r."""
        last = self.update[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, refined: Tensor) -> tuple[Tensor, Tensor]:
        """Predict embedding and rate.

        Args:
            refined: (N, C) embeddings e_r.

        Returns:
            e_oa (N, C) and occlusion rates (N,) in [0, 1].
        """
        aware = refined + self.update(refined)
        return aware, self.rate(aware)[:, 0].float().sigmoid()


class SpatialOcclusionEncoder(nn.Module):
    """Both predicted masks to the occlusion-aware spatial map M_sp (Fig. 3b).

    The paper leaves the layers open; here three convolutions read the masks' probabilities at the
    decoders' resolution. The loss on the map trains both decoders together; at inference the map is
    not needed.

    Args:
        channels: width of the hidden layers.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, channels, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(channels, 3, 1),
        )

    def forward(self, visible_logits: Tensor, amodal_logits: Tensor) -> Tensor:
        """Classify each cell.

        Args:
            visible_logits: (N, h, w) of the visible masks; amodal_logits likewise.

        Returns:
            (N, 3, h, w) logits of background, visible and occluded.
        """
        masks = torch.stack([visible_logits.sigmoid(), amodal_logits.sigmoid()], dim=1)
        return self.layers(masks)


def occlusion_map(visible_masks: Tensor, amodal_masks: Tensor) -> Tensor:
    """Compute the true M_sp: 1 where visible, 2 where occluded, 0 elsewhere (section 3.3).

    Args:
        visible_masks: (..., H, W) bool; amodal_masks likewise.

    Returns:
        (..., H, W) int64.
    """
    occluded = amodal_masks & ~visible_masks
    return visible_masks.long() * VISIBLE + occluded.long() * OCCLUDED


def occlusion_rates(visible_masks: Tensor, amodal_masks: Tensor) -> Tensor:
    """Compute true rates per object, (...) float32 in [0, 1]: `ops.occlusion.occlusion_rate` for tensors."""
    visible, amodal = (m.flatten(-2).sum(-1).float() for m in (visible_masks, amodal_masks))
    return torch.where(amodal > 0, 1 - visible / amodal.clamp_min(1), 0.0).clamp(0, 1)
