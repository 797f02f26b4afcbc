"""The `c2f` protocol: the figures of C2F-Seg's and PLUG's tables, with their quirks.

full: (|P∩G| + 1e-10) / (|P∪G| + 1e-10), mean over objects. occ: P_o = (P - V) > 0.5 and
G_o = (G - V) > 0.5, IoU = |P_o∩G_o| / (|P_o∪G_o| + 1e-6); the sum runs over all objects, the count
leaves out an object whose signed sum of (G - V) is 0. Two quirks follow and are kept, because the
published figures have them: an object without a hidden part whose V spills outside G counts, as 0;
where spill and hidden part cancel exactly, the IoU is added but not counted.
"""

from __future__ import annotations

import numpy as np

from amodal.metrics.counts import Counts, Numbers
from amodal.metrics.ratios import Ratio, Ratios, Values, mean

FULL_EPSILON = 1e-10
OCC_EPSILON = 1e-6


def c2f_ratios(counts: Counts) -> Ratios:
    """`mIoU_full`, `mIoU_occ` and, where visible masks were predicted, `mIoU_visible` (as full)."""
    everything = np.ones(len(counts.union), bool)
    occ = counts.hidden_overlap / (counts.hidden_union + OCC_EPSILON)
    signed_sum = counts.amodal - counts.visible  # of (G - V) over the image
    counted = signed_sum != 0
    ratios = {
        "mIoU_full": mean(_full(counts.overlap, counts.union), everything),
        "mIoU_occ": Ratio(occ, counted.astype(np.float64), counted),
    }
    known = counts.own_union >= 0
    if known.any():
        ratios["mIoU_visible"] = mean(_full(counts.own_overlap, counts.own_union), known)
    return ratios


def _full(overlap: Numbers, union: Numbers) -> Values:
    return np.asarray((overlap + FULL_EPSILON) / (np.maximum(union, 0) + FULL_EPSILON), np.float64)
