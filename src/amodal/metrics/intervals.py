"""Occlusion ranges and confidence intervals, shared by all protocols.

Confidence intervals come from resampling whole images, because the objects of one image are not independent of each
other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

EDGES = (0.0, 0.1, 0.3, 0.5, 0.7)
"""Upper ends of all occlusion ranges except the last; the first range holds the objects that are not occluded."""

CONFIDENCE_LEVEL = 0.95
_RESAMPLES_PER_BLOCK = 100  # bounds the memory


@dataclass(frozen=True)
class OcclusionRange:
    """Occlusion rates in (above, up_to]; the first range holds exactly 0."""

    above: float
    up_to: float

    @classmethod
    def all(cls) -> tuple[OcclusionRange, ...]:
        """Return all ranges, from not occluded to almost fully occluded."""
        return tuple(cls(low, high) for low, high in zip((0.0, *EDGES), (*EDGES, 1.0), strict=True))


def range_label(above: float, up_to: float) -> str:
    """Return the label of an occlusion range in tables and plots."""
    if up_to == 0:
        return "0 %"
    return f"> {above * 100:g} %" if up_to == 1 else f"{above * 100:g}-{up_to * 100:g} %"


def range_indices(occlusion_rates: FloatArray) -> npt.NDArray[np.int64]:
    """Return the (N,) indices into `OcclusionRange.all()` of (N,) occlusion rates in [0, 1]."""
    return np.searchsorted(EDGES, occlusion_rates, side="left").astype(np.int64)


def image_weights(num_images: int, num_resamples: int, seed: int) -> Iterator[FloatArray]:
    """Yield how often each image is drawn in each resample.

    Each resample draws `num_images` images with replacement (Efron's bootstrap).

    Yields:
        Blocks of shape (R, num_images); the R of all blocks add up to `num_resamples`.
    """
    rng = np.random.default_rng(seed)
    for start in range(0, num_resamples, _RESAMPLES_PER_BLOCK):
        size = min(_RESAMPLES_PER_BLOCK, num_resamples - start)
        draws = rng.integers(0, num_images, (size, num_images)) + num_images * np.arange(size)[:, None]
        yield np.bincount(draws.ravel(), minlength=size * num_images).reshape(size, num_images).astype(np.float64)


def ratio_intervals(numerators: FloatArray, denominators: FloatArray, *, num_resamples: int, seed: int) -> FloatArray:
    """Compute percentile intervals of K ratios of sums.

    Args:
        numerators: (U, K) contribution of each of U images to each numerator.
        denominators: (U, K) contribution of each image to each denominator.
        num_resamples: how often U images are drawn.
        seed: of the draws; the same seed gives the same intervals.

    Returns:
        (K, 2) lower and upper ends; NaN where fewer than two images contribute to the denominator, because the
        spread of a single image is unknown.
    """
    undefined = (denominators > 0).sum(axis=0) < 2
    resampled = []
    for weights in image_weights(len(numerators), num_resamples, seed):
        total = weights @ denominators  # (R, K)
        with np.errstate(invalid="ignore", divide="ignore"):
            resampled.append(np.where((total > 0) & ~undefined, (weights @ numerators) / total, np.nan))
    return percentile_interval(np.concatenate(resampled))


def percentile_interval(resampled: FloatArray) -> FloatArray:
    """Return the central 95 % (K, 2) of (R, K) resampled metrics; NaN entries are ignored."""
    ends = np.full((resampled.shape[1], 2), np.nan)
    known = ~np.isnan(resampled).all(axis=0)
    tails = [50 * (1 - CONFIDENCE_LEVEL), 100 - 50 * (1 - CONFIDENCE_LEVEL)]
    if known.any():
        ends[known] = np.nanpercentile(resampled[:, known], tails, axis=0).T
    return ends
