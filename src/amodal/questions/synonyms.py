"""Words that name a kind of object: its name, what else people call it, and their plurals."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from amodal.errors import InputError

# The kinds of COCO and of the procedural scenes. The last word of a name of several words counts as
# a name too ("table" for "dining table") unless it is among NO_HEAD.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "person": ("people", "man", "men", "woman", "women", "boy", "girl", "child", "children", "kid", "lady", "guy",
               "human", "pedestrian"),
    "bicycle": ("bike", "cycle"),
    "car": ("automobile", "vehicle", "sedan", "taxi"),
    "motorcycle": ("motorbike", "bike", "scooter", "moped"),
    "airplane": ("plane", "aeroplane", "aircraft", "jet"),
    "bus": ("coach", "vehicle"),
    "train": ("locomotive",),
    "truck": ("lorry", "vehicle", "pickup"),
    "boat": ("ship", "vessel", "canoe"),
    "sailboat": ("boat", "ship", "vessel", "sailing boat", "yacht"),
    "traffic light": ("stoplight", "traffic signal"),
    "fire hydrant": ("fireplug",),
    "bench": (),
    "bird": ("duck", "gull", "pigeon", "goose", "parrot"),
    "cat": ("kitten", "kitty", "tomcat"),
    "dog": ("puppy", "hound"),
    "horse": ("pony", "mare", "foal"),
    "sheep": ("lamb", "ewe"),
    "cow": ("cattle", "bull", "calf", "ox"),
    "bear": ("grizzly",),
    "backpack": ("rucksack", "knapsack", "bag"),
    "umbrella": ("parasol", "sunshade"),
    "handbag": ("purse", "bag"),
    "tie": ("necktie",),
    "suitcase": ("luggage", "baggage", "bag", "trunk"),
    "skis": ("ski",),
    "sports ball": ("football",),
    "kite": (),
    "bottle": ("flask",),
    "wine glass": ("goblet", "glassware"),
    "cup": ("mug", "beaker"),
    "mug": ("cup",),
    "knife": ("blade",),
    "spoon": ("ladle",),
    "bowl": (),
    "sandwich": ("burger", "hamburger"),
    "donut": ("doughnut",),
    "hot dog": ("sausage", "hotdog"),
    "cake": ("pie", "pastry"),
    "chair": ("seat", "stool", "armchair"),
    "couch": ("sofa", "settee"),
    "potted plant": ("houseplant", "flower"),
    "plant": ("houseplant", "flower"),
    "dining table": ("desk",),
    "table": ("desk",),
    "toilet": ("lavatory", "loo"),
    "tv": ("television", "screen", "monitor"),
    "laptop": ("notebook", "computer"),
    "mouse": (),
    "remote": ("remote control", "controller"),
    "cell phone": ("phone", "mobile", "smartphone", "telephone"),
    "phone": ("smartphone", "telephone", "mobile"),
    "oven": ("stove", "cooker"),
    "sink": ("basin", "washbasin"),
    "refrigerator": ("fridge", "freezer"),
    "book": ("novel", "volume"),
    "clock": ("watch",),
    "scissors": ("shears", "scissor"),
    "teddy bear": ("plush", "stuffed animal"),
    "hair drier": ("hairdryer", "hair dryer", "blow dryer"),
    "boot": ("shoe", "footwear"),
    "guitar": ("ukulele",),
    "hat": ("cap", "headgear"),
    "house": ("home", "building", "cottage"),
    "lamp": ("light", "lantern"),
    "mushroom": ("fungus", "toadstool"),
    "teapot": ("kettle", "pot"),
    "butterfly": ("moth",),
}  # fmt: skip
NO_HEAD = frozenset({"hot dog", "traffic light", "hair drier", "sports ball"})
_IRREGULAR = {
    "person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice", "goose": "geese",
    "knife": "knives", "calf": "calves", "ox": "oxen", "foot": "feet", "leaf": "leaves", "fungus": "fungi",
}  # fmt: skip


def read_synonyms(path: Path) -> dict[str, tuple[str, ...]]:
    """Further synonyms from a JSON file: lists of words by category.

    Raises:
        InputError: no such file, or one of another form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(name).lower(): tuple(str(word).lower() for word in words) for name, words in content.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"synonyms: expected a JSON file of lists of words, got {path} ({error})") from error


def words_in(text: str) -> list[str]:
    """Words of a text, in lower case; "cat's" counts as "cat"."""
    return re.findall(r"[^\W_]+(?:-[^\W_]+)*", re.sub(r"[’']s\b", "", text.lower()))


def naming_words(category: str, more: Mapping[str, tuple[str, ...]] | None = None) -> frozenset[tuple[str, ...]]:
    """All that names a category, each as a sequence of words in lower case.

    Args:
        category: its name.
        more: further synonyms by category.
    """
    name = category.lower().replace("_", " ").strip()
    return _naming_words(name, (more or {}).get(name, ()))


def named_in(text: str, names: frozenset[tuple[str, ...]]) -> str | None:
    """The first of `names` in a text, or None."""
    words = words_in(text)
    for start in range(len(words)):
        for name in names:
            if tuple(words[start : start + len(name)]) == name:
                return " ".join(name)
    return None


@lru_cache(maxsize=4096)
def _naming_words(category: str, more: tuple[str, ...]) -> frozenset[tuple[str, ...]]:
    names = [category, *SYNONYMS.get(category, ()), *more]
    if " " in category and category not in NO_HEAD:
        names.append(category.split()[-1])
    found = set[tuple[str, ...]]()
    for name in names:
        *start, last = words_in(name) or [name]
        found |= {(*start, form) for form in (last, *_plurals(last))}
    return frozenset(found)


def _plurals(word: str) -> list[str]:
    if word in _IRREGULAR:
        return [_IRREGULAR[word]]
    if re.search(r"[^aeiou]y$", word):
        return [word[:-1] + "ies"]
    if re.search(r"(s|x|z|ch|sh)$", word):
        return [word + "es"]
    return [word + "s", word + "es"] if word.endswith("o") else [word + "s"]
