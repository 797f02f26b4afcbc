"""Measures by which objects are compared, and the margins from which one leads another.

A comparison is made only where it holds by a margin, both relative and in pixels: near-ties are not asked about, and
the check refuses sentences about them. Questions and the check use the same measures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from amodal.questions.facts import Facts

CLEAR_RATIO = 1.3
"""Smallest ratio of two areas, or of two occlusion rates, of which one is called larger."""
CLEAR_AREA = 50
"""Smallest difference of two areas in pixels."""
CLEAR_RATE = 0.05
"""Smallest difference of two occlusion rates."""


@dataclass(frozen=True)
class Measure:
    """A number per object, larger for what comes first.

    Attributes:
        values: (N,) numbers.
        gap: smallest difference by which one object leads another.
        ratio: smallest ratio, for numbers from 0 up.
    """

    values: npt.NDArray[np.float64]
    gap: float
    ratio: float = 1.0

    def leads(self, first: int, second: int) -> bool:
        """Whether the first object has the larger number by the margin."""
        one, other = float(self.values[first]), float(self.values[second])
        if one - other < self.gap:
            return False
        smaller, larger = sorted((abs(one), abs(other)))
        return self.ratio <= 1 or larger >= self.ratio * smaller

    def leaders(self, count: int, among: Sequence[int] | None = None) -> list[int] | None:
        """The first `count` objects in order, each ahead of the next one by the margin; None in doubt."""
        order = sorted(range(len(self.values)) if among is None else among, key=lambda i: -self.values[i])
        if len(order) < count or not all(self.leads(a, b) for a, b in pairwise(order[: count + 1])):
            return None
        return order[:count]

    def top(self, count: int) -> list[int] | None:
        """The `count` objects that are ahead of all others by the margin, in any order; None in doubt."""
        order = sorted(range(len(self.values)), key=lambda i: -self.values[i])
        if len(order) < count or (len(order) > count and not self.leads(order[count - 1], order[count])):
            return None
        return order[:count]


def hidden_rates(facts: Facts) -> Measure | None:
    """How much of each object is hidden; None where a whole is unknown."""
    known = all(facts.is_known(i) for i in range(len(facts)))
    return Measure(facts.rates, CLEAR_RATE, CLEAR_RATIO) if known else None


def outline_areas(facts: Facts, *, sign: int = 1) -> Measure | None:
    """Areas of the whole outlines; None where one is unknown or reaches beyond the image."""
    complete = all(facts.is_known(i) and not facts.touches_border(i) for i in range(len(facts)))
    return Measure(sign * facts.areas.astype(float), CLEAR_AREA, CLEAR_RATIO) if complete else None


def visible_areas(facts: Facts, *, sign: int = 1) -> Measure:
    """Areas of what can be seen."""
    return Measure(sign * facts.visible_areas.astype(float), CLEAR_AREA, CLEAR_RATIO)


def uncovered_areas(facts: Facts) -> Measure | None:
    """Hidden pixels of other objects that taking each object away would uncover; None where a whole is unknown."""
    known = all(facts.is_known(i) for i in range(len(facts)))
    return Measure(facts.uncovered.astype(float), CLEAR_AREA, CLEAR_RATIO) if known else None


def _extent(edge: int, sign: int) -> Callable[[Facts], Measure]:
    def measure(facts: Facts) -> Measure:
        values = [sign * obj.visible_box_xyxy[edge] for obj in facts.objects]
        return Measure(np.array(values, float), facts.clear_gap)

    return measure


EXTENTS: dict[str, Callable[[Facts], Measure]] = {
    "left": _extent(0, -1), "right": _extent(2, 1), "top": _extent(1, -1), "bottom": _extent(3, 1),
}  # fmt: skip
"""How far the visible part of each object reaches towards a side of the image."""

SPOTS = {
    "middle": (0.5, 0.5), "upper left corner": (0.0, 0.0), "upper right corner": (1.0, 0.0),
    "lower left corner": (0.0, 1.0), "lower right corner": (1.0, 1.0),
}  # fmt: skip
"""Spots of an image, (x, y) in shares of its sides."""


def nearness(facts: Facts, spot: str) -> Measure:
    """Minus the pixels from a spot to the nearest visible pixel of each object."""
    values = [-facts.distance(i, *SPOTS[spot]) for i in range(len(facts))]
    return Measure(np.array(values), facts.clear_gap)


def pair_distances(facts: Facts) -> list[tuple[float, tuple[int, int]]]:
    """Pixels between the centres of each two objects, the shortest distance first."""
    centres = np.array(facts.centres)
    pairs = [(i, j) for i in range(len(facts)) for j in range(i + 1, len(facts))]
    return sorted((float(np.hypot(*(centres[i] - centres[j]))), (i, j)) for i, j in pairs)
