"""Scoring answers to questions about images, with words and masks (protocol `reason`).

By default the model writes its answers itself (`free`), each turn of a conversation after its own earlier answers. With
`teacher_forced` it is given the true words and only its masks are scored. That is the easier task, so the report names
the mode and leaves out the metrics that the given words decide. Answers of other programs are read from a file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeGuard

import numpy as np
from rich.console import Console
from rich.progress import Progress

from amodal.data.reason_seg import Conversation, ReasonDataset, ReasonTurn
from amodal.data.samples import AnnotatedDataset
from amodal.errors import InputError
from amodal.evaluation.answers import Answer, AnswerObject, GivenAnswers, ResumableAnswers, read_answers, united
from amodal.evaluation.predictions import integer, iterate_records, parse_records
from amodal.evaluation.reason_report import PROTOCOL, ReasonReport
from amodal.evaluation.rows import UNKNOWN_COMPUTATION, computation
from amodal.evaluation.scoring import Resampling
from amodal.io.files import one_writer
from amodal.io.images import ImageArray
from amodal.metrics.intervals import OcclusionRange, range_indices
from amodal.metrics.reason import (
    MASK_KINDS,
    AnswerScore,
    MaskPair,
    score_answer,
    summarize,
    summary_intervals,
)
from amodal.ops.arrays import Mask
from amodal.ops.masks import convex_hull_mask
from amodal.ops.rle import Rle, decode_mask

if TYPE_CHECKING:
    from amodal.inference.assistant import AmodalAssistant, Reply

AMODAL_MASKS_FROM_VISIBLE: dict[str, Callable[[Mask], Mask]] = {
    "own visible mask": lambda visible: visible,
    "hull of own visible mask": convex_hull_mask,
}
"""Baselines that compute amodal masks from the visible masks that the model predicts."""

FREE, TEACHER_FORCED = "free", "teacher_forced"
UNNAMED = "?"
"""Name of an object that the answer does not name; it matches no category."""

ANSWERS_SUFFIX = ".jsonl"
"""Suffix of an answers file. Other files of predictions belong to images, not to questions."""


class ConversationModel(Protocol):
    """A model other than `AmodalAssistant` that can be scored."""

    def converse(
        self,
        conversations: Sequence[tuple[ImageArray, Sequence[str]]],
        *,
        answers: Sequence[Sequence[str]] | None = None,
    ) -> list[list[Reply]]:
        """Answer several conversations, each with its own history.

        Args:
            conversations: images (H, W, 3) uint8 RGB, each with one question per turn.
            answers: true words of each turn with the mask token per object, if they are given to the model; only
                then does it need an attribute `processor.seg_token`.

        Returns:
            One reply per question.
        """


class ScoredAnswer(NamedTuple):
    """One answer with its score.

    Attributes:
        image_id: image of the question.
        kind: kind of question, if the question file states it.
        text: words of the answer; None if they are not known.
        true_text: words of the true answer.
        score: score of the masks and names.
        baselines: score of other amodal masks for the same answer, by name of the baseline.
    """

    image_id: int
    kind: str | None
    text: str | None
    true_text: str
    score: AnswerScore
    baselines: dict[str, AnswerScore]


@dataclass(frozen=True)
class AnswerScorer:
    """Scores answers.

    Attributes:
        categories: names of the categories.
        kinds: kinds of masks that the answers have, of `MASK_KINDS`.
        names: whether the names of the objects are scored.
    """

    categories: Mapping[int, str]
    kinds: tuple[str, ...] = MASK_KINDS
    names: bool = True

    def __call__(self, turn: ReasonTurn, answer: Answer, image_id: int) -> ScoredAnswer:
        """Score the answer to one question."""
        predicted = [MaskPair(_mask(o.visible), _mask(o.amodal), o.occlusion_rate) for o in answer.objects]
        true = [
            MaskPair(obj.visible_mask(), amodal) for obj in turn.objects if (amodal := obj.amodal_mask()) is not None
        ]
        names = self._names(turn, answer) if self.names else None
        score = score_answer(predicted, true, names, self.kinds)
        return ScoredAnswer(image_id, turn.kind, answer.text, turn.text, score, self._baselines(predicted, true))

    def _names(self, turn: ReasonTurn, answer: Answer) -> tuple[list[str], list[str]]:
        categories = list(self.categories.values())
        named = [category_name(obj.phrase, categories) for obj in answer.objects]
        return named, [self.categories.get(obj.category_id, UNNAMED).lower() for obj in turn.objects]

    def _baselines(self, predicted: list[MaskPair], true: list[MaskPair]) -> dict[str, AnswerScore]:
        scores = {"says nothing": score_answer([], true)}
        if "visible" not in self.kinds:
            return scores
        visible = [pair.visible for pair in predicted if pair.visible is not None]
        for name, amodal_mask in AMODAL_MASKS_FROM_VISIBLE.items():
            scores[name] = score_answer([MaskPair(mask, amodal_mask(mask)) for mask in visible], true)
        return scores


def evaluate_reason(
    assistant: AmodalAssistant | ConversationModel,
    dataset: ReasonDataset,
    *,
    teacher_forced: bool = False,
    clean: bool = False,
    union_visible: bool = True,
    batch_size: int = 8,
    max_conversations: int | None = None,
    name: str = "model",
    answers: Path | None = None,
    resampling: Resampling | None = None,
    progress: bool = True,
) -> ReasonReport:
    """Score an assistant on a question file.

    The conversations of `batch_size` images at a time are asked together, short ones first, so that the conversations
    of a batch have similar lengths. An `AmodalAssistant` encodes each image with its segmentation backbone once.

    Example:
        >>> from amodal import AmodalAssistant
        >>> from amodal.data.reason_seg import read_reason_seg
        >>> dataset = read_reason_seg("data/scenes-val/questions.json", "data/scenes-val/annotations.json")
        >>> report = evaluate_reason(AmodalAssistant.from_pretrained("aura-small"), dataset.head(100))
        >>> report.metrics["gIoU_amodal"]

    Args:
        assistant: an `AmodalAssistant`, or any object with its method `converse`.
        dataset: questions with true answers.
        teacher_forced: give the model the true words and score the masks only.
        clean: clean the masks, whatever the assistant's own setting is; the papers score the masks of the network.
        union_visible: unite each amodal mask with the visible mask, whatever the assistant's own setting is; False
            scores the amodal masks as the network gives them.
        batch_size: number of conversations per call.
        max_conversations: ask the first conversations only; all if None.
        name: name of the model in the report.
        answers: file for the answers, one conversation per line, from which a stopped run is resumed; None for none.
        resampling: how the 95 % intervals are computed; None for no intervals.
        progress: show a progress bar on stderr.

    Raises:
        InputError: a number below 1, other than the default masks for a model other than `AmodalAssistant`, an answers
            file of another run or one that another run writes, an image that cannot be read, or sacrebleu is not
            installed in `free` mode.
        ValueError: the assistant does not return one reply per question, or masks of another size.
    """
    dataset = _head(dataset, max_conversations)
    if batch_size < 1:
        raise InputError(f"batch_size: expected 1 or more, got {batch_size}")
    if not teacher_forced:
        text_quality(["a"], ["a"])  # a missing package is reported before the work, not after it
    options = {
        "model": name,
        **_computation(assistant, clean, union_visible),
        "mode": TEACHER_FORCED if teacher_forced else FREE,
        "questions": questions_digest(dataset),
        "num_conversations": len(dataset.conversations),
    }
    with (
        nullcontext() if answers is None else one_writer(answers, "answers"),
        Progress(console=Console(stderr=True), disable=not progress) as bar,
        _mask_options(assistant, clean, union_visible, batch_size),
    ):
        collected = ResumableAnswers(answers, options, dataset)
        remaining = [c for c in dataset.conversations if str(c.id) not in collected.answers]
        task = bar.add_task("evaluate", total=len(dataset.conversations), completed=len(collected.answers))
        for batch in _batches(remaining, batch_size):
            for conversation, replies in zip(batch, _converse(assistant, batch, teacher_forced), strict=True):
                made = [Answer.from_reply(reply, with_text=not teacher_forced) for reply in replies]
                collected.add(conversation, made)
            bar.advance(task, len(batch))
    scorer = AnswerScorer(dataset.categories, names=not teacher_forced)
    return _report(dataset, collected.answers, scorer, options, resampling, progress)


def evaluate_answers(
    path: Path,
    dataset: ReasonDataset,
    *,
    annotations: AnnotatedDataset | None = None,
    teacher_forced: bool = False,
    union_visible: bool = False,
    max_conversations: int | None = None,
    resampling: Resampling | None = None,
    progress: bool = True,
) -> ReasonReport:
    """Score answers that another program gave, or that an evaluation wrote.

    Answers without words get no metrics of words, and answers without phrases no metrics of names. Where objects have
    masks of one kind, the masks of this kind are scored.

    Args:
        path: an answers file (`.jsonl`, see `amodal.evaluation.answers`). Any other file has predictions of images, in
            the forms of `iterate_records`; the answer to each question about an image then shows all of its objects.
        dataset: questions with true answers.
        annotations: all images that predictions of images may be about. Those without a question are left out; if None,
            so are images that are not annotated.
        teacher_forced: the program was given the true words; used if the file does not state it.
        union_visible: unite each amodal mask with the visible mask.
        max_conversations: score the first conversations only; all if None.
        resampling: how the 95 % intervals are computed; None for no intervals.
        progress: show a progress bar on stderr.

    Raises:
        InputError: as `read_answers` or `iterate_records`; or no visible masks to unite with, or sacrebleu is not
            installed and there are words.
    """
    given = (
        read_answers(path, dataset) if path.suffix == ANSWERS_SUFFIX else _answers_of_images(path, dataset, annotations)
    )
    dataset = _head(dataset, max_conversations)
    if union_visible and given.kinds != MASK_KINDS:
        raise InputError(f"union-visible: expected objects with both masks in {str(path)!r}, got {given.kinds[0]} ones")
    answers: dict[str, list[Answer]] = {}
    num_missing = 0
    for conversation in dataset.conversations:
        found = given.answers.get(str(conversation.id))
        num_missing += found is None
        found = [Answer() for _ in conversation.turns] if found is None else found
        answers[str(conversation.id)] = [united(answer) for answer in found] if union_visible else found
    stated = given.settings
    mode = stated.get("mode", TEACHER_FORCED if teacher_forced else FREE)
    options = {
        "model": str(stated.get("model", path.name)),
        **(UNKNOWN_COMPUTATION | {key: stated[key] for key in UNKNOWN_COMPUTATION if key in stated}),
        "union_visible": union_visible or stated.get("union_visible"),
        "mode": mode,
        "questions": questions_digest(dataset),
        "num_conversations": len(dataset.conversations),
        "num_missing": num_missing,
    }
    has_names = any(obj.phrase is not None for turns in answers.values() for a in turns for obj in a.objects)
    scorer = AnswerScorer(dataset.categories, given.kinds, names=has_names and mode == FREE)
    return _report(dataset, answers, scorer, options, resampling, progress)


def questions_digest(dataset: ReasonDataset) -> str:
    """Return a fingerprint of the questions, their answers and their order."""
    digest = hashlib.sha256()
    for conversation in dataset.conversations:
        texts = [[turn.question, turn.answer] for turn in conversation.turns]
        digest.update(json.dumps([conversation.id, conversation.image.id, texts]).encode())
    return digest.hexdigest()[:16]


def category_name(phrase: str | None, categories: Sequence[str]) -> str:
    """Return the longest category name that occurs in a phrase as whole words, or else the phrase without article."""
    if phrase is None:
        return UNNAMED
    words = " ".join(re.findall(r"\w+", phrase.lower()))
    matches = [name for name in map(str.lower, categories) if re.search(rf"\b{re.escape(name)}\b", words)]
    return max(matches, key=len) if matches else re.sub(r"^(the|an?) ", "", words) or UNNAMED


def text_quality(predicted: list[str], true: list[str]) -> tuple[dict[str, float], dict[str, str]]:
    """Return BLEU and chrF in [0, 100] over all answers, and sacrebleu's signatures.

    Raises:
        InputError: sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise InputError("text quality: expected sacrebleu, got none: pip install 'amodal[reason]'") from error
    metrics, signatures = {}, {}
    for name, metric in (("BLEU", BLEU()), ("chrF", CHRF())):
        metrics[name] = float(metric.corpus_score(predicted, [true]).score)
        signatures[name] = str(metric.get_signature())
    return metrics, signatures


