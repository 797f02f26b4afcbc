"""Articles, agreement and pronouns."""

from __future__ import annotations

import pytest

from amodal.questions.grammar import is_plural, joined, pronoun, takes_plural, verb, with_article


@pytest.mark.parametrize(
    ("kind", "phrase"),
    [
        ("mug", "a mug"), ("apple", "an apple"), ("scissors", "scissors"), ("skis", "skis"),
        ("hourglass", "an hourglass"), ("house", "a house"), ("unicycle", "a unicycle"), ("umbrella", "an umbrella"),
        ("European goldfinch", "a European goldfinch"), ("TV", "a TV"), ("MP3 player", "an MP3 player"),
        ("wine glass", "a wine glass"), ("office", "an office"),
    ],
)  # fmt: skip
def test_articles(kind: str, phrase: str) -> None:
    assert with_article(kind) == phrase


@pytest.mark.parametrize(
    ("base", "singular"),
    [("be", "is"), ("have", "has"), ("do", "does"), ("cover", "covers"), ("reach", "reaches"), ("hide", "hides"),
     ("carry", "carries"), ("stay", "stays"), ("pass", "passes")],
)  # fmt: skip
def test_verbs(base: str, singular: str) -> None:
    assert verb(base, plural=False) == singular
    assert verb(base, plural=True) == {"be": "are"}.get(base, base)


def test_agreement() -> None:
    assert not takes_plural(["mug"]) and takes_plural(["mug", "book"]) and takes_plural(["scissors"])
    assert not takes_plural(["person"])
    assert is_plural("garden shears") and not is_plural("glass")


def test_pronouns() -> None:
    assert (pronoun(["mug"]), pronoun(["mug"], subject=False)) == ("it", "it")
    assert (pronoun(["person"]), pronoun(["baseball player"], subject=False)) == ("they", "them")
    assert (pronoun(["scissors"]), pronoun(["mug", "book"], subject=False)) == ("they", "them")


def test_lists() -> None:
    assert [joined(list("abc")[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
