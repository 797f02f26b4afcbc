"""The protocols written down a second time: slow, full size, one line a formula, nothing shared.

This is the reference that the fast counts are held against; it imports nothing of the package.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Mask = np.ndarray


@dataclass(frozen=True)
class Masks:
    """One object: predicted amodal, true amodal, true visible, predicted visible, all (H, W) bool."""

    P: Mask
    G: Mask
    V: Mask
    W: Mask


def strict(objects: list[Masks]) -> dict[str, float | None]:
    full, occ, visible = [], [], []
    for o in objects:
        full.append(_iou(o.P, o.G))
        visible.append(_iou(o.W, o.V))
        if np.any(np.logical_and(o.G, np.logical_not(o.V))):
            occ.append(_iou(np.logical_and(o.P, ~o.V), np.logical_and(o.G, ~o.V)))
    return {
        "mIoU_full": sum(full) / len(full),
        "mIoU_occ": sum(occ) / len(occ) if occ else None,
        "mIoU_visible": sum(visible) / len(visible),
        "num_occluded": len(occ),
    }


def c2f(objects: list[Masks]) -> dict[str, float | None]:
    full_sum = occ_sum = visible_sum = 0.0
    occ_count = 0
    for o in objects:
        P, G, V, W = (m.astype(np.float64) for m in (o.P, o.G, o.V, o.W))
        full_sum += (np.sum(P * G) + 1e-10) / (np.sum(np.maximum(P, G)) + 1e-10)
        visible_sum += (np.sum(W * V) + 1e-10) / (np.sum(np.maximum(W, V)) + 1e-10)
        P_o, G_o = (P - V) > 0.5, (G - V) > 0.5
        occ_sum += np.sum(P_o & G_o) / (np.sum(P_o | G_o) + 1e-6)
        if np.sum(G - V) != 0:
            occ_count += 1
    return {
        "mIoU_full": full_sum / len(objects),
        "mIoU_occ": occ_sum / occ_count if occ_count else None,
        "mIoU_visible": visible_sum / len(objects),
        "num_occluded": occ_count,
    }


def cumulative(objects: list[Masks]) -> dict[str, float | None]:
    sums = np.zeros(6)
    occluded = 0
    for o in objects:
        beside = ~o.V
        sums += [
            *((o.P & o.G).sum(), (o.P | o.G).sum()),
            *((o.P & o.G & beside).sum(), ((o.P | o.G) & beside).sum()),
            *((o.W & o.V).sum(), (o.W | o.V).sum()),
        ]
        occluded += bool((o.G & beside).any())
    full, occ, visible = (a / b if b else None for a, b in sums.reshape(3, 2))
    return {"mIoU_full": full, "mIoU_occ": occ, "mIoU_visible": visible, "num_occluded": occluded}


LITERAL = {"strict": strict, "c2f": c2f, "cumulative": cumulative}


def _iou(a: Mask, b: Mask) -> float:
    union = np.logical_or(a, b).sum()
    return np.logical_and(a, b).sum() / union if union else 1.0
