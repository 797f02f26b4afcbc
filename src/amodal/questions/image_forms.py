"""Families of questions about any image with annotated objects: purposes, occlusion, places and sizes.

A family writes every question of its kind that the annotation answers clearly. All texts stand in
`texts/image_forms.yaml`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise

from amodal.questions.facts import Facts
from amodal.questions.wording import IMAGE_FORMS, Question, capitalized, wishes_for

MAX_LISTED = 4  # objects in one answer
CLEAR_RATIO = 1.3  # of two areas, from which the larger one is called the largest
CLEAR_RATE = 0.05  # difference of occlusion rates from which one object is called more occluded than another
CLEAR_PIXELS = 4  # difference of distances from which one object is called nearer than another
CLEAR_WIDTH = 8  # pixels between the outermost centres from which objects lie to either side

SIDES = (("left", 0, 1), ("right", 2, -1), ("top", 1, 1), ("bottom", 3, -1))
"""Sides of an image: name, index of the box edge that faces it, and 1 where that edge grows away from it."""
CORNERS = ((0.5, 0.5), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
"""The middle and the corners of an image, (x, y) in shares of its sides."""


def image_questions(facts: Facts, rng: random.Random) -> Iterator[Question]:
    """Write every question that the annotation answers, family by family."""
    for family in (_purposes, _occluded, _obstacles, _whole, _edges, _halves, _sizes, _pairs, _row, _threes, _nearest):
        yield from family(facts, rng)


def inventory_questions(facts: Facts, rng: random.Random) -> list[Question]:
    """Write questions whose answer lists all objects, for images that allow few others; none for many objects."""
    if len(facts) > MAX_LISTED:
        return []
    texts = IMAGE_FORMS["everything"].questions
    objects = facts.listing(range(len(facts)))
    return [_write(rng, "everything", {"objects": objects}, text=text) for text in rng.sample(texts, len(texts))]


def _write(
    rng: random.Random,
    name: str,
    slots: dict[str, str],
    claims: Sequence[tuple[int, int]] = (),
    *,
    text: str | None = None,
    answer: str | None = None,
) -> Question:
    """Fill a form in.

    Args:
        rng: draws one of several texts.
        name: key of `IMAGE_FORMS`.
        slots: texts for the slots of the form.
        claims: (occluder, occluded) annotation ids of what the answer says about occlusion.
        text: the question to use; one of the form's if None.
        answer: name of another form that has the answer.
    """
    text = _draw(rng, IMAGE_FORMS[name].questions) if text is None else text
    filled = _draw(rng, IMAGE_FORMS[answer or name].answers).format(**slots)
    return Question(name, capitalized(text.format(**slots)), capitalized(filled), claims=tuple(claims))


def _draw(rng: random.Random, texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else rng.choice(texts)


def _clause(
    facts: Facts, index: int, *, joint: str = " ", leave: Sequence[int] = ()
) -> tuple[str, list[tuple[int, int]]]:
    """An object and whether it is occluded, and the claims in that.

    Args:
        facts: facts about the image.
        index: the object.
        joint: text between the object and "is ...", such as ", which ".
        leave: objects that the sentence mentions elsewhere.
    """
    front = facts.in_front_of(index)
    if front and len(front) <= MAX_LISTED and not any(i in leave for i in front):
        state = f"partly hidden behind {facts.listing(front)}"
        return f"{facts.mention(index)}{joint}is {state}", _claims(facts, front, [index])
    state = "partly hidden" if index in facts.occluded() else "fully visible"
    return f"{facts.mention(index)}{joint}is {state}", []


def _claims(facts: Facts, front: Sequence[int], behind: Sequence[int]) -> list[tuple[int, int]]:
    """Annotation ids: each of `front` occludes each of `behind`."""
    return [(facts.objects[i].id, facts.objects[j].id) for i in front for j in behind]


def _purposes(facts: Facts, rng: random.Random) -> Iterator[Question]:
    for kind in sorted(set(facts.kinds)):
        fitting, wishes = facts.of_kinds(frozenset([kind])), wishes_for(kind)
        for wish in rng.sample(wishes, len(wishes)):
            text = _draw(rng, IMAGE_FORMS["purpose"].questions)
            if len(fitting) == 1:
                clause, claims = _clause(facts, fitting[0], joint=", which ")
                yield _write(rng, "purpose", {"wish": wish, "clause": clause}, claims, text=text)
            elif len(fitting) <= MAX_LISTED:
                best, *rest = sorted(fitting, key=lambda i: facts.rates[i])
                slots = {"wish": wish, "objects": facts.listing(fitting)}
                answer = "purpose_choice"
                if facts.rates[rest[0]] - facts.rates[best] >= CLEAR_RATE:
                    slots |= {"objects": facts.listing(rest), "object": facts.mention(best)}
                    answer = "purpose_best"
                yield _write(rng, "purpose", slots, text=text, answer=answer)


def _occluded(facts: Facts, rng: random.Random) -> Iterator[Question]:
    occluded = facts.occluded()
    for index in occluded:
        front = facts.in_front_of(index)
        if not front or len(front) > MAX_LISTED:
            continue
        where = facts.place(index, occluded)
        if where is None:
            continue
        slots = {"where": where, "object": facts.mention(index), "objects": facts.listing(front)}
        yield _write(rng, "hidden_what", slots, _claims(facts, front, [index]))
        yield _write(rng, "hidden_in_my_way", slots, _claims(facts, front, [index]))
    if len(occluded) > 1:
        first, second = sorted(occluded, key=lambda i: facts.rates[i], reverse=True)[:2]
        if facts.rates[first] - facts.rates[second] > CLEAR_RATE:
            clause, claims = _clause(facts, first)
            slots = {"clause": clause, "other": facts.mention(second)}
            answer = "hidden_most" if second in facts.in_front_of(first) else "hidden_most_and_next"
            yield _write(rng, "hidden_most", slots, claims, answer=answer)
    if 1 < len(occluded) <= MAX_LISTED:
        yield _write(rng, "hidden_all", {"objects": facts.listing(occluded)})


def _obstacles(facts: Facts, rng: random.Random) -> Iterator[Question]:
    occluders = [i for i in range(len(facts)) if facts.behind(i)]
    for index in occluders:
        behind, where = facts.behind(index), facts.place(index, occluders)
        if where is None or len(behind) > MAX_LISTED:
            continue
        slots = {"where": where, "object": facts.mention(index), "objects": facts.listing(behind)}
        yield _write(rng, "obstacle", slots, _claims(facts, [index], behind))
    if 1 < len(occluders) <= MAX_LISTED:
        yield _write(rng, "obstacles", {"objects": facts.listing(occluders)})
    if occluders:
        most = max(occluders, key=lambda i: len(facts.behind(i)))
        behind = facts.behind(most)
        if 1 < len(behind) <= MAX_LISTED:
            slots = {"object": facts.mention(most), "objects": facts.listing(behind)}
            yield _write(rng, "obstacle_of_most", slots, _claims(facts, [most], behind))


def _whole(facts: Facts, rng: random.Random) -> Iterator[Question]:
    occluded = facts.occluded()
    whole = [i for i in range(len(facts)) if i not in occluded]
    if 0 < len(whole) <= MAX_LISTED:
        they_are = "they are" if len(whole) > 1 else "it is"
        yield _write(rng, "whole", {"objects": facts.listing(whole), "they_are": they_are})


def _edges(facts: Facts, rng: random.Random) -> Iterator[Question]:
    texts = IMAGE_FORMS["edges"].questions
    boxes = [obj.visible_box_xyxy for obj in facts.objects]
    for text, (side, edge, sign) in zip(rng.sample(texts, len(texts)), SIDES, strict=True):
        first, *others = sorted(range(len(facts)), key=lambda i: sign * boxes[i][edge])[:2]
        if others and abs(boxes[others[0]][edge] - boxes[first][edge]) < CLEAR_PIXELS:
            continue
        clause, claims = _clause(facts, first, leave=others)
        slots = {"side": side, "clause": clause, "other": facts.mention(others[0]) if others else ""}
        answer = "edges_and_next" if others and not claims else "edges"
        yield _write(rng, "edges", slots, claims, text=text, answer=answer)


def _halves(facts: Facts, rng: random.Random) -> Iterator[Question]:
    """What remains of the image without one of its halves, by the visible parts."""
    height, width = facts.size
    texts = IMAGE_FORMS["halves"].questions
    halves = (("right", 2, width, 1), ("left", 0, width, -1), ("lower", 3, height, 1), ("upper", 1, height, -1))
    for text, (side, edge, length, sign) in zip(rng.sample(texts, len(texts)), halves, strict=True):
        kept = [i for i, obj in enumerate(facts.objects) if sign * obj.visible_box_xyxy[edge] <= sign * length / 2]
        if 0 < len(kept) <= MAX_LISTED and len(kept) < len(facts):
            yield _write(rng, "halves", {"side": side, "objects": facts.listing(kept)}, text=text)


def _sizes(facts: Facts, rng: random.Random) -> Iterator[Question]:
    if len(facts) < 2:
        return
    areas, ordered = facts.areas, _by_area(facts)
    if areas[ordered[0]] > CLEAR_RATIO * areas[ordered[1]]:
        clause, claims = _clause(facts, ordered[0])
        yield _write(rng, "largest", {"clause": clause}, claims)
    if areas[ordered[-2]] > CLEAR_RATIO * areas[ordered[-1]]:
        clause, claims = _clause(facts, ordered[-1])
        yield _write(rng, "smallest", {"clause": clause}, claims)


def _pairs(facts: Facts, rng: random.Random) -> Iterator[Question]:
    """Two objects that are told apart by where they are."""
    ordered = facts.left_to_right()
    left, right = ordered[:1], ordered[-1:]
    if left and facts.centres[right[0]][0] - facts.centres[left[0]][0] > CLEAR_WIDTH:
        more, less = sorted((left[0], right[0]), key=lambda i: -facts.rates[i])
        if facts.rates[more] - facts.rates[less] > CLEAR_RATE:
            yield _write(rng, "outer_two", {"object": facts.mention(more), "other": facts.mention(less)})
    alike = [(i, j) for i in range(len(facts)) for j in facts.behind(i) if facts.kinds[i] == facts.kinds[j]]
    if len(alike) == 1:
        ((front, behind),) = alike
        slots = {"object": facts.mention(front), "other": facts.mention(behind)}
        yield _write(rng, "two_of_a_kind", slots, _claims(facts, [front], [behind]))


def _row(facts: Facts, rng: random.Random) -> Iterator[Question]:
    """The middle of the row from left to right, and distances."""
    row = facts.left_to_right()
    if len(row) < 3:
        return
    gaps, middle = _gaps(facts, row), len(row) // 2
    if len(row) % 2 and min(gaps[middle - 1 : middle + 1]) > CLEAR_PIXELS:
        clause, claims = _clause(facts, row[middle], joint=", which ")
        yield _write(rng, "middle_of_row", {"clause": clause}, claims)
    spans = sorted(
        ((math.dist(facts.centres[i], facts.centres[j]), (i, j)) for n, i in enumerate(row) for j in row[n + 1 :]),
        key=lambda span: span[0],
    )
    if spans[-1][0] - spans[-2][0] > CLEAR_PIXELS:
        yield _write(rng, "farthest_two", {"objects": facts.listing(spans[-1][1])})
    if spans[1][0] - spans[0][0] > CLEAR_PIXELS:
        yield _write(rng, "closest_two", {"objects": facts.listing(spans[0][1])})


def _threes(facts: Facts, rng: random.Random) -> Iterator[Question]:
    """Three of many objects, by size and by place."""
    if len(facts) <= MAX_LISTED:
        return
    areas, ordered = facts.areas, _by_area(facts)
    for name, three, following in (
        ("largest_three", ordered[:3], ordered[3]),
        ("smallest_three", ordered[-3:], ordered[-4]),
    ):
        if max(areas[three[-1]] / areas[following], areas[following] / areas[three[0]]) > CLEAR_RATIO:
            yield _write(rng, name, {"objects": facts.listing(three)})
    row = facts.left_to_right()
    gaps = _gaps(facts, row)
    for name, three, gap in (("first_three", row[:3], gaps[2]), ("last_three", row[-3:], gaps[-3])):
        if gap > CLEAR_PIXELS:
            yield _write(rng, name, {"objects": facts.listing(three)})
    if min(gaps[0], gaps[-1]) > CLEAR_PIXELS:
        yield _write(rng, "row_ends", {"objects": facts.listing([row[0], row[-1]])})


def _by_area(facts: Facts) -> list[int]:
    """Objects from the largest amodal mask to the smallest."""
    return sorted(range(len(facts)), key=lambda i: facts.areas[i], reverse=True)


def _gaps(facts: Facts, row: Sequence[int]) -> list[float]:
    """Pixels between the centres of neighbours in a row from left to right."""
    return [facts.centres[j][0] - facts.centres[i][0] for i, j in pairwise(row)]


def _nearest(facts: Facts, rng: random.Random) -> Iterator[Question]:
    for text, (x, y) in zip(IMAGE_FORMS["nearest"].questions, CORNERS, strict=True):
        distances = [facts.distance(i, x, y) for i in range(len(facts))]
        first, *others = sorted(range(len(facts)), key=distances.__getitem__)
        if others and distances[others[0]] - distances[first] < CLEAR_PIXELS:
            continue
        clause, claims = _clause(facts, first, joint=", which ")
        yield _write(rng, "nearest", {"clause": clause}, claims, text=text)
