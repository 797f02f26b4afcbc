"""Scoring whoever answers questions about pictures with words and masks (protocol `reason`).

By default the model writes its answers itself (`free`), each turn of a conversation after its own
answers before. `teacher_forced` gives it the true words and looks at the masks alone: the easier task,
so the report names it and leaves out the figures that the words would decide.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress

from amodal.data.formats.reason_seg import Conversation, ReasonDataset, ReasonTurn, plain_text
from amodal.errors import InputError
from amodal.evaluation.reason_record import AnswerRecord, AnswersFile, digest
from amodal.evaluation.reason_report import ReasonReport, report_of, text_quality
from amodal.metrics.reason import AnswerScore, ObjectMasks, score_answer
from amodal.ops.masks import Mask, convex_hull_mask

if TYPE_CHECKING:
    from amodal.inference.assistant import AmodalAssistant, Reply

SHAPES: dict[str, Callable[[Mask], Mask]] = {
    "own visible mask": lambda visible: visible,
    "hull of own visible mask": convex_hull_mask,
}
"""Amodal masks that need no amodal model."""

FREE, TEACHER_FORCED = "free", "teacher_forced"
TOKEN = "[SEG]"
UNNAMED = "?"
"""Name of an object for which the answer has no words; it matches no kind."""


@dataclass(frozen=True)
class Asked:
    """What is asked about one picture.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        questions: one a turn.
        answers: the true words of each turn, `[SEG]` for each object and phrases in `<p>` markup; None
            where the model writes its own.
    """

    image: npt.NDArray[np.uint8]
    questions: tuple[str, ...]
    answers: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ReasonReply:
    """One answer.

    Attributes:
        text: words as people read them; not looked at where they were given.
        objects: masks (H, W) of the picture's own size, and stated occlusion rates.
        phrases: words that name each object, or None where the answer has none.
    """

    text: str
    objects: tuple[ObjectMasks, ...]
    phrases: tuple[str | None, ...]


class ReasonAnswerer(Protocol):
    """What can be scored."""

    def answer(self, batch: Sequence[Asked]) -> Sequence[Sequence[ReasonReply]]:
        """For each picture one reply a question; with `answers` given, masks for those."""


def evaluate_reason(
    answerer: ReasonAnswerer,
    dataset: ReasonDataset,
    *,
    teacher_forced: bool = False,
    batch_size: int = 8,
    max_conversations: int | None = None,
    name: str = "model",
    answers: Path | None = None,
    progress: bool = True,
) -> ReasonReport:
    """Score an answerer.

    Args:
        answerer: asked about short conversations first, so that those of a batch are alike.
        dataset: questions with true answers.
        teacher_forced: give it the true words.
        batch_size: conversations handed over at once.
        max_conversations: ask the first ones only.
        name: the answerer's name in the report.
        answers: file for what was said, a conversation a line; a killed run goes on from it.
        progress: show a bar on stderr.

    Raises:
        InputError: a number below 1, an answers file of another run, an image that cannot be read, or no
            sacrebleu in `free` mode.
    """
    for label, number in (("batch_size", batch_size), ("max_conversations", max_conversations)):
        if number is not None and number < 1:
            raise InputError(f"{label}: expected 1 or more, got {number}")
    if not teacher_forced:
        text_quality(["a"], ["a"])  # a missing package is told before the work, not after it
    if max_conversations is not None:
        dataset = dataset.head(max_conversations)
    options = {
        "model": name,
        "mode": TEACHER_FORCED if teacher_forced else FREE,
        "questions": digest(dataset),
        "num_conversations": len(dataset.conversations),
    }
    kept = AnswersFile(answers, options)
    todo = [c for c in dataset.conversations if str(c.id) not in kept.answers]
    todo.sort(key=lambda conversation: len(conversation.turns))
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("evaluate", total=len(dataset.conversations), completed=len(kept.answers))
        for start in range(0, len(todo), batch_size):
            batch = todo[start : start + batch_size]
            for conversation, replies in zip(batch, _ask(answerer, batch, teacher_forced), strict=True):
                kept.add(conversation.id, _scored(conversation, replies, dataset.categories, teacher_forced))
            bar.advance(task, len(batch))
    records = [record for c in dataset.conversations for record in kept.answers[str(c.id)]]
    options |= {"matching": "Hungarian on amodal IoU, unmatched 0", "num_images": _num_images(dataset)}
    return report_of(records, options, free=not teacher_forced)


def named_kind(phrase: str | None, kinds: Sequence[str]) -> str:
    """The kind that a phrase speaks of: the longest one met in it as whole words, else its own words."""
    if phrase is None:
        return UNNAMED
    words = " ".join(re.findall(r"\w+", phrase.lower()))
    met = [kind for kind in map(str.lower, kinds) if re.search(rf"\b{re.escape(kind)}\b", words)]
    return max(met, key=len) if met else re.sub(r"^(the|an?) ", "", words) or UNNAMED


def _ask(
    answerer: ReasonAnswerer, batch: Sequence[Conversation], teacher_forced: bool
) -> Iterator[Sequence[ReasonReply]]:
    images = {conversation.image.id: conversation.image.load() for conversation in batch}
    asked = [
        Asked(
            images[c.image.id],
            tuple(turn.question for turn in c.turns),
            tuple(turn.with_token(TOKEN) for turn in c.turns) if teacher_forced else None,
        )
        for c in batch
    ]
    replies = answerer.answer(asked)
    if len(replies) != len(batch):
        raise ValueError(f"replies: expected one list a conversation, got {len(replies)} for {len(batch)}")
    for conversation, given in zip(batch, replies, strict=True):
        if len(given) != len(conversation.turns):
            raise ValueError(f"replies: expected one a question, got {len(given)} for {len(conversation.turns)}")
        yield given


def _scored(
    conversation: Conversation, replies: Sequence[ReasonReply], categories: dict[int, str], teacher_forced: bool
) -> list[AnswerRecord]:
    kinds = list(categories.values())
    records = []
    for turn, reply in zip(conversation.turns, replies, strict=True):
        if len(reply.phrases) != len(reply.objects):
            raise ValueError(f"replies: expected a phrase an object, got {len(reply.phrases)} for {len(reply.objects)}")
        named = tuple(named_kind(phrase, kinds) for phrase in reply.phrases)
        true_named = tuple(categories.get(thing.category_id, UNNAMED).lower() for thing in turn.objects)
        names = None if teacher_forced else (named, true_named)
        true = _true_masks(turn)
        score = score_answer(reply.objects, true, names)
        said, beside = None if teacher_forced else plain_text(reply.text), _baselines(reply, true)
        records.append(AnswerRecord(turn.question, said, named, turn.text, true_named, turn.kind, score, beside))
    return records


def _baselines(reply: ReasonReply, true: list[ObjectMasks]) -> dict[str, AnswerScore]:
    scores = {"says nothing": score_answer([], true)}
    for name, shape in SHAPES.items():
        made = [ObjectMasks(thing.visible, shape(thing.visible)) for thing in reply.objects]
        scores[name] = score_answer(made, true)
    return scores


def _true_masks(turn: ReasonTurn) -> list[ObjectMasks]:
    masks = [(thing.visible_mask(), thing.amodal_mask()) for thing in turn.objects]
    return [ObjectMasks(visible, amodal) for visible, amodal in masks if amodal is not None]


def _num_images(dataset: ReasonDataset) -> int:
    return len({conversation.image.id for conversation in dataset.conversations})


class AssistantAnswerer:
    """An `AmodalAssistant` as `ReasonAnswerer`.

    Args:
        assistant: whose `converse` answers several conversations side by side.
    """

    def __init__(self, assistant: AmodalAssistant) -> None:
        self.assistant = assistant

    def answer(self, batch: Sequence[Asked]) -> list[list[ReasonReply]]:
        """Each conversation with its own history."""
        token = self.assistant.processor.seg_token
        given = [[text.replace(TOKEN, token) for text in asked.answers] for asked in batch if asked.answers is not None]
        replies = self.assistant.converse([(a.image, a.questions) for a in batch], answers=given or None)
        return [[_reply(reply) for reply in row] for row in replies]


def _reply(reply: Reply) -> ReasonReply:
    things = reply.scene.objects
    rates = reply.occlusion_rates or (None,) * len(things)
    objects = tuple(
        ObjectMasks(thing.visible_mask, thing.amodal_mask, rate) for thing, rate in zip(things, rates, strict=True)
    )
    return ReasonReply(reply.text, objects, tuple(thing.phrase for thing in things))
