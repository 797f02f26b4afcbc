"""The report of the protocol `reason`, and the comparison of two such reports."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from amodal.errors import InputError
from amodal.evaluation.report import as_text, different_options, read_report, report_file
from amodal.io.files import require_folder, write_atomic
from amodal.io.json_stream import read_json
from amodal.io.words import counted
from amodal.metrics.intervals import range_label
from amodal.version import __version__, source_commit

PROTOCOL = "reason"
MASK_METRICS = ("gIoU_amodal", "cIoU_amodal", "gIoU_visible", "cIoU_visible")
OTHER_MEANS = tuple(f"{mean}_{kind}{end}" for kind in ("amodal", "visible") for mean, end in (
    ("gIoU", "_per_image"), ("mIoU", ""), ("gIoU", "_with_objects"), ("gIoU", "_union"), ("cIoU", "_union"),
))  # fmt: skip
TEXT_METRICS = ("num_answers", "set_F1", "no_object_accuracy", "occlusion_rate_error", "BLEU", "chrF")
COMPARED_OPTIONS = ("mode", "union_visible", "clean")
"""Options that change the metrics. Two reports must agree in those that both of them state, and in the questions."""

TEXT_WIDTH = 160
"""Characters per line of a report as text."""


@dataclass
class ReasonReport:
    """Metrics with everything needed to compare them. `print(report)` shows all tables.

    Attributes:
        protocol: `reason`.
        options: model, device, precision, whether masks were cleaned and united, `free` or `teacher_forced`,
            questions, and how objects are matched. None is unknown.
        metrics: metrics over all answers.
        intervals: 95 % intervals of the metrics, from resampled images; None where fewer than two images contribute.
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
    intervals: dict[str, list[float] | None] = field(default_factory=dict)
    by_occlusion: list[dict[str, Any]] = field(default_factory=list)
    by_kind: list[dict[str, Any]] = field(default_factory=list)
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    version: str = __version__
    commit: str | None = field(default_factory=source_commit)

    def __str__(self) -> str:
        """All tables as text, as the command line prints them."""
        return as_text(self.tables(), TEXT_WIDTH).rstrip("\n")

    def __repr__(self) -> str:
        """Class, mode, model and number of answers in one line."""
        mode, model, count = self.options.get("mode"), self.options.get("model"), self.metrics.get("num_answers")
        return f"{type(self).__name__}(mode={mode!r}, model={model!r}, num_answers={count})"

    def to_json(self) -> dict[str, Any]:
        """Return plain values, in the form that other programs read."""
        return asdict(self)

    @classmethod
    def load(cls, path: str | Path) -> ReasonReport:
        """Read a report.

        Args:
            path: file, or folder that holds one report, as for `report_file`.

        Raises:
            InputError: the file does not exist or is not such a report, or the folder does not hold exactly one.
        """
        options = ("questions", "model")
        return read_report(cls, path, "amodal evaluate answers", options=options, metrics=("num_answers",))

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
        write_atomic(folder / "table.txt", f"{self}\n")
        return self.save(folder / "report.json")

    def table(self) -> Table:
        """Return the metrics of the masks: over all answers, of the baselines, and per kind of question."""
        counts = ", ".join(counted(int(self.metrics[f"num_{kind}s"]), kind) for kind in ("answer", "object"))
        rows = [("all", self._with_intervals()), *self.baselines.items(), *self._kinds()]
        return _table(f"{self.protocol}, {self.options['mode']}: {counts}", "answers", rows, MASK_METRICS)

    def tables(self) -> Iterator[Table]:
        """Yield all tables: masks, their other means, words and occlusion rates, and objects by occlusion rate."""
        yield self.table()
        table = Table(title="other means of the masks", title_justify="left")
        for head in ("metric", "value"):
            table.add_column(head, justify="left" if head == "metric" else "right")
        for name in (name for name in OTHER_MEANS if name in self.metrics):
            table.add_row(name, _cell(self.metrics[name], self.intervals.get(name)))
        yield table
        yield _table("words and occlusion rates", "answers", [("all", self.metrics), *self._kinds()], TEXT_METRICS)
        rows = [(f"{range_label(r['above'], r['up_to'])} ({r['num_objects']})", r) for r in self.by_occlusion]
        yield _table("objects by occlusion rate", "occluded (objects)", rows, ("mIoU_amodal", "mIoU_visible"))

    def _kinds(self) -> list[tuple[str, dict[str, Any]]]:
        return [(str(row["kind"]), row) for row in self.by_kind]

    def _with_intervals(self) -> dict[str, Any]:
        return self.metrics | {"intervals": self.intervals}


