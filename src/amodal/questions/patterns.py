"""Patterns that stand for many forms of a text: "[Show me|Find] the mug." stands for two."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

HELD_OUT_SHARE = 10  # every tenth form is held out
_POLITE = re.compile(r"\b((?:[Cc]an|[Cc]ould) you [^.?!]*)\.$")
_ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")


def expanded(pattern: str) -> list[str]:
    """All texts that a pattern stands for, in the order of the alternatives.

    They have single spaces, and those that ask "Could you ..." end with a question mark.
    """
    pieces = _ALTERNATIVES.split(pattern)  # texts outside and inside brackets take turns
    choices = [piece.split("|") if number % 2 else [piece] for number, piece in enumerate(pieces)]
    texts = ("".join(chosen) for chosen in itertools.product(*choices))
    return list(dict.fromkeys(_tidied(text) for text in texts))


def divided(patterns: Iterable[str], known: Iterable[str] = ()) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The forms of several patterns in two parts: for training, and every tenth, which is held out.

    Args:
        patterns: with alternatives in brackets.
        known: texts that are left out.
    """
    left_out = set(known)
    texts = [text for text in dict.fromkeys(t for p in patterns for t in expanded(p)) if text not in left_out]
    half = HELD_OUT_SHARE // 2
    held_out = tuple(texts[half::HELD_OUT_SHARE])
    return tuple(text for text in texts if text not in held_out), held_out


def _tidied(text: str) -> str:
    return _POLITE.sub(r"\1?", re.sub(r" +([?.!,:])", r"\1", " ".join(text.split())))
