"""Ranges of the hidden share that figures are broken down by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

EDGES = (0.0, 0.1, 0.3, 0.5, 0.7)
"""Upper ends of all ranges but the last; the first range is "not hidden at all"."""


@dataclass(frozen=True)
class Range:
    """Hidden shares in (above, up_to]; the first one holds 0 alone."""

    above: float
    up_to: float

    @classmethod
    def all(cls) -> tuple[Range, ...]:
        """The ranges from nothing hidden to nearly everything hidden."""
        return tuple(cls(low, high) for low, high in zip((0.0, *EDGES), (*EDGES, 1.0), strict=True))


def range_label(above: float, up_to: float) -> str:
    """A range as tables and plots write it."""
    if up_to == 0:
        return "0 %"
    return f"> {above * 100:g} %" if up_to == 1 else f"{above * 100:g}-{up_to * 100:g} %"


def range_indices(hidden_share: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """(N,) indices into `Range.all()` of hidden shares in [0, 1]."""
    return np.searchsorted(EDGES, hidden_share, side="left").astype(np.int64)
