"""What a question-answer pair must keep to. One function a rule; each returns what is wrong, or None."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from amodal.data.formats.reason_seg import check_question, parse_answer, plain_text
from amodal.data.samples import ImageSample, ObjectSample
from amodal.datagen.occlusion_claims import claims_in_text, states_in_text
from amodal.datagen.store.records import Draft
from amodal.errors import InputError
from amodal.ops.rle import rle_area
from amodal.questions.synonyms import named_in, naming_words, words_in

_ENGLISH = frozenset(
    words_in(
        "a about all an and any are as at be because been before behind but by can could do does for from has have "
        "here how i if in into is it its like me more most my no not nothing of off on one only or other out over part "
        "so some something than that the their them then there these they things this those to too under up us "
        "want was we what when where which while who whose why will with without would you your"
    )
)

MAX_ANSWER_LENGTH = 4000  # characters; a model that babbles writes more, which takes the other rules long to read


@dataclass(frozen=True)
class RuleSettings:
    """Bounds of the rules.

    Attributes:
        question_words: fewest and most words of a question.
        answer_words: fewest and most of an answer, without markup.
        english_share: least share of English function words; 0 leaves the language open.
        alike: share of words in common from which two questions are the same.
        alike_same_objects: the same where both answers name the same objects.
        synonyms: further words by category.
        skip: names of rules to leave out.
    """

    question_words: tuple[int, int] = (4, 60)
    answer_words: tuple[int, int] = (4, 120)
    english_share: float = 0.15
    alike: float = 0.8
    alike_same_objects: float = 0.6
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    skip: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        unknown = self.skip - {*RULES, "duplicate"}
        if unknown:
            listed = ", ".join([*RULES, "duplicate"])
            raise InputError(f"skip: expected rules among {listed}, got {', '.join(sorted(unknown))}")


@dataclass(frozen=True)
class Fault:
    """A rule that a pair breaks, and how."""

    rule: str
    reason: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.reason}"


@dataclass(frozen=True)
class Context:
    """What a pair is held against.

    Attributes:
        image: with its objects and, from the masks, who hides whom.
        categories: names by id.
        settings: bounds.
    """

    image: ImageSample
    categories: Mapping[int, str]
    settings: RuleSettings = field(default_factory=RuleSettings)

    def objects(self) -> dict[int, ObjectSample]:
        """Objects by id."""
        return {thing.id: thing for thing in self.image.objects}

    def names(self, thing: ObjectSample) -> frozenset[tuple[str, ...]]:
        """What names this object's kind."""
        return naming_words(self.categories.get(thing.category_id, "object"), self.settings.synonyms)


def check_pair(draft: Draft, context: Context) -> list[Fault]:
    """All rules a pair breaks on its own; where the markup is broken, only what that allows to say."""
    faults = []
    for name, rule in RULES.items():
        if name in context.settings.skip:
            continue
        reason = rule(draft, context)
        if reason:
            faults.append(Fault(name, reason))
        if reason and name in ("placeholders", "ids"):
            break
    return faults


def check_duplicate(draft: Draft, others: Sequence[Draft], settings: RuleSettings) -> Fault | None:
    """Whether a pair asks what another pair of the same image asks already."""
    if "duplicate" in settings.skip:
        return None
    words, objects = frozenset(words_in(draft.question)), object_ids(draft.answer)
    for other in others:
        others_words = frozenset(words_in(other.question))
        shared = len(words & others_words) / max(len(words | others_words), 1)
        same_objects = set(objects) == set(object_ids(other.answer))
        if shared >= (settings.alike_same_objects if same_objects else settings.alike):
            return Fault("duplicate", f"asks nearly what another question of the picture asks: {other.question!r}")
    return None


def object_ids(answer: str) -> list[int]:
    """Annotation ids of an answer in order; empty where its markup is broken."""
    try:
        return [number for number, _ in parse_answer(answer)]
    except InputError:
        return []


