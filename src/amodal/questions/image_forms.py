"""Families of questions about any image with annotated objects: use, occlusion, places and sizes.

A family writes every question of its kind that the annotation answers clearly (`measures.py` has the margins). What is
not known of an object, such as its whole in a modal dataset, is never stated. All texts stand in
`texts/image_forms.yaml`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from amodal.questions import measures
from amodal.questions.facts import Facts
from amodal.questions.grammar import is_person, pronoun, takes_plural, verb, with_article
from amodal.questions.knowledge import CategoryFacts, Knowledge, built_in_facts, category_key
from amodal.questions.wording import IMAGE_FORMS, Question, capitalized

MAX_LISTED = 4  # objects in one answer
MAX_ORDERED = 3  # objects that an answer lists in an order
OPPOSITE = {"left": "right", "right": "left", "upper": "lower", "lower": "upper"}
_AGREEMENT = re.compile(r"\[(\w+):(they-)?(\w+)\]")
_NUMBERS = {2: "two", 3: "three"}


def image_questions(facts: Facts, rng: random.Random, knowledge: Knowledge | None = None) -> Iterator[Question]:
    """Write every question that the annotation answers, family by family.

    Args:
        facts: facts about the image.
        rng: draws one of several texts.
        knowledge: facts about categories; the built-in ones if None.
    """
    writer = _Writer(facts, rng, built_in_facts() if knowledge is None else knowledge)
    for family in (
        _purposes, _two_purposes, _belongings, _hidden, _most_hidden, _obstacles, _wholes, _edges, _halves, _rows,
        _orders, _distances, _nearest, _sizes, _two_of_a_kind,
    ):  # fmt: skip
        for question in family(writer):
            if all(facts.is_distinct(index) for index in question.named):
                yield question


@dataclass(frozen=True)
class _Writer:
    """Fills forms in."""

    facts: Facts
    rng: random.Random
    knowledge: Knowledge

    def of(self, index: int) -> CategoryFacts:
        """What is known about the category of an object."""
        return self.knowledge.get(category_key(self.facts.kinds[index]), CategoryFacts())

    def is_plural(self, indices: Sequence[int]) -> bool:
        """Whether the verb after the names of these objects is plural."""
        kinds = [self.facts.kinds[i] for i in indices]
        return takes_plural(kinds) or self.of(indices[0]).plural

    def reason(self, index: int) -> str:
        """Why an object serves its purposes, as the rest of a sentence after a pronoun; empty if nobody knows."""
        person = is_person(self.facts.kinds[index])
        return self.of(index).reason(plural=person or self.is_plural([index])) or ""

    def write(
        self,
        name: str,
        objects: Mapping[str, Sequence[int]],
        slots: Mapping[str, str] | None = None,
        *,
        variant: str | None = None,
        claims: Sequence[tuple[int, int]] = (),
        ordered: bool = False,
    ) -> Question:
        """Fill a form in.

        Args:
            name: key of `IMAGE_FORMS`.
            objects: positions of the objects of each slot.
            slots: texts for the other slots.
            variant: which question of the form; drawn if None.
            claims: (front, behind) positions of what the answer says about occlusion.
            ordered: the objects of a slot are listed in the order given, instead of from left to right.
        """
        form = IMAGE_FORMS[name]
        text = form.variants[variant] if variant else self.rng.choice(form.questions)
        listed = {slot: self.facts.listing(found, ordered=ordered) for slot, found in objects.items()}
        answer = _AGREEMENT.sub(lambda found: self._agreed(found, objects), self.rng.choice(form.answers))
        filled = {**listed, **(slots or {})}
        ids = [obj.id for obj in self.facts.objects]
        named = tuple(i for found in objects.values() for i in found)
        return Question(
            name,
            capitalized(text.format(**filled)),
            capitalized(answer.format(**filled)),
            named,
            claims=tuple((ids[front], ids[behind]) for front, behind in claims),
        )

    def _agreed(self, found: re.Match[str], objects: Mapping[str, Sequence[int]]) -> str:
        indices, word = list(objects[found[1]]), found[3]
        kinds = [self.facts.kinds[i] for i in indices]
        plural = self.is_plural(indices)
        if word in ("they", "them"):
            return word if plural else pronoun(kinds, subject=word == "they")
        return verb(word, plural=plural or (bool(found[2]) and is_person(kinds[0])))


def _crossed(front: Sequence[int], behind: Sequence[int]) -> list[tuple[int, int]]:
    return [(i, j) for i in front for j in behind]


# Use


def _useful(writer: _Writer) -> dict[int, list[int]]:
    """Objects that serve a purpose, by the first object of their kind."""
    facts, found = writer.facts, dict[int, list[int]]()
    for index in facts.left_to_right():
        if writer.of(index).purposes and writer.reason(index):
            alike = next((i for i in found if facts.kinds[i] == facts.kinds[index]), index)
            found.setdefault(alike, []).append(index)
    return found


def _fitting(writer: _Writer, wish: str) -> list[int]:
    """All objects whose category serves a purpose."""
    return [i for i in writer.facts.left_to_right() if wish in writer.of(i).purposes]


def _purposes(writer: _Writer) -> Iterator[Question]:
    facts = writer.facts
    for alike in _useful(writer).values():
        for wish in writer.of(alike[0]).purposes:
            fitting = _fitting(writer, wish)
            slots = {"wish": wish, "reason": writer.reason(fitting[0])}
            if len(fitting) > 1:
                reasons = {writer.of(i).reason(plural=False) for i in fitting}
                if len(fitting) <= MAX_LISTED and len(reasons) == 1 and not is_person(facts.kinds[fitting[0]]):
                    yield writer.write("purpose_choice", {"objects": fitting}, slots | {"reason": reasons.pop() or ""})
                continue
            (index,) = fitting
            yield writer.write("purpose", {"object": fitting}, slots)
            if is_person(facts.kinds[index]):  # nobody reaches for a person
                continue
            front = facts.clearly_in_front_of(index) if facts.is_known(index) else None
            if front and len(front) < MAX_LISTED and facts.is_clearly_hidden(index):
                objects = {"object": fitting, "objects": front}
                yield writer.write("purpose_blocked", objects, slots, claims=_crossed(front, fitting))
            elif facts.is_full(index):
                yield writer.write("purpose_free", {"object": fitting}, slots)


def _two_purposes(writer: _Writer) -> Iterator[Question]:
    single = [(alike[0], wish) for alike in _useful(writer).values() if len(alike) == 1
              for wish in writer.of(alike[0]).purposes if _fitting(writer, wish) == alike]  # fmt: skip
    for position, (one, wish) in enumerate(single):
        for other, later in single[position + 1 :]:
            if one != other:
                slots = {"wish": wish, "later": later, "reason": writer.reason(one), "second": writer.reason(other)}
                yield writer.write("purpose_two", {"object": [one], "other": [other]}, slots)


def _belongings(writer: _Writer) -> Iterator[Question]:
    """What is usually found in a place, where that is known of every category."""
    facts = writer.facts
    if not all(writer.of(i).found for i in range(len(facts))):
        return
    for place in dict.fromkeys(place for i in range(len(facts)) for place in writer.of(i).found):
        there = [i for i in range(len(facts)) if place in writer.of(i).found]
        if 1 < len(there) <= MAX_LISTED and len(there) < len(facts):
            yield writer.write("belongs", {"objects": there}, {"place": with_article(place)})


# Occlusion


def _hidden(writer: _Writer) -> Iterator[Question]:
    facts = writer.facts
    hidden = [i for i in range(len(facts)) if facts.is_clearly_hidden(i)]
    unclear = [i for i in range(len(facts)) if i not in hidden and not (facts.is_known(i) and facts.rates[i] == 0)]
    for index in hidden:
        front, where = facts.clearly_in_front_of(index), facts.place(index, [*hidden, *unclear])
        if front and where and len(front) < MAX_LISTED:
            objects = {"object": [index], "objects": front}
            claims = _crossed(front, [index])
            yield writer.write("hidden_what", objects, {"where": where}, claims=claims)
            yield writer.write("hidden_in_my_way", objects, {"where": where}, claims=claims)
    if 1 < len(hidden) <= MAX_LISTED and not unclear:
        yield writer.write("hidden_all", {"objects": hidden})


def _most_hidden(writer: _Writer) -> Iterator[Question]:
    facts, measure = writer.facts, measures.hidden_rates(writer.facts)
    if measure is None or len(facts) < 2:
        return
    for name, count in (("hidden_most", 1), ("hidden_two", 2)):
        first = measure.leaders(count)
        if first and all(facts.is_clearly_hidden(i) and not facts.touches_border(i) for i in first):
            yield writer.write(name, dict(zip(("object", "other"), ([i] for i in first), strict=False)))
    left, right = facts.left_to_right()[0], facts.left_to_right()[-1]
    if facts.centres[right][0] - facts.centres[left][0] >= facts.clear_gap:
        more, less = sorted((left, right), key=lambda i: -facts.rates[i])
        if measure.leads(more, less) and facts.is_clearly_hidden(more):
            yield writer.write("outer_two", {"object": [more], "other": [less]})


def _obstacles(writer: _Writer) -> Iterator[Question]:
    facts = writer.facts
    behind = {i: found for i in range(len(facts)) if (found := facts.behind(i))}
    in_doubt = not all(facts.is_known(i) and facts.clearly_in_front_of(i) is not None for i in range(len(facts)))
    for index, found in behind.items():
        where = facts.place(index, behind)
        if where and len(found) < MAX_LISTED and all(facts.is_clearly_hidden(i) for i in found) and not in_doubt:
            objects = {"object": [index], "objects": found}
            yield writer.write("obstacle", objects, {"where": where}, claims=_crossed([index], found))
    if 1 < len(behind) <= MAX_LISTED and not in_doubt:
        yield writer.write("obstacles", {"objects": list(behind)})
    measure = measures.uncovered_areas(facts)
    first = measure.leaders(1) if measure else None
    if first and first[0] in behind and len(behind[first[0]]) < MAX_LISTED and not in_doubt:
        claims = _crossed(first, behind[first[0]])
        yield writer.write("uncover_most", {"object": first, "objects": behind[first[0]]}, claims=claims)


def _wholes(writer: _Writer) -> Iterator[Question]:
    facts = writer.facts
    whole = [i for i in range(len(facts)) if facts.is_full(i)]
    others = [i for i in range(len(facts)) if i not in whole]
    clear = all(facts.is_known(i) and (facts.is_clearly_hidden(i) or facts.reaches_beyond(i)) for i in others)
    if clear and 0 < len(whole) <= MAX_LISTED:
        yield writer.write("whole", {"objects": whole})
    beyond = [i for i in range(len(facts)) if facts.reaches_beyond(i)]
    if 0 < len(beyond) <= MAX_LISTED and not any(facts.touches_border(i) for i in range(len(facts)) if i not in beyond):
        yield writer.write("wider", {"objects": beyond})


def _two_of_a_kind(writer: _Writer) -> Iterator[Question]:
    facts = writer.facts
    alike = [(i, j) for i in range(len(facts)) for j in facts.behind(i) if facts.kinds[i] == facts.kinds[j]]
    if len(alike) == 1:
        ((front, behind),) = alike
        yield writer.write("two_of_a_kind", {"object": [front], "other": [behind]}, claims=alike)


# Places


def _edges(writer: _Writer) -> Iterator[Question]:
    for side, extent in measures.EXTENTS.items():
        measure = extent(writer.facts)
        yield from _leading(writer, measure, {"side": side}, "edges", "edges_two")


def _nearest(writer: _Writer) -> Iterator[Question]:
    for spot in measures.SPOTS:
        measure = measures.nearness(writer.facts, spot)
        yield from _leading(writer, measure, {"spot": spot}, "nearest", "nearest_two", variant=spot)


def _leading(
    writer: _Writer,
    measure: measures.Measure,
    slots: Mapping[str, str],
    one: str | None,
    two: str,
    *,
    variant: str | None = None,
) -> Iterator[Question]:
    """The object that leads, and the first two."""
    if len(writer.facts) < 2:
        return
    first = measure.leaders(1)
    if first and one:
        yield writer.write(one, {"object": first}, slots, variant=variant)
    both = measure.leaders(2)
    if both:
        yield writer.write(two, {"object": both[:1], "other": both[1:]}, slots, variant=variant)


def _halves(writer: _Writer) -> Iterator[Question]:
    """What lies in one half of the image with all that can be seen of it."""
    facts = writer.facts
    height, width = facts.size
    halves = (("left", 2, width, 1), ("right", 0, width, -1), ("upper", 3, height, 1), ("lower", 1, height, -1))
    for side, edge, length, sign in halves:
        over = [sign * (obj.visible_box_xyxy[edge] - length / 2) for obj in facts.objects]
        kept = [i for i, pixels in enumerate(over) if pixels <= 0]
        clear = all(pixels <= 0 or pixels >= facts.clear_gap for pixels in over)
        if clear and 0 < len(kept) <= MAX_LISTED and len(kept) < len(facts):
            yield writer.write("halves", {"objects": kept}, {"side": side, "opposite": OPPOSITE[side]})


def _rows(writer: _Writer) -> Iterator[Question]:
    facts = writer.facts
    if len(facts) < 2:
        return
    for name, axis in (("row_ends", 0), ("column_ends", 1)):
        order = sorted(range(len(facts)), key=lambda i: facts.centres[i][axis])
        gaps = [facts.centres[j][axis] - facts.centres[i][axis] for i, j in pairwise(order)]
        if min(gaps[0], gaps[-1]) < facts.clear_gap:
            continue
        first, last = order[0], order[-1]
        if len(order) > 2 or axis == 1:  # two objects are always at the two ends of a row
            yield writer.write(name, {"object": [first], "other": [last]})
        if axis == 0 and 2 < len(order) <= MAX_LISTED:
            yield writer.write("between", {"objects": order[1:-1], "object": [first], "other": [last]})
        middle = len(order) // 2
        if axis == 0 and len(order) > 2 and len(order) % 2 and min(gaps[middle - 1 : middle + 1]) >= facts.clear_gap:
            yield writer.write("middle_of_row", {"object": [order[middle]]})


def _orders(writer: _Writer) -> Iterator[Question]:
    facts = writer.facts
    for side, axis, sign in (("left", 0, 1), ("right", 0, -1), ("top", 1, 1), ("bottom", 1, -1)):
        order = sorted(range(len(facts)), key=lambda i: sign * facts.centres[i][axis])
        for count in range(2, MAX_ORDERED + 1):
            gaps = [sign * (facts.centres[j][axis] - facts.centres[i][axis]) for i, j in pairwise(order[: count + 1])]
            if len(facts) > count and min(gaps) >= facts.clear_gap:
                slots = {"number": _NUMBERS[count]}
                yield writer.write(f"first_from_{side}", {"objects": order[:count]}, slots, ordered=True)


def _distances(writer: _Writer) -> Iterator[Question]:
    spans = measures.pair_distances(writer.facts)
    if len(spans) < 3:
        return
    for name, (length, pair), (following, _) in (
        ("closest_two", spans[0], spans[1]),
        ("farthest_two", spans[-1], spans[-2]),
    ):
        if abs(length - following) >= writer.facts.clear_gap:
            one, other = writer.facts.left_to_right(pair)
            yield writer.write(name, {"object": [one], "other": [other]})


# Sizes


def _sizes(writer: _Writer) -> Iterator[Question]:
    facts = writer.facts
    if len(facts) < 2:
        return
    for sign, name in ((1, "largest"), (-1, "smallest")):
        outlines = measures.outline_areas(facts, sign=sign)
        first = outlines.leaders(1) if outlines else None
        if first:
            yield writer.write(name, {"object": first})
    for sign, name in ((1, "fills_most"), (-1, "fills_least")):
        measure = measures.visible_areas(facts, sign=sign)
        yield from _leading(writer, measure, {}, None, name)
        three = measure.top(3) if len(facts) > 3 else None
        if three:
            yield writer.write(f"{name}_three", {"objects": three})
