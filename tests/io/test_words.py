"""Numbers in messages."""

from __future__ import annotations

import pytest

from amodal.io.words import counted


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (0, "object", "0 objects"),
        (1, "object", "1 object"),
        (2, "object", "2 objects"),
        (1, "reply", "1 reply"),
        (3, "reply", "3 replies"),
        (3, "key", "3 keys"),
    ],
)
def test_one_is_singular_and_other_numbers_are_plural(number: int, kind: str, words: str) -> None:
    assert counted(number, kind) == words
