"""Uncertainty of a predicted mask, and points sampled by it (PLUG section 3.4)."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def binary_entropy(probs: Tensor) -> Tensor:
    """Compute PLUG Eq. 8: -(m log m + (1 - m) log(1 - m)), natural logarithm.

    Exactly 0 where a probability is exactly 0 or 1, with a gradient that stays finite there.

    Args:
        probs: any shape, in [0, 1].

    Returns:
        Same shape, in [0, ln 2].
    """
    tiny = torch.finfo(probs.dtype).tiny
    complement = 1 - probs
    return -(probs * probs.clamp_min(tiny).log() + complement * complement.clamp_min(tiny).log())


def uncertainty_map(probs: Tensor, epsilon: int) -> Tensor:
    """Compute PLUG Eq. 6-8: entropy averaged over the (2 * epsilon - 1)² window around each pixel.

    Pixels outside the map count as 0 and the divisor of Eq. 6 stays constant at the border.
    Eq. 8 calls m logits; a logarithm needs probabilities, so m is the sigmoid of the logit.

    Args:
        probs: (..., H, W) in [0, 1].
        epsilon: neighbourhood, |i - x1| < epsilon and |j - x2| < epsilon (Eq. 7).

    Returns:
        (..., H, W) in [0, ln 2].
    """
    H, W = probs.shape[-2:]
    side = 2 * epsilon - 1
    # Sums of shifted copies, along one axis after the other: ten times faster on a CPU than pooling.
    padded = F.pad(binary_entropy(probs), [epsilon - 1] * 4)
    rows = _sum(padded[..., shift : shift + W] for shift in range(side))
    return _sum(rows[..., shift : shift + H, :] for shift in range(side)) / side**2


def _sum(tensors: Iterator[Tensor]) -> Tensor:
    return functools.reduce(torch.add, tensors)


def sample_points(
    uncertainty: Tensor,
    *,
    num_points: int,
    oversample: int,
    importance: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample points as in PLUG Fig. 3b: of n·K random candidates the c·K most uncertain, the rest at random.

    Differs from the figure for maps of fewer than n·K pixels: all pixels are candidates then.

    Args:
        uncertainty: (N, H, W).
        num_points: K.
        oversample: n.
        importance: c in [0, 1].
        generator: random generator, on the device of `uncertainty`.

    Returns:
        (N, num_points) flat indices into H * W, all different within a map.

    Raises:
        ValueError: a map has fewer than `num_points` pixels.
    """
    flat = uncertainty.detach().flatten(1)
    pixels = flat.shape[1]
    if num_points > pixels:
        raise ValueError(f"num_points: expected at most {pixels} for this map, got {num_points}")
    noise = torch.rand(flat.shape, device=flat.device, generator=generator)
    candidates = noise.topk(min(oversample * num_points, pixels), dim=1).indices
    by_uncertainty = flat.gather(1, candidates).argsort(dim=1, descending=True)
    candidates = candidates.gather(1, by_uncertainty)
    num_important = int(importance * num_points + 1e-6)  # 0.29 * 100 is 28.999... in floats
    rest = candidates[:, num_important:]
    order = torch.rand(rest.shape, device=flat.device, generator=generator).argsort(dim=1)
    chosen = rest.gather(1, order[:, : num_points - num_important])
    return torch.cat([candidates[:, :num_important], chosen], dim=1)
