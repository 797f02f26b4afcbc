"""Figures as quotients of sums, so that means, ranges, categories and resampling are one thing.

A protocol turns `Counts` into named `Ratio`s; the figure of any set of objects is then
sum(above) / sum(below) over that set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from amodal.metrics.counts import Counts

Values = npt.NDArray[np.float64]
Chosen = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Ratio:
    """One figure over N objects.

    Attributes:
        above: (N,) what each object adds to the numerator.
        below: (N,) and to the denominator.
        counted: (N,) bool, the objects that the figure is said to be about.
    """

    above: Values
    below: Values
    counted: Chosen

    def value(self, chosen: Chosen | None = None) -> float | None:
        """The figure of the chosen objects, all if None; None where there is nothing to divide by."""
        above, below = (self.above, self.below) if chosen is None else (self.above[chosen], self.below[chosen])
        total = below.sum()
        return float(above.sum() / total) if total > 0 else None


Ratios = dict[str, Ratio]
RatiosOf = Callable[[Counts], Ratios]


def mean(values: Values, counted: Chosen) -> Ratio:
    """Mean of `values` over the counted objects."""
    return Ratio(np.where(counted, values, 0.0), counted.astype(np.float64), counted)
