"""What people know about categories: what they are for, their parts and materials, and where they are found.

No mask shows such facts. They come from `texts/categories.yaml` and from files of the same form that people edit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from amodal.errors import InputError
from amodal.questions.grammar import joined

_FIRST_PERSON = re.compile(r"\b(?:I|me|my|mine|myself|we|us|our)\b")


class CategoryFacts(BaseModel):
    """Facts about one category (`texts/categories.yaml` explains the fields).

    Attributes:
        purposes: infinitives without "to" that the category serves.
        parts: noun phrases of what it has.
        materials: nouns of what it is made of.
        found: nouns of all places where it usually is.
        looks: adjectives that may stand for it in a phrase.
        plural: the name is grammatically plural.
        confirmed: a person has read the facts; questions use no others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    purposes: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    materials: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    looks: tuple[str, ...] = ()
    plural: bool = False
    confirmed: bool = True

    @field_validator("purposes", "parts", "materials", "found", "looks")
    @classmethod
    def _without_empty_texts(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            if not text.strip():
                raise ValueError(f"expected texts, got {text!r}")
        return texts

    @field_validator("purposes")
    @classmethod
    def _without_first_person(cls, purposes: tuple[str, ...]) -> tuple[str, ...]:
        for purpose in purposes:
            if _FIRST_PERSON.search(purpose):
                raise ValueError(f"expected a purpose without 'I', 'me' or 'my', got {purpose!r}")
        return purposes

    def reason(self, *, plural: bool) -> str | None:
        """Why it serves its purposes: "has a seat and a backrest"; None if neither parts nor materials are known."""
        if self.parts:
            return f"{'have' if plural else 'has'} {joined(list(self.parts))}"
        return f"{'are' if plural else 'is'} made of {joined(list(self.materials))}" if self.materials else None


Knowledge = Mapping[str, CategoryFacts]
"""Facts by category name, in lower case and with spaces."""


def read_facts(path: Path) -> dict[str, CategoryFacts]:
    """Read a file of facts.

    Raises:
        InputError: the file is missing or has another form; the message names the category and the field.
    """
    try:
        # PyYAML's loader in C crashes the process where a file is nested deeply.
        return _parse(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"facts: expected a YAML file of facts by category, got {path} ({_short(error)})") from error


@cache
def built_in_facts() -> Knowledge:
    """The facts that come with the package."""
    file = resources.files("amodal.questions") / "texts" / "categories.yaml"
    return _parse(file.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def all_facts(path: Path | None = None) -> Knowledge:
    """The built-in facts, replaced or extended by the confirmed facts of a file.

    Raises:
        InputError: as for `read_facts`.
    """
    if path is None:
        return built_in_facts()
    return {**built_in_facts(), **{name: facts for name, facts in read_facts(path).items() if facts.confirmed}}


def category_key(name: str) -> str:
    """The form of a category's name under which its facts are stored."""
    return name.lower().replace("_", " ").strip()


def _parse(text: str, loader: Any) -> dict[str, CategoryFacts]:
    content = yaml.load(text, Loader=loader)
    if not isinstance(content, dict):
        raise ValueError(f"expected categories with their facts, got {type(content).__name__}")
    facts = {}
    for name, entry in content.items():
        try:
            facts[category_key(str(name))] = CategoryFacts.model_validate(entry)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"{name}: {place}: {first['msg']}") from error
    return facts


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
