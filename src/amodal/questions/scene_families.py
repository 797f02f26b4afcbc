"""Families of questions about a procedural scene: each makes one question and its right answer.

A family returns None where the scene has no clear answer, or where its "nothing" would come too often.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from amodal.questions import scene_wording as w
from amodal.questions.scene_facts import SceneFacts
from amodal.synthetic.shapes import THINGS

MAX_LISTED = 5
RATE_MARGIN, AREA_MARGIN, DEGREE_MARGIN = 0.1, 0.25, 0.03
PRESENT_SHARE = 0.85  # of questions for a purpose or a kind whose answer is in the scene, where nothing else is said
NOTHING_SHARE = 0.4  # of the chances to answer "nothing" about what is in front or behind that are taken


@dataclass(frozen=True)
class Ask:
    """A question and its answer.

    Attributes:
        kind: family.
        question: text.
        answer: text with markup and placeholders.
        it: objects that "it" or "them" means in the next question; empty if nothing clear.
        named: objects the answer names.
        purpose: position in `PURPOSES` of what was asked for, or None.
    """

    kind: str
    question: str
    answer: str
    it: tuple[int, ...] = ()
    named: tuple[int, ...] = ()
    purpose: int | None = None


@dataclass
class Asker:
    """Draws questions about one scene.

    Attributes:
        facts: of the scene.
        rng: source of all choices.
        words: side of the wording.
        present: share of questions for a purpose or a kind whose answer is in the scene.
        asked: questions so far, none comes twice.
        answers: those so far that name objects, likewise.
        purposes: those asked for so far, likewise.
    """

    facts: SceneFacts
    rng: np.random.Generator
    words: w.Words
    present: float = PRESENT_SHARE
    asked: set[str] = field(default_factory=set)
    answers: set[str] = field(default_factory=set)
    purposes: set[int] = field(default_factory=set)

    def form(self, *wordings: w.Wording | None) -> tuple[str, int]:
        """A form at random and which of the wordings it is from."""
        forms = [(form, i) for i, wording in enumerate(wordings) if wording for form in wording.of(self.words)]
        return forms[int(self.rng.integers(len(forms)))]

    def thing(self) -> int:
        """An object at random."""
        return int(self.rng.integers(len(self.facts)))

    def listed(self, indices: Sequence[int], *, shown: bool = True) -> str:
        """Objects from left to right: "A", "A and B", "A, B and C"; with their masks, or by name alone."""
        name = self.facts.mention if shown else self.facts.names.__getitem__
        parts = [name(i) for i in sorted(indices, key=lambda i: self.facts.rank[i])]
        return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)

    def lucky(self, share: float) -> bool:
        """True in `share` of the cases."""
        return bool(self.rng.random() < share)


def _ask(
    kind: str,
    question: str,
    answer: str,
    named: Sequence[int],
    *,
    it: Sequence[int] | None = None,
    purpose: int | None = None,
) -> Ask:
    """Both texts with a capital first letter; "it" is what the answer names unless given."""
    return Ask(kind, capital(question), capital(answer), tuple(named if it is None else it), tuple(named), purpose)


# Families of questions that stand alone.


def _purpose(asker: Asker, name: str) -> tuple[str, list[int], int] | None:
    """Words of a purpose that was not asked for yet, the objects that serve it, and its position."""
    able = [(i, asker.facts.of_kinds(p.kinds)) for i, p in enumerate(w.PURPOSES) if getattr(p, name)]
    present = asker.lucky(asker.present)
    fitting = [
        (i, found)
        for i, found in able
        if i not in asker.purposes and bool(found) == present and len(found) <= MAX_LISTED
    ]
    if not fitting:
        return None
    number, found = fitting[int(asker.rng.integers(len(fitting)))]
    return asker.form(getattr(w.PURPOSES[number], name))[0], found, number


def _use(asker: Asker) -> Ask | None:
    drawn = _purpose(asker, "gap")
    if drawn is None:
        return None
    (gap, found, number), (form, yes_no) = drawn, asker.form(w.GAP, w.GAP_YES_NO)
    if found:
        answer = f"{'yes, ' * yes_no}you could {yours(gap)} {asker.listed(found)}."
    else:
        answer = f"{'no, ' * yes_no}there is nothing to {yours(gap)} here."
    return _ask("use", form.format(gap=gap), answer, found, purpose=number)


def _need(asker: Asker) -> Ask | None:
    drawn = _purpose(asker, "need")
    if drawn is None:
        return None
    (need, found, number), (form, yes_no) = drawn, asker.form(w.NEED, w.NEED_YES_NO)
    if found:
        answer = f"{'yes, ' * yes_no}{asker.listed(found)} could help you."
    else:
        answer = f"{'no, ' * yes_no}nothing here could help you."
    return _ask("need", form.format(need=need), answer, found, purpose=number)


def _trait(asker: Asker) -> Ask | None:
    drawn = _purpose(asker, "trait")
    if drawn is None:
        return None
    (trait, found, number), (form, yes_no) = drawn, asker.form(w.TRAIT, w.TRAIT_YES_NO)
    if found:
        answer = f"{'yes, ' * yes_no}that is true of {asker.listed(found)}."
    else:
        answer = f"{'no, ' * yes_no}nothing here {trait}."
    return _ask("trait", form.format(trait=trait), answer, found, purpose=number)


def _use_and_occluder(asker: Asker) -> Ask | None:
    drawn = _purpose(asker, "gap")
    if drawn is None or len(drawn[1]) != 1:
        return None
    gap, found, number = drawn
    front = asker.facts.in_front_of(found[0])
    if front is None:
        return None
    rest = f"part of it is behind {asker.listed(front)}" if front else "nothing is in front of it"
    answer = f"you could {yours(gap)} {asker.listed(found)}, and {rest}."
    question = asker.form(w.WITH_OCCLUDER)[0].format(gap=gap)
    return _ask("use_and_occluder", question, answer, [*found, *front], it=() if front else found, purpose=number)


def _where(asker: Asker) -> Ask | None:
    absent = [kind for kind in THINGS if kind not in asker.facts.kinds]
    kind = str(asker.rng.choice(asker.facts.kinds if asker.lucky(asker.present) or not absent else absent))
    found = asker.facts.of_kinds(frozenset([kind]))
    form = asker.form(w.EACH if len(found) > 1 else w.WHERE)[0].format(kind=kind, a_kind=with_article(kind))
    return _ask("where", form, f"I see {asker.listed(found)}." if found else f"I see no {kind} here.", found)


def _move(asker: Asker) -> Ask | None:
    x = asker.thing()
    front = asker.facts.in_front_of(x)
    if front is None or not (front or asker.lucky(NOTHING_SHARE)):
        return None
    answer = f"you must move {asker.listed(front)} first." if front else "you need not move anything."
    question = asker.form(w.MOVE)[0].format(x=asker.facts.names[x])
    return _ask("move", question, answer, front, it=() if front else [x])


def _hides(asker: Asker) -> Ask | None:
    return _about_front(asker, asker.thing(), w.HIDES)


def _about_front(asker: Asker, x: int, wording: w.Wording) -> Ask | None:
    front, name = asker.facts.in_front_of(x), asker.facts.names[x]
    if front is None or not (front or asker.lucky(NOTHING_SHARE)):
        return None
    answer = f"part of it is behind {asker.listed(front)}." if front else f"nothing is in front of {name}."
    return _ask("hides", asker.form(wording)[0].format(x=name), answer, front, it=() if front else [x])


def _behind(asker: Asker) -> Ask | None:
    x = asker.thing()
    behind, name = asker.facts.behind(x), asker.facts.names[x]
    if behind is None or not (behind or asker.lucky(NOTHING_SHARE)):
        return None
    answer = f"behind it I see {asker.listed(behind)}." if behind else f"I see nothing behind {name}."
    return _ask("behind", asker.form(w.BEHIND)[0].format(x=name), answer, behind, it=() if behind else [x])


def _reveal(asker: Asker) -> Ask | None:
    x = asker.thing()
    freed = asker.facts.whole_without(x)
    if freed is None or not (freed or asker.lucky(NOTHING_SHARE)):
        return None
    answer = f"you would see all of {asker.listed(freed)}." if freed else "nothing more would be seen whole."
    return _ask("reveal", asker.form(w.REVEAL)[0].format(x=asker.facts.names[x]), answer, freed, it=())


def _most_hidden(asker: Asker) -> Ask | None:
    question = asker.form(w.MOST_HIDDEN)[0]
    if not asker.facts.rates.any():
        return _ask("most_hidden", question, "nothing here is hidden.", [])
    first = asker.facts.first_by(asker.facts.rates, list(range(len(asker.facts))), RATE_MARGIN)
    if first is None:
        return None
    return _ask("most_hidden", question, f"the most hidden thing is {asker.listed([first])}.", [first])


def _hidden(asker: Asker) -> Ask | None:
    found = asker.facts.hidden()
    if found is None or len(found) > MAX_LISTED:
        return None
    answer = f"I cannot see all of {asker.listed(found)}." if found else "nothing here is hidden."
    return _ask("hidden", asker.form(w.HIDDEN)[0], answer, found)


def _whole(asker: Asker) -> Ask | None:
    hidden = asker.facts.hidden()
    if hidden is None:
        return None
    found = [i for i in range(len(asker.facts)) if i not in hidden]
    if len(found) > MAX_LISTED:
        return None
    answer = f"nothing covers {asker.listed(found)}." if found else "everything here is partly hidden."
    return _ask("whole", asker.form(w.WHOLE)[0], answer, found)


def _size(asker: Asker) -> Ask | None:
    sign, word, wording = (1, "largest", w.LARGEST) if asker.lucky(0.5) else (-1, "smallest", w.SMALLEST)
    first = asker.facts.first_by(sign * np.log(asker.facts.areas), list(range(len(asker.facts))), AREA_MARGIN)
    if first is None:
        return None
    return _ask("size", asker.form(wording)[0], f"the {word} thing is {asker.listed([first])}.", [first])


def _edge(asker: Asker) -> Ask | None:
    cut = asker.facts.cut_by_frame()
    if cut is None or len(cut) > MAX_LISTED:
        return None
    return _ask("edge", asker.form(w.EDGE)[0], f"the edge cuts off {asker.listed(cut) or 'nothing'}.", cut)


def _more_hidden(asker: Asker) -> Ask | None:
    if len(asker.facts) < 2:
        return None
    x, y = (int(i) for i in asker.rng.permutation(len(asker.facts))[:2])
    more = asker.facts.first_by(asker.facts.rates, [x, y], RATE_MARGIN)
    return None if more is None else _choice(asker, "more_hidden", w.MORE_HIDDEN, x, y, more)


def _in_front(asker: Asker) -> Ask | None:
    x = asker.thing()
    behind = asker.facts.behind(x)
    if not behind:
        return None
    y = int(asker.rng.choice(behind))
    if asker.facts.cover[y, x] > 0:  # they interlock
        return None
    first, second = (x, y) if asker.lucky(0.5) else (y, x)
    return _choice(asker, "in_front", w.IN_FRONT, first, second, x)


def _choice(asker: Asker, kind: str, wording: w.Wording, x: int, y: int, right: int) -> Ask:
    question = asker.form(wording)[0].format(x=asker.facts.names[x], y=asker.facts.names[y])
    return _ask(kind, question, f"that is {asker.listed([right])}.", [right])


# Follow-ups: given the turn before.


def _it_hides(asker: Asker, before: Ask) -> Ask | None:
    if len(before.it) != 1:
        return None
    front = asker.facts.in_front_of(before.it[0])
    if front is None or before.kind == "hides" or not (front or asker.lucky(NOTHING_SHARE)):
        return None
    answer = f"part of it is behind {asker.listed(front)}." if front else "nothing is in front of it."
    return _ask("it_hides", asker.form(w.IT_HIDES)[0], answer, front, it=() if front else before.it)


def _it_behind(asker: Asker, before: Ask) -> Ask | None:
    if len(before.it) != 1:
        return None
    behind = asker.facts.behind(before.it[0])
    if behind is None or before.kind == "behind" or not (behind or asker.lucky(NOTHING_SHARE)):
        return None
    answer = f"behind it I see {asker.listed(behind)}." if behind else "I see nothing behind it."
    return _ask("it_behind", asker.form(w.IT_BEHIND)[0], answer, behind, it=() if behind else before.it)


def _it_seen(asker: Asker, before: Ask) -> Ask | None:
    seen = degree(float(asker.facts.rates[before.it[0]])) if len(before.it) == 1 else None
    if seen is None:
        return None
    answer = f"you can see {seen} of {asker.listed(before.it)}."
    return _ask("it_seen", asker.form(w.IT_SEEN)[0], answer, before.it)


def _them_most(asker: Asker, before: Ask) -> Ask | None:
    if len(before.it) < 2:
        return None
    question = asker.form(w.THEM_MOST)[0]
    if not asker.facts.rates[list(before.it)].any():
        return _ask("them_most", question, "none of them is hidden.", [], it=before.it)
    first = asker.facts.first_by(asker.facts.rates, list(before.it), RATE_MARGIN)
    if first is None:
        return None
    return _ask("them_most", question, f"the most hidden of them is {asker.listed([first])}.", [first])


def _them_largest(asker: Asker, before: Ask) -> Ask | None:
    if len(before.it) < 2:
        return None
    first = asker.facts.first_by(np.log(asker.facts.areas), list(before.it), AREA_MARGIN)
    if first is None:
        return None
    return _ask(
        "them_largest", asker.form(w.THEM_LARGEST)[0], f"the largest of them is {asker.listed([first])}.", [first]
    )


def _and_hides(asker: Asker, before: Ask) -> Ask | None:
    """The next one in the chain: what hides a thing that the answer before named."""
    return _about_front(asker, int(asker.rng.choice(before.named)), w.AND_HIDES) if before.named else None


def degree(rate: float) -> str | None:
    """How much of a thing can be seen, in words; None near a limit between two of them."""
    if 0 < rate < DEGREE_MARGIN or any(0 < limit < 1 and abs(rate - limit) < DEGREE_MARGIN for limit, _ in w.DEGREES):
        return None
    return amount(rate)


def amount(rate: float) -> str:
    """How much of a thing can be seen, in words, also near a limit."""
    return next(words for limit, words in w.DEGREES if rate <= limit)


def yours(gap: str) -> str:
    """The asker's things in the mouth of the one who answers."""
    return gap.replace("my ", "your ")