@dataclass(frozen=True)
class ReasonComparison:
    """Two reports about the same questions, made by `compare_reason`.

    Attributes:
        first: one report.
        second: the other report.
        different: options that differ and were allowed to, or that only one of the reports states.
    """

    first: ReasonReport
    second: ReasonReport
    different: tuple[str, ...] = ()

    def __str__(self) -> str:
        """All tables as text, as the command line prints them."""
        return as_text(self.tables(), TEXT_WIDTH).rstrip("\n")

    def rows(self) -> list[dict[str, Any]]:
        """Return each metric that both reports have, with its difference: overall, then per kind of question."""
        rows = []
        seconds = dict(self.second._kinds())
        groups = [("all", self.first.metrics, self.second.metrics)]
        groups += [(kind, row, seconds[kind]) for kind, row in self.first._kinds() if kind in seconds]
        for answers, first, second in groups:
            for name in (n for n in first if n in second and n != "kind" and not n.startswith("num_")):
                x, y = first[name], second[name]
                rows.append({"answers": answers, "metric": name, "first": x, "second": y, "difference": y - x})
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "protocol": PROTOCOL,
            "num_answers": self.first.metrics["num_answers"],
            "models": [self.first.options["model"], self.second.options["model"]],
            "different_options": {n: [r.options.get(n) for r in (self.first, self.second)] for n in self.different},
            "rows": self.rows(),
        }

    def tables(self) -> Iterator[Table]:
        """Yield one table with a line per shared metric."""
        notes = "".join(f"; {n}: {self.first.options.get(n)}, {self.second.options.get(n)}" for n in self.different)
        table = Table(title=f"{PROTOCOL}: {self.first.metrics['num_answers']} answers{notes}", title_justify="left")
        for head in ("answers", "metric"):
            table.add_column(head, no_wrap=True)
        for head in (*(str(r.options["model"]) for r in (self.first, self.second)), "difference"):
            table.add_column(head, justify="right")
        for row in self.rows():
            table.add_row(
                row["answers"], row["metric"], _cell(row["first"]), _cell(row["second"]), f"{row['difference']:+.3f}"
            )
        yield table


def compare_reason(first: ReasonReport, second: ReasonReport, allow: Sequence[str] = ()) -> ReasonComparison:
    """Compare two reports about the same questions.

    Options that only one report states do not stand in the way; the comparison names them.

    Args:
        first: one report.
        second: the other report.
        allow: options of `COMPARED_OPTIONS` that may differ; the comparison names them.

    Raises:
        InputError: the reports differ in the questions or in another option, or `allow` has an unknown name.
    """
    digests = [r.options["questions"] for r in (first, second)]
    if digests[0] != digests[1]:
        counts = " and ".join(f"{r.metrics['num_answers']} answers ({r.options['questions']})" for r in (first, second))
        raise InputError(f"compare: expected the same questions in both reports, got {counts}")
    return ReasonComparison(first, second, different_options(first.options, second.options, COMPARED_OPTIONS, allow))


def is_reason_report(path: Path) -> bool:
    """Whether a path leads to a report of this protocol; False for a file that is missing or no report.

    Raises:
        InputError: a folder does not hold exactly one report.
    """
    file = report_file(path)
    if not file.is_file():
        return False
    try:
        content = read_json(file, "report")
    except InputError:
        return False
    return isinstance(content, dict) and content.get("protocol") == PROTOCOL


def _table(title: str, head: str, rows: list[tuple[str, dict[str, Any]]], names: tuple[str, ...]) -> Table:
    shown = [name for name in names if any(name in metrics for _, metrics in rows)]
    table = Table(title=title, title_justify="left")
    table.add_column(head, no_wrap=True)
    for name in shown:
        table.add_column(name, justify="right")
    for label, metrics in rows:
        intervals = metrics.get("intervals", {})
        table.add_row(label, *(_cell(metrics.get(name), intervals.get(name)) for name in shown))
    return table


def _cell(value: float | None, interval: list[float] | None = None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.3f}" if interval is None else f"{value:.3f} ({interval[0]:.3f}-{interval[1]:.3f})"
