"""Questions that go through a list: drill for a model that has to learn to look.

A single question about a purpose says little about how to look: most are answered by what is usual. Here
one answer says of many kinds, purposes or things in turn what is there, so that a small model learns
within hundreds of steps what it does not learn from single questions at all (docs/log.md). In an answer
each name comes right before what is said of it: a word that has found its like in the picture can say so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar, get_args

import numpy as np

from amodal.data.synthetic import questions_wording as w
from amodal.data.synthetic.questions_families import AREA_MARGIN, MAX_LISTED, Ask, Asker, capital, with_article, yours
from amodal.data.synthetic.things import THINGS

T = TypeVar("T")
Lists = Literal["kinds", "all"]
Part = Literal["gap", "trait", "need"]
PARTS: tuple[Part, ...] = get_args(Part)

MOST_KINDS, MOST_PURPOSES, MOST_THINGS = 10, 5, 7  # in one list

KINDS = ("Which of these can you see: {list}?", "Find these here: {list}.")
USES: dict[Part, tuple[str, ...]] = {
    "gap": ("What is there to {list}?", "Show me what I could {list}."),
    "trait": ("What here {list}?", "Find me what {list}."),
    "need": ("What do you see for each of these? {list}.", "What could help with these? {list}."),
}
AMOUNTS = ("How much of each thing can I see?", "Is any of these things hidden, and how much?")
FRONTS = ("What is in front of each thing?", "What hides each of these things?")
SIZES = ("Which things are here, the largest first?", "Show me each thing, the largest first.")


def _kinds(asker: Asker) -> Ask | None:
    """Kinds that are here and about as many that are not, in any order."""
    here = sorted(set(asker.facts.kinds))
    away = [kind for kind in THINGS if kind not in here]
    half = MOST_KINDS // 2
    drawn = _shuffled(asker, [*_shuffled(asker, here)[:half], *_shuffled(asker, away)[: min(len(here) + 1, half)]])
    entries = [f"{with_article(kind)} {_found(asker, frozenset([kind]))}" for kind in drawn]
    return _list("list_kinds", _form(asker, KINDS, [with_article(kind) for kind in drawn]), entries)


def _uses(asker: Asker) -> Ask | None:
    """Purposes, traits or needs that something here serves and as many that nothing does."""
    part = PARTS[int(asker.rng.integers(len(PARTS)))]
    purposes = [(wording, p.kinds) for p in w.PURPOSES if (wording := getattr(p, part)) is not None]
    served = [asker.facts.of_kinds(kinds) for _, kinds in purposes]
    able = _apart(served, _shuffled(asker, [i for i, found in enumerate(served) if 0 < len(found) <= MAX_LISTED]))
    other = _shuffled(asker, [i for i, found in enumerate(served) if not found])
    drawn = _shuffled(asker, [*able[: MOST_PURPOSES - MOST_PURPOSES // 2], *other[: MOST_PURPOSES // 2]])
    said = [asker.form(purposes[i][0])[0].rstrip(".") for i in drawn]
    echo = said if part == "need" else [yours(text) for text in said]
    entries = [f"{text} {_found(asker, purposes[i][1])}" for i, text in zip(drawn, echo, strict=True)]
    return _list("list_uses", _form(asker, USES[part], said), entries)


def _amounts(asker: Asker) -> Ask | None:
    entries = []
    for i in _in_order(asker):
        amount = next(words for limit, words in w.DEGREES if asker.facts.rates[i] <= limit)
        entries.append(f"of {asker.facts.mention(i)} {amount}")
    return _list("list_amounts", _form(asker, AMOUNTS), entries)


def _fronts(asker: Asker) -> Ask | None:
    entries = []
    for i in _in_order(asker):
        front = asker.facts.in_front_of(i)
        if front is not None:
            names = [asker.facts.names[j] for j in front]
            entries.append(f"in front of {asker.facts.mention(i)}: {' and '.join(names) or 'nothing'}")
    return _list("list_fronts", _form(asker, FRONTS), entries)


def _sizes(asker: Asker) -> Ask | None:
    """Things from the largest on; those about as large as the one before are left out."""
    areas, chosen = np.log(asker.facts.areas), list[int]()
    for i in np.argsort(-areas):
        if not chosen or areas[chosen[-1]] - areas[i] >= AREA_MARGIN:
            chosen.append(int(i))
    return _list("list_sizes", _form(asker, SIZES), [asker.facts.mention(i) for i in chosen[:MOST_THINGS]])


LISTS: dict[Lists, tuple[Callable[[Asker], Ask | None], ...]] = {
    "kinds": (_kinds, _kinds),
    "all": (_kinds, _uses, _amounts, _fronts, _sizes),
}
"""What is asked about a picture."""


def _found(asker: Asker, kinds: frozenset[str]) -> str:
    found = asker.facts.of_kinds(kinds)[:MAX_LISTED]
    return f"yes: {asker.listed(found)}" if found else "no"


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


def _form(asker: Asker, forms: tuple[str, ...], items: list[str] | None = None) -> str:
    return forms[int(asker.rng.integers(len(forms)))].format(list=", ".join(items or []))


def _list(kind: str, question: str, entries: list[str]) -> Ask | None:
    return Ask(kind, capital(question), f"{capital(', '.join(entries))}.") if entries else None
