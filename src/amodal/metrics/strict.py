"""The `strict` protocol: mean IoU over objects, full and hidden parts apart.

full: |P∩G| / |P∪G| over all annotated objects. occ: P∖V against G∖V over the objects whose G∖V
is not empty. visible: predicted against true visible mask. P, G, V are at full image size; the
hidden part is taken outside the *true* visible mask.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from amodal.ops.masks import mask_iou

Mask = npt.NDArray[np.bool_]

# Ranges of the hidden share |G∖V| / |G|, (low, high]; the first is "not hidden at all". Where V stays
# inside G this is the occlusion rate; where V spills out it still agrees with what `occ` counts.
RANGES = ((-1.0, 0.0), (0.0, 0.1), (0.1, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 1.0))


@dataclass
class StrictIoU:
    """Accumulates objects one by one.

    Attributes:
        full: IoU of each object's amodal mask.
        occ: IoU of its hidden part, NaN where nothing is hidden.
        visible: IoU of its visible mask, NaN where none was predicted.
        rates: its true hidden share |G∖V| / |G|, 0 for an empty G.
        num_spilled: true visible masks that reach outside the amodal mask.
    """

    full: list[float] = field(default_factory=list)
    occ: list[float] = field(default_factory=list)
    visible: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    num_spilled: int = 0

    def update(
        self,
        amodal_pred: Mask,
        amodal_true: Mask,
        visible_true: Mask,
        visible_pred: Mask | None = None,
    ) -> None:
        """Score one object; all masks (H, W) bool of the same size.

        Raises:
            ValueError: a mask of another size.
        """
        masks = [amodal_pred, amodal_true, visible_true]
        if visible_pred is not None:
            masks.append(visible_pred)
        for given in masks:
            if given.shape != amodal_true.shape:
                raise ValueError(f"masks: expected all of size {amodal_true.shape}, got {given.shape}")
        amodal_pred, amodal_true, visible_true, *rest = _crop(masks)
        visible_pred = rest[0] if rest else None
        self.full.append(mask_iou(amodal_pred, amodal_true))
        hidden = amodal_true & ~visible_true
        self.occ.append(mask_iou(amodal_pred & ~visible_true, hidden) if hidden.any() else np.nan)
        self.visible.append(np.nan if visible_pred is None else mask_iou(visible_pred, visible_true))
        self.rates.append(int(hidden.sum()) / max(int(amodal_true.sum()), 1))
        self.num_spilled += bool((visible_true & ~amodal_true).any())

    def compute(self) -> dict[str, float]:
        """`mIoU_full`, `mIoU_occ`, `mIoU_visible` in [0, 1] and the numbers behind them.

        A mean over no objects is 0; `mIoU_visible` is left out where no visible mask was predicted.
        """
        return self._means(np.ones(len(self.full), bool))

    def by_occlusion(self) -> list[dict[str, float]]:
        """`compute` within each of `RANGES`."""
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


def _crop(masks: list[Mask]) -> list[Mask]:
    """The masks within the box of their union: empty margins change no count, and cost time."""
    union = masks[0].copy()
    for mask in masks[1:]:
        union |= mask
    rows = np.flatnonzero(union.any(1))
    if not len(rows):
        return [m[:0, :0] for m in masks]
    columns = np.flatnonzero(union[rows[0] : rows[-1] + 1].any(0))
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return [m[window] for m in masks]
