"""What an evaluation of answers says, as JSON and as tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

import amodal
from amodal.errors import InputError
from amodal.evaluation.reason_record import AnswerRecord
from amodal.evaluation.report import as_text
from amodal.io.files import no_file, write_whole
from amodal.metrics.ranges import Range, range_indices, range_label
from amodal.metrics.reason import AnswerScore, summarise

MASKS = ("gIoU_amodal", "cIoU_amodal", "gIoU_visible", "cIoU_visible")
WORDS = ("num_answers", "set_F1", "no_object_accuracy", "occlusion_rate_error", "BLEU", "chrF")


@dataclass
class ReasonReport:
    """Figures with everything needed to compare them.

    Attributes:
        protocol: `reason`.
        options: model, `free` or `teacher_forced`, questions, how objects are matched.
        metrics: figures over all answers.
        by_occlusion: mean IoU of the true objects by range of their occlusion rate.
        by_kind: figures of each kind of question.
        baselines: figures of the amodal masks of other rows on the same answers: `says nothing`, and shapes
            made of the model's own visible masks.
        version: package version.
    """

    protocol: str
    options: dict[str, Any]
    metrics: dict[str, float]
    by_occlusion: list[dict[str, Any]] = field(default_factory=list)
    by_kind: list[dict[str, Any]] = field(default_factory=list)
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    version: str = amodal.__version__

    def to_json(self) -> dict[str, Any]:
        """Plain values, in the form other programs read."""
        return asdict(self)

    def save(self, path: str | Path) -> Path:
        """Write the report, complete or not at all.

        Raises:
            InputError: a path that cannot be written.
        """
        return write_whole(Path(path), json.dumps(self.to_json(), indent=1, allow_nan=False))

    def save_folder(self, folder: str | Path) -> Path:
        """Write `table.txt` and, last, `report.json`.

        Raises:
            InputError: the place is a file, or cannot be written to.
        """
        folder = no_file(Path(folder))
        write_whole(folder / "table.txt", as_text(self.tables(), 160))
        return self.save(folder / "report.json")

    def table(self) -> Table:
        """Figures of the masks: all answers, baselines beside them, and each kind of question."""
        counts = f"{self.metrics['num_answers']} answers, {self.metrics['num_objects']} objects"
        rows = [("all", self.metrics), *self.baselines.items(), *((str(row["kind"]), row) for row in self.by_kind)]
        return _table(f"{self.protocol}, {self.options['mode']}: {counts}", "answers", rows, MASKS)

    def tables(self) -> Iterator[Table]:
        """All tables: masks, words and rates, and objects by how much of them is hidden."""
        yield self.table()
        yield _table(
            "words and rates", "answers", [("all", self.metrics), *((str(r["kind"]), r) for r in self.by_kind)], WORDS
        )
        rows = [(f"{range_label(r['above'], r['up_to'])} ({r['num_objects']})", r) for r in self.by_occlusion]
        yield _table("objects by hidden share", "hidden (objects)", rows, ("mIoU_amodal", "mIoU_visible"))


def report_of(records: list[AnswerRecord], options: dict[str, Any], *, free: bool) -> ReasonReport:
    """Figures of scored answers.

    Raises:
        InputError: sacrebleu is not installed.
    """
    scores = [record.score for record in records]
    metrics = summarise(scores, free=free)
    if free:
        figures, signatures = text_quality([r.said or "" for r in records], [r.true_text for r in records])
        metrics, options = metrics | figures, options | {"text": signatures}
    kinds = sorted({record.kind for record in records if record.kind is not None})
    by_kind = [{"kind": k} | summarise([r.score for r in records if r.kind == k], free=free) for k in kinds]
    baselines = {}
    for name in records[0].baselines:
        row = summarise([record.baselines[name] for record in records], free=False)
        baselines[name] = {figure: value for figure, value in row.items() if "amodal" in figure}
    return ReasonReport("reason", options, metrics, by_occlusion(scores), by_kind, baselines)


def text_quality(said: list[str], true: list[str]) -> tuple[dict[str, float], dict[str, str]]:
    """BLEU and chrF in [0, 100] over all answers, and sacrebleu's signatures.

    Raises:
        InputError: sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise InputError("text quality: expected sacrebleu, got none: pip install 'amodal[reason]'") from error
    figures, signatures = {}, {}
    for name, metric in (("BLEU", BLEU()), ("chrF", CHRF())):
        figures[name] = float(metric.corpus_score(said, [true]).score)
        signatures[name] = str(metric.get_signature())
    return figures, signatures


def by_occlusion(scores: list[AnswerScore]) -> list[dict[str, Any]]:
    """Mean IoU of the true objects, 0 for those without a partner, by range of their rate."""
    things = [thing for score in scores for thing in score.objects]
    where = range_indices(np.array([thing.rate for thing in things]))
    rows: list[dict[str, Any]] = []
    for index, part in enumerate(Range.all()):
        chosen = [thing for thing, at in zip(things, where, strict=True) if at == index]
        row: dict[str, Any] = {"above": part.above, "up_to": part.up_to, "num_objects": len(chosen)}
        if chosen:
            row["mIoU_amodal"] = float(np.mean([thing.iou_amodal for thing in chosen]))
            row["mIoU_visible"] = float(np.mean([thing.iou_visible for thing in chosen]))
        rows.append(row)
    return rows


def _table(title: str, head: str, rows: list[tuple[str, dict[str, Any]]], names: tuple[str, ...]) -> Table:
    shown = [name for name in names if any(name in figures for _, figures in rows)]
    table = Table(title=title, title_justify="left")
    table.add_column(head, no_wrap=True)
    for name in shown:
        table.add_column(name, justify="right")
    for label, figures in rows:
        table.add_row(label, *(_cell(figures.get(name)) for name in shown))
    return table


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
