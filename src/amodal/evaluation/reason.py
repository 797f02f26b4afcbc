"""Scoring an assistant that answers questions about images with words and masks (protocol `reason`).

By default the model writes its answers itself (`free`), each turn of a conversation after its own earlier answers. With
`teacher_forced` it is given the true words and only its masks are scored. That is the easier task, so the report names
the mode and leaves out the metrics that the given words decide.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from amodal.data.reason_seg import Conversation, ReasonDataset, plain_text
from amodal.errors import InputError
from amodal.evaluation.report import as_text
from amodal.evaluation.rows import UNKNOWN_COMPUTATION, computation
from amodal.io.files import atomic_path, require_folder, write_atomic
from amodal.io.images import ImageArray
from amodal.metrics.intervals import OcclusionRange, range_indices, range_label
from amodal.metrics.reason import AnswerScore, MaskPair, Overlap, TrueObject, score_answer, summarize
from amodal.ops.arrays import Mask
from amodal.ops.masks import convex_hull_mask
from amodal.version import __version__, source_commit

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

MASK_METRICS = ("gIoU_amodal", "cIoU_amodal", "gIoU_visible", "cIoU_visible")
TEXT_METRICS = ("num_answers", "set_F1", "no_object_accuracy", "occlusion_rate_error", "BLEU", "chrF")


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


@dataclass(frozen=True)
class AnswerRecord:
    """One answer, the true answer, and the score. The field names are keys of the answers file.

    Attributes:
        question: text of the question.
        said: text of the answer; None if the true text was given.
        named: names of the objects in the answer.
        true_text: text of the true answer.
        true_named: names of the objects in the true answer.
        kind: kind of question, if the question file states it.
        score: score of the masks and names.
        baselines: score of other amodal masks for the same answer, by name of the baseline.
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
        """Build a record from the values in a line of the answers file."""
        names = {key: tuple(content[key]) for key in ("named", "true_named")}
        baselines = {name: _score_from_json(values) for name, values in content["baselines"].items()}
        return cls(**content | names | {"score": _score_from_json(content["score"]), "baselines": baselines})


class AnswersFile:
    """Collects scored answers, on disk if a path is given, so that a stopped evaluation can be resumed.

    Args:
        path: JSON lines: the settings of the run, then one line per conversation. The file is kept at the end.
        settings: of the run; a file with other settings is refused.

    Raises:
        InputError: the file has other settings or another form, or cannot be written.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self.path = path
        self.answers: dict[str, list[AnswerRecord]] = {}
        if path is None:
            return
        lines = [json.dumps(settings)]
        if path.exists():
            lines += self._read(path, settings)
        with atomic_path(path, "answers") as temporary:
            temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    def add(self, conversation_id: int | str, records: list[AnswerRecord]) -> None:
        """Add the answers of a conversation."""
        self.answers[str(conversation_id)] = records
        if self.path is not None:
            line = {"id": str(conversation_id), "turns": [asdict(record) for record in records]}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _read(self, path: Path, settings: dict[str, Any]) -> list[str]:
        """Read the complete lines. The last line of a stopped run may be cut off; that conversation is repeated."""
        try:
            first, *rest = path.read_text(encoding="utf-8").split("\n")
            found = json.loads(first)
        except (OSError, ValueError) as error:
            raise InputError(f"answers {path}: expected answers of an evaluation, got another file") from error
        if found != settings:
            raise InputError(f"answers {path}: expected answers of the same questions, model and options, got others")
        lines = rest[:-1]  # the part after the last line break is empty or cut off
        for line in lines:
            try:
                content = json.loads(line)
                self.answers[content["id"]] = [AnswerRecord.from_json(turn) for turn in content["turns"]]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(f"answers {path}: expected answers of an evaluation, got a broken line") from error
        return lines


def _score_from_json(content: dict[str, Any]) -> AnswerScore:
    overlaps = {kind: Overlap(*content[kind]) for kind in ("amodal", "visible")}
    return AnswerScore(**content | overlaps | {"objects": tuple(TrueObject(*values) for values in content["objects"])})


@dataclass
class ReasonReport:
    """Metrics with everything needed to compare them.

    Attributes:
        protocol: `reason`.
        options: model, device, precision, whether masks were cleaned, `free` or `teacher_forced`, questions, and how
            objects are matched. None is unknown.
        metrics: metrics over all answers.
        by_occlusion: mean IoU of the true objects per range of their occlusion rate.
        by_kind: metrics per kind of question.
        baselines: metrics of the amodal masks of baselines on the same answers: `says nothing`, and masks computed
            from the model's visible masks.
        version: version of the package.
        commit: git commit of the package; None without a checkout.
    """

    protocol: str
    options: dict[str, Any]
    metrics: dict[str, float]
    by_occlusion: list[dict[str, Any]] = field(default_factory=list)
    by_kind: list[dict[str, Any]] = field(default_factory=list)
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    version: str = __version__
    commit: str | None = field(default_factory=source_commit)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, in the form that other programs read."""
        return asdict(self)

    def save(self, path: str | Path) -> Path:
        """Write the report, completely or not at all.

        Raises:
            InputError: the file cannot be written.
        """
        return write_atomic(Path(path), json.dumps(self.to_json(), indent=1, allow_nan=False))

    def save_folder(self, folder: str | Path) -> Path:
        """Write `table.txt` and, last, `report.json`.

        Raises:
            InputError: the path is a file, or the folder cannot be written to.
        """
        folder = require_folder(Path(folder))
        write_atomic(folder / "table.txt", as_text(self.tables(), 160))
        return self.save(folder / "report.json")

    def table(self) -> Table:
        """Return the metrics of the masks: over all answers, of the baselines, and per kind of question."""
        counts = f"{self.metrics['num_answers']} answers, {self.metrics['num_objects']} objects"
        rows = [("all", self.metrics), *self.baselines.items(), *((str(row["kind"]), row) for row in self.by_kind)]
        return _table(f"{self.protocol}, {self.options['mode']}: {counts}", "answers", rows, MASK_METRICS)

    def tables(self) -> Iterator[Table]:
        """Yield all tables: masks, words and occlusion rates, and objects by occlusion rate."""
        yield self.table()
        rows = [("all", self.metrics), *((str(r["kind"]), r) for r in self.by_kind)]
        yield _table("words and occlusion rates", "answers", rows, TEXT_METRICS)
        rows = [(f"{range_label(r['above'], r['up_to'])} ({r['num_objects']})", r) for r in self.by_occlusion]
        yield _table("objects by occlusion rate", "occluded (objects)", rows, ("mIoU_amodal", "mIoU_visible"))


