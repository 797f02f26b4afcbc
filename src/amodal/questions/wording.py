"""The words of questions and answers, read from the files in `texts/`, and the words that name a kind of object."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from amodal.errors import InputError
from amodal.io.json_stream import read_json
from amodal.questions.patterns import divided

Words = Literal["train", "held_out", "free", "free_held_out"]
WORDS: tuple[Words, ...] = get_args(Words)


@dataclass(frozen=True)
class Question:
    """A question about an image and its answer.

    Attributes:
        family: name of the family of questions it belongs to.
        text: the question.
        answer: text with `<p>name</p> {seg:ANNOTATION_ID}` for each object it shows.
        named: positions of the objects that the answer names.
        antecedents: positions of the objects that "it" or "them" means in the next question; empty if that is unclear.
        purpose: position in `PURPOSES` of what was asked for, or None.
        claims: (occluder, occluded) annotation ids of what the answer says about occlusion.
    """

    family: str
    text: str
    answer: str
    named: tuple[int, ...] = ()
    antecedents: tuple[int, ...] = ()
    purpose: int | None = None
    claims: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Wording:
    """Several forms of the same question or phrase, one part for training and one that is held out.

    Attributes:
        train: forms for training.
        held_out: forms that are held out.
        free: further forms for training, for a model that knows English already.
        free_held_out: a tenth of those, held out.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    free: tuple[str, ...] = ()
    free_held_out: tuple[str, ...] = ()

    def of(self, words: Words) -> tuple[str, ...]:
        """The forms of one part; the free ones include the others."""
        parts = {
            "train": self.train,
            "held_out": self.held_out,
            "free": self.train + self.free,
            "free_held_out": self.held_out + self.free_held_out,
        }
        return parts[words]


@dataclass(frozen=True)
class SceneForm:
    """How a question about a procedural scene is asked and answered.

    Attributes:
        question: forms of the question.
        yes_no: further forms, whose answers start with "yes" or "no"; None if there are none.
        answer: the answer with objects.
        nothing: the answer without objects; empty if the family never gives it.
    """

    question: Wording
    yes_no: Wording | None
    answer: str
    nothing: str


@dataclass(frozen=True)
class ImageForm:
    """How a question about any image is asked and answered; of several texts one is drawn.

    Attributes:
        questions: forms of the question.
        answers: forms of the answer.
        variants: the questions by name, where each asks for something else; empty otherwise.
    """

    questions: tuple[str, ...]
    answers: tuple[str, ...]
    variants: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TalkForm:
    """Small talk, or a question about the image as a whole, which are answered without masks.

    Attributes:
        question: forms of the question.
        answers: forms of the answer, of which one is drawn.
        partial: the same about an image that may show more objects than are known; empty if the answers do.
    """

    question: Wording
    answers: tuple[str, ...]
    partial: tuple[str, ...] = ()


@dataclass(frozen=True)
class Purpose:
    """What some kinds of objects are for or have in common (`texts/purposes.yaml` explains the parts)."""

    kinds: frozenset[str]
    gap: Wording | None
    need: Wording | None
    trait: Wording | None


