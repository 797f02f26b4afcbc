"""Question files: conversations about images whose answers name objects of a canonical annotation file.

A question file is a JSON list with one record per conversation:

    {"id": 7, "image_id": 3, "question": "What could I drink from?",
     "answer": "You could use <p>the mug</p> {seg:12}, which <p>the book</p> {seg:15} partly hides."}

`{seg:ID}` is a placeholder for the model's `[SEG]` token and names an annotation of the same image; `<p>...</p>` right
before one or several placeholders marks the phrase that names them. In a conversation of several turns, `question` and
`answer` are lists of the same length. The optional `kind` is the writer's own name for the sort of question, or a list
with one name per turn. Other keys are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amodal.data.datasets import read_dataset
from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.errors import MAX_QUESTION_LENGTH, InputError, special_token
from amodal.io.files import atomic_path
from amodal.io.json_stream import read_json, write_json_list
from amodal.ops.rle import rle_area

PLACEHOLDER = re.compile(r"\{seg:(\d+)\}")
_PHRASE = re.compile(r"<p>([^<>]*)</p>(?=\s*\{seg:)")
_TOKEN = re.compile(r"<p>([^<>]*)</p>(?=\s*\{seg:)|\{seg:(\d+)\}|(\S)")
_LEFT_OVER = re.compile(r"\{\s*seg[^}]*\}?", re.IGNORECASE)


@dataclass(frozen=True)
class ReasonTurn:
    """One question and its answer.

    Attributes:
        question: one line of text.
        answer: text with `{seg:ID}` placeholders and phrase markup.
        objects: objects in the order of the placeholders; empty if no object of the image answers the question.
        phrases: phrase that names each object, or None if the answer marks none.
        kind: sort of the question, if the file states it.
    """

    question: str
    answer: str
    objects: tuple[ObjectSample, ...]
    phrases: tuple[str | None, ...]
    kind: str | None = None

    def with_token(self, token: str) -> str:
        """The answer with `token` instead of each placeholder and with phrase markup, which a model learns to write."""
        return PLACEHOLDER.sub(lambda _: token, self.answer)

    @property
    def text(self) -> str:
        """The answer without placeholders and markup, for people."""
        return plain_text(self.answer)


@dataclass(frozen=True)
class Conversation:
    """An image and one or more turns about it.

    Attributes:
        id: id of the record.
        image: the image with all its objects.
        turns: in order.
    """

    id: int | str
    image: ImageSample
    turns: tuple[ReasonTurn, ...]


@dataclass(frozen=True)
class ReasonDataset:
    """Conversations in file order, and the names of the objects' categories."""

    conversations: tuple[Conversation, ...]
    categories: dict[int, str]

    @property
    def num_turns(self) -> int:
        """Number of question-answer pairs in all conversations."""
        return sum(len(conversation.turns) for conversation in self.conversations)

    def head(self, count: int) -> ReasonDataset:
        """Return the dataset with the first `count` conversations only."""
        return replace(self, conversations=self.conversations[:count])


def read_reason_seg(
    questions: str | Path, annotations: str | Path | AnnotatedDataset, images: str | Path | None = None
) -> ReasonDataset:
    """Read a question file and the annotations that it names.

    Args:
        questions: question file.
        annotations: canonical annotation file, or a dataset that was already read.
        images: folder of the images; `images/` beside the annotations if None.

    Raises:
        InputError: a file is missing or has another form, an image or annotation does not exist or belongs to another
            image, lists have unequal lengths, a question is empty or too long, or an answer is empty, has broken
            markup or has several placeholders for one mask.
    """
    path = Path(questions)
    records = _read_list(path)
    if not isinstance(annotations, AnnotatedDataset):
        annotations = read_dataset("canonical", annotations, images)
    by_image = {image.id: image for image in annotations.images}
    conversations, seen = list[Conversation](), set[str]()
    for position, record in enumerate(records):
        label = f"questions {path}: question {record.get('id', f'at position {position}')}"
        try:
            conversation = _conversation(record, by_image)
        except InputError as error:
            raise InputError(f"{label}: {error}") from error
        if str(conversation.id) in seen:
            raise InputError(f"{label}: expected questions of different ids, got the same twice")
        seen.add(str(conversation.id))
        conversations.append(conversation)
    if not conversations:
        raise InputError(f"questions {path}: expected at least one question, got an empty list")
    return ReasonDataset(tuple(conversations), annotations.categories)