def evaluate_reason(
    assistant: AmodalAssistant | ConversationModel,
    dataset: ReasonDataset,
    *,
    teacher_forced: bool = False,
    clean: bool = False,
    batch_size: int = 8,
    max_conversations: int | None = None,
    name: str = "model",
    answers: Path | None = None,
    progress: bool = True,
) -> ReasonReport:
    """Score an assistant on a question file.

    Example:
        >>> from amodal import AmodalAssistant
        >>> from amodal.data.reason_seg import read_reason_seg
        >>> dataset = read_reason_seg("data/scenes-val/questions.json", "data/scenes-val/annotations.json")
        >>> report = evaluate_reason(AmodalAssistant.from_pretrained("aura-tiny"), dataset.head(100))
        >>> report.metrics["gIoU_amodal"]

    Args:
        assistant: an `AmodalAssistant`, or any object with its method `converse`. Short conversations are asked
            first, so that the conversations of a batch have similar lengths.
        dataset: questions with true answers.
        teacher_forced: give the model the true words and score the masks only.
        clean: clean the masks, whatever the assistant's own setting is; the papers score the masks of the network.
        batch_size: number of conversations per call.
        max_conversations: ask the first conversations only; all if None.
        name: name of the model in the report.
        answers: file for the answers, one conversation per line, from which a stopped run is resumed; None for none.
        progress: show a progress bar on stderr.

    Raises:
        InputError: a number below 1, `clean=True` for a model other than `AmodalAssistant`, an answers file of another
            run, an image that cannot be read, or sacrebleu is not installed in `free` mode.
        ValueError: the assistant does not return one reply per question, or masks of another size.
    """
    for label, number in (("batch_size", batch_size), ("max_conversations", max_conversations)):
        if number is not None and number < 1:
            raise InputError(f"{label}: expected 1 or more, got {number}")
    if not teacher_forced:
        text_quality(["a"], ["a"])  # a missing package is reported before the work, not after it
    if max_conversations is not None:
        dataset = dataset.head(max_conversations)
    options = {
        "model": name,
        **_computation(assistant, clean),
        "mode": TEACHER_FORCED if teacher_forced else FREE,
        "questions": questions_digest(dataset),
        "num_conversations": len(dataset.conversations),
    }
    file = AnswersFile(answers, options)
    remaining = [c for c in dataset.conversations if str(c.id) not in file.answers]
    remaining.sort(key=lambda conversation: len(conversation.turns))
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("evaluate", total=len(dataset.conversations), completed=len(file.answers))
        for start in range(0, len(remaining), batch_size):
            batch = remaining[start : start + batch_size]
            made = list(_converse(assistant, batch, teacher_forced, clean))
            for conversation, replies in zip(batch, made, strict=True):
                file.add(conversation.id, _score_replies(conversation, replies, dataset.categories, teacher_forced))
            bar.advance(task, len(batch))
    records = [record for c in dataset.conversations for record in file.answers[str(c.id)]]
    num_images = len({conversation.image.id for conversation in dataset.conversations})
    options |= {"matching": "Hungarian on amodal IoU, unmatched 0", "num_images": num_images}
    return _report(records, options, free=not teacher_forced)


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
        if selected:
            row["mIoU_amodal"] = float(np.mean([obj.iou_amodal for obj in selected]))
            row["mIoU_visible"] = float(np.mean([obj.iou_visible for obj in selected]))
        rows.append(row)
    return rows


