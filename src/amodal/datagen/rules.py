"""The rules that every question-answer pair must satisfy.

There is one function per rule; it returns what is wrong with the pair, or None. The rules on claims read what the
sentences of an answer say about the masks (`claims.py`): a false claim violates `claims`, and a sentence that cannot
be read violates `unclear`, which sends the pair to people instead of back to its writer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from amodal.data.reason_seg import check_question, parse_answer, plain_text
from amodal.data.samples import ImageSample, ObjectSample
from amodal.datagen.claims import ClaimVerdict, judge_claims
from amodal.datagen.store.records import Draft
from amodal.errors import InputError
from amodal.ops.rle import rle_area
from amodal.questions.facts import Facts
from amodal.questions.knowledge import Knowledge, built_in_facts, category_key
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
        alike_same_objects: this share if both answers mention the same objects and the sort of question is unknown.
        synonyms: further words by category.
        knowledge: facts by category; a phrase may use their adjectives.
        skip: names of rules to skip.
    """

    question_words: tuple[int, int] = (4, 60)
    answer_words: tuple[int, int] = (4, 120)
    english_share: float = 0.15
    alike: float = 0.8
    alike_same_objects: float = 0.6
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    knowledge: Knowledge = field(default_factory=built_in_facts)
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

    @cached_property
    def facts(self) -> Facts:
        """What the masks show."""
        return Facts(self.image, self.categories, stacked_names=True)

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
    """Whether a pair asks nearly the same as another pair of the same image.

    Two pairs ask the same if their questions share most words. They are paraphrases if their answers mention the same
    objects and their questions are of the same sort; questions of no known sort must share many words besides.
    """
    if "duplicate" in settings.skip:
        return None
    words, objects = frozenset(words_in(draft.question)), set(object_ids(draft.answer))
    for other in others:
        others_words, others_objects = frozenset(words_in(other.question)), set(object_ids(other.answer))
        shared = len(words & others_words) / max(len(words | others_words), 1)
        sort = question_sort(draft)
        paraphrase = bool(objects) and objects == others_objects and sort == question_sort(other)
        if shared >= settings.alike or (paraphrase and (sort or shared >= settings.alike_same_objects)):
            return RuleViolation(
                "duplicate", f"asks nearly what another question about the image asks: {other.question!r}"
            )
    return None


_SORTS: dict[str, re.Pattern[str]] = {
    "hidden": re.compile(r"\b(?:hid\w*|cover\w*|conceal\w*|see|seen|sight|view|visible|guess\w*|behind|outline)\b"),
    "obstacle": re.compile(r"\b(?:way|mov\w+|remov\w+|tak\w+ away|aside|front|past|uncover\w*|obstacle)\b"),
    "size": re.compile(r"\b(?:larg\w+|small\w+|big\w*|siz\w+|room|area|paper|fills?|tiny|huge)\b"),
    "side": re.compile(r"\b(?:left|right|top|bottom|upper|lower|edge|border|corner|half|side|margin)\b"),
    "order": re.compile(r"\b(?:first|last|next|then|row|order|line|ends|between|middle)\b"),
    "distance": re.compile(r"\b(?:near\w*|clos\w+|far\w*|distance|apart|together)\b"),
}


def question_sort(draft: Draft) -> frozenset[str]:
    """What a question about the image is about, by its words; empty if it is about use, or anything else."""
    return frozenset(name for name, pattern in _SORTS.items() if pattern.search(draft.question.lower()))


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


def _phrase(draft: Draft, context: RuleContext) -> str | None:
    """The words before a placeholder must name the object's category, or use an adjective of its facts."""
    objects = context.objects()
    categories = {context.category(obj): context.names(obj) for obj in objects.values()}
    for number, phrase in parse_answer(draft.answer):
        own, category = context.names(objects[number]), context.category(objects[number])
        if phrase is None or named_in(phrase, own):
            continue
        for other, names in categories.items():
            if not names & own and named_in(phrase, names):
                return f"expected words for [{number}], a {category}, got {phrase!r}, which names a {other}"
        facts = context.settings.knowledge.get(category_key(category))
        looks = {tuple(words_in(look)) for look in facts.looks} if facts else set()
        if not named_in(phrase, frozenset(looks)):
            return f"expected words that name [{number}], a {category}, got {phrase!r}"
    return None


def _giveaway(draft: Draft, context: RuleContext) -> str | None:
    objects = context.objects()
    for number in object_ids(draft.answer):
        found = named_in(draft.question, context.names(objects[number]))
        if found:
            return f"expected a question that does not name its answer, got {found!r} for [{number}]"
    return None


def _stated(draft: Draft, context: RuleContext) -> str | None:
    """What the writer states about occlusion besides the words of the answer."""
    objects, facts = context.objects(), context.facts
    position = {obj.id: i for i, obj in enumerate(facts.objects)}
    for front, behind in draft.claims:
        for number in (front, behind):
            if number not in objects:
                return f"expected statements about the image's objects, got one about [{number}]"
        if position[front] not in facts.in_front_of(position[behind]):
            return f"expected what the masks show, got that [{front}] hides part of [{behind}]"
    return None


def _claims(draft: Draft, context: RuleContext) -> str | None:
    for verdict in _verdicts(draft, context):
        if verdict.verdict == "false":
            return f"expected what the masks show, got {verdict.text} ({verdict.kind})"
    return None


def _unclear(draft: Draft, context: RuleContext) -> str | None:
    for verdict in _verdicts(draft, context):
        if verdict.verdict == "unclear":
            return f"for people: no rule reads {verdict.text}"
    return None


def _verdicts(draft: Draft, context: RuleContext) -> list[ClaimVerdict]:
    """The claims of an answer; parts and materials listed of its categories are no claims about masks."""
    answer = draft.answer
    for category in {context.category(obj) for obj in context.image.objects}:
        known = context.settings.knowledge.get(category_key(category))
        for words in (*known.parts, *known.materials) if known else ():
            answer = re.sub(rf"(\b(?:has|have|of|with|and|its|their)|,) {re.escape(words)}\b", r"\1 details", answer)
    return judge_claims(answer, context.facts)


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
    "phrase": _phrase,
    "giveaway": _giveaway,
    "occlusion": _stated,
    "claims": _claims,
    "unclear": _unclear,
    "length": _length,
    "language": _language,
}
