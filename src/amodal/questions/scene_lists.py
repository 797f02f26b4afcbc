"""Questions that go through a list: drill for a model that has to learn to look.

A single question about a purpose says little about how to look: most are answered by what is usual. Here
one answer says of many kinds, purposes or things in turn what is there, so that a small model learns
within hundreds of steps what it does not learn from single questions at all (docs/log.md). What is asked for
comes right before the yes or no: a word that has found its like in the picture can say so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar, get_args

import numpy as np

from amodal.questions import scene_wording as w
from amodal.questions.scene_families import (
    AREA_MARGIN,
    MAX_LISTED,
    Ask,
    Asker,
    amount,
    capital,
    with_article,
    yours,
)
from amodal.synthetic.shapes import THINGS

T = TypeVar("T")
Lists = Literal["kinds", "all"]
Part = Literal["gap", "trait", "need"]
PARTS: tuple[Part, ...] = get_args(Part)

MOST_KINDS, MOST_PURPOSES, MOST_THINGS = 10, 5, 7  # in one list

KINDS = w.Wording(("Which of these can you see: {list}?", "Find these here: {list}."), ())
USES: dict[Part, w.Wording] = {
    "gap": w.Wording(("What is there to {list}?", "Show me what I could {list}."), ()),
    "trait": w.Wording(("What here {list}?", "Find me what {list}."), ()),
    "need": w.Wording(("What do you see for each of these? {list}.", "What could help with these? {list}."), ()),
}
AMOUNTS = w.Wording(("How much of each thing can I see?", "Is any of these things hidden, and how much?"), ())
FRONTS = w.Wording(("What is in front of each thing?", "What hides each of these things?"), ())
SIZES = w.Wording(("Which things are here, the largest first?", "Show me each thing, the largest first."), ())


def _kinds(asker: Asker) -> Ask | None:
    """Kinds that are here and about as many that are not, in any order."""
    found = {kind: asker.facts.of_kinds(frozenset([kind])) for kind in THINGS}
    here = _shuffled(asker, [kind for kind in found if 0 < len(found[kind]) <= MAX_LISTED])
    away = _shuffled(asker, [kind for kind in found if not found[kind]])
    half = MOST_KINDS // 2
    drawn = _shuffled(asker, [*here[:half], *away[: min(len(here) + 1, half)]])
    asked = [with_article(kind) for kind in drawn]
    return _there_or_not(asker, "list_kinds", KINDS, asked, asked, [found[kind] for kind in drawn])


def _uses(asker: Asker) -> Ask | None:
    """Purposes, traits or needs that something here serves and as many that nothing does."""
    part = PARTS[int(asker.rng.integers(len(PARTS)))]
    purposes = [(wording, p.kinds) for p in w.PURPOSES if (wording := getattr(p, part)) is not None]
    served = [asker.facts.of_kinds(kinds) for _, kinds in purposes]
    able = _apart(served, _shuffled(asker, [i for i, found in enumerate(served) if 0 < len(found) <= MAX_LISTED]))
    other = _shuffled(asker, [i for i, found in enumerate(served) if not found])
    drawn = _shuffled(asker, [*able[: MOST_PURPOSES - MOST_PURPOSES // 2], *other[: MOST_PURPOSES // 2]])
    asked = [asker.form(purposes[i][0])[0].rstrip(".") for i in drawn]
    echo = asked if part == "need" else [yours(text) for text in asked]
    return _there_or_not(asker, "list_uses", USES[part], asked, echo, [served[i] for i in drawn])


def _amounts(asker: Asker) -> Ask | None:
    things = _in_order(asker)
    entries = [f"of {asker.facts.mention(i)} {amount(float(asker.facts.rates[i]))}" for i in things]
    return _list("list_amounts", asker.form(AMOUNTS)[0], entries)


def _fronts(asker: Asker) -> Ask | None:
    front = {i: found for i in _in_order(asker) if (found := asker.facts.in_front_of(i)) is not None}
    entries = [
        f"in front of {asker.facts.mention(i)}: {asker.listed(found, shown=False) or 'nothing'}"
        for i, found in front.items()
    ]
    return _list("list_fronts", asker.form(FRONTS)[0], entries)


def _sizes(asker: Asker) -> Ask | None:
    """Things from the largest on; those about as large as the one before are left out."""
    areas, chosen = np.log(asker.facts.areas), list[int]()
    for i in np.argsort(-areas):
        if not chosen or areas[chosen[-1]] - areas[i] >= AREA_MARGIN:
            chosen.append(int(i))
    shown = chosen[:MOST_THINGS]
    return _list("list_sizes", asker.form(SIZES)[0], [asker.facts.mention(i) for i in shown])


LISTS: dict[Lists, tuple[Callable[[Asker], Ask | None], ...]] = {
    "kinds": (_kinds, _kinds),
    "all": (_kinds, _uses, _amounts, _fronts, _sizes),
}
"""What is asked about a picture."""


def _there_or_not(
    asker: Asker, kind: str, wording: w.Wording, asked: list[str], echo: list[str], found: list[list[int]]
) -> Ask | None:
    """Each of what is asked, as the answer repeats it, with yes and what was found, or no."""
    entries = [
        f"{e} yes: {asker.listed(things)}" if things else f"{e} no" for e, things in zip(echo, found, strict=True)
    ]
    question = asker.form(wording)[0].format(list=", ".join(asked))
    return _list(kind, question, entries)


def _in_order(asker: Asker) -> list[int]:
    """Things from left to right, the first ones of many."""
    return sorted(range(len(asker.facts)), key=lambda i: asker.facts.rank[i])[:MOST_THINGS]


def _apart(served: list[list[int]], order: list[int]) -> list[int]:
    """Those of the purposes whose things no earlier one has: an answer shows a thing once."""
    taken: set[int] = set()
    kept = []
    for i in order:
        if taken.isdisjoint(served[i]):
            taken.update(served[i])
            kept.append(i)
    return kept


def _shuffled(asker: Asker, items: Sequence[T]) -> list[T]:
    """In random order."""
    return [items[i] for i in asker.rng.permutation(len(items))]


def _list(kind: str, question: str, entries: list[str]) -> Ask | None:
    answer = f"{', '.join(entries)}."
    return Ask(kind, capital(question), capital(answer)) if entries else None