def iou_by_occlusion(scores: list[AnswerScore]) -> list[dict[str, Any]]:
    """Return the mean IoU of the true objects per range of their occlusion rate; unmatched objects count as 0."""
    objects = [obj for score in scores for obj in score.objects]
    indices = range_indices(np.array([obj.rate for obj in objects]))
    rows: list[dict[str, Any]] = []
    for index, part in enumerate(OcclusionRange.all()):
        selected = [obj for obj, i in zip(objects, indices, strict=True) if i == index]
        row: dict[str, Any] = {"above": part.above, "up_to": part.up_to, "num_objects": len(selected)}
        for kind in MASK_KINDS:
            ious = [iou for obj in selected if (iou := getattr(obj, f"iou_{kind}")) is not None]
            if ious:
                row[f"mIoU_{kind}"] = float(np.mean(ious))
        rows.append(row)
    return rows


def _mask(rle: Rle | None) -> Mask | None:
    return None if rle is None else decode_mask(rle)


def _is_assistant(model: AmodalAssistant | ConversationModel) -> TypeGuard[AmodalAssistant]:
    """Whether a model is an `AmodalAssistant`, without importing it and torch."""
    return hasattr(model, "keeping_features")


def _head(dataset: ReasonDataset, max_conversations: int | None) -> ReasonDataset:
    if max_conversations is None:
        return dataset
    if max_conversations < 1:
        raise InputError(f"max_conversations: expected 1 or more, got {max_conversations}")
    return dataset.head(max_conversations)


