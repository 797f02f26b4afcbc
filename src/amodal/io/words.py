"""Words of messages that depend on numbers."""

from __future__ import annotations


def counted(number: int, kind: str) -> str:
    """A number of objects, images, ... in words: `1 object`, `0 objects`, `2 replies`.

    Args:
        number: how many.
        kind: the noun in the singular; its plural ends in s, or in ies after a consonant and y.
    """
    if number == 1:
        return f"1 {kind}"
    ends_in_y = kind.endswith("y") and kind[-2:-1] not in "aeiou"
    return f"{number} {kind[:-1]}ies" if ends_in_y else f"{number} {kind}s"
