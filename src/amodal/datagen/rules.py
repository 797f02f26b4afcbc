"""The rules that every question-answer pair must satisfy.

There is one function per rule; it returns what is wrong with the pair, or None. The rule on occlusion also reads
statements from the words of an answer. It understands only plain statements between two mentions in one sentence:
"A hides B", "A, which is partly behind B and C", "A, which B partly covers". It ignores negations and everything else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from amodal.data.reason_seg import check_question, parse_answer, plain_text
from amodal.data.samples import ImageSample, ObjectSample
from amodal.datagen.store.records import Draft
from amodal.errors import InputError
from amodal.ops.occlusion import is_occluded
from amodal.ops.rle import rle_area
from amodal.questions.wording import named_in, naming_words, words_in

_ENGLISH = frozenset(
    words_in(
        "a about all an and any are as at be because been before behind but by can could do does for from has have "
        "here how i if in into is it its like me more most my no not nothing of off on one only or other out over part "
        "so some something than that the their them then there these they things this those to too under up us "
        "want was we what when where which while who whose why will with without would you your"
    )
)

MAX_ANSWER_LENGTH = 4000  # characters; a model that repeats itself writes more, which slows down the other rules


@dataclass(frozen=True)
class RuleSettings:
    """Settings of the rules.

    Attributes:
        question_words: minimum and maximum number of words of a question.
        answer_words: minimum and maximum number of words of an answer, without markup.
        english_share: minimum share of English function words; 0 allows every language.
        alike: share of common words from which two questions count as the same.
        alike_same_objects: this share if both answers mention the same objects.
        synonyms: further words by category.
        skip: names of rules to skip.
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
class RuleViolation:
    """A rule that a pair violates, and how."""

    rule: str
    reason: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.reason}"


@dataclass(frozen=True)
class RuleContext:
    """The annotation that a pair is checked against.

    Attributes:
        image: the image with its objects and their occluders.
        categories: names by id.
        settings: settings of the rules.
    """

    image: ImageSample
    categories: Mapping[int, str]
    settings: RuleSettings = field(default_factory=RuleSettings)

    def objects(self) -> dict[int, ObjectSample]:
        """Objects by id."""
        return {obj.id: obj for obj in self.image.objects}

    def names(self, obj: ObjectSample) -> frozenset[tuple[str, ...]]:
        """Words that name the object's category."""
        return naming_words(self.category(obj), self.settings.synonyms)

    def category(self, obj: ObjectSample) -> str:
        """Name of the object's category."""
        return self.categories.get(obj.category_id, "object")


def check_pair(draft: Draft, context: RuleContext) -> list[RuleViolation]:
    """All rules that a pair violates on its own; rules that need valid markup are skipped where it is broken."""
    violations = []
    for name, rule in RULES.items():
        if name in context.settings.skip:
            continue
        reason = rule(draft, context)
        if reason:
            violations.append(RuleViolation(name, reason))
        if reason and name in ("placeholders", "ids"):
            break
    return violations


def check_duplicate(draft: Draft, others: Sequence[Draft], settings: RuleSettings) -> RuleViolation | None:
    """Whether a pair asks nearly the same as another pair of the same image."""
    if "duplicate" in settings.skip:
        return None
    words, objects = frozenset(words_in(draft.question)), object_ids(draft.answer)
    for other in others:
        others_words = frozenset(words_in(other.question))
        shared = len(words & others_words) / max(len(words | others_words), 1)
        same_objects = set(objects) == set(object_ids(other.answer))
        if shared >= (settings.alike_same_objects if same_objects else settings.alike):
            return RuleViolation(
                "duplicate", f"asks nearly what another question about the image asks: {other.question!r}"
            )
    return None


def object_ids(answer: str) -> list[int]:
    """Annotation ids in an answer, in order; empty if its markup is broken."""
    try:
        return [number for number, _ in parse_answer(answer)]
    except InputError:
        return []


def _placeholders(draft: Draft, context: RuleContext) -> str | None:
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


def _ids(draft: Draft, context: RuleContext) -> str | None:
    objects = context.objects()
    for number in object_ids(draft.answer):
        if number not in objects:
            return f"expected numbers of the image's objects, got {{seg:{number}}}"
        amodal = objects[number].amodal_rle
        if amodal is None or rle_area(amodal) == 0 or rle_area(objects[number].visible_rle) == 0:
            return f"expected objects with both masks, got {{seg:{number}}}, one of which is empty"
    return None


def _binding(draft: Draft, context: RuleContext) -> str | None:
    """The words before a placeholder must not name another category of the image instead of the object's own."""
    objects = context.objects()
    categories = {context.category(obj): context.names(obj) for obj in objects.values()}
    for number, phrase in parse_answer(draft.answer):
        own = context.names(objects[number])
        if phrase is None or named_in(phrase, own):
            continue
        for other, names in categories.items():
            if not names & own and named_in(phrase, names):
                category = context.category(objects[number])
                return f"expected words for [{number}], a {category}, got {phrase!r}, which names a {other}"
    return None


def _giveaway(draft: Draft, context: RuleContext) -> str | None:
    objects = context.objects()
    for number in object_ids(draft.answer):
        found = named_in(draft.question, context.names(objects[number]))
        if found:
            return f"expected a question that does not name its answer, got {found!r} for [{number}]"
    return None


def _occlusion(draft: Draft, context: RuleContext) -> str | None:
    objects = context.objects()
    for front, behind in (*draft.claims, *claims_in_text(draft.answer)):
        for number in (front, behind):
            if number not in objects:
                return f"expected statements about the image's objects, got one about [{number}]"
        if front not in objects[behind].occluders:
            return f"expected what the masks show, got that [{front}] hides part of [{behind}]"
    for number, occluded in false_states_in_text(draft.answer, objects):
        word = "partly hidden" if occluded else "fully visible"
        return f"expected what the masks show, got that [{number}] is {word}"
    return None


