"""What an answer says about who hides whom, read off its words.

Only plain statements between two mentions of one sentence are read: "A hides B", "A, which is
partly behind B and C", "A, which B partly covers". Negations and whatever else are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from amodal.data.samples import ObjectSample
from amodal.datagen.describe import is_hidden

_MENTION = re.compile(r"<p>[^<>]*</p>\s*\{seg:(\d+)\}")
_HIDING = r"hid(?:es?|ing)|cover(?:s|ing)?|block(?:s|ing)?|obscur(?:es?|ing)|occlud(?:es?|ing)|conceal(?:s|ing)?"
_HIDDEN = r"hidden|covered|blocked|obscured|occluded|concealed"
_FRONT = re.compile(rf"\b(?:in front of|{_HIDING})\W*(?:part of|parts of|some of|most of|half of|a bit of)?\W*$")
_BEHIND = re.compile(rf"\b(?:behind|(?:{_HIDDEN}) by)\W*$")
_RELATIVE = re.compile(r"^\W*(?:which|that)\W*$")
_AFTER_RELATIVE = re.compile(rf"^\W*(?:\w+ly\W+|half\W+)?(?:{_HIDING}|stands? in front of)\b\W*(?=$|[,.;:!?]|and\b)")
_NEGATION = re.compile(r"\b(?:not|no|nothing|never|neither|nor|without)\b|n[’']t\b")
_WHOLE = re.compile(r"^\W*(?:(?:which|that|it|and)\W+)*(?:is|are|stays|remains)?\W*"
                    r"(?:fully|completely|entirely|wholly) (?:visible|seen|in view)\b")  # fmt: skip
_PARTLY = re.compile(rf"^\W*(?:(?:which|that|it|and)\W+)*(?:is|are)\W+(?:\w+ly\W+|half\W+|mostly\W+)?(?:{_HIDDEN})\b")
_JOINED = re.compile(r"^\W*(?:and|,|or)?\W*$")
_END = re.compile(r"[.;!?]")


@dataclass(frozen=True)
class _Mention:
    """An object in a sentence, and the words up to the next one."""

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


def states_in_text(answer: str, objects: Mapping[int, ObjectSample]) -> Iterator[tuple[int, bool]]:
    """(annotation id, hidden) of each statement about one object that its masks contradict."""
    for mentions in _sentences(answer):
        for one in mentions:
            if one.number not in objects or _NEGATION.search(one.after):
                continue
            hidden = is_hidden(objects[one.number])
            if _WHOLE.match(one.after) and hidden:
                yield one.number, False
            elif _PARTLY.match(one.after) and not hidden:
                yield one.number, True


def _sentences(answer: str) -> Iterator[list[_Mention]]:
    """Mentions of each sentence with what follows them, in lower case."""
    for sentence in _split(answer):
        places = list(_MENTION.finditer(sentence))
        ends = [*(place.start() for place in places[1:]), len(sentence)][: len(places)]
        yield [
            _Mention(int(place[1]), sentence[place.end() : end].lower())
            for place, end in zip(places, ends, strict=True)
        ]


def _split(answer: str) -> list[str]:
    """Sentences; a full stop within a phrase ends none."""
    parts, start = [], 0
    protected = [(m.start(), m.end()) for m in _MENTION.finditer(answer)]
    for stop in _END.finditer(answer):
        if not any(first <= stop.start() < last for first, last in protected):
            parts.append(answer[start : stop.end()])
            start = stop.end()
    return [*parts, answer[start:]]