def with_article(kind: str) -> str:
    """A mug, an apple, scissors."""
    if kind == "scissors":
        return kind
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def capital(text: str) -> str:
    """First letter large, past markup."""
    start = len("<p>") if text.startswith("<p>") else 0
    return text[:start] + text[start].upper() + text[start + 1 :]


Family = Callable[..., Ask | None]

FAMILIES: dict[Family, float] = {
    _use: 4, _need: 3, _trait: 2.5, _use_and_occluder: 1.5, _where: 2, _move: 2.5, _hides: 2, _behind: 2,
    _reveal: 1, _most_hidden: 1.5, _hidden: 1, _whole: 0.7, _size: 1.2, _edge: 0.4, _more_hidden: 1, _in_front: 1,
}  # fmt: skip
"""How often each is tried; those that a scene answers clearly less often come less often."""

OPENERS: dict[Family, float] = {
    f: n for f, n in FAMILIES.items() if f in (_use, _need, _trait, _where, _most_hidden, _size, _more_hidden, _hidden)
}
"""Those whose answers give something to go on with."""

FOLLOW_UPS: dict[Family, float] = {
    _it_hides: 3, _it_behind: 2, _it_seen: 2, _them_most: 3, _them_largest: 2, _and_hides: 2,
}  # fmt: skip
