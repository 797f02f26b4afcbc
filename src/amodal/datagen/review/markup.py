"""Answers as people edit them: `[the mug #2]` instead of `<p>the mug</p> {seg:1204356}`.

The number is that of the object in the picture, from 1 in the order of the annotations: the same on
the coloured masks, in the text, and on the keyboard. `[#2]` is a placeholder without words, and
`[two mugs #2 #3]` words for several objects.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from amodal.data.formats.reason_seg import PLACEHOLDER
from amodal.errors import InputError

_MENTION = re.compile(r"(?:<p>([^<>]*)</p>\s*)?(\{seg:\d+\}(?:\s*\{seg:\d+\})*)")
# Brackets around markup or within marked words are text, not a mention.
_BRACKETS = re.compile(r"<p>[^<>]*</p>|\[([^\[\]<>{}]*)\]")


def to_editable(answer: str, object_ids: Sequence[int]) -> str:
    """An answer in the short form.

    Args:
        answer: text with `<p>words</p> {seg:ANNOTATION_ID}`.
        object_ids: annotation ids of the picture's objects; object number n is the n-th.

    Returns:
        The text with `[words #n]`. A mention that has no short form (words with brackets in them, an
        id that is not of this picture) stays as it is.
    """
    numbers = {annotation_id: i + 1 for i, annotation_id in enumerate(object_ids)}

    def short(match: re.Match[str]) -> str:
        words = " ".join((match[1] or "").split())
        mentioned = [int(number) for number in PLACEHOLDER.findall(match[2])]
        if re.search(r"[\[\]#{}]", words) or not all(i in numbers for i in mentioned):
            return match[0]
        return "[" + " ".join(filter(None, [words, *(f"#{numbers[i]}" for i in mentioned)])) + "]"

    return _MENTION.sub(short, answer)


def from_editable(text: str, object_ids: Sequence[int]) -> str:
    """The short form back to `<p>words</p> {seg:ANNOTATION_ID}`; white space becomes single spaces.

    Raises:
        InputError: a number that no object of the picture has.
    """

    def full(match: re.Match[str]) -> str:
        words, numbers = _split(match[1] or "")
        if not numbers:
            return match[0]
        for number in numbers:
            if not 1 <= number <= len(object_ids):
                raise InputError(f"answer: expected objects #1 to #{len(object_ids)}, got #{number}")
        placeholders = [f"{{seg:{object_ids[number - 1]}}}" for number in numbers]
        return " ".join(([f"<p>{words}</p>"] if words else []) + placeholders)

    return _BRACKETS.sub(full, " ".join(text.split()))


def reason_for_people(reason: str, object_ids: Sequence[int]) -> str:
    """What a rule has against a pair, with `#2` for the `[1204356]` that a model is told."""
    numbers = {str(annotation_id): i + 1 for i, annotation_id in enumerate(object_ids)}

    def short(match: re.Match[str]) -> str:
        return f"#{numbers[match[1]]}" if (match[1] or "") in numbers else match[0]

    return to_editable(_BRACKETS.sub(short, reason), object_ids)


def _split(inside: str) -> tuple[str, list[int]]:
    """`the mug #2 #3` to its words and the numbers at its end."""
    words, numbers = inside.split(), list[int]()
    while words:
        rest, mark, digits = words[-1].rpartition("#")
        if not mark or not re.fullmatch("[0-9]{1,9}", digits):
            break
        numbers.append(int(digits))
        words[-1:] = [rest] if rest else []
    return " ".join(words), numbers[::-1]
