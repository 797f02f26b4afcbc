"""Families of questions about procedural scenes, alone and as follow-ups in a conversation.

A family is a function that writes one question with its correct answer. It returns None where the scene has no clear
answer, or where "nothing" would be the answer too often. What a seed writes depends on the order of the random draws
in here: the same seed must give the same questions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from amodal.questions.facts import UNNAMED_KIND, Facts
from amodal.questions.grammar import with_article
from amodal.questions.wording import (
    PURPOSES,
    SCENE_FORMS,
    SCENE_KINDS,
    Question,
    Words,
    addressed,
    amount,
    capitalized,
)

MAX_LISTED = 5  # objects in one answer
NUM_SINGLE = 4  # questions per image besides the conversations
NUM_TURNS = ((2, 2), (3, 5))  # fewest and most turns of each conversation
MAX_TRIES = 60
RATE_MARGIN, AREA_MARGIN, DEGREE_MARGIN = 0.1, 0.25, 0.03
PRESENT_SHARE = 0.85
"""Default share of the questions for a purpose or a kind whose answer is in the scene."""
NOTHING_SHARE = 0.4  # of the chances to answer "nothing" about what is in front or behind that are taken

PurposePart = Literal["gap", "need", "trait"]


@dataclass
class SceneQuestionWriter:
    """Draws questions about one scene.

    Attributes:
        facts: facts about the scene.
        rng: source of all choices.
        words: part of the wording to use.
        present: share of the questions for a purpose or a kind whose answer is in the scene.
        kinds: all kinds that the questions may name; other than `SCENE_KINDS`, the image is no procedural scene.
        frequency: see `scene_lists`.
        asked: texts of the questions so far; none is asked twice.
        answers: answers so far that name objects; none is given twice.
        purposes: positions of the purposes so far; none is asked for twice.
    """

    facts: Facts
    rng: np.random.Generator
    words: Words = "train"
    present: float = PRESENT_SHARE
    kinds: tuple[str, ...] = SCENE_KINDS
    frequency: Mapping[str, int] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    answers: set[str] = field(default_factory=set)
    purposes: set[int] = field(default_factory=set)

    @property
    def knows_all(self) -> bool:
        """Whether it is a procedural scene, which shows no objects but the annotated ones, of kinds with known uses."""
        return self.kinds == SCENE_KINDS

    def choose(self, texts: Sequence[str]) -> str:
        """One of the texts at random."""
        return texts[self.random_index(len(texts))]

    def random_index(self, count: int) -> int:
        """A random number from 0 to `count` - 1."""
        return int(self.rng.integers(count))

    def random_object(self) -> int:
        """A random object."""
        return self.random_index(len(self.facts))

    def happens(self, share: float) -> bool:
        """True in `share` of the cases."""
        return bool(self.rng.random() < share)

    def write(
        self,
        form_name: str,
        found: Sequence[int],
        slots: Mapping[str, str] | None = None,
        *,
        family: str | None = None,
        named: Sequence[int] | None = None,
        antecedents: Sequence[int] | None = None,
        purpose: int | None = None,
    ) -> Question:
        """Draw a form of a question and fill it and its answer in.

        Args:
            form_name: key of `SCENE_FORMS`.
            found: objects that the answer lists; the form's "nothing" is the answer if empty.
            slots: texts for the other slots of the form.
            family: name of the family; `form_name` if None.
            named: objects that the answer names; `found` if None.
            antecedents: what "it" means next; `named` if None.
            purpose: position of the purpose that is asked for, or None.
        """
        form, named = SCENE_FORMS[form_name], tuple(found if named is None else named)
        plain = form.question.of(self.words)
        texts = [*plain, *(form.yes_no.of(self.words) if form.yes_no else ())]
        drawn = self.random_index(len(texts))
        slots = slots or {}
        prefix = "" if drawn < len(plain) else "yes, " if found else "no, "
        answer = (prefix + (form.answer if found else form.nothing)).format(
            objects=self.facts.listing(found), **{slot: addressed(text) for slot, text in slots.items()}
        )
        return Question(
            family or form_name,
            capitalized(texts[drawn].format(**slots)),
            capitalized(answer),
            named,
            named if antecedents is None else tuple(antecedents),
            purpose,
        )

    def write_related(
        self, form_name: str, index: int, found: Sequence[int] | None, *, family: str | None = None
    ) -> Question | None:
        """Ask what is in front of or behind an object; None in doubt, and often where it is nothing."""
        if found is None or self.facts.kinds[index] == UNNAMED_KIND or not (found or self.happens(NOTHING_SHARE)):
            return None
        slots = {"x": self.facts.names[index]}
        return self.write(form_name, found, slots, family=family, antecedents=() if found else (index,))

    def draw_purpose(self, part: PurposePart) -> tuple[str, list[int], int] | None:
        """A phrase for a purpose that was not asked for yet, the objects that serve it, and its position."""
        served = [(i, self.facts.of_kinds(p.kinds)) for i, p in enumerate(PURPOSES) if getattr(p, part)]
        present = self.happens(self.present)
        fitting = [
            (i, found)
            for i, found in served
            if i not in self.purposes and bool(found) == present and len(found) <= MAX_LISTED
        ]
        if not fitting:
            return None
        number, found = fitting[self.random_index(len(fitting))]
        return self.choose(getattr(PURPOSES[number], part).of(self.words)), found, number

    def draw(self, families: Mapping[Family, float], turns: Sequence[Question] = ()) -> Question | None:
        """A new question, or a new follow-up to `turns`; None if `MAX_TRIES` found none.

        A question is new if it was not asked about the image before and if its answer was not given in the
        conversation, nor, if it names objects, about the image.
        """
        makers, weights = list(families), np.array(list(families.values()))
        answered = self.answers | {turn.answer for turn in turns}
        for _ in range(MAX_TRIES):
            make = makers[int(self.rng.choice(len(makers), p=weights / weights.sum()))]
            made = make(self, turns[-1]) if turns else make(self)
            if made is None or made.text in self.asked or made.answer in answered:
                continue
            self.asked.add(made.text)
            if made.named:
                self.answers.add(made.answer)
            if made.purpose is not None:
                self.purposes.add(made.purpose)
            return made
        return None


Family = Callable[..., Question | None]


def scene_conversations(
    facts: Facts,
    rng: np.random.Generator,
    words: Words,
    present: float = PRESENT_SHARE,
    kinds: tuple[str, ...] = SCENE_KINDS,
) -> list[list[Question]]:
    """Write single questions and two conversations about a scene, about ten turns.

    Of other kinds than `SCENE_KINDS` it is not known what they are for, nor whether the image shows objects that are
    not annotated. Questions are then about named objects only (`NAMED_FAMILIES`).

    Returns:
        Conversations, most of a single turn; empty for a scene without objects.
    """
    if not len(facts):
        return []
    writer = SceneQuestionWriter(facts, rng, words, present, kinds)
    families = FAMILIES if writer.knows_all else NAMED_FAMILIES
    conversations = [[first] for first in (writer.draw(families) for _ in range(NUM_SINGLE)) if first]
    for fewest, most in NUM_TURNS:
        turns = _converse(writer, int(rng.integers(fewest, most + 1)))
        if turns:
            conversations.append(turns)
    return conversations


def _converse(writer: SceneQuestionWriter, num_turns: int) -> list[Question]:
    """A question, then follow-ups as long as the answers allow them, otherwise something new."""
    families = FAMILIES if writer.knows_all else NAMED_FAMILIES
    opener = writer.draw({family: weight for family, weight in OPENERS.items() if family in families})
    turns = [opener] if opener else []
    while turns and len(turns) < num_turns:
        following = writer.draw(FOLLOW_UPS, turns) or writer.draw(families)
        if following is None:
            break
        turns.append(following)
    return turns


# Families of questions that stand alone


def _use(writer: SceneQuestionWriter) -> Question | None:
    return _for_purpose(writer, "use", "gap")


def _need(writer: SceneQuestionWriter) -> Question | None:
    return _for_purpose(writer, "need", "need")


def _trait(writer: SceneQuestionWriter) -> Question | None:
    return _for_purpose(writer, "trait", "trait")


def _for_purpose(writer: SceneQuestionWriter, family: str, part: PurposePart) -> Question | None:
    drawn = writer.draw_purpose(part)
    if drawn is None:
        return None
    phrase, found, number = drawn
    return writer.write(family, found, {part: phrase}, purpose=number)


def _use_and_occluder(writer: SceneQuestionWriter) -> Question | None:
    drawn = writer.draw_purpose("gap")
    if drawn is None or len(drawn[1]) != 1:
        return None
    gap, found, number = drawn
    front = writer.facts.clearly_in_front_of(found[0])
    if front is None:
        return None
    return writer.write(
        "use_and_occluder",
        front,
        {"gap": gap, "object": writer.facts.listing(found)},
        named=[*found, *front],
        antecedents=() if front else found,
        purpose=number,
    )


def _where(writer: SceneQuestionWriter) -> Question | None:
    """Ask where the objects of a kind are, which may not be in the image."""
    absent = [kind for kind in writer.kinds if kind not in (*writer.facts.kinds, UNNAMED_KIND)]
    kind = str(writer.rng.choice(writer.facts.kinds if writer.happens(writer.present) or not absent else absent))
    if kind == UNNAMED_KIND:
        return None
    found = writer.facts.of_kinds(frozenset([kind]))
    slots = {"kind": kind, "a_kind": with_article(kind)}
    return writer.write("where_each" if len(found) > 1 else "where", found, slots, family="where")


def _move(writer: SceneQuestionWriter) -> Question | None:
    x = writer.random_object()
    return writer.write_related("move", x, writer.facts.clearly_in_front_of(x))


def _hides(writer: SceneQuestionWriter) -> Question | None:
    x = writer.random_object()
    return writer.write_related("hides", x, writer.facts.clearly_in_front_of(x))


def _behind(writer: SceneQuestionWriter) -> Question | None:
    x = writer.random_object()
    return writer.write_related("behind", x, writer.facts.clearly_behind(x))


def _reveal(writer: SceneQuestionWriter) -> Question | None:
    x = writer.random_object()
    revealed = writer.facts.revealed_without(x)
    if revealed is None or not (revealed or writer.happens(NOTHING_SHARE)) or _are_cut(writer, revealed):
        return None
    return writer.write("reveal", revealed, {"x": writer.facts.names[x]}, antecedents=())


def _most_hidden(writer: SceneQuestionWriter) -> Question | None:
    first = writer.facts.largest(writer.facts.rates, margin=RATE_MARGIN)
    return _of_largest(writer, "most_hidden", first, exists=bool(writer.facts.rates.any()))


def _of_largest(
    writer: SceneQuestionWriter, form_name: str, first: int | None, *, exists: bool, antecedents: Sequence[int] = ()
) -> Question | None:
    """Ask for the most occluded object; the form is drawn even where no object leads clearly."""
    if not exists:
        return writer.write(form_name, [], antecedents=antecedents)
    question = writer.write(form_name, [] if first is None else [first])
    return None if first is None else question


def _hidden(writer: SceneQuestionWriter) -> Question | None:
    found = writer.facts.clearly_occluded()
    return None if found is None or len(found) > MAX_LISTED else writer.write("hidden", found)


def _whole(writer: SceneQuestionWriter) -> Question | None:
    occluded = writer.facts.clearly_occluded()
    if occluded is None:
        return None
    found = [i for i in range(len(writer.facts)) if i not in occluded]
    in_doubt = _are_cut(writer, found) or len(found) > MAX_LISTED
    return None if in_doubt else writer.write("whole", found)


def _are_cut(writer: SceneQuestionWriter, indices: Sequence[int]) -> bool:
    """Whether the border cuts off one of these objects: then nobody can say that it is seen whole."""
    return any(writer.facts.touches_border(i) for i in indices)


def _size(writer: SceneQuestionWriter) -> Question | None:
    sign, form_name = (1, "largest") if writer.happens(0.5) else (-1, "smallest")
    first = writer.facts.largest(sign * np.log(writer.facts.areas), margin=AREA_MARGIN)
    return None if first is None else writer.write(form_name, [first], family="size")


def _edge(writer: SceneQuestionWriter) -> Question | None:
    cut = writer.facts.cut_by_border()
    return None if cut is None or len(cut) > MAX_LISTED else writer.write("edge", cut)


def _more_hidden(writer: SceneQuestionWriter) -> Question | None:
    if len(writer.facts) < 2:
        return None
    x, y = (int(i) for i in writer.rng.permutation(len(writer.facts))[:2])
    more = writer.facts.largest(writer.facts.rates, [x, y], margin=RATE_MARGIN)
    return None if more is None else _one_of_two(writer, "more_hidden", x, y, more)


def _in_front(writer: SceneQuestionWriter) -> Question | None:
    x = writer.random_object()
    behind = writer.facts.clearly_behind(x)
    if not behind:
        return None
    y = int(writer.rng.choice(behind))
    if writer.facts.cover[y, x] > 0:  # they occlude each other
        return None
    first, second = (x, y) if writer.happens(0.5) else (y, x)
    return _one_of_two(writer, "in_front", first, second, x)


def _one_of_two(writer: SceneQuestionWriter, form_name: str, x: int, y: int, right: int) -> Question:
    return writer.write(form_name, [right], {"x": writer.facts.names[x], "y": writer.facts.names[y]})


# Follow-ups, given the turn before


def _it_hides(writer: SceneQuestionWriter, before: Question) -> Question | None:
    if len(before.antecedents) != 1 or before.family == "hides":
        return None
    (x,) = before.antecedents
    return writer.write_related("it_hides", x, writer.facts.clearly_in_front_of(x))


def _it_behind(writer: SceneQuestionWriter, before: Question) -> Question | None:
    if len(before.antecedents) != 1 or before.family == "behind":
        return None
    (x,) = before.antecedents
    return writer.write_related("it_behind", x, writer.facts.clearly_behind(x))


def _it_seen(writer: SceneQuestionWriter, before: Question) -> Question | None:
    if len(before.antecedents) != 1:
        return None
    seen = amount(float(writer.facts.rates[before.antecedents[0]]), margin=DEGREE_MARGIN)
    if seen is None or _are_cut(writer, before.antecedents):
        return None
    return writer.write("it_seen", before.antecedents, {"amount": seen})


def _them_most(writer: SceneQuestionWriter, before: Question) -> Question | None:
    among = before.antecedents
    if len(among) < 2:
        return None
    first = writer.facts.largest(writer.facts.rates, among, margin=RATE_MARGIN)
    exists = bool(writer.facts.rates[list(among)].any())
    return _of_largest(writer, "them_most", first, exists=exists, antecedents=among)


def _them_largest(writer: SceneQuestionWriter, before: Question) -> Question | None:
    if len(before.antecedents) < 2:
        return None
    first = writer.facts.largest(np.log(writer.facts.areas), before.antecedents, margin=AREA_MARGIN)
    return None if first is None else writer.write("them_largest", [first])


def _and_hides(writer: SceneQuestionWriter, before: Question) -> Question | None:
    """What is in front of an object that the answer before named: the next one in the chain."""
    if not before.named:
        return None
    x = int(writer.rng.choice(before.named))
    return writer.write_related("and_hides", x, writer.facts.clearly_in_front_of(x), family="hides")


FAMILIES: dict[Family, float] = {
    _use: 4, _need: 3, _trait: 2.5, _use_and_occluder: 1.5, _where: 2, _move: 2.5, _hides: 2, _behind: 2,
    _reveal: 1, _most_hidden: 1.5, _hidden: 1, _whole: 0.7, _size: 1.2, _edge: 0.4, _more_hidden: 1, _in_front: 1,
}  # fmt: skip
"""How often each family is tried; those that a scene rarely answers clearly come less often."""

OPENERS: dict[Family, float] = {
    f: n for f, n in FAMILIES.items() if f in (_use, _need, _trait, _where, _most_hidden, _size, _more_hidden, _hidden)
}
"""Families whose answers allow follow-ups."""

NAMED_FAMILIES: dict[Family, float] = {
    f: n for f, n in FAMILIES.items() if f in (_where, _move, _hides, _behind, _more_hidden, _in_front)
}
"""Families about objects that the question names, for images of which only some objects are known."""

FOLLOW_UPS: dict[Family, float] = {
    _it_hides: 3, _it_behind: 2, _it_seen: 2, _them_most: 3, _them_largest: 2, _and_hides: 2,
}  # fmt: skip
