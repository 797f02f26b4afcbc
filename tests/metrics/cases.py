"""Random objects for the protocols, the awkward ones on purpose among them."""

from __future__ import annotations

import numpy as np

from tests.metrics.literal import Mask, Masks


def random_objects(seed: int, count: int) -> list[Masks]:
    """Objects of any small size; every kind of `KINDS` comes up in turn."""
    rng = np.random.default_rng(seed)
    return [KINDS[i % len(KINDS)](rng, (int(rng.integers(1, 9)), int(rng.integers(1, 9)))) for i in range(count)]


def plain(rng: np.random.Generator, size: tuple[int, int]) -> Masks:
    """V inside G, a prediction that has something to do with both."""
    G = _noise(rng, size)
    V = G & _noise(rng, size)
    P = np.where(rng.random(size) < 0.7, G, _noise(rng, size))
    return Masks(P, G, V, np.where(rng.random(size) < 0.7, V, _noise(rng, size)))


def spilled(rng: np.random.Generator, size: tuple[int, int]) -> Masks:
    """V reaches outside G, with or without a hidden part."""
    o = plain(rng, size)
    return Masks(o.P, o.G, (o.G if rng.random() < 0.5 else o.V) | _noise(rng, size), o.W)


def cancelled(rng: np.random.Generator, size: tuple[int, int]) -> Masks:
    """As many pixels spill out of G as are hidden: the signed sum of G - V is exactly 0."""
    o = plain(rng, size)
    V = rng.permutation(o.G.ravel()).reshape(size)
    return Masks(o.P, o.G, V, o.W)


def nothing_predicted(rng: np.random.Generator, size: tuple[int, int]) -> Masks:
    o = plain(rng, size)
    return Masks(np.zeros(size, bool), o.G, o.V, np.zeros(size, bool))


def nothing_at_all(rng: np.random.Generator, size: tuple[int, int]) -> Masks:
    """Empty unions: of everything, or of the hidden parts alone."""
    empty = np.zeros(size, bool)
    if rng.random() < 0.5:
        return Masks(empty, empty, empty, empty)
    V = _noise(rng, size)
    return Masks(V, V, V, V)


def nothing_true(rng: np.random.Generator, size: tuple[int, int]) -> Masks:
    empty = np.zeros(size, bool)
    return Masks(_noise(rng, size), empty, _noise(rng, size) if rng.random() < 0.5 else empty, _noise(rng, size))


def one_pixel(rng: np.random.Generator, size: tuple[int, int]) -> Masks:
    return Masks(*(_pixel(rng, size) for _ in range(4)))


def independent(rng: np.random.Generator, size: tuple[int, int]) -> Masks:
    return Masks(*(_noise(rng, size) for _ in range(4)))


KINDS = (plain, spilled, cancelled, nothing_predicted, nothing_at_all, nothing_true, one_pixel, independent)


def _noise(rng: np.random.Generator, size: tuple[int, int]) -> Mask:
    return rng.random(size) < rng.random()


def _pixel(rng: np.random.Generator, size: tuple[int, int]) -> Mask:
    mask = np.zeros(size, bool)
    mask[rng.integers(size[0]), rng.integers(size[1])] = True
    return mask
