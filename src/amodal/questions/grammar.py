"""English grammar of names: articles, agreement of verbs, and pronouns."""

from __future__ import annotations

PLURAL_NOUNS = frozenset(
    {"binoculars", "clothes", "goggles", "headphones", "jeans", "pants", "pliers", "pyjamas", "scissors", "shears",
     "shorts", "skis", "stairs", "sunglasses", "tongs", "trousers", "tweezers"}
)  # fmt: skip
"""Nouns that are plural although they name one object."""

PEOPLE = frozenset(
    {"adult", "baby", "boy", "child", "cyclist", "girl", "human", "lady", "man", "pedestrian", "person", "player",
     "rider", "woman"}
)  # fmt: skip
"""Nouns for human beings."""

_SILENT_H = ("heir", "herb", "honest", "honour", "hour")
_CONSONANT_SOUND = ("eu", "euro", "one", "once", "uni", "use", "usu", "ut", "uk")
_SPELLED_OUT = "aefhilmnorsx"  # letters whose names start with a vowel


def is_plural(kind: str) -> bool:
    """Whether the name of a kind is grammatically plural, such as "scissors"."""
    return kind.lower().split(" ")[-1] in PLURAL_NOUNS


def is_person(kind: str) -> bool:
    """Whether a kind is a human being, for whom one says "they" and "who"."""
    return kind.lower().split(" ")[-1] in PEOPLE


def with_article(kind: str) -> str:
    """The kind with its indefinite article: a mug, an apple, an hourglass, a unicycle, scissors."""
    if is_plural(kind):
        return kind
    word = kind.lower()
    if len(kind.split()[0]) > 1 and kind.split()[0].isupper():  # an abbreviation: a TV, an MP3 player
        vowel = word[0] in _SPELLED_OUT
    else:
        vowel = word.startswith(_SILENT_H) or (word[0] in "aeiou" and not word.startswith(_CONSONANT_SOUND))
    return f"{'an' if vowel else 'a'} {kind}"


def pronoun(kinds: list[str], *, subject: bool = True) -> str:
    """The pronoun for one object or several: "it", "they" or "them".

    Args:
        kinds: kinds of the objects.
        subject: the form as the subject of a sentence.
    """
    if takes_plural(kinds) or is_person(kinds[0]):
        return "they" if subject else "them"
    return "it"


def takes_plural(kinds: list[str]) -> bool:
    """Whether the verb after these objects, named by nouns, is plural."""
    return len(kinds) != 1 or is_plural(kinds[0])


def verb(base: str, *, plural: bool) -> str:
    """The third person of a verb in the present tense: "has" and "have", "covers" and "cover"."""
    irregular = {"be": ("is", "are"), "have": ("has", "have"), "do": ("does", "do")}
    if base in irregular:
        return irregular[base][plural]
    if plural:
        return base
    if base.endswith(("s", "x", "z", "ch", "sh", "o")):
        return f"{base}es"
    return f"{base[:-1]}ies" if base.endswith("y") and base[-2] not in "aeiou" else f"{base}s"


def joined(parts: list[str]) -> str:
    """Parts as a list in a sentence: "A", "A and B", or "A, B and C"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