def _read(name: str) -> Any:
    text = (resources.files("amodal.questions") / "texts" / f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _wording(entry: Mapping[str, Any] | None) -> Wording | None:
    return None if entry is None else Wording(tuple(entry["train"]), tuple(entry["held_out"]))


def _purpose(entry: Mapping[str, Any]) -> Purpose:
    gap, need, trait = (_wording(entry.get(part)) for part in ("gap", "need", "trait"))
    return Purpose(frozenset(entry["kinds"]), gap, need, trait)


def _scene_form(entry: Mapping[str, Any], patterns: Sequence[str]) -> SceneForm:
    yes_no = _wording(entry.get("yes_no"))
    own = (*entry["train"], *entry["held_out"], *(yes_no.train + yes_no.held_out if yes_no else ()))
    question = Wording(tuple(entry["train"]), tuple(entry["held_out"]), *divided(patterns, own))
    return SceneForm(question, yes_no, entry["answer"], entry.get("nothing", ""))


def _talk_form(entry: Mapping[str, Any]) -> TalkForm:
    return TalkForm(Wording(*divided(entry["questions"])), tuple(entry["answers"]), tuple(entry.get("partial", ())))


def _image_form(entry: Mapping[str, Any]) -> ImageForm:
    questions = entry["questions"]
    variants: dict[str, str] = questions if isinstance(questions, dict) else {}
    return ImageForm(_texts(variants.values() if variants else questions), _texts(entry["answers"]), variants)


def _texts(texts: str | Iterable[str]) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else tuple(texts)


_scene_texts, _naming, _free_texts = _read("scene_forms"), _read("synonyms"), _read("free_forms")

PURPOSES = tuple(_purpose(entry) for entry in _read("purposes"))
SCENE_KINDS = tuple(sorted({kind for p in PURPOSES if p.gap or p.need or p.trait for kind in p.kinds}))
"""The kinds of objects in procedural scenes: for these, `PURPOSES` knows everything that fits."""
SCENE_FORMS = {name: _scene_form(entry, _free_texts[name]) for name, entry in _scene_texts["forms"].items()}
TALK_FORMS = {name: _talk_form(entry) for name, entry in _read("talk").items()}
LIST_FORMS = {name: Wording(tuple(texts)) for name, texts in _scene_texts["lists"].items()}
DEGREES: dict[str, float] = _scene_texts["degrees"]
"""Largest occlusion rate at which this much of an object can be seen."""
IMAGE_FORMS = {name: _image_form(entry) for name, entry in _read("image_forms").items()}
SYNONYMS: dict[str, tuple[str, ...]] = {kind: tuple(words) for kind, words in _naming["synonyms"].items()}


def amount(rate: float, *, margin: float = 0.0) -> str | None:
    """How much can be seen of an object with this occlusion rate; None within `margin` of the next amount."""
    near = any(0 < limit < 1 and abs(rate - limit) < margin for limit in DEGREES.values())
    return None if near or 0 < rate < margin else next(words for words, limit in DEGREES.items() if rate <= limit)


def addressed(text: str) -> str:
    """A phrase about "my" objects as the one who answers says it."""
    return text.replace("my ", "your ")


def capitalized(text: str) -> str:
    """The text with a capital first letter, also where that is inside markup."""
    start = len("<p>") if text.startswith("<p>") else 0
    return text[:start] + text[start : start + 1].upper() + text[start + 1 :]


def read_synonyms(path: Path) -> dict[str, tuple[str, ...]]:
    """Read further synonyms from a JSON file: lists of words by category.

    Raises:
        InputError: the file does not exist or has another form.
    """
    try:
        content = read_json(path, "synonyms")
        return {str(name).lower(): tuple(str(word).lower() for word in words) for name, words in content.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"synonyms: expected a JSON file of lists of words, got {path} ({error})") from error


def words_in(text: str) -> list[str]:
    """Words of a text in lower case; "cat's" counts as "cat"."""
    return re.findall(r"[^\W_]+(?:-[^\W_]+)*", re.sub(r"[’']s\b", "", text.lower()))


def naming_words(category: str, more: Mapping[str, tuple[str, ...]] | None = None) -> frozenset[tuple[str, ...]]:
    """Everything that names a category: its name, synonyms and their plurals, each as words in lower case.

    Args:
        category: name of the category.
        more: further synonyms by category.
    """
    name = category.lower().replace("_", " ").strip()
    return _naming_words(name, (more or {}).get(name, ()))


def named_in(text: str, names: frozenset[tuple[str, ...]]) -> str | None:
    """The first of `names` that occurs in a text, or None."""
    words = words_in(text)
    for start in range(len(words)):
        for name in names:
            if tuple(words[start : start + len(name)]) == name:
                return " ".join(name)
    return None


@lru_cache(maxsize=4096)
def _naming_words(category: str, more: Sequence[str]) -> frozenset[tuple[str, ...]]:
    names = [category, *SYNONYMS.get(category, ()), *more]
    if " " in category and category not in _naming["no_head"]:
        names.append(category.split()[-1])
    found = set[tuple[str, ...]]()
    for name in names:
        *start, last = words_in(name) or [name]
        found |= {(*start, form) for form in (last, *_plurals(last))}
    return frozenset(found)


def _plurals(word: str) -> list[str]:
    if word in _naming["irregular_plurals"]:
        return [_naming["irregular_plurals"][word]]
    if re.search(r"[^aeiou]y$", word):
        return [word[:-1] + "ies"]
    if re.search(r"(s|x|z|ch|sh)$", word):
        return [word + "es"]
    return [word + "s", word + "es"] if word.endswith("o") else [word + "s"]
