"""The `cumulative` protocol of PCNet and SDAmodal: pixels of the whole set pooled.

full: sum of |P∩G| / sum of |P∪G| over all objects; occ: the same restricted to pixels outside V.
Large objects weigh more. The figures keep the names under which their papers print them (mIoU).
"""

from __future__ import annotations

import numpy as np

from amodal.metrics.counts import Counts, Numbers
from amodal.metrics.ratios import Chosen, Ratio, Ratios


def cumulative_ratios(counts: Counts) -> Ratios:
    """`mIoU_full`, `mIoU_occ` and, where visible masks were predicted, `mIoU_visible`."""
    everything = np.ones(len(counts.union), bool)
    occ = _pooled(counts.hidden_overlap, counts.hidden_union, everything)
    ratios = {
        "mIoU_full": _pooled(counts.overlap, counts.union, everything),
        "mIoU_occ": Ratio(occ.above, occ.below, counts.hidden > 0),
    }
    known = counts.own_union >= 0
    if known.any():
        ratios["mIoU_visible"] = _pooled(counts.own_overlap, counts.own_union, known)
    return ratios


def _pooled(overlap: Numbers, union: Numbers, counted: Chosen) -> Ratio:
    return Ratio(np.where(counted, overlap, 0).astype(float), np.where(counted, union, 0).astype(float), counted)
