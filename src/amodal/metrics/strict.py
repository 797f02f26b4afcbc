"""The `strict` protocol: mean IoU over objects, full and hidden parts apart.

full: |P∩G| / |P∪G| over all annotated objects. occ: P∖V against G∖V over the objects whose G∖V
is not empty. visible: predicted against true visible mask. P, G, V are at full image size; the
hidden part is taken outside the *true* visible mask. Two empty masks agree: their IoU is 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from amodal.metrics.counts import Counts, Numbers, Row, count_pixels
from amodal.metrics.ranges import Range, range_indices
from amodal.metrics.ratios import Ratios, Values, mean
from amodal.ops.rle import encode_mask

Mask = npt.NDArray[np.bool_]


def strict_ratios(counts: Counts) -> Ratios:
    """`mIoU_full`, `mIoU_occ` and, where visible masks were predicted, `mIoU_visible`."""
    everything = np.ones(len(counts.union), bool)
    ratios = {
        "mIoU_full": mean(iou(counts.overlap, counts.union), everything),
        "mIoU_occ": mean(iou(counts.hidden_overlap, counts.hidden_union), counts.hidden > 0),
    }
    known = counts.own_union >= 0
    if known.any():
        ratios["mIoU_visible"] = mean(iou(counts.own_overlap, counts.own_union), known)
    return ratios


def iou(overlap: Numbers, union: Numbers) -> Values:
    """(N,) quotients in [0, 1]; 1 where the union is empty."""
    return np.where(union > 0, overlap / np.maximum(union, 1), 1.0)


@dataclass
class StrictIoU:
    """`strict` for masks that come one by one, as in a notebook or a test.

    Attributes:
        rows: counts of each object so far.
    """

    rows: list[Row] = field(default_factory=list)

    def update(
        self, amodal_pred: Mask, amodal_true: Mask, visible_true: Mask, visible_pred: Mask | None = None
    ) -> None:
        """Score one object; all masks (H, W) bool of the same size.

        Raises:
            ValueError: a mask of another size.
        """
        own = None if visible_pred is None else encode_mask(visible_pred)
        self.rows.append(
            count_pixels(encode_mask(amodal_pred), encode_mask(amodal_true), encode_mask(visible_true), own)
        )

    @property
    def counts(self) -> Counts:
        """Of all objects so far."""
        return Counts.of_rows(self.rows)

    @property
    def num_spilled(self) -> int:
        """True visible masks that reach outside the amodal mask."""
        return int((self.counts.spilled > 0).sum())

    def compute(self) -> dict[str, float]:
        """`mIoU_full`, `mIoU_occ`, `mIoU_visible` in [0, 1] and the numbers behind them.

        A mean over no objects is 0; `mIoU_visible` is left out where no visible mask was predicted.
        """
        return self._figures(np.ones(len(self.rows), bool))

    def by_occlusion(self) -> list[dict[str, float]]:
        """`compute` within each `Range`."""
        indices = range_indices(self.counts.hidden_share)
        return [{"above": r.above, "up_to": r.up_to} | self._figures(indices == i) for i, r in enumerate(Range.all())]

    def _figures(self, chosen: npt.NDArray[np.bool_]) -> dict[str, float]:
        ratios = strict_ratios(self.counts)
        figures = {name: ratio.value(chosen) or 0.0 for name, ratio in ratios.items()}
        occluded = int((ratios["mIoU_occ"].counted & chosen).sum())
        return figures | {"num_objects": int(chosen.sum()), "num_occluded": occluded}
