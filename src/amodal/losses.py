"""Losses on mask logits and boxes. All are means over objects and run in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.nn.uncertainty import sample_points, uncertainty_map


def mask_ious(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of bool masks (..., H, W), (...) float; 1 where both are empty, as in `ops.masks`."""
    union = (a | b).sum((-2, -1))
    return torch.where(union > 0, (a & b).sum((-2, -1)) / union.clamp_min(1), 1.0)


IGNORE_INDEX = -100
"""Label of a token that the text loss leaves out; torch's and transformers' default."""


def object_mean(values: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean over the valid objects; 0 if there is none.

    Args:
        values: any shape, one value per object.
        valid: same shape, bool; None means all.
    """
    if valid is None:
        return values.mean()
    return (values * valid).sum() / valid.sum().clamp_min(1)


def mask_bce(logits: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """Compute the binary cross-entropy L_b of PLUG Eq. 9, a mean over pixels.

    Args:
        logits: (..., H, W).
        targets: (..., H, W) in [0, 1].
        valid: (...) bool, the objects that count; None means all.
    """
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none")
    return object_mean(losses.mean((-2, -1)), valid)


def mask_dice(logits: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """Compute the Dice loss, 1 - 2 |P·G| / (|P| + |G|), with one pixel of smoothing. Arguments as in `mask_bce`."""
    return object_mean(_dice(logits.float().sigmoid(), targets.float(), 1), valid)


OCCLUDED_DICE_SMOOTHING = 0.05
"""Smoothing of `occluded_dice`, relative to the area of the amodal mask: the occlusion rate above which evaluation
counts an unoccluded object as falsely occluded."""


def occluded_dice(logits: Tensor, amodal: Tensor, visible: Tensor, valid: Tensor | None = None) -> Tensor:
    """Compute the Dice loss outside of the visible part, where the amodal mask is the occluded part.

    The occluded part is small beside the object, so a Dice loss of the whole object hardly depends on it. For an
    unoccluded object the loss grows with all that is predicted outside of it. It is smoothed by
    `OCCLUDED_DICE_SMOOTHING`, but by one pixel at least. Not in the paper.

    Args:
        logits: (..., H, W) of the amodal mask.
        amodal: (..., H, W) true amodal mask in [0, 1].
        visible: (..., H, W) true visible mask in [0, 1].
        valid: (...) bool, the objects that count; None means all.
    """
    outside = 1 - visible.float()
    probs, targets = logits.float().sigmoid() * outside, amodal.float() * outside
    smoothing = (OCCLUDED_DICE_SMOOTHING * amodal.float().sum((-2, -1))).clamp_min(1)
    return object_mean(_dice(probs, targets, smoothing), valid)


def _dice(probs: Tensor, targets: Tensor, smoothing: Tensor | int) -> Tensor:
    """Dice loss (...) of each object from (..., H, W) in [0, 1], smoothed by a number of pixels."""
    overlap = 2 * (probs * targets).sum((-2, -1)) + smoothing
    return 1 - overlap / (probs.sum((-2, -1)) + targets.sum((-2, -1)) + smoothing)


def point_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    epsilon: int,
    num_points: int,
    oversample: int,
    importance: float,
    alpha: float,
    beta: float,
    generator: torch.Generator | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Compute PLUG Eq. 10 at K points per object: the mean of alpha * l_e(x) + beta * u(x).

    l_e is a binary cross-entropy at full resolution and u the uncertainty of Eq. 6; both carry a
    gradient. Points are sampled as in Fig. 3b.

    Args:
        logits: (..., H, W) at full resolution.
        targets: (..., H, W) in [0, 1].
        epsilon: size of the neighbourhood of the uncertainty (Eq. 7).
        num_points: K.
        oversample: n; there are n * K candidates.
        importance: c, share of the K points chosen by uncertainty.
        alpha: weight of l_e.
        beta: weight of u.
        generator: random generator for the points.
        valid: (...) bool, the objects that count; None means all.

    Returns:
        Scalar.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        uncertainty = uncertainty_map(logits.sigmoid(), epsilon).flatten(0, -3)  # (N, H, W)
        points = sample_points(
            uncertainty,
            num_points=num_points,
            oversample=oversample,
            importance=importance,
            generator=generator,
        )
        at_points = logits.flatten(0, -3).flatten(1).gather(1, points)
        truth = targets.flatten(0, -3).flatten(1).gather(1, points).float()
        bce = F.binary_cross_entropy_with_logits(at_points, truth, reduction="none")
        uncertain = uncertainty.flatten(1).gather(1, points)
        losses = (alpha * bce + beta * uncertain).mean(1)
        return object_mean(losses, None if valid is None else valid.flatten())
