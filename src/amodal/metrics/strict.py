"""The `strict` protocol: mean IoU over objects, full and hidden parts apart.

full: |P∩G| / |P∪G| over all annotated objects. occ: P∖V against G∖V over the objects whose G∖V
is not empty. visible: predicted against true visible mask. P, G, V are at full image size; the
hidden part is taken outside the *true* visible mask.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from amodal.ops.masks import mask_iou, occlusion_rate

Mask = npt.NDArray[np.bool_]

# Ranges of the true occlusion rate, (low, high]; the first is "not hidden at all".
RANGES = ((-1.0, 0.0), (0.0, 0.1), (0.1, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 1.0))


@dataclass
class StrictIoU:
    """Accumulates objects one by one.

    Attributes:
        full: IoU of each object's amodal mask.
        occ: IoU of its hidden part, NaN where nothing is hidden.
        visible: IoU of its visible mask, NaN where none was predicted.
        rates: its true occlusion rate.
    """

    full: list[float] = field(default_factory=list)
    occ: list[float] = field(default_factory=list)
    visible: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def update(
        self,
        amodal_pred: Mask,
        amodal_true: Mask,
        visible_true: Mask,
        visible_pred: Mask | None = None,
    ) -> None:
        """Score one object; all masks (H, W) bool of the same size."""
        self.full.append(mask_iou(amodal_pred, amodal_true))
        hidden = amodal_true & ~visible_true
        self.occ.append(mask_iou(amodal_pred & ~visible_true, hidden) if hidden.any() else np.nan)
        self.visible.append(np.nan if visible_pred is None else mask_iou(visible_pred, visible_true))
        self.rates.append(occlusion_rate(visible_true, amodal_true) if hidden.any() else 0.0)

    def compute(self) -> dict[str, float]:
        """`mIoU_full`, `mIoU_occ`, `mIoU_visible` in [0, 1] and the numbers behind them."""
        return self._means(np.ones(len(self.full), bool))

    def by_occlusion(self) -> list[dict[str, float]]:
        """`compute` within each range of the true occlusion rate."""
        rates = np.array(self.rates)
        rows = []
        for low, high in RANGES:
            means = self._means((rates > low) & (rates <= high))
            rows.append({"above": max(low, 0.0), "up_to": high, **means})
        return rows

    def _means(self, chosen: npt.NDArray[np.bool_]) -> dict[str, float]:
        means: dict[str, float] = {}
        for name in ("full", "occ", "visible"):
            values = np.array(getattr(self, name), dtype=np.float64)[chosen]
            known = values[~np.isnan(values)]
            if name != "visible" or len(known):
                means[f"mIoU_{name}"] = float(known.mean()) if len(known) else 0.0
        occ = np.array(self.occ, dtype=np.float64)[chosen]
        counts = {"num_objects": int(chosen.sum()), "num_occluded": int((~np.isnan(occ)).sum())}
        return means | counts
