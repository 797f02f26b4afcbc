"""Questions that go through a list: exercises for a model that has to learn to look.

A single question about a purpose says little about the image, because what is usual answers most of them. Here one
answer says of many kinds, purposes or objects in turn what is there. A small model learns from this within hundreds of
steps what it does not learn from single questions at all (see the log of experiments). Each entry of the answer
repeats what is asked for right before yes or no, so that the model can answer after attending to the object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np

from amodal.questions.facts import UNNAMED_KIND, Facts
from amodal.questions.grammar import with_article
from amodal.questions.scene_forms import (
    AREA_MARGIN,
    MAX_LISTED,
    PurposePart,
    SceneQuestionWriter,
)
from amodal.questions.talk_forms import about_the_image, small_talk
from amodal.questions.wording import (
    LIST_FORMS,
    PURPOSES,
    SCENE_KINDS,
    Question,
    Words,
    addressed,
    amount,
    capitalized,
)

T = TypeVar("T")
Lists = Literal["kinds", "all", "talk", "decisions"]

MAX_KINDS, MAX_PURPOSES, MAX_OBJECTS = 10, 5, 7  # entries of one list
NUM_DECISIONS = 10  # most questions about each image
PRESENT_DECISIONS = 0.5  # share of them whose answer is in the image


def scene_lists(
    facts: Facts,
    rng: np.random.Generator,
    lists: Lists = "all",
    words: Words = "train",
    kinds: tuple[str, ...] = SCENE_KINDS,
    frequency: Mapping[str, int] | None = None,
) -> list[list[Question]]:
    """Write lists about a scene, each a conversation of one turn; empty for a scene without objects.

    Small talk is written in the same way. "decisions" are one conversation of questions where something is, whose
    answers first say whether the image shows it. About images with other `kinds` than
    `SCENE_KINDS`, "all" cannot be written, see `scene_conversations`.

    Args:
        facts: facts about the scene.
        rng: source of all choices.
        lists: what to write.
        words: part of the wording to use.
        kinds: all kinds that the questions may name.
        frequency: how often decisions ask for each kind where it is absent, relative to the others; if it is how often
            the kind is present, the question alone does not tell the answer. All alike if None.
    """
    writer = SceneQuestionWriter(facts, rng, words, PRESENT_DECISIONS, kinds, frequency or {})
    made = [write(writer) for write in LISTS[lists]] if len(facts) else []
    questions = [question for question in made if question is not None]
    if lists == "decisions":
        return [questions] if questions else []
    return [[question] for question in questions]


def _kinds(writer: SceneQuestionWriter) -> Question | None:
    """Kinds that are in the image and about as many that are not, in random order."""
    named = [kind for kind in writer.kinds if kind != UNNAMED_KIND]
    found = {kind: writer.facts.of_kinds(frozenset([kind])) for kind in named}
    present = _shuffled(writer, [kind for kind in found if 0 < len(found[kind]) <= MAX_LISTED])
    absent = _shuffled(writer, [kind for kind in found if not found[kind]])
    half = MAX_KINDS // 2
    drawn = _shuffled(writer, [*present[:half], *absent[: min(len(present) + 1, half)]])
    asked = [with_article(kind) for kind in drawn]
    return _yes_or_no(writer, "list_kinds", "list_kinds", asked, asked, [found[kind] for kind in drawn])


def _uses(writer: SceneQuestionWriter) -> Question | None:
    """Purposes, traits or needs that an object of the scene serves and about as many that none serves."""
    parts: tuple[PurposePart, ...] = ("gap", "trait", "need")
    part = parts[writer.random_index(len(parts))]
    purposes = [(wording, p.kinds) for p in PURPOSES if (wording := getattr(p, part)) is not None]
    served = [writer.facts.of_kinds(kinds) for _, kinds in purposes]
    able = _shuffled(writer, [i for i, found in enumerate(served) if 0 < len(found) <= MAX_LISTED])
    other = _shuffled(writer, [i for i, found in enumerate(served) if not found])
    chosen = [*_disjoint(served, able)[: MAX_PURPOSES - MAX_PURPOSES // 2], *other[: MAX_PURPOSES // 2]]
    drawn = _shuffled(writer, chosen)
    asked = [writer.choose(purposes[i][0].train).rstrip(".") for i in drawn]
    repeated = asked if part == "need" else [addressed(text) for text in asked]
    return _yes_or_no(writer, "list_uses", f"list_{part}", asked, repeated, [served[i] for i in drawn])


def _amounts(writer: SceneQuestionWriter) -> Question | None:
    facts = writer.facts
    within = [i for i in facts.left_to_right() if not facts.touches_border(i)]  # nobody sees all of the others
    entries = [f"of {facts.mention(i)} {amount(float(facts.rates[i]))}" for i in within[:MAX_OBJECTS]]
    return _list(writer, "list_amounts", "list_amounts", entries)


def _fronts(writer: SceneQuestionWriter) -> Question | None:
    facts = writer.facts
    front = {i: facts.clearly_in_front_of(i) for i in facts.left_to_right()[:MAX_OBJECTS]}
    entries = [
        f"in front of {facts.mention(i)}: {facts.listing(found, by_name=True) or 'nothing'}"
        for i, found in front.items()
        if found is not None
    ]
    return _list(writer, "list_fronts", "list_fronts", entries)


def _sizes(writer: SceneQuestionWriter) -> Question | None:
    """Objects from the largest on; those about as large as the one before are left out."""
    areas, chosen = np.log(writer.facts.areas), list[int]()
    for i in np.argsort(-areas):
        if not chosen or areas[chosen[-1]] - areas[i] >= AREA_MARGIN:
            chosen.append(int(i))
    return _list(writer, "list_sizes", "list_sizes", [writer.facts.mention(i) for i in chosen[:MAX_OBJECTS]])


def _decision(writer: SceneQuestionWriter) -> Question | None:
    """Where the only object of a kind is; half of them are absent.

    No kind is asked for twice, because the first answer in a conversation would tell the second. Kinds with several
    objects are left out, because the plural in the question would tell the answer.
    """
    alone_in_image = [kind for kind in alone(writer.facts.kinds) if kind != UNNAMED_KIND]
    shown = [kind for kind in alone_in_image if kind not in writer.asked]
    absent = [kind for kind in writer.kinds if kind not in (*writer.facts.kinds, *writer.asked, UNNAMED_KIND)]
    often = np.array([float(writer.frequency.get(kind, not writer.frequency)) for kind in absent])
    num_absent = len(writer.asked.difference(alone_in_image))
    if writer.happens(writer.present) and shown:
        kind = writer.choose(shown)
    elif often.any() and num_absent <= len(alone_in_image):
        kind = str(writer.rng.choice(absent, p=often / often.sum()))
    else:
        return None
    writer.asked.add(kind)
    found, slots = writer.facts.of_kinds(frozenset([kind])), {"kind": kind, "a_kind": with_article(kind)}
    return writer.write("where", found, slots)


LISTS: dict[Lists, tuple[Callable[[SceneQuestionWriter], Question | None], ...]] = {
    "kinds": (_kinds, _kinds),
    "all": (_kinds, _uses, _amounts, _fronts, _sizes),
    "talk": (small_talk, about_the_image),
    "decisions": (_decision,) * NUM_DECISIONS,
}
"""The lists that are written about each image."""


def alone(kinds: Sequence[str]) -> list[str]:
    """The kinds that occur once, in order."""
    return [kind for kind, count in Counter(kinds).items() if count == 1]


def _yes_or_no(
    writer: SceneQuestionWriter,
    family: str,
    form_name: str,
    asked: list[str],
    repeated: list[str],
    found: list[list[int]],
) -> Question | None:
    """For each entry of the question, as the answer repeats it: yes and the objects that were found, or no."""
    entries = [
        f"{text} yes: {writer.facts.listing(objects)}" if objects else f"{text} no"
        for text, objects in zip(repeated, found, strict=True)
    ]
    return _list(writer, family, form_name, entries, asked)


def _list(
    writer: SceneQuestionWriter, family: str, form_name: str, entries: list[str], asked: Sequence[str] = ()
) -> Question | None:
    text = writer.choose(LIST_FORMS[form_name].train).format(list=", ".join(asked))
    return Question(family, capitalized(text), capitalized(f"{', '.join(entries)}.")) if entries else None


def _disjoint(served: list[list[int]], order: list[int]) -> list[int]:
    """Those of the purposes whose objects no earlier one has: an answer shows each object once."""
    taken: set[int] = set()
    kept = []
    for i in order:
        if taken.isdisjoint(served[i]):
            taken.update(served[i])
            kept.append(i)
    return kept


def _shuffled(writer: SceneQuestionWriter, items: Sequence[T]) -> list[T]:
    return [items[i] for i in writer.rng.permutation(len(items))]
