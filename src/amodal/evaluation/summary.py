"""From counts of objects to figures with intervals: overall, by occlusion range, by category."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from amodal.metrics.bootstrap import ratio_intervals
from amodal.metrics.c2f import c2f_ratios
from amodal.metrics.counts import Counts
from amodal.metrics.cumulative import cumulative_ratios
from amodal.metrics.ranges import Range, range_indices
from amodal.metrics.ratios import Chosen, Ratios, RatiosOf
from amodal.metrics.strict import strict_ratios

PROTOCOLS: dict[str, RatiosOf] = {
    "strict": strict_ratios,
    "c2f": c2f_ratios,
    "cumulative": cumulative_ratios,
}
"""Protocols that score one answer an object."""

Figures = dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """All objects of an evaluation, in file order.

    Attributes:
        image_ids: (N,) of their images.
        annotation_ids: (N,) their own.
        category_ids: (N,) of their categories.
        counts: by row name.
    """

    image_ids: npt.NDArray[np.int64]
    annotation_ids: npt.NDArray[np.int64]
    category_ids: npt.NDArray[np.int64]
    counts: dict[str, Counts]


@dataclass(frozen=True)
class Resampling:
    """How intervals are made."""

    resamples: int = 1000
    seed: int = 0


class Summary:
    """Figures of one row under one protocol.

    Args:
        scored: the objects.
        row: name of the row.
        protocol: key of `PROTOCOLS`.
    """

    def __init__(self, scored: Scored, row: str, protocol: str) -> None:
        counts = scored.counts[row]
        self._ratios: Ratios = PROTOCOLS[protocol](counts)
        self._images = np.unique(scored.image_ids, return_inverse=True)[1]
        self._categories = scored.category_ids
        self._ranges = range_indices(counts.hidden_share)

    def overall(self, resampling: Resampling | None = None) -> Figures:
        """Figures of all objects; `intervals` beside them if asked for."""
        return self._groups([np.ones(len(self._images), bool)], resampling)[0]

    def by_occlusion(self, resampling: Resampling | None = None) -> list[Figures]:
        """Figures of each occlusion range."""
        ranges = Range.all()
        groups = self._groups([self._ranges == i for i in range(len(ranges))], resampling)
        return [{"above": r.above, "up_to": r.up_to} | g for r, g in zip(ranges, groups, strict=True)]

    def by_category(self, names: dict[int, str], resampling: Resampling | None = None) -> list[Figures]:
        """Figures of each category that has objects."""
        present = [int(c) for c in np.unique(self._categories)]
        groups = self._groups([self._categories == c for c in present], resampling)
        return [{"category_id": c, "name": names.get(c, str(c))} | g for c, g in zip(present, groups, strict=True)]

    def _groups(self, groups: list[Chosen], resampling: Resampling | None) -> list[Figures]:
        rows: list[Figures] = []
        for chosen in groups:
            figures: Figures = {name: ratio.value(chosen) for name, ratio in self._ratios.items()}
            occluded = int((self._ratios["mIoU_occ"].counted & chosen).sum())
            rows.append(figures | {"num_objects": int(chosen.sum()), "num_occluded": occluded})
        if resampling is not None:
            self._add_intervals(rows, groups, resampling)
        return rows

    def _add_intervals(self, rows: list[Figures], groups: list[Chosen], resampling: Resampling) -> None:
        """One matrix product for all figures of all groups: columns are (group, figure)."""
        above = self._by_image([r.above * chosen for chosen in groups for r in self._ratios.values()])
        below = self._by_image([r.below * chosen for chosen in groups for r in self._ratios.values()])
        ends = ratio_intervals(above, below, resamples=resampling.resamples, seed=resampling.seed)
        per_group = ends.reshape(len(groups), len(self._ratios), 2)
        for row, part in zip(rows, per_group, strict=True):
            row["intervals"] = {
                name: None if np.isnan(end).any() else [float(e) for e in end]
                for name, end in zip(self._ratios, part, strict=True)
            }

    def _by_image(self, columns: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
        count = int(self._images.max()) + 1
        return np.stack([np.bincount(self._images, column, count) for column in columns], axis=1)