def _batches(conversations: Sequence[Conversation], batch_size: int) -> Iterator[list[Conversation]]:
    """Yield batches; the conversations about one image are at most `batch_size` images apart."""
    by_image: dict[int, list[Conversation]] = {}
    for conversation in conversations:
        by_image.setdefault(conversation.image.id, []).append(conversation)
    groups = list(by_image.values())
    for start in range(0, len(groups), batch_size):
        together = [conversation for group in groups[start : start + batch_size] for conversation in group]
        together.sort(key=lambda conversation: len(conversation.turns))
        for first in range(0, len(together), batch_size):
            yield together[first : first + batch_size]


def _computation(assistant: AmodalAssistant | ConversationModel, clean: bool, union_visible: bool) -> dict[str, Any]:
    """Options of the report that say how the masks are computed, and a fingerprint of the trained weights."""
    if _is_assistant(assistant):
        # These import torch, which answers from a file do not need.
        from amodal.models.bases.protocol import fingerprint_of
        from amodal.models.increments import increment_state

        options = computation(assistant) | {"clean": clean, "union_visible": union_visible}
        return options | {"weights": fingerprint_of(increment_state(assistant.model))}
    if clean or not union_visible:
        raise InputError(
            "clean, union_visible: expected False and True for a model other than AmodalAssistant, "
            f"got {clean} and {union_visible} for {type(assistant).__name__}"
        )
    return UNKNOWN_COMPUTATION | {"union_visible": None}


