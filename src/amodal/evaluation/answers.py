"""The answers file: the words and masks that a model answered to the questions of a question file.

JSON Lines. The first line may hold the settings of the run, `{"settings": {...}}`. Each other line holds the answers of
one conversation:

    {"id": 7, "turns": [{"text": "You could use the mug.", "objects": [
        {"segmentation": RLE, "visible_segmentation": RLE, "phrase": "the mug", "occlusion_rate": 0.3}]}]}

`id` is that of the conversation in the question file, and `turns` has one entry per question. `segmentation` is the
amodal mask. Masks are in any form of COCO. Of the two masks one may be left out, in all objects of the file. `text`,
`phrase` and `occlusion_rate` are optional. Other keys are ignored; `amodal evaluate answers` writes the question and
the true answer for people.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amodal.data.reason_seg import Conversation, ReasonDataset, plain_text
from amodal.data.records import mask_rle
from amodal.errors import InputError
from amodal.io.files import write_atomic
from amodal.metrics.reason import MASK_KINDS
from amodal.ops import values
from amodal.ops.rle import Rle, encode_window, rle_union

if TYPE_CHECKING:
    from amodal.inference.assistant import Reply

_MASK_KEYS = {"amodal": "segmentation", "visible": "visible_segmentation"}
Conversations = Mapping[str, Conversation]


@dataclass(frozen=True)
class AnswerObject:
    """One object of an answer.

    Attributes:
        amodal: amodal mask; None if the model does not predict it.
        visible: visible mask; None if the model does not predict it.
        phrase: words that name the object; None if the answer has none.
        occlusion_rate: in [0, 1], as the model predicts it; None if it does not.
    """

    amodal: Rle | None
    visible: Rle | None
    phrase: str | None = None
    occlusion_rate: float | None = None


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        text: words, without markup; None if the model was given the true words or writes none.
        objects: objects in the order of the answer.
    """

    text: str | None = None
    objects: tuple[AnswerObject, ...] = ()

    @classmethod
    def from_reply(cls, reply: Reply, *, with_text: bool) -> Answer:
        """Convert the reply of an assistant."""
        rates = reply.occlusion_rates or (None,) * len(reply.scene)
        objects = [
            AnswerObject(
                encode_window(obj.amodal_in_window, obj.window, obj.size),
                encode_window(obj.visible_in_window, obj.window, obj.size),
                obj.phrase,
                rate,
            )
            for obj, rate in zip(reply.scene.objects, rates, strict=True)
        ]
        return cls(plain_text(reply.text) if with_text else None, tuple(objects))

    def to_json(self) -> dict[str, Any]:
        """Return the answer as the file has it; what is not known is left out."""
        objects = [
            {
                "segmentation": obj.amodal,
                "visible_segmentation": obj.visible,
                "phrase": obj.phrase,
                "occlusion_rate": obj.occlusion_rate,
            }
            for obj in self.objects
        ]
        text = {} if self.text is None else {"text": self.text}
        return text | {"objects": [{k: v for k, v in obj.items() if v is not None} for obj in objects]}


@dataclass(frozen=True)
class GivenAnswers:
    """Answers of a file.

    Attributes:
        answers: answers of each turn, by id of the conversation.
        settings: settings of the run that wrote the file; empty if the file does not state them.
        kinds: kinds of masks that the objects have, of `MASK_KINDS`.
    """

    answers: dict[str, list[Answer]]
    settings: dict[str, Any]
    kinds: tuple[str, ...] = MASK_KINDS


