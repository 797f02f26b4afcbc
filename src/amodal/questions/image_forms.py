"""Forms of questions that can be asked about any picture with annotated objects."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

from amodal.data.samples import ObjectSample
from amodal.datagen.describe import hidden_share, is_hidden
from amodal.datagen.store.records import Draft
from amodal.ops.boxes import boxes_meet
from amodal.questions.image_facts import MAX_LISTED, Facts, area, centre, centre_x
from amodal.questions.image_purposes import PURPOSES

CLEAR = 1.3  # how many times larger the first must be than the second to be called the largest
CLEAR_SHARE = 0.05  # of difference in what is hidden, to call one thing more hidden than another
CLEAR_PIXELS = 4  # of difference in place, to call one thing nearer than another


def all_questions(facts: Facts, rng: random.Random) -> Iterator[Draft]:
    """All that can be asked, in several wordings, in no particular order."""
    for form in (
        _purposes,
        _hidden_things,
        _orders,
        _whole,
        _extremes,
        _halves,
        _sizes,
        _pairs_of_things,
        _places,
        _nearest,
    ):
        yield from form(facts, rng)


def _purposes(facts: Facts, rng: random.Random) -> Iterator[Draft]:
    for kind in sorted({facts.kind(thing) for thing in facts.things}):
        fitting = [thing for thing in facts.things if facts.kind(thing) == kind]
        phrases = PURPOSES.get(kind.lower(), ())
        for phrase in rng.sample(phrases, len(phrases)):
            question = rng.choice(_WISHES).format(phrase)
            if len(fitting) == 1:
                clause, claims = facts.aside(fitting[0], joint=", which ")
                yield _draft(question, f"{rng.choice(_HELPS)} {clause}.", claims)
            elif len(fitting) <= MAX_LISTED:
                yield _draft(question, _choice(facts, fitting))


def _choice(facts: Facts, fitting: Sequence[ObjectSample]) -> str:
    """An answer that names several of a kind, and the one that is seen best if one is."""
    best, *rest = sorted(fitting, key=hidden_share)
    if hidden_share(rest[0]) - hidden_share(best) < CLEAR_SHARE:
        return f"There is a choice of {facts.mentions(fitting)}."
    return f"{facts.mentions(rest)} would do, and so would {facts.mention(best)}, which shows most of itself."


_WISHES = (
    "I want to {}. What in this picture could I use or turn to?",
    "Suppose someone would like to {}. Where should they look?",
    "What here would suit somebody who wants to {}?",
    "My plan is to {}. Does anything in view fit that?",
)
_HELPS = ("That would be", "The thing for it is", "Turn to")


def _hidden_things(facts: Facts, rng: random.Random) -> Iterator[Draft]:
    hidden = [thing for thing in facts.things if is_hidden(thing)]
    for thing in hidden:
        front = facts.in_front(thing)
        if not front or len(front) > MAX_LISTED:
            continue
        claims = [(one.id, thing.id) for one in front]
        where = _where(thing, hidden)
        if where is None:
            continue
        names, others = facts.mention(thing), facts.mentions(front)
        yield _draft(
            f"{_capital(where)} something cannot be seen whole. What is it, and what keeps it from view?",
            f"It is {names}, which is partly hidden behind {others}.", claims)  # fmt: skip
        yield _draft(
            f"If I wanted to take out what is partly covered {where}, what would be in my way?",
            f"{others} would be in your way, in front of {names}.", claims)  # fmt: skip
    if len(hidden) > 1:
        first, second = sorted(hidden, key=hidden_share, reverse=True)[:2]
        if hidden_share(first) - hidden_share(second) > CLEAR_SHARE:
            clause, claims = facts.aside(first)
            yield _draft(
                rng.choice(("What would be hardest to recognise here because so little of it can be seen?",
                            "Which shape would I have to guess the most of?")),
                f"{clause}, more so than anything else, while {facts.mention(second)} comes next."
                if second not in facts.in_front(first) else f"{clause}, more so than anything else.",
                claims)  # fmt: skip
    if 1 < len(hidden) <= MAX_LISTED:
        yield _draft(
            "What would I have to complete in my mind, since parts of it are out of sight?",
            f"Parts of {facts.mentions(hidden)} are out of sight.")  # fmt: skip


def _orders(facts: Facts, rng: random.Random) -> Iterator[Draft]:
    blockers = [thing for thing in facts.things if facts.behind(thing)]
    for thing in blockers:
        behind, where = facts.behind(thing), _where(thing, blockers)
        if where is None or len(behind) > MAX_LISTED:
            continue
        question = rng.choice((f"What would I see more of if the obstacle {where} were gone?",
                               f"What does the thing that is in the way {where} keep me from seeing?"))  # fmt: skip
        claims = [(thing.id, one.id) for one in behind]
        yield _draft(question, f"{facts.mention(thing)} covers part of {facts.mentions(behind)}.", claims)
    if 1 < len(blockers) <= MAX_LISTED:
        yield _draft(
            rng.choice(("What gets in the way of seeing other things?",
                        "Which of these would I move aside to see everything else better?")),
            f"{facts.mentions(blockers)} each stand before something else.")  # fmt: skip
    if blockers:
        most = max(blockers, key=lambda thing: len(facts.behind(thing)))
        behind = facts.behind(most)
        if len(behind) > 1 and len(behind) <= MAX_LISTED:
            yield _draft(
                "Taking away one single thing, which would clear the view the most?",
                f"{facts.mention(most)}, because it covers part of {facts.mentions(behind)}.",
                [(most.id, one.id) for one in behind])  # fmt: skip


def _whole(facts: Facts, rng: random.Random) -> Iterator[Draft]:
    whole = [thing for thing in facts.things if not is_hidden(thing)]
    if 0 < len(whole) <= MAX_LISTED:
        verb = "are" if len(whole) > 1 else "is"
        yield _draft(
            rng.choice(("What could I draw from here without guessing any of its outline?",
                        "What could I pick up without moving anything else first?",
                        "Whose outline is complete in this view?")),
            f"Nothing stands before {facts.mentions(whole)}, so {'they' if verb == 'are' else 'it'} {verb} "
            f"seen in full.")  # fmt: skip


def _extremes(facts: Facts, rng: random.Random) -> Iterator[Draft]:
    questions = rng.sample(_EDGE_QUESTIONS, len(_EDGE_QUESTIONS))  # each side another: they would sound alike
    sides = (("left", 0, 1), ("right", 2, -1), ("top", 1, 1), ("bottom", 3, -1))
    for question, (side, edge, sign) in zip(questions, sides, strict=True):
        ordered = sorted(facts.things, key=lambda thing: sign * thing.visible_box_xyxy[edge])
        first, others = ordered[0], ordered[1:2]
        if others and abs(others[0].visible_box_xyxy[edge] - first.visible_box_xyxy[edge]) < CLEAR_PIXELS:
            continue
        clause, claims = facts.aside(first, leave=others)
        rest = f"; the next one is {facts.mention(others[0])}" if others and not claims else ""
        yield _draft(question.format(side), f"{clause}{rest}.", claims)


_EDGE_QUESTIONS = (
    "Walking in from the {} edge of the picture, what would I come upon first, and is anything in front of it?",
    "Something rolls in from the {} border. What does it meet before all else?",
    "What is nearest to the {} side of the frame, and how much of it can be seen?",
    "The photographer crops the {} of the print more and more. What loses a part of itself soonest?",
)


def _halves(facts: Facts, rng: random.Random) -> Iterator[Draft]:
    """What stays of the picture when one half of it is gone, by the visible parts."""
    height, width = facts.things[0].visible_rle["size"]
    questions = rng.sample(_HALF_QUESTIONS, len(_HALF_QUESTIONS))
    halves = (
        ("right", 2, width, True),
        ("left", 0, width, False),
        ("lower", 3, height, True),
        ("upper", 1, height, False),
    )
    for question, (gone, edge, side, below) in zip(questions, halves, strict=True):
        kept = [t for t in facts.things if (t.visible_box_xyxy[edge] <= side / 2 if below else
                                            t.visible_box_xyxy[edge] >= side / 2)]  # fmt: skip
        if 0 < len(kept) <= MAX_LISTED and len(kept) < len(facts.things):
            yield _draft(question.format(gone), f"All that can be seen of {facts.mentions(kept)} would be left.")


_HALF_QUESTIONS = (
    "If the {} half of the print were torn off, what would not lose anything that is seen of it now?",
    "A curtain falls over the {} half of the view. What remains for the audience to look at without any loss?",
    "Suppose my {} field of vision failed here. What would look to me just as it does now?",
    "Ink runs over the {} half of this photograph. What does it spare altogether?",
)


def _sizes(facts: Facts, rng: random.Random) -> Iterator[Draft]:
    if len(facts.things) < 2:
        return
    by_area = sorted(facts.things, key=area, reverse=True)
    if area(by_area[0]) > CLEAR * area(by_area[1]):
        clause, claims = facts.aside(by_area[0])
        yield _draft(
            rng.choice(("Counting hidden parts too, what takes up the most room?",
                        "Which outline would be the largest if everything could be seen through?")),
            f"{clause}, and its whole outline is larger than any other.", claims)  # fmt: skip
    if area(by_area[-2]) > CLEAR * area(by_area[-1]):
        clause, claims = facts.aside(by_area[-1])
        yield _draft(
            rng.choice(("What would be easiest to overlook because it takes up so little room?",
                        "Which of these would fit into the smallest parcel, judging by its whole outline here?")),
            f"{clause}, and its whole outline is smaller than any other.", claims)  # fmt: skip


def _pairs_of_things(facts: Facts, rng: random.Random) -> Iterator[Draft]:
    """Two things told apart by where they are."""
    ordered = sorted(facts.things, key=centre_x)
    if len(ordered) >= 2 and centre_x(ordered[-1]) - centre_x(ordered[0]) > 8:
        left, right = ordered[0], ordered[-1]
        difference = hidden_share(left) - hidden_share(right)
        if abs(difference) > CLEAR_SHARE:
            more, less = (left, right) if difference > 0 else (right, left)
            yield _draft(
                "Comparing what is farthest to either side, which of the two keeps more of itself from view?",
                f"More is out of sight of {facts.mention(more)} than of {facts.mention(less)}.")  # fmt: skip
    alike = [(a, b) for a in facts.things for b in facts.behind(a) if facts.kind(a) == facts.kind(b)]
    if len(alike) == 1:
        front, behind = alike[0]
        yield _draft(
            "Two of a kind overlap here: which one is nearer to me, and which one lies beyond it?",
            f"{facts.mention(front)} is nearer and covers part of {facts.mention(behind)}.",
            [(front.id, behind.id)])  # fmt: skip


def _places(facts: Facts, rng: random.Random) -> Iterator[Draft]:
    """Places in a row and distances, for pictures with many objects."""
    things, count = sorted(facts.things, key=centre_x), len(facts.things)
    centres = [centre_x(thing) for thing in things]
    middle = count // 2
    if (
        count >= 3
        and count % 2
        and min(abs(centres[middle + step] - centres[middle]) for step in (-1, 1)) > CLEAR_PIXELS
    ):
        clause, claims = facts.aside(things[middle], joint=", which ")
        yield _draft("As much is to its left as to its right. What is in the middle of this row?",
                     f"It must be {clause}.", claims)  # fmt: skip
    if count >= 3:
        spans = sorted(((_distance(a, b), a, b) for i, a in enumerate(things) for b in things[i + 1 :]),
                       key=lambda span: span[0])  # fmt: skip
        if spans[-1][0] - spans[-2][0] > CLEAR_PIXELS:
            yield _draft("Between which two would the longest string have to be stretched, from middle to middle?",
                         f"The string would run from {facts.mentions(spans[-1][1:])}.")  # fmt: skip
        if spans[1][0] - spans[0][0] > CLEAR_PIXELS:
            yield _draft("Which two keep each other the closest company, measured from middle to middle?",
                         f"Closest together are {facts.mentions(spans[0][1:])}.")  # fmt: skip
    if count > MAX_LISTED:
        by_area = sorted(facts.things, key=area, reverse=True)
        for question, leading, following in (
            ("Sorted by whole outline, which three would lead the list?", by_area[:3], by_area[3]),
            ("Which three could be packed into the least paper?", by_area[-3:], by_area[-4]),
        ):
            ratio = area(leading[-1]) / area(following)
            if ratio > CLEAR or area(following) / area(leading[0]) > CLEAR:
                yield _draft(question, f"The three are {facts.mentions(leading)}.")
        for question, three in (
            ("Reading the picture like a line of text, what are the first three words, so to speak?", things[:3]),
            ("Going through it all against the reading direction, which three do I pass to begin with?", things[-3:]),
        ):
            edge = centres[3] - centres[2] if three == things[:3] else centres[-3] - centres[-4]
            if edge > CLEAR_PIXELS:
                yield _draft(question, f"One passes {facts.mentions(three)}.")
        if centres[1] - centres[0] > CLEAR_PIXELS and centres[-1] - centres[-2] > CLEAR_PIXELS:
            yield _draft("If they held hands in a row, who would have one hand free?",
                         f"At the two ends are {facts.mentions([things[0], things[-1]])}.")  # fmt: skip


def fillers(facts: Facts, rng: random.Random) -> list[Draft]:
    """Questions answered by all there is, for pictures that give little else; none where that is too much."""
    if len(facts.things) > MAX_LISTED:
        return []
    answer = f"There is {facts.mentions(facts.things)}."
    return [_draft(question, answer) for question in rng.sample(_EVERYTHING, len(_EVERYTHING))]


def _nearest(facts: Facts, rng: random.Random) -> Iterator[Draft]:
    for question, x, y in _NEAREST:
        first, *others = sorted(facts.things, key=lambda thing: facts.distance(thing, x, y))
        if others and facts.distance(others[0], x, y) - facts.distance(first, x, y) < CLEAR_PIXELS:
            continue
        clause, claims = facts.aside(first, joint=", which ")
        yield _draft(question, f"That would be {clause}.", claims)


_EVERYTHING = (
    "Somebody who cannot see asks what they would touch here. What do you tell them?",
    "What should go on an inventory of this scene?",
    "If I had to pack up all that is here, what would end up in my boxes?",
    "Which separate shapes would a painter have to sketch before adding any colour?",
    "The scene is to be rebuilt for a film. What must the crew bring along?",
)


_NEAREST = (
    ("A camera always focuses on the middle of its view. What would come out sharpest?", 0.5, 0.5),
    ("A sticker is put on the upper left corner of the print. What does it come closest to?", 0.0, 0.0),
    ("Light falls in from the upper right corner only. What does it reach first?", 1.0, 0.0),
    ("A spill spreads from the lower left corner of the picture. What should be saved first?", 0.0, 1.0),
    ("An ant enters at the lower right corner and looks for the nearest place to climb. Where does it go?", 1.0, 1.0),
)


def _where(thing: ObjectSample, rivals: Sequence[ObjectSample]) -> str | None:
    """The ninth of the picture an object's middle is in; None if a rival reaches into it."""
    height, width = thing.visible_rle["size"]
    x, y = centre(thing)
    column, row = int(min(3 * x // width, 2)), int(min(3 * y // height, 2))
    cell = (column * width / 3, row * height / 3, (column + 1) * width / 3, (row + 1) * height / 3)
    if any(boxes_meet(rival.visible_box_xyxy, cell) for rival in rivals if rival is not thing):
        return None
    across, down = ("left", "middle", "right")[column], ("upper", "middle", "lower")[row]
    if across == down:
        return "in the very middle"
    if down == "middle":
        return f"at the {across}"
    return f"in the {down} part" if across == "middle" else f"at the {down} {across}"


def _draft(question: str, answer: str, claims: Sequence[tuple[int, int]] = ()) -> Draft:
    return Draft(question, _capital(answer), tuple(claims))


def _capital(text: str) -> str:
    """First letter as a capital, also where a phrase comes first."""
    start = 3 if text.startswith("<p>") else 0
    return text[:start] + text[start : start + 1].upper() + text[start + 1 :]


def _distance(a: ObjectSample, b: ObjectSample) -> float:
    return math.dist(centre(a), centre(b))