def _computation(assistant: AmodalAssistant | ConversationModel, clean: bool) -> dict[str, Any]:
    """Options of the report that say how the masks are computed."""
    if hasattr(assistant, "clean"):
        return computation(assistant) | {"clean": clean}
    if clean:
        got = type(assistant).__name__
        raise InputError(f"clean: expected False for a model other than AmodalAssistant, got True for {got}")
    return UNKNOWN_COMPUTATION


@contextmanager
def _cleaning(assistant: AmodalAssistant | ConversationModel, clean: bool) -> Iterator[None]:
    """Let an assistant clean its masks or not."""
    if not hasattr(assistant, "clean"):
        yield
        return
    own, assistant.clean = assistant.clean, clean
    try:
        yield
    finally:
        assistant.clean = own


def _converse(
    assistant: AmodalAssistant | ConversationModel, batch: Sequence[Conversation], teacher_forced: bool, clean: bool
) -> Iterator[Sequence[Reply]]:
    images = {conversation.image.id: conversation.image.load() for conversation in batch}
    asked = [(images[c.image.id], [turn.question for turn in c.turns]) for c in batch]
    answers = None
    if teacher_forced:
        token = assistant.processor.seg_token  # type: ignore[union-attr]
        answers = [[turn.with_token(token) for turn in c.turns] for c in batch]
    with _cleaning(assistant, clean):
        replies = assistant.converse(asked, answers=answers)
    if len(replies) != len(batch):
        raise ValueError(f"replies: expected one list per conversation, got {len(replies)} for {len(batch)}")
    for conversation, of_conversation in zip(batch, replies, strict=True):
        if len(of_conversation) != len(conversation.turns):
            num_turns = len(conversation.turns)
            raise ValueError(f"replies: expected one per question, got {len(of_conversation)} for {num_turns}")
        yield of_conversation


def _score_replies(
    conversation: Conversation, replies: Sequence[Reply], categories: dict[int, str], teacher_forced: bool
) -> list[AnswerRecord]:
    names = list(categories.values())
    records = []
    for turn, reply in zip(conversation.turns, replies, strict=True):
        objects = reply.scene.objects
        rates = reply.occlusion_rates or (None,) * len(objects)
        predicted = [MaskPair(o.visible_mask, o.amodal_mask, rate) for o, rate in zip(objects, rates, strict=True)]
        true = [
            MaskPair(obj.visible_mask(), amodal) for obj in turn.objects if (amodal := obj.amodal_mask()) is not None
        ]
        named = tuple(category_name(obj.phrase, names) for obj in objects)
        true_named = tuple(categories.get(obj.category_id, UNNAMED).lower() for obj in turn.objects)
        records.append(
            AnswerRecord(
                question=turn.question,
                said=None if teacher_forced else plain_text(reply.text),
                named=named,
                true_text=turn.text,
                true_named=true_named,
                kind=turn.kind,
                score=score_answer(predicted, true, None if teacher_forced else (named, true_named)),
                baselines=_score_baselines(predicted, true),
            )
        )
    return records


def _score_baselines(predicted: list[MaskPair], true: list[MaskPair]) -> dict[str, AnswerScore]:
    scores = {"says nothing": score_answer([], true)}
    for name, amodal_mask in AMODAL_MASKS_FROM_VISIBLE.items():
        pairs = [MaskPair(pair.visible, amodal_mask(pair.visible)) for pair in predicted]
        scores[name] = score_answer(pairs, true)
    return scores


def _report(records: list[AnswerRecord], options: dict[str, Any], *, free: bool) -> ReasonReport:
    scores = [record.score for record in records]
    metrics = summarize(scores, free=free)
    if free:
        text_metrics, signatures = text_quality([r.said or "" for r in records], [r.true_text for r in records])
        metrics, options = metrics | text_metrics, options | {"text": signatures}
    kinds = sorted({record.kind for record in records if record.kind is not None})
    by_kind = [{"kind": k} | summarize([r.score for r in records if r.kind == k], free=free) for k in kinds]
    baselines = {}
    for name in records[0].baselines:
        row = summarize([record.baselines[name] for record in records], free=False)
        baselines[name] = {metric: value for metric, value in row.items() if "amodal" in metric}
    return ReasonReport("reason", options, metrics, iou_by_occlusion(scores), by_kind, baselines)


def _table(title: str, head: str, rows: list[tuple[str, dict[str, Any]]], names: tuple[str, ...]) -> Table:
    shown = [name for name in names if any(name in metrics for _, metrics in rows)]
    table = Table(title=title, title_justify="left")
    table.add_column(head, no_wrap=True)
    for name in shown:
        table.add_column(name, justify="right")
    for label, metrics in rows:
        table.add_row(label, *(_cell(metrics.get(name)) for name in shown))
    return table


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