@contextmanager
def _mask_options(
    assistant: AmodalAssistant | ConversationModel, clean: bool, union_visible: bool, num_images: int
) -> Iterator[None]:
    """Let an assistant clean or unite its masks or not, and keep the features of images."""
    if not _is_assistant(assistant):
        yield
        return
    own = assistant.clean, assistant.union_visible
    assistant.clean, assistant.union_visible = clean, union_visible
    try:
        with assistant.keeping_features(num_images):
            yield
    finally:
        assistant.clean, assistant.union_visible = own


def _converse(
    assistant: AmodalAssistant | ConversationModel, batch: Sequence[Conversation], teacher_forced: bool
) -> Sequence[Sequence[Reply]]:
    images = {conversation.image.id: conversation.image.load() for conversation in batch}
    asked = [(images[c.image.id], [turn.question for turn in c.turns]) for c in batch]
    answers = None
    if teacher_forced:
        token = assistant.processor.seg_token  # type: ignore[union-attr]
        answers = [[turn.with_token(token) for turn in c.turns] for c in batch]
    replies = assistant.converse(asked, answers=answers)
    if len(replies) != len(batch):
        raise ValueError(f"replies: expected one list per conversation, got {len(replies)} for {len(batch)}")
    for conversation, of_conversation in zip(batch, replies, strict=True):
        if len(of_conversation) != len(conversation.turns):
            num_turns = len(conversation.turns)
            raise ValueError(f"replies: expected one per question, got {len(of_conversation)} for {num_turns}")
        for reply in of_conversation:
            if reply.scene.size != conversation.image.size:
                raise ValueError(f"masks: expected all of size {conversation.image.size}, got {reply.scene.size}")
    return replies


