"""What a vision-language model is asked, and the form of its answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from amodal.datagen.store.records import Draft
from amodal.errors import InputError

PROMPT_VERSION = "1"
PAIRS_PER_IMAGE = 10  # paper section 4.2: "For each image, ten question-and-answer pairs"
MAX_REASONS = 20  # rejected pairs told of in another try


class OcclusionClaim(BaseModel):
    """One object that hides a part of another."""

    model_config = ConfigDict(extra="forbid")
    front: int
    behind: int


class WrittenPair(BaseModel):
    """A question and its answer, as a model writes them."""

    model_config = ConfigDict(extra="forbid")
    question: str
    answer: str
    occlusion: list[OcclusionClaim]


class WrittenPairs(BaseModel):
    """The whole answer of a model."""

    model_config = ConfigDict(extra="forbid")
    pairs: list[WrittenPair]


@dataclass(frozen=True)
class Rejected:
    """A pair of an earlier try, and why it did not pass."""

    question: str
    answer: str
    reason: str


@dataclass(frozen=True)
class Prompt:
    """Text of one request.

    Attributes:
        system: what the model is to do, the same for all pictures.
        user: the picture's summary and what is wanted of it.
        version: of the prompt file.
    """

    system: str
    user: str
    version: str


def make_prompt(
    summary: str,
    count: int,
    rejected: Sequence[Rejected] = (),
    kept: Sequence[str] = (),
    complaint: str | None = None,
    version: str = PROMPT_VERSION,
) -> Prompt:
    """Fill the prompt file.

    Args:
        summary: of the picture, from `describe`.
        count: pairs wanted.
        rejected: pairs of earlier tries that did not pass.
        kept: questions of the picture that are there already.
        complaint: why the earlier answer as a whole could not be used.
        version: of the prompt file.

    Raises:
        InputError: no prompt file of this version.
    """
    file = resources.files("amodal.datagen") / "prompts" / f"{version}.md"
    if not file.is_file():
        raise InputError(f"prompt: expected a version in amodal/datagen/prompts, got {version!r}")
    system, user = file.read_text(encoding="utf-8").split("\n---\n")
    again = _again(rejected, kept, complaint)
    text = Template(user).substitute(summary=summary, count=count, again=again)
    return Prompt(system.strip(), text.strip(), version)


def response_format() -> dict[str, Any]:
    """JSON schema of the answer, as OpenAI-compatible servers take it."""
    schema = WrittenPairs.model_json_schema()
    return {"type": "json_schema", "json_schema": {"name": "pairs", "strict": True, "schema": schema}}


def parse_response(text: str) -> list[Draft]:
    """Pairs in a model's answer; a code fence around the JSON is forgiven.

    Raises:
        InputError: no JSON of the form asked for, with what is wrong.
    """
    body = text.strip()
    if body.startswith("```"):
        body = body.removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    try:
        written = WrittenPairs.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "answer"
        raise InputError(f"format: expected JSON of the form asked for, got {place}: {first['msg']}") from error
    if not written.pairs:
        raise InputError("format: expected pairs, got an empty list")
    return [_draft(pair) for pair in written.pairs]


def to_response(drafts: Sequence[Draft]) -> str:
    """Pairs as the text a model would answer with."""
    pairs = [
        {
            "question": draft.question,
            "answer": draft.answer,
            "occlusion": [{"front": front, "behind": behind} for front, behind in draft.claims],
        }
        for draft in drafts
    ]
    return json.dumps({"pairs": pairs}, ensure_ascii=False)


def _draft(pair: WrittenPair) -> Draft:
    claims = tuple((claim.front, claim.behind) for claim in pair.occlusion)
    return Draft(" ".join(pair.question.split()), " ".join(pair.answer.split()), claims)


def _again(rejected: Sequence[Rejected], kept: Sequence[str], complaint: str | None) -> str:
    parts = []
    if complaint:
        parts.append(f"\n\nYour last answer could not be used: {complaint}")
    if kept:
        parts.append("\n\nThese questions are there already; ask for something else:")
        parts += [f"\n- {question}" for question in kept]
    if rejected:
        parts.append("\n\nThese were turned down. Write others that do not have the fault named:")
        parts += [f"\n- {one.question} -> {one.answer} ({one.reason})" for one in rejected[:MAX_REASONS]]
    return "".join(parts)
