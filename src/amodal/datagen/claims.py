"""What an answer claims about the masks: reads each sentence, and compares its claims with the annotation.

A claim that contradicts the masks, or that speaks of what the annotation does not know, is false. A sentence with
words of claims that no pattern of `claim_kinds` reads is unclear: only a person can judge it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from amodal.datagen.claim_kinds import (
    CLAIM_KINDS,
    CLAIM_WORDS,
    GROUP,
    IMAGE,
    MENTION,
    NUMBERS,
    Claim,
    ClaimKind,
    is_at,
    positions,
    truth_of,
)
from amodal.ops.occlusion import is_occluded
from amodal.questions.facts import Facts, ordinal
from amodal.questions.wording import naming_words, words_in

_MENTION = re.compile(r"<p>([^<>]*)</p>\s*((?:\{seg:\d+\}\s*)+)")
_SENTENCE = re.compile(r"(?<!\d)[.;!?]|[.;!?](?!\d)")
_PLACES = re.compile(
    r"\b(?:(?:on|at|in|to) the )?(?:far )?"
    r"((?:upper |lower |top |bottom )?(?:left|right)|top|bottom|middle|cent(?:re|er)|central|upper|lower)"
    rf"(?: side| part| half| corner| edge)?(?: of the {IMAGE})?\b"
)
_ORDINAL = re.compile(
    r"\b(first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|\d+(?:st|nd|rd|th))\b(.*?)"
    r" from the (left|right)\b"
)

_CONDITION = re.compile(r"\b(?:if|unless|were|until|once)\b")  # then a claim is not about what the image shows
_NEGATION = re.compile(r"\b(?:not|no|never|neither|nor|cannot|instead|rather|twice|hardly|false|wrong)\b|n't\b")
_NEGATION_AFTER = re.compile(r" (?:neither|nor|not|no|never)\b")
_CLAUSE_END = re.compile(r",|\b(?:because|since|as|so|but|while)\b")
_SINGULAR = re.compile(
    r"(?:,? (?:which|that|who))? (?:is|stands|lies|sits|has|hides|covers|reaches|extends|fills|remains|stays)\b"
)

Verdict = Literal["true", "false", "unclear"]


@dataclass(frozen=True)
class ClaimVerdict:
    """The result for one claim, or for one sentence that could not be read.

    Attributes:
        kind: kind of the claim; "unread" if no pattern reads it, "phrase" for the words that name an object.
        verdict: whether the masks show it.
        text: the words of the claim, with annotation ids in square brackets.
    """

    kind: str
    verdict: Verdict
    text: str


def judge_claims(answer: str, facts: Facts) -> list[ClaimVerdict]:
    """Judge all claims of an answer.

    Args:
        answer: valid markup, with ids of the image's objects.
        facts: facts about the image.
    """
    index = {obj.id: position for position, obj in enumerate(facts.objects)}
    verdicts, order, phrases = list[ClaimVerdict](), list[int](), list[tuple[str, list[int]]]()

    def replace(found: re.Match[str]) -> str:
        members = [index[int(number)] for number in re.findall(r"\d+", found[2])]
        phrases.append((found[1], members))
        names = [f"@{len(order) + i}" for i in range(len(members))]
        order.extend(members)
        following = answer[found.end() : found.end() + 1]  # a digit would change the number of the mention
        return "+".join(names) + (" " if found[2][-1].isspace() or following.isdecimal() else "")

    answer = answer.replace("@", " ")  # the reader's own sign
    text = " ".join(_MENTION.sub(replace, answer).lower().split())
    for phrase, members in phrases:
        verdicts += _judge_phrase(phrase, members, facts)
    before: list[str] = []
    for sentence in _SENTENCE.split(text):
        reader = _Reader(sentence, tuple(order), before, facts)
        verdicts += reader.verdicts()
        before = [match[0] for match in re.finditer(GROUP, sentence)] or before
    return verdicts


class _Reader:
    """Reads the claims of one sentence.

    Args:
        sentence: in lower case, with `@0`, `@1`, ... for the mentions of the answer.
        order: position of the object of each mention.
        before: the groups of mentions in the sentence before.
        facts: facts about the image.
    """

    def __init__(self, sentence: str, order: tuple[int, ...], before: Sequence[str], facts: Facts) -> None:
        self._sentence, self._order, self._before, self._facts = sentence, order, before, facts
        self._left = sentence  # what no claim has read yet
        self._mentioned = positions(sentence, order) or positions(" ".join(before), order)

    def verdicts(self) -> Iterator[ClaimVerdict]:
        claims = list[tuple[str, ClaimKind, re.Match[str]]]()
        for name, kind in CLAIM_KINDS.items():
            for pattern in kind.patterns:
                while found := pattern.search(self._left):
                    claims.append((name, kind, found))
                    blank = re.sub(rf"{MENTION}|.", lambda m: m[0] if m[0][0] == "@" else " ", found[0])
                    self._left = self._left[: found.start()] + _closed(blank) + self._left[found.end() :]
        for name, kind, found in claims:
            verdict = "unclear" if self._is_qualified(found) else self._judge(kind, found)
            yield ClaimVerdict(name, verdict, self._readable(found[0]))
        unread = CLAIM_WORDS.search(self._left)
        if unread:
            yield ClaimVerdict("unread", "unclear", f"{unread[0]!r} in {self._readable(self._sentence.strip())!r}")

    def _is_qualified(self, found: re.Match[str]) -> bool:
        """Whether a condition, or a negation that no pattern has read, changes what a claim says."""
        clause, after = _CLAUSE_END.split(self._left[: found.start()])[-1], self._left[found.end() :]
        return bool(_CONDITION.search(self._sentence) or _NEGATION.search(clause) or _NEGATION_AFTER.match(after))

    def _judge(self, kind: ClaimKind, found: re.Match[str]) -> Verdict:
        """True or false if all objects that the pronouns may stand for agree."""
        words = {name: value for name, value in found.groupdict().items() if value is not None}
        own = [words[name] for name in ("s", "o") if name in words and "@" in words[name]]
        results = set()
        for s in self._candidates(_subject(found, words), found.start(), own):
            for o in self._candidates(words.get("o"), found.start(), own):
                results.add(truth_of(kind, Claim(self._facts, s, o, words, self._mentioned)))
        if not results or (True in results and len(results) > 1):
            return "unclear"
        return "true" if results == {True} else "false"

    def _candidates(self, text: str | None, end: int, own: Sequence[str]) -> list[tuple[int, ...]]:
        """The objects that a part of a claim may stand for: those it mentions, or those a pronoun may mean."""
        if text is None:
            return [()]
        if "@" in text:
            return [positions(text, self._order)]
        taken = {number for group in own for number in positions(group, self._order)}
        found = [match[0] for match in re.finditer(GROUP, self._sentence[:end])]
        groups = [positions(group, self._order) for group in found]
        groups = [g for g in groups if not taken & set(g)] or [
            g for group in self._before if not taken & set(g := positions(group, self._order))
        ]
        fitting = [g for g in groups if (len(g) == 1) == (text in ("it", "he", "she", "him", "her"))]
        return list(dict.fromkeys(fitting or (groups if text in ("they", "them") else [])))

    def _readable(self, text: str) -> str:
        ids = [self._facts.objects[position].id for position in self._order]
        return re.sub(r"@(\d+)", lambda m: f"[{ids[int(m[1])]}]", text)


def _subject(found: re.Match[str], words: dict[str, str]) -> str | None:
    """The subject of a claim; before a singular verb, only the last of several mentions."""
    text = words.get("s")
    if text is not None and _SINGULAR.match(found.string, found.end("s")):
        return re.findall(MENTION, text)[-1] if "@" in text else text
    return text


def _closed(blank: str) -> str:
    """Blanked text in which mentions do not join to a list that the sentence does not have."""
    return re.sub(r"(?<=\d) +(?=@)", lambda m: " " * (len(m[0]) - 1) + "|", blank)


def _judge_phrase(phrase: str, members: list[int], facts: Facts) -> Iterator[ClaimVerdict]:
    """Judge what the words that name objects say about them: places, order, number and visibility."""
    left = " ".join(phrase.lower().split())
    for index in members:
        ids = [facts.objects[i].id for i in members]
        rest = left
        for pattern, holds in ((_ORDINAL, _is_in_order), (_PLACES, _is_placed)):
            while found := pattern.search(rest):
                verdict: Verdict = "true" if holds(facts, index, found) else "false"
                yield ClaimVerdict("phrase", verdict, f"{phrase!r} for {ids}")
                rest = rest[: found.start()] + " " * len(found[0]) + rest[found.end() :]
        hidden = re.search(r"\b(?:partly|partially) (?:hidden|covered|occluded)\b", rest)
        if hidden:
            known = facts.is_known(index) and is_occluded(float(facts.rates[index]))
            yield ClaimVerdict("phrase", "true" if known else "false", f"{phrase!r} for {ids}")
            rest = rest.replace(hidden[0], "")
        for name in sorted(naming_words(facts.kinds[index]), key=len, reverse=True):
            rest = re.sub(rf"\b{re.escape(' '.join(name))}\b", " ", rest)
        if CLAIM_WORDS.search(rest):
            yield ClaimVerdict("unread", "unclear", f"{phrase!r} for {ids}")
    number = next((NUMBERS.index(word) for word in words_in(left) if word in NUMBERS[2:]), None)
    if number is None and "both" in words_in(left):
        number = 2
    if number is not None:
        yield ClaimVerdict("phrase", "true" if number == len(members) else "false", f"{phrase!r} for {len(members)}")


def _row_of(facts: Facts, index: int) -> list[int]:
    """The objects of the same kind from left to right."""
    return facts.left_to_right(facts.of_kinds(frozenset([facts.kinds[index]])))


def _is_in_order(facts: Facts, index: int, found: re.Match[str]) -> bool:
    row = _row_of(facts, index)
    place = row.index(index) if found[3] == "left" else len(row) - 1 - row.index(index)
    return facts.is_distinct(index) and ordinal(place + 1) == found[1]


def _is_placed(facts: Facts, index: int, found: re.Match[str]) -> bool:
    """Whether it is on that side of the image, or on that side of the others of its kind."""
    row, where = _row_of(facts, index), re.sub("cent(?:re|er|ral)", "middle", found[1])
    is_bare = found[0] == found[1]
    if len(row) > 1 and where in ("left", "right", "middle") and is_bare:
        place: Sequence[int] = {"left": (0,), "right": (len(row) - 1,), "middle": range(1, len(row) - 1)}[where]
        return facts.is_distinct(index) and row.index(index) in place
    if len(row) == 2 and where in ("upper", "lower") and is_bare:
        (other,) = (i for i in row if i != index)
        offset = facts.centres[other][1] - facts.centres[index][1]
        return offset >= facts.clear_gap if where == "upper" else offset <= -facts.clear_gap
    return is_at(facts, index, where)
