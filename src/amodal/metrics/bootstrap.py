"""Intervals by resampling whole images: objects of one picture are not independent of each other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from amodal.metrics.ratios import Values

LEVEL = 0.95
_BLOCK = 100  # resamples drawn at once; bounds the memory


def image_weights(num_images: int, resamples: int, seed: int) -> Iterator[Values]:
    """How often each image is drawn, (R, num_images) a block, `resamples` rows in all.

    Each row draws `num_images` images with replacement (Efron's bootstrap).
    """
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, _BLOCK):
        size = min(_BLOCK, resamples - start)
        drawn = rng.integers(0, num_images, (size, num_images)) + num_images * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * num_images).reshape(size, num_images).astype(np.float64)


def ratio_intervals(above: Values, below: Values, *, resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """Percentile intervals of K quotients of sums.

    Args:
        above: (U, K) what each of U images adds to each numerator.
        below: (U, K) and to each denominator.
        resamples: how many times U images are drawn.
        seed: of the draws; the same one gives the same intervals.

    Returns:
        (K, 2) lower and upper ends; NaN where fewer than two images have anything to divide by:
        the spread of one is not known.
    """
    lonely = (below > 0).sum(axis=0) < 2
    drawn = []
    for weights in image_weights(len(above), resamples, seed):
        total = weights @ below  # (R, K)
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn.append(np.where((total > 0) & ~lonely, (weights @ above) / total, np.nan))
    return percentile_interval(np.concatenate(drawn))


def percentile_interval(drawn: Values) -> npt.NDArray[np.float64]:
    """(R, K) resampled figures to their central 95 %, (K, 2); NaN entries are left out."""
    ends = np.full((drawn.shape[1], 2), np.nan)
    known = ~np.isnan(drawn).all(axis=0)
    tails = [50 * (1 - LEVEL), 100 - 50 * (1 - LEVEL)]
    if known.any():
        ends[known] = np.nanpercentile(drawn[:, known], tails, axis=0).T
    return ends