class ResumableAnswers:
    """Collects answers, on disk if a path is given, so that a stopped evaluation can be resumed.

    The caller holds the lock of the file (`io.files.one_writer`) as long as it adds answers.

    Args:
        path: answers file, which is kept at the end.
        settings: of the run; a file with other settings is refused.
        dataset: the questions.

    Raises:
        InputError: the file has other settings or another form, or cannot be written.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any], dataset: ReasonDataset) -> None:
        self.path = path
        self.answers: dict[str, list[Answer]] = {}
        if path is None:
            return
        lines = [json.dumps({"settings": settings})]
        if path.exists():
            lines += self._read(path, settings, _by_id(dataset))
        write_atomic(path, "".join(line + "\n" for line in lines), "answers")

    def add(self, conversation: Conversation, answers: Sequence[Answer]) -> None:
        """Add the answers of a conversation."""
        self.answers[str(conversation.id)] = list(answers)
        if self.path is None:
            return
        turns = [
            {"question": turn.question, "true_text": turn.text} | answer.to_json()
            for turn, answer in zip(conversation.turns, answers, strict=True)
        ]
        line = json.dumps({"id": conversation.id, "turns": turns}, ensure_ascii=False) + "\n"
        with self.path.open("ab") as file:
            file.write(line.encode())

    def _read(self, path: Path, settings: dict[str, Any], conversations: Conversations) -> list[str]:
        """Read the complete lines. The last line of a stopped run may be cut off; that conversation is repeated."""
        try:
            first, *rest = path.read_bytes().split(b"\n")
            found = json.loads(first)["settings"]
            lines = [line.decode() for line in rest[:-1]]  # the part after the last line break is empty or cut off
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"answers {path}: expected answers of an evaluation, got another file") from error
        if found != settings:
            raise InputError(f"answers {path}: expected answers of the same questions, model and options, got others")
        for number, line in enumerate(lines, 2):
            try:
                conversation, answers = _parse_line(line, conversations)
            except InputError as error:
                raise InputError(f"answers {path}: line {number}: {error}") from error
            self.answers[str(conversation.id)] = answers
        return lines


def read_answers(path: Path, dataset: ReasonDataset) -> GivenAnswers:
    """Read an answers file.

    Args:
        path: the file; conversations that it leaves out have no answer.
        dataset: the questions.

    Raises:
        InputError: the file does not exist or has another form, a conversation is unknown, has another number of turns
            or occurs twice, a mask cannot be read or has another size, or only some of the objects have a mask of a
            kind.
    """
    if not path.is_file():
        fault = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"predictions: expected a file, got {str(path)!r}, which {fault}")
    conversations = _by_id(dataset)
    answers: dict[str, list[Answer]] = {}
    settings: dict[str, Any] = {}
    for number, line in _numbered_lines(path):
        try:
            if number == 1 and (stated := _settings_of(line)) is not None:
                settings = stated
                continue
            conversation, turns = _parse_line(line, conversations)
            if str(conversation.id) in answers:
                raise InputError(f"expected each conversation once, got {conversation.id!r} twice")
        except InputError as error:
            raise InputError(f"predictions {path}: line {number}: {error}") from error
        answers[str(conversation.id)] = turns
    try:
        return GivenAnswers(answers, settings, _kinds(answers))
    except InputError as error:
        raise InputError(f"predictions {path}: {error}") from error


def united(answer: Answer) -> Answer:
    """Return an answer whose amodal masks are united with the visible ones."""
    objects = [
        AnswerObject(rle_union(obj.amodal, obj.visible), obj.visible, obj.phrase, obj.occlusion_rate)
        if obj.amodal is not None and obj.visible is not None
        else obj
        for obj in answer.objects
    ]
    return Answer(answer.text, tuple(objects))


def _by_id(dataset: ReasonDataset) -> dict[str, Conversation]:
    return {str(conversation.id): conversation for conversation in dataset.conversations}


def _numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not empty, with their numbers from 1."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise InputError(f"predictions {path}: expected JSON Lines in UTF-8, got other content") from error


def _settings_of(line: str) -> dict[str, Any] | None:
    content = _json(line)
    found = content.get("settings")
    return found if isinstance(found, dict) and "turns" not in content else None


def _json(line: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected a JSON object, got {line.strip()!r:.60}") from error
    if not isinstance(content, dict):
        raise InputError(f"expected a JSON object, got {line.strip()!r:.60}")
    return content


def _parse_line(line: str, conversations: Conversations) -> tuple[Conversation, list[Answer]]:
    content = _json(line)
    conversation = conversations.get(str(content.get("id")))
    if conversation is None:
        raise InputError(f"expected the id of a conversation in the question file, got {content.get('id')!r:.60}")
    turns, num_turns = content.get("turns"), len(conversation.turns)
    if not isinstance(turns, list) or len(turns) != num_turns:
        got = f"{len(turns)}" if isinstance(turns, list) else f"{turns!r:.60}"
        raise InputError(f"expected turns as a list of {num_turns}, got {got}")
    return conversation, [_parse_answer(turn, conversation.image.size) for turn in turns]


def _parse_answer(turn: Any, size: tuple[int, int]) -> Answer:
    if not isinstance(turn, dict) or not isinstance(turn.get("objects"), list):
        raise InputError(f"expected a turn with a list of objects, got {turn!r:.60}")
    text = None if turn.get("text") is None else values.text(turn["text"], "text")
    return Answer(text, tuple(_parse_object(obj, size) for obj in turn["objects"]))


def _parse_object(obj: Any, size: tuple[int, int]) -> AnswerObject:
    if not isinstance(obj, dict):
        raise InputError(f"expected an object with masks, got {obj!r:.60}")
    masks = {kind: obj.get(key) for kind, key in _MASK_KEYS.items()}
    rate = None if obj.get("occlusion_rate") is None else values.number(obj["occlusion_rate"], "occlusion_rate")
    if rate is not None and not 0 <= rate <= 1:
        raise InputError(f"expected an occlusion_rate in [0, 1], got {rate}")
    return AnswerObject(
        **{kind: None if mask is None else mask_rle(mask, size) for kind, mask in masks.items()},
        phrase=None if obj.get("phrase") is None else values.text(obj["phrase"], "phrase"),
        occlusion_rate=rate,
    )


def _kinds(answers: Mapping[str, Sequence[Answer]]) -> tuple[str, ...]:
    """Kinds of masks that all objects have; both if there is no object."""
    objects = [obj for turns in answers.values() for answer in turns for obj in answer.objects]
    counts = {kind: sum(getattr(obj, kind) is not None for obj in objects) for kind in MASK_KINDS}
    for kind, count in counts.items():
        if 0 < count < len(objects):
            raise InputError(f"expected {_MASK_KEYS[kind]} in all objects or in none, got {count} of {len(objects)}")
    kinds = tuple(kind for kind, count in counts.items() if count == len(objects))
    if not kinds:
        raise InputError("expected objects with a segmentation or a visible_segmentation, got none")
    return kinds
