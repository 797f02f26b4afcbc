"""Scored answers on disk, a conversation a line, so that a killed evaluation goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amodal.data.formats.reason_seg import ReasonDataset
from amodal.errors import InputError
from amodal.io.files import appearing
from amodal.metrics.reason import AnswerScore, Overlap, TrueObject


@dataclass(frozen=True)
class AnswerRecord:
    """One answer, what it should have been, and its score.

    Attributes:
        question: text.
        said: the model's words, None if it was given the true ones.
        named: kinds it named.
        true_text: the true answer in words.
        true_named: kinds that it names.
        kind: sort of question, if the file says.
        score: of the masks and names.
        baselines: of other amodal masks for the same answer, by their names.
    """

    question: str
    said: str | None
    named: tuple[str, ...]
    true_text: str
    true_named: tuple[str, ...]
    kind: str | None
    score: AnswerScore
    baselines: dict[str, AnswerScore]

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> AnswerRecord:
        """From the values of a line."""
        named = {key: tuple(content[key]) for key in ("named", "true_named")}
        baselines = {name: _score(values) for name, values in content["baselines"].items()}
        return cls(**content | named | {"score": _score(content["score"]), "baselines": baselines})


class AnswersFile:
    """Answers as they come; nothing is written without a path.

    Args:
        path: JSON lines, the first of which says what was asked and how. Stays when all is done.
        settings: that first line; a file of other settings is not gone on with.

    Raises:
        InputError: a file of other settings, of another form, or one that cannot be written.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self.path = path
        self.answers: dict[str, list[AnswerRecord]] = {}
        if path is None:
            return
        kept = [json.dumps(settings)]
        if path.exists():
            kept += self._read(path, settings)
        with appearing(path, "answers") as temporary:
            temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def add(self, conversation_id: int | str, records: list[AnswerRecord]) -> None:
        """Keep the answers of a conversation."""
        self.answers[str(conversation_id)] = records
        if self.path is not None:
            line = {"id": str(conversation_id), "turns": [asdict(record) for record in records]}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _read(self, path: Path, settings: dict[str, Any]) -> list[str]:
        """Whole lines; the last one of a killed run may be cut off, and is asked again."""
        try:
            first, *rest = path.read_text(encoding="utf-8").split("\n")
            found = json.loads(first)
        except (OSError, ValueError) as error:
            raise InputError(f"answers {path}: expected answers of an evaluation, got another file") from error
        if found != settings:
            raise InputError(f"answers {path}: expected answers of the same questions, model and options, got others")
        whole = rest[:-1]  # what follows the last line end is empty or cut off
        for line in whole:
            try:
                content = json.loads(line)
                self.answers[content["id"]] = [AnswerRecord.from_json(turn) for turn in content["turns"]]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(f"answers {path}: expected answers of an evaluation, got a broken line") from error
        return whole


def _score(content: dict[str, Any]) -> AnswerScore:
    overlaps = {kind: Overlap(*content[kind]) for kind in ("amodal", "visible")}
    return AnswerScore(**content | overlaps | {"objects": tuple(TrueObject(*values) for values in content["objects"])})


def digest(dataset: ReasonDataset) -> str:
    """Fingerprint of the questions, their answers and their order."""
    hashed = hashlib.sha256()
    for conversation in dataset.conversations:
        texts = [[turn.question, turn.answer] for turn in conversation.turns]
        hashed.update(json.dumps([conversation.id, conversation.image.id, texts]).encode())
    return hashed.hexdigest()[:16]