def _placeholders(draft: Draft, context: Context) -> str | None:
    if len(draft.answer) > MAX_ANSWER_LENGTH:
        return f"expected an answer of at most {MAX_ANSWER_LENGTH} characters, got {len(draft.answer)}"
    try:
        check_question(draft.question)
        mentions = parse_answer(draft.answer)
    except InputError as error:
        return str(error)
    if not mentions:
        return "expected an answer that mentions objects, got one without {seg:NUMBER}"
    bare = [number for number, phrase in mentions if phrase is None]
    if bare:
        return f"expected <p>words</p> before each placeholder, got none before {{seg:{bare[0]}}}"
    return None


def _ids(draft: Draft, context: Context) -> str | None:
    objects = context.objects()
    for number in object_ids(draft.answer):
        if number not in objects:
            return f"expected numbers of the picture's objects, got {{seg:{number}}}"
        amodal = objects[number].amodal_rle
        if amodal is None or rle_area(amodal) == 0 or rle_area(objects[number].visible_rle) == 0:
            return f"expected objects with both masks, got {{seg:{number}}}, one of which is empty"
    return None


def _binding(draft: Draft, context: Context) -> str | None:
    """The words before a placeholder must not name another kind of the picture instead of its own."""
    objects = context.objects()
    kinds = {context.categories.get(thing.category_id, "object"): context.names(thing) for thing in objects.values()}
    for number, phrase in parse_answer(draft.answer):
        own = context.names(objects[number])
        if phrase is None or named_in(phrase, own):
            continue
        for kind, names in kinds.items():
            found = None if names & own else named_in(phrase, names)
            if found:
                category = context.categories.get(objects[number].category_id, "object")
                return f"expected words for [{number}], a {category}, got {phrase!r}, which names a {kind}"
    return None


def _giveaway(draft: Draft, context: Context) -> str | None:
    objects = context.objects()
    for number in object_ids(draft.answer):
        found = named_in(draft.question, context.names(objects[number]))
        if found:
            return f"expected a question that does not name its answer, got {found!r} for [{number}]"
    return None


def _occlusion(draft: Draft, context: Context) -> str | None:
    objects = context.objects()
    for front, behind in (*draft.claims, *claims_in_text(draft.answer)):
        for number in (front, behind):
            if number not in objects:
                return f"expected statements about the picture's objects, got one about [{number}]"
        if front not in objects[behind].occluders:
            return f"expected what the masks show, got that [{front}] hides part of [{behind}]"
    for number, hidden in states_in_text(draft.answer, objects):
        word = "partly hidden" if hidden else "fully visible"
        return f"expected what the masks show, got that [{number}] is {word}"
    return None


def _length(draft: Draft, context: Context) -> str | None:
    settings = context.settings
    for what, text, (fewest, most) in (
        ("question", draft.question, settings.question_words),
        ("answer", plain_text(draft.answer), settings.answer_words),
    ):
        count = len(words_in(text))
        if not fewest <= count <= most:
            return f"expected {fewest} to {most} words in the {what}, got {count}"
    return None


def _language(draft: Draft, context: Context) -> str | None:
    least = context.settings.english_share
    for what, text in (("question", draft.question), ("answer", plain_text(draft.answer))):
        words, letters = words_in(text), re.findall(r"[^\W\d_]", text)
        share = sum(word in _ENGLISH for word in words) / max(len(words), 1)
        latin = sum(letter.isascii() for letter in letters) / max(len(letters), 1)
        if least and (share < least or latin < 0.9):
            found = f"{share:.0%} common English words and {latin:.0%} English letters"
            return f"expected English in the {what}, got {found}"
    return None


RULES: dict[str, Callable[[Draft, Context], str | None]] = {
    "placeholders": _placeholders,
    "ids": _ids,
    "binding": _binding,
    "giveaway": _giveaway,
    "occlusion": _occlusion,
    "length": _length,
    "language": _language,
}
