"""A slow reference implementation of the mask protocols, and random objects to compare it on.

It works on full-size masks, with one line per formula, and imports nothing from the package.
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
    full, occ, visible, false_occlusions, single = [], [], [], [], []
    for o in objects:
        if o.G.sum() == 0 or (o.G & ~o.V).sum() / o.G.sum() < 0.01:
            false_occlusions.append(o.P.sum() > 0 and (o.P & ~o.W).sum() / o.P.sum() > 0.05)
        if o.P.any():
            single.append(_num_components(o.P) == 1)
        full.append(_iou(o.P, o.G))
        visible.append(_iou(o.W, o.V))
        if np.any(np.logical_and(o.G, np.logical_not(o.V))):
            occ.append(_iou(np.logical_and(o.P, ~o.V), np.logical_and(o.G, ~o.V)))
    return {
        "mIoU_full": sum(full) / len(full),
        "mIoU_occ": sum(occ) / len(occ) if occ else None,
        "mIoU_visible": sum(visible) / len(visible),
        "false_occlusion_rate": sum(false_occlusions) / len(false_occlusions) if false_occlusions else None,
        "single_component": sum(single) / len(single) if single else None,
        "num_occluded": len(occ),
    }


def c2f(objects: list[Masks]) -> dict[str, float | None]:
    full_sum = occ_sum = visible_sum = 0.0
    occ_count = num_occluded = 0
    for o in objects:
        P, G, V, W = (m.astype(np.float64) for m in (o.P, o.G, o.V, o.W))
        full_sum += (np.sum(P * G) + 1e-10) / (np.sum(np.maximum(P, G)) + 1e-10)
        visible_sum += (np.sum(W * V) + 1e-10) / (np.sum(np.maximum(W, V)) + 1e-10)
        P_o, G_o = (P - V) > 0.5, (G - V) > 0.5
        occ_sum += np.sum(P_o & G_o) / (np.sum(P_o | G_o) + 1e-6)
        counts = int(np.sum(V) != 0)
        if np.sum(G - V) == 0:
            counts -= 1
        occ_count += counts
        num_occluded += counts > 0
    return {
        "mIoU_full": full_sum / len(objects),
        "mIoU_occ": occ_sum / occ_count if occ_count > 0 else None,
        "mIoU_visible": visible_sum / len(objects),
        "num_occluded": num_occluded,
    }


def cumulative(objects: list[Masks]) -> dict[str, float | None]:
    sums = np.zeros(6)
    occluded = 0
    for o in objects:
        outside = ~o.V
        sums += [
            *((o.P & o.G).sum(), (o.P | o.G).sum()),
            *((o.P & o.G & outside).sum(), ((o.P | o.G) & outside).sum()),
            *((o.W & o.V).sum(), (o.W | o.V).sum()),
        ]
        occluded += bool((o.G & outside).any())
    full, occ, visible = (a / b if b else None for a, b in sums.reshape(3, 2))
    return {"mIoU_full": full, "mIoU_occ": occ, "mIoU_visible": visible, "num_occluded": occluded}


REFERENCE = {"strict": strict, "c2f": c2f, "cumulative": cumulative}


def _iou(a: Mask, b: Mask) -> float:
    union = np.logical_or(a, b).sum()
    return np.logical_and(a, b).sum() / union if union else 1.0


def _num_components(mask: Mask) -> int:
    """Flood fill, over sides and corners."""
    unvisited = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    count = 0
    while unvisited:
        count += 1
        reached = [unvisited.pop()]
        while reached:
            y, x = reached.pop()
            around = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & unvisited
            unvisited -= around
            reached += around
    return count


def random_objects(seed: int, count: int) -> list[Masks]:
    """Random objects of small sizes; the kinds of `KINDS` take turns."""
    rng = np.random.default_rng(seed)
    return [KINDS[i % len(KINDS)](rng, (int(rng.integers(1, 9)), int(rng.integers(1, 9)))) for i in range(count)]


def typical(rng: np.random.Generator, size: tuple[int, int]) -> Masks:
    """V inside G, and predictions that resemble both."""
    G = _noise(rng, size)
    V = G & _noise(rng, size)
    P = np.where(rng.random(size) < 0.7, G, _noise(rng, size))
    return Masks(P, G, V, np.where(rng.random(size) < 0.7, V, _noise(rng, size)))


def spilled(rng: np.random.Generator, size: tuple[int, int]) -> Masks:
    """V reaches outside G, with or without an occluded part."""
    o = typical(rng, size)
    return Masks(o.P, o.G, (o.G if rng.random() < 0.5 else o.V) | _noise(rng, size), o.W)


def cancelled(rng: np.random.Generator, size: tuple[int, int]) -> Masks:
    """As many pixels of V lie outside G as are occluded, so the signed sum of G - V is exactly 0."""
    o = typical(rng, size)
    V = rng.permutation(o.G.ravel()).reshape(size)
    return Masks(o.P, o.G, V, o.W)


def empty_prediction(rng: np.random.Generator, size: tuple[int, int]) -> Masks:
    o = typical(rng, size)
    return Masks(np.zeros(size, bool), o.G, o.V, np.zeros(size, bool))


def empty_unions(rng: np.random.Generator, size: tuple[int, int]) -> Masks:
    """Empty unions: of everything, or of the occluded parts only."""
    empty = np.zeros(size, bool)
    if rng.random() < 0.5:
        return Masks(empty, empty, empty, empty)
    V = _noise(rng, size)
    return Masks(V, V, V, V)


def empty_truth(rng: np.random.Generator, size: tuple[int, int]) -> Masks:
    empty = np.zeros(size, bool)
    return Masks(_noise(rng, size), empty, _noise(rng, size) if rng.random() < 0.5 else empty, _noise(rng, size))


def one_pixel(rng: np.random.Generator, size: tuple[int, int]) -> Masks:
    return Masks(*(_pixel(rng, size) for _ in range(4)))


def independent(rng: np.random.Generator, size: tuple[int, int]) -> Masks:
    return Masks(*(_noise(rng, size) for _ in range(4)))


KINDS = (typical, spilled, cancelled, empty_prediction, empty_unions, empty_truth, one_pixel, independent)


def _noise(rng: np.random.Generator, size: tuple[int, int]) -> Mask:
    return rng.random(size) < rng.random()


def _pixel(rng: np.random.Generator, size: tuple[int, int]) -> Mask:
    mask = np.zeros(size, bool)
    mask[rng.integers(size[0]), rng.integers(size[1])] = True
    return mask