def write_questions(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    """Write a question file with one record per line; it appears complete or not at all.

    Args:
        path: file to write; its folder is created.
        records: one record per conversation.

    Returns:
        `path`.

    Raises:
        InputError: the path cannot be written, or there is no record.
    """
    if path.is_dir():
        raise InputError(f"out: expected a file for the questions, got the folder {str(path)!r}")
    with atomic_path(path) as temporary:
        if not write_json_list(temporary, records):
            raise InputError("questions: expected at least one to write, got none")
    return path


def check_question(question: Any) -> str:
    """Check a question and return it as one line of text.

    Raises:
        InputError: the question is not text, is empty or too long, or has markup that only answers may have.
    """
    if not isinstance(question, str):
        raise InputError(f"expected the question as text, got {type(question).__name__}")
    line = " ".join(question.split())
    if not line:
        raise InputError("expected a question, got an empty one")
    if len(line) > MAX_QUESTION_LENGTH:
        raise InputError(f"expected a question of at most {MAX_QUESTION_LENGTH} characters, got {len(line)}")
    leftover = _leftover(line)
    if leftover:
        raise InputError(f"expected a question without placeholders and markup, got {leftover!r}")
    return line


def parse_answer(answer: Any) -> list[tuple[int, str | None]]:
    """Parse an answer to the annotation id and phrase of each placeholder, in order.

    Raises:
        InputError: the answer is not text or is empty, a placeholder has no id or occurs twice, or no placeholder
            follows a phrase.
    """
    if not isinstance(answer, str):
        raise InputError(f"expected the answer as text, got {type(answer).__name__}")
    if not plain_text(answer):
        raise InputError(f"expected an answer in words, got {answer!r}")
    leftover = _leftover(PLACEHOLDER.sub(" ", _PHRASE.sub(r" \1 ", answer)))
    if leftover:
        raise InputError(
            f"expected {{seg:ANNOTATION_ID}} for each object, with <p>words</p> at most right before it, "
            f"got {leftover!r}"
        )
    mentions, phrase = list[tuple[int, str | None]](), None
    for words, number, other in _TOKEN.findall(answer):
        if number:
            mentions.append((int(number), phrase))
        else:
            phrase = " ".join(words.split()) or None if not other else None
    distinct = {number for number, _ in mentions}
    if len(distinct) < len(mentions):
        raise InputError(
            f"expected one placeholder per mask, got {len(mentions)} placeholders for {len(distinct)} masks"
        )
    return mentions


def _leftover(text: str) -> str | None:
    """A placeholder in another form than `PLACEHOLDER`, markup, or a special token of a language model; or None."""
    found = _LEFT_OVER.search(text)
    return special_token(text) if found is None else found.group()


def plain_text(answer: str) -> str:
    """The text of an answer without placeholders and markup, with regular spaces and punctuation."""
    words = re.sub(r"</?p>", "", PLACEHOLDER.sub("", answer))
    return re.sub(r"\s+([,.;:!?])", r"\1", " ".join(words.split()))


def _conversation(record: dict[str, Any], images: dict[int, ImageSample]) -> Conversation:
    missing = [key for key in ("id", "image_id", "question", "answer") if key not in record]
    if missing:
        raise InputError(f"expected id, image_id, question and answer, got no {', '.join(missing)}")
    if not isinstance(record["id"], (int, str)):
        raise InputError(f"expected a number or text as id, got {record['id']!r}")
    image = images.get(record["image_id"]) if isinstance(record["image_id"], int) else None
    if image is None:
        raise InputError(f"expected image_id of an image in the annotations, got {record['image_id']!r}")
    questions, answers = _listed(record["question"]), _listed(record["answer"])
    several = isinstance(record["question"], list), isinstance(record["answer"], list)
    if len(questions) != len(answers) or several[0] != several[1] or not questions:
        raise InputError(
            f"expected as many answers as questions, got {len(questions)} questions and {len(answers)} answers"
        )
    objects = {obj.id: obj for obj in image.objects}

    def owner(number: int) -> int | None:
        """Id of the image that has an annotation; reads all annotations, so only errors ask for it."""
        return next((i.id for i in images.values() if any(obj.id == number for obj in i.objects)), None)

    texts = zip(questions, answers, _kinds(record.get("kind"), len(questions)), strict=True)
    return Conversation(record["id"], image, tuple(_turn(*text, image.id, objects, owner) for text in texts))


def _kinds(kind: Any, count: int) -> list[str | None]:
    """The kind of each turn; a single kind holds for all turns."""
    kinds: list[Any] = kind if isinstance(kind, list) else [kind] * count
    if len(kinds) != count or not all(k is None or isinstance(k, str) for k in kinds):
        raise InputError(f"expected kind as text, or as a list with one per turn, got {kind!r}")
    return kinds


def _turn(
    question: Any,
    answer: Any,
    kind: str | None,
    image_id: int,
    objects: dict[int, ObjectSample],
    owner: Callable[[int], int | None],
) -> ReasonTurn:
    question = check_question(question)
    mentions = parse_answer(answer)
    for number, _ in mentions:
        if number not in objects:
            other = owner(number)
            if other is None:
                raise InputError(f"expected placeholders that name annotations, got {{seg:{number}}}, which names none")
            raise InputError(f"expected annotations of image {image_id}, got {{seg:{number}}} of image {other}")
        amodal = objects[number].amodal_rle
        if amodal is None or rle_area(amodal) == 0:
            raise InputError(f"expected a mask for each placeholder, got {{seg:{number}}}, whose amodal mask is empty")
    return ReasonTurn(
        question,
        answer,
        tuple(objects[number] for number, _ in mentions),
        tuple(phrase for _, phrase in mentions),
        kind,
    )


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def _read_list(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        fault = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"questions: expected a file, got {str(path)!r}, which {fault}")
    content = read_json(path, "questions")
    if not isinstance(content, list) or not all(isinstance(record, dict) for record in content):
        raise InputError(f"questions {path}: expected a list of questions, got other content")
    return content
