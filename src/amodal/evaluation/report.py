"""What an evaluation says: JSON for programs, tables and a plot for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import amodal
from amodal.errors import InputError
from amodal.evaluation.baselines import ROWS
from amodal.io.files import no_file, write_whole
from amodal.metrics.ranges import range_label

Figures = dict[str, Any]
MAX_CATEGORIES = 20
"""Printed; the report file has them all."""


@dataclass
class EvaluationReport:
    """Figures with everything needed to compare them.

    Attributes:
        protocol: name of the protocol.
        options: model, box source, threshold, objects scored and left out, how intervals are made.
        metrics: figures of the model; None where there was nothing to divide by.
        intervals: 95 % intervals of the figures, in the same form.
        by_occlusion: figures by range of the true hidden share.
        by_category: figures by category.
        baselines: figures of each baseline on the same objects.
        worst: the objects with the lowest IoU, worst first, if asked for.
        version: package version.
    """

    protocol: str
    options: dict[str, Any]
    metrics: Figures
    intervals: Figures = field(default_factory=dict)
    by_occlusion: list[Figures] = field(default_factory=list)
    by_category: list[Figures] = field(default_factory=list)
    baselines: dict[str, Figures] = field(default_factory=dict)
    worst: list[Figures] = field(default_factory=list)
    version: str = amodal.__version__

    def to_json(self) -> dict[str, Any]:
        """Plain values, in the form other programs read."""
        return asdict(self)

    @classmethod
    def load(cls, path: str | Path) -> EvaluationReport:
        """Read a report back.

        Raises:
            InputError: no file, or not a report.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"report: expected a report of `amodal evaluate`, got {str(path)!r} ({error})") from error
        try:
            report = cls(**content)
            _ = report.protocol, report.options["model"], report.metrics["num_objects"]
        except (TypeError, KeyError) as error:
            raise InputError(
                f"report: expected a report of `amodal evaluate`, got {str(path)!r}, other JSON"
            ) from error
        return report

    def save(self, path: str | Path) -> Path:
        """Write the report, complete or not at all.

        Raises:
            InputError: a path that cannot be written.
        """
        return write_whole(Path(path), json.dumps(self.to_json(), indent=1, allow_nan=False))

    def save_folder(self, folder: str | Path) -> Path:
        """Write `table.txt`, `plot.png` and, last, `report.json`.

        Raises:
            InputError: the place is a file, or cannot be written to.
        """
        from amodal.evaluation.plot import plot_png

        folder = no_file(Path(folder))
        picture = plot_png(self)
        write_whole(folder / "table.txt", as_text(self.tables(), 120))
        write_whole(folder / "plot.png", picture)
        return self.save(folder / "report.json")

    @property
    def rows(self) -> dict[str, Figures]:
        """Model and baselines by the titles they are printed under."""
        others = {ROWS[name].title if name in ROWS else name: row for name, row in self.baselines.items()}
        return {str(self.options["model"]): self.metrics | {"intervals": self.intervals}, **others}

    @property
    def title(self) -> str:
        """Protocol, objects and options in one line."""
        named = [f"box {self.options.get('box_source') or 'not stated'}"]
        if self.options.get("threshold") is not None:
            named.append(f"threshold {self.options['threshold']}")
        named.append("visible mask united" if self.options.get("union_visible") else "masks as they are")
        counts = f"{self.metrics['num_objects']} objects, {self.metrics['num_occluded']} occluded"
        return f"{self.protocol}: {counts}; {', '.join(named)}"

    def table(self) -> Table:
        """Model and baselines, one row each, with 95 % intervals."""
        return _table(self.title, ["answer"], [([label], row) for label, row in self.rows.items()])

    def tables(self) -> Iterator[Table]:
        """All tables: rows, occlusion ranges, and categories if they are few."""
        yield self.table()
        labels = [([range_label(r["above"], r["up_to"]), str(r["num_objects"])], r) for r in self.by_occlusion]
        yield _table("by hidden share", ["hidden", "objects"], labels)
        if 1 < len(self.by_category) <= MAX_CATEGORIES:
            labels = [([str(r["name"]), str(r["num_objects"])], r) for r in self.by_category]
            yield _table("by category", ["category", "objects"], labels)


def as_text(tables: Iterable[Table], width: int) -> str:
    """Tables as they are printed where `width` characters fit in a line."""
    text = StringIO()
    console = Console(file=text, width=width)
    for table in tables:
        console.print(table)
    return text.getvalue()


def _table(title: str, heads: list[str], rows: list[tuple[list[str], Figures]]) -> Table:
    flat = [(labels, *flatten(row)) for labels, row in rows]
    names = list(dict.fromkeys(name for _, figures, _ in flat for name in figures))
    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head)
    for name in names:
        table.add_column(name, justify="right")
    for labels, figures, intervals in flat:
        table.add_row(*labels, *(_cell(figures.get(n), intervals.get(n)) for n in names))
    return table


def flatten(row: Figures) -> tuple[dict[str, float | None], dict[str, list[float] | None]]:
    """Figures and intervals of a row under flat names; `amodal_ap` nests them by kind of mask.

    Of COCO's twelve figures those stay that every row has.
    """
    figures: dict[str, float | None] = {}
    intervals: dict[str, Any] = {}
    between = row.get("intervals") or {}
    for name, value in row.items():
        if name.startswith("mIoU"):
            figures[name], intervals[name] = value, between.get(name)
        elif name in ("amodal", "visible") and isinstance(value, dict):
            for short in ("AP", "AP50", "AP75"):
                figures[f"{short} {name}"] = value.get(short)
                intervals[f"{short} {name}"] = (between.get(name) or {}).get(short)
    return figures, intervals


def _cell(value: float | None, interval: list[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if interval is None else f"{value:.4f} ({interval[0]:.3f}-{interval[1]:.3f})"