def _length(draft: Draft, context: RuleContext) -> str | None:
    settings = context.settings
    for what, text, (fewest, most) in (
        ("question", draft.question, settings.question_words),
        ("answer", plain_text(draft.answer), settings.answer_words),
    ):
        count = len(words_in(text))
        if not fewest <= count <= most:
            return f"expected {fewest} to {most} words in the {what}, got {count}"
    return None


def _language(draft: Draft, context: RuleContext) -> str | None:
    least = context.settings.english_share
    for what, text in (("question", draft.question), ("answer", plain_text(draft.answer))):
        words, letters = words_in(text), re.findall(r"[^\W\d_]", text)
        share = sum(word in _ENGLISH for word in words) / max(len(words), 1)
        latin = sum(letter.isascii() for letter in letters) / max(len(letters), 1)
        if least and (share < least or latin < 0.9):
            found = f"{share:.0%} common English words and {latin:.0%} English letters"
            return f"expected English in the {what}, got {found}"
    return None


RULES: dict[str, Callable[[Draft, RuleContext], str | None]] = {
    "placeholders": _placeholders,
    "ids": _ids,
    "binding": _binding,
    "giveaway": _giveaway,
    "occlusion": _occlusion,
    "length": _length,
    "language": _language,
}


_MENTION = re.compile(r"<p>[^<>]*</p>\s*\{seg:(\d+)\}")
_HIDING = r"hid(?:es?|ing)|cover(?:s|ing)?|block(?:s|ing)?|obscur(?:es?|ing)|occlud(?:es?|ing)|conceal(?:s|ing)?"
_HIDDEN = r"hidden|covered|blocked|obscured|occluded|concealed"
_FRONT = re.compile(rf"\b(?:in front of|{_HIDING})\W*(?:part of|parts of|some of|most of|half of|a bit of)?\W*$")
_BEHIND = re.compile(rf"\b(?:behind|(?:{_HIDDEN}) by)\W*$")
_RELATIVE = re.compile(r"^\W*(?:which|that)\W*$")
_AFTER_RELATIVE = re.compile(rf"^\W*(?:\w+ly\W+|half\W+)?(?:{_HIDING}|stands? in front of)\b\W*(?=$|[,.;:!?]|and\b)")
_NEGATION = re.compile(r"\b(?:not|no|nothing|never|neither|nor|without)\b|n[’']t\b")
_FULLY_VISIBLE = re.compile(r"^\W*(?:(?:which|that|it|and)\W+)*(?:is|are|stays|remains)?\W*"
                    r"(?:fully|completely|entirely|wholly) (?:visible|seen|in view)\b")  # fmt: skip
_PARTLY = re.compile(rf"^\W*(?:(?:which|that|it|and)\W+)*(?:is|are)\W+(?:\w+ly\W+|half\W+|mostly\W+)?(?:{_HIDDEN})\b")
_JOINED = re.compile(r"^\W*(?:and|,|or)?\W*$")
_END = re.compile(r"[.;!?]")


@dataclass(frozen=True)
class _Mention:
    """A mention of an object in a sentence, and the words from there to the next mention."""

    number: int
    after: str


def claims_in_text(answer: str) -> list[tuple[int, int]]:
    """(front, behind) annotation ids of each statement about two objects."""
    found = list[tuple[int, int]]()
    for mentions in _sentences(answer):
        for position, (one, other) in enumerate(pairwise(mentions)):
            joined = [other.number]
            for previous, following in pairwise(mentions[position + 1 :]):
                if not _JOINED.match(previous.after):
                    break
                joined.append(following.number)
            if _NEGATION.search(one.after):
                continue
            if _BEHIND.search(one.after):
                found += [(number, one.number) for number in joined]
            elif _FRONT.search(one.after):
                found += [(one.number, number) for number in joined]
            elif _RELATIVE.match(one.after) and _AFTER_RELATIVE.match(other.after):
                found.append((other.number, one.number))
    return found


def false_states_in_text(answer: str, objects: Mapping[int, ObjectSample]) -> Iterator[tuple[int, bool]]:
    """(annotation id, stated as occluded) of each statement about one object that its masks contradict."""
    for mentions in _sentences(answer):
        for one in mentions:
            if one.number not in objects or _NEGATION.search(one.after):
                continue
            occluded = is_occluded(objects[one.number].occlusion_rate())
            if _FULLY_VISIBLE.match(one.after) and occluded:
                yield one.number, False
            elif _PARTLY.match(one.after) and not occluded:
                yield one.number, True


def _sentences(answer: str) -> Iterator[list[_Mention]]:
    """Mentions in each sentence with the words after them, in lower case."""
    for sentence in _split(answer):
        places = list(_MENTION.finditer(sentence))
        ends = [*(place.start() for place in places[1:]), len(sentence)][: len(places)]
        yield [
            _Mention(int(place[1]), sentence[place.end() : end].lower())
            for place, end in zip(places, ends, strict=True)
        ]


def _split(answer: str) -> list[str]:
    """Split into sentences; a full stop inside a phrase does not end one."""
    parts, start = [], 0
    protected = [(m.start(), m.end()) for m in _MENTION.finditer(answer)]
    for stop in _END.finditer(answer):
        if not any(first <= stop.start() < last for first, last in protected):
            parts.append(answer[start : stop.end()])
            start = stop.end()
    return [*parts, answer[start:]]