def _answers_of_images(path: Path, dataset: ReasonDataset, annotations: AnnotatedDataset | None) -> GivenAnswers:
    """Answers that show every object that a predictions file has for the image of the question."""
    images = {conversation.image.id: conversation.image for conversation in dataset.conversations}
    asked = AnnotatedDataset(tuple(images.values()), dataset.categories, "canonical")
    objects: dict[int, list[AnswerObject]] = {}
    for index, raw in iterate_records(path, annotations or asked, skip_other_images=annotations is None):
        try:
            image = images.get(integer(raw, "image_id"))
        except InputError as error:
            raise InputError(f"predictions {path}: record {index}: {error}") from error
        if image is None:  # nothing is asked about it
            continue
        (record,) = parse_records(path, [(index, raw)], image.id, image.size, union_visible=False)
        name = None if record.category_id is None else dataset.categories.get(record.category_id)
        objects.setdefault(image.id, []).append(AnswerObject(record.masks.amodal, record.masks.visible, name))
    found = [obj for of_image in objects.values() for obj in of_image]
    num_visible = sum(obj.visible is not None for obj in found)
    if 0 < num_visible < len(found):
        raise InputError(
            f"predictions {path}: expected visible_segmentation in all records or in none, "
            f"got {num_visible} of {len(found)}"
        )
    answers = {
        str(c.id): [Answer(None, tuple(objects[c.image.id])) for _ in c.turns]
        for c in dataset.conversations
        if c.image.id in objects
    }
    return GivenAnswers(answers, {}, MASK_KINDS if num_visible == len(found) else ("amodal",))


def _report(
    dataset: ReasonDataset,
    answers: Mapping[str, Sequence[Answer]],
    scorer: AnswerScorer,
    options: dict[str, Any],
    resampling: Resampling | None,
    progress: bool,
) -> ReasonReport:
    """Score all answers and compute the metrics."""
    scored: list[ScoredAnswer] = []
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        for conversation in bar.track(dataset.conversations, description="score"):
            of_conversation = zip(conversation.turns, answers[str(conversation.id)], strict=True)
            scored += [scorer(turn, answer, conversation.image.id) for turn, answer in of_conversation]
    free = options["mode"] == FREE
    scores, image_ids = [s.score for s in scored], [s.image_id for s in scored]
    metrics = summarize(scores, image_ids, free=free)
    intervals: dict[str, list[float] | None] = {}
    if resampling is not None:
        found = summary_intervals(scores, image_ids, free=free, **vars(resampling))
        intervals = {name: ends for name, ends in found.items() if name in metrics}
        options = options | {"resamples": resampling.num_resamples, "seed": resampling.seed}
    if free and any(s.text is not None for s in scored):
        text_metrics, signatures = text_quality([s.text or "" for s in scored], [s.true_text for s in scored])
        metrics, options = metrics | text_metrics, options | {"text": signatures}
    matching = f"Hungarian on {scorer.kinds[0]} IoU, unmatched 0"
    options = options | {"matching": matching, "num_images": len(set(image_ids))}
    baselines = {name: _of_baseline(name, scored) for name in scored[0].baselines}
    return ReasonReport(
        PROTOCOL, options, metrics, intervals, iou_by_occlusion(scores), _by_kind(scored, free), baselines
    )


def _by_kind(scored: Sequence[ScoredAnswer], free: bool) -> list[dict[str, Any]]:
    """Metrics per kind of question, except those of the text."""
    rows = []
    for kind in sorted({s.kind for s in scored if s.kind is not None}):
        own = [s for s in scored if s.kind == kind]
        rows.append({"kind": kind, **summarize([s.score for s in own], [s.image_id for s in own], free=free)})
    return rows


def _of_baseline(name: str, scored: Sequence[ScoredAnswer]) -> dict[str, float]:
    metrics = summarize([s.baselines[name] for s in scored], [s.image_id for s in scored], free=False)
    return {metric: value for metric, value in metrics.items() if "amodal" in metric}
