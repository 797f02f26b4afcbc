"""Baselines: rows beside a model that need no amodal training at all.

Each maps what is known of an object to an amodal mask. Those that use the true visible mask are
oracles; they show how much of a figure the visible part alone is worth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from amodal.ops.boxes import mask_to_box
from amodal.ops.masks import convex_hull_mask, filled_box_mask

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Known:
    """What a baseline may look at: masks (H, W) bool."""

    true_visible: Mask
    predicted_visible: Mask


BASELINES: dict[str, Callable[[Known], Mask]] = {
    "true visible mask": lambda known: known.true_visible,
    "filled visible box": lambda known: filled_box_mask(mask_to_box(known.true_visible), known.true_visible.shape),
    "hull of true visible mask": lambda known: convex_hull_mask(known.true_visible),
    "hull of own visible mask": lambda known: convex_hull_mask(known.predicted_visible),
}
"""One registry: name to answer."""
