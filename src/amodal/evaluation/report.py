"""The report of an evaluation: JSON for programs, tables and a plot for people, and the comparison of two reports."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.table import Table

from amodal.errors import InputError
from amodal.evaluation.baselines import BASELINES
from amodal.io.files import require_folder, write_atomic
from amodal.io.json_stream import read_json
from amodal.io.words import counted
from amodal.metrics.intervals import range_label
from amodal.version import __version__, source_commit

Metrics = dict[str, Any]


class _Shown(Protocol):
    def tables(self) -> Iterator[Table]: ...


Report = TypeVar("Report", bound=_Shown)
MAX_PRINTED_CATEGORIES = 20
"""Largest number of categories that are printed; the report file always has all of them."""

COMPARED_OPTIONS = ("box_source", "threshold", "union_visible", "clean", "match_iou", "match_category")
"""Options that change the metrics. Two reports must agree in those that both of them state, and in the objects."""

SHAPE_METRICS = ("false_occlusion_rate", "single_component")
"""Metrics of the protocol `strict` that are printed in a table of their own."""

TEXT_WIDTH = 120
"""Characters per line of a report as text."""

NOT_STATED = "not stated"
PREDICTIONS_COUNT = "num_unused_predictions"
"""Option that only reports of predictions files have."""


@dataclass
class EvaluationReport:
    """Metrics with everything needed to compare them. `print(report)` shows all tables.

    Attributes:
        protocol: name of the protocol.
        options: model, box source, threshold, device, precision, whether masks were cleaned, how predictions of a file
            were matched, scored objects, objects without a prediction, and how intervals are computed. None is
            unknown.
        metrics: metrics of the model; None where the denominator is 0.
        intervals: 95 % confidence intervals, in the form of `metrics`.
        by_occlusion: metrics per range of the true occlusion rate, `above` < rate <= `up_to`; the first range holds
            exactly 0.
        by_category: metrics per category.
        baselines: metrics of each baseline on the same objects.
        worst: the objects with the lowest IoU, worst first, if requested.
        version: version of the package.
        commit: git commit of the package; None without a checkout.
    """

    protocol: str
    options: dict[str, Any]
    metrics: Metrics
    intervals: Metrics = field(default_factory=dict)
    by_occlusion: list[Metrics] = field(default_factory=list)
    by_category: list[Metrics] = field(default_factory=list)
    baselines: dict[str, Metrics] = field(default_factory=dict)
    worst: list[Metrics] = field(default_factory=list)
    version: str = __version__
    commit: str | None = field(default_factory=source_commit)

    def __str__(self) -> str:
        """All tables as text, as the command line prints them."""
        return as_text(self.tables(), TEXT_WIDTH).rstrip("\n")

    def __repr__(self) -> str:
        """Class, protocol, model and number of objects in one line."""
        model, count = self.options.get("model"), self.metrics.get("num_objects")
        return f"{type(self).__name__}(protocol={self.protocol!r}, model={model!r}, num_objects={count})"

    def to_json(self) -> dict[str, Any]:
        """Return plain values, in the form that other programs read."""
        return asdict(self)

    @classmethod
    def load(cls, path: str | Path) -> EvaluationReport:
        """Read a report.

        Args:
            path: file, or folder that holds one report, as for `report_file`.

        Raises:
            InputError: the file does not exist or is not a report, or the folder does not hold exactly one.
        """
        return read_report(cls, path, "amodal evaluate", options=("model",), metrics=("num_objects",))

    def save(self, path: str | Path) -> Path:
        """Write the report, completely or not at all.

        Raises:
            InputError: the file cannot be written.
        """
        return write_atomic(Path(path), json.dumps(self.to_json(), indent=1, allow_nan=False))

    def save_folder(self, folder: str | Path) -> Path:
        """Write `table.txt`, `plot.png` and, last, `report.json`.

        Raises:
            InputError: the path is a file, or the folder cannot be written to.
        """
        folder = require_folder(Path(folder))
        plot = plot_png(self)
        write_atomic(folder / "table.txt", f"{self}\n")
        write_atomic(folder / "plot.png", plot)
        return self.save(folder / "report.json")

    @property
    def rows(self) -> dict[str, Metrics]:
        """Metrics of the model and the baselines, by the titles under which they are printed."""
        others = {BASELINES[name].title if name in BASELINES else name: row for name, row in self.baselines.items()}
        return {str(self.options["model"]): self.metrics | {"intervals": self.intervals}, **others}

    @property
    def title(self) -> str:
        """Protocol, number of objects and options in one line."""
        parts = [f"box {self.options.get('box_source') or NOT_STATED}"]
        if self.options.get("threshold") is not None:
            parts.append(f"threshold {self.options['threshold']}")
        united = self.options.get("union_visible")
        if united is None:
            parts.append(f"union with the visible mask {NOT_STATED}")
        else:
            parts.append("visible mask united" if united else "masks as they are")
        counts = f"{counted(self.metrics['num_objects'], 'object')}, {self.metrics['num_occluded']} occluded"
        return f"{self.protocol}: {counts}; {', '.join(parts)}"

    def table(self) -> Table:
        """Return the model and the baselines as a table of `rich`, with 95 % intervals."""
        return _table(self.title, ["prediction"], [([label], row) for label, row in self.rows.items()])

    def tables(self) -> Iterator[Table]:
        """Yield all tables: the rows, the occlusion ranges, and the categories if they are few."""
        yield self.table()
        labels = [([range_label(r["above"], r["up_to"]), str(r["num_objects"])], r) for r in self.by_occlusion]
        yield _table("by occlusion rate", ["occluded", "objects"], labels)
        if any(name in self.metrics for name in SHAPE_METRICS):
            row = {"intervals": self.intervals, **self.metrics}
            yield _table("shape of the masks", ["prediction"], [([str(self.options["model"])], row)], SHAPE_METRICS)
        if 1 < len(self.by_category) <= MAX_PRINTED_CATEGORIES:
            labels = [([str(r["name"]), str(r["num_objects"])], r) for r in self.by_category]
            yield _table("by category", ["category", "objects"], labels)


def as_text(tables: Iterable[Table], width: int) -> str:
    """Return tables as text with lines of at most `width` characters."""
    text = StringIO()
    console = Console(file=text, width=width, color_system=None, force_jupyter=False)
    for table in tables:
        console.print(table)
    return text.getvalue()


def flatten(row: Metrics) -> tuple[dict[str, float | None], dict[str, list[float] | None]]:
    """Return the metrics and the intervals of a row by flat names; `amodal_ap` nests them by kind of mask.

    Of COCO's twelve metrics only those that every row has are returned.
    """
    metrics: dict[str, float | None] = {}
    intervals: dict[str, Any] = {}
    nested_intervals = row.get("intervals") or {}
    for name, value in row.items():
        if name.startswith("mIoU") or name in SHAPE_METRICS:
            metrics[name], intervals[name] = value, nested_intervals.get(name)
        elif name in ("amodal", "visible") and isinstance(value, dict):
            for short in ("AP", "AP50", "AP75"):
                metrics[f"{short} {name}"] = value.get(short)
                intervals[f"{short} {name}"] = (nested_intervals.get(name) or {}).get(short)
    return metrics, intervals


def _table(
    title: str, heads: list[str], rows: list[tuple[list[str], Metrics]], names: Sequence[str] | None = None
) -> Table:
    """Return a table of the named metrics; of all except `SHAPE_METRICS` if None."""
    flat = [(labels, *flatten(row)) for labels, row in rows]
    known = dict.fromkeys(name for _, metrics, _ in flat for name in metrics)
    names = [name for name in known if (name not in SHAPE_METRICS if names is None else name in names)]
    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head)
    for name in names:
        table.add_column(name, justify="right")
    for labels, metrics, intervals in flat:
        table.add_row(*labels, *(_cell(metrics.get(n), intervals.get(n)) for n in names))
    return table


def _cell(value: float | None, interval: list[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if interval is None else f"{value:.4f} ({interval[0]:.3f}-{interval[1]:.3f})"


def plot_png(report: EvaluationReport) -> bytes:
    """Plot the metrics by occlusion range, one panel per metric: the model with 95 % intervals, and the baselines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and only needed for this plot
    from matplotlib.figure import Figure

    rows = [flatten(row) for row in report.by_occlusion]
    names = [n for n in dict.fromkeys(n for metrics, _ in rows for n in metrics) if n[:4] in ("mIoU", "AP a", "AP v")]
    labels = [f"{range_label(r['above'], r['up_to'])}\n{r['num_objects']} objects" for r in report.by_occlusion]
    figure = Figure(figsize=(5.2 * max(len(names), 1), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(report.title, fontsize=10)
    for index, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), index + 1)
        _plot_metric(axes, name, report, rows)
        axes.set_title(name, fontsize=10)
        axes.set_xticks(range(len(labels)), labels, fontsize=7)
        axes.set_xlabel("occlusion rate of the object", fontsize=8)
        axes.set_xlim(-0.6, len(labels) - 0.4)
        axes.set_ylim(0, 1.02)
        axes.grid(axis="y", alpha=0.3)
        if index == 0:
            figure.legend(*axes.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=3)
    content = BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


def _plot_metric(
    axes: Any, name: str, report: EvaluationReport, rows: list[tuple[dict[str, Any], dict[str, Any]]]
) -> None:
    values = [metrics.get(name) for metrics, _ in rows]
    known = [(i, v, rows[i][1].get(name) or [v, v]) for i, v in enumerate(values) if v is not None]
    if known:
        x, y, ends = zip(*known, strict=True)
        errors = [
            [max(v - low, 0) for v, (low, _) in zip(y, ends, strict=True)],
            [max(high - v, 0) for v, (_, high) in zip(y, ends, strict=True)],
        ]
        label = str(report.options["model"])
        axes.bar(x, y, 0.6, yerr=errors, capsize=3, color="#4477aa", alpha=0.85, label=label)
    for (label, row), marker in zip(list(report.rows.items())[1:], "osD^v<>P", strict=False):
        points = [(i, flatten(r)[0].get(name)) for i, r in enumerate(row.get("by_occlusion") or [])]
        shown = [(i, v) for i, v in points if v is not None]
        if shown:
            axes.plot(*zip(*shown, strict=True), marker, ms=5, ls=":", lw=0.8, label=label)


def report_file(path: Path) -> Path:
    """Return the report that a path names.

    Args:
        path: the file itself, or a folder with a `report.json`, as `--out` writes it; or a folder with exactly one
            `report.json` somewhere below, such as the folder of a training run that was evaluated into it.

    Raises:
        InputError: the folder holds no report, or more than one.
    """
    if not path.is_dir() or (path / "report.json").is_file():
        return path / "report.json" if path.is_dir() else path
    found = sorted(path.rglob("report.json"))
    if len(found) == 1:
        return found[0]
    names = ", ".join(str(file.relative_to(path)) for file in found[:3]) or "none"
    hint = ""
    if not found and (path / "recipe.yaml").is_file():  # a training run
        hint = f": score it with `amodal evaluate masks --model {path / 'model'} --out {path / 'evaluation'}`"
    raise InputError(f"report: expected a folder with one report.json, got {str(path)!r} with {names}{hint}")


def read_report(
    kind: type[Report], path: str | Path, command: str, *, options: Sequence[str], metrics: Sequence[str]
) -> Report:
    """Read a report of any protocol.

    Args:
        kind: class of the report.
        path: as for `report_file`.
        command: command that writes such reports, for the error message.
        options: options that the report must have.
        metrics: metrics that the report must have.

    Raises:
        InputError: the file does not exist or is not such a report, or the folder does not hold exactly one.
    """
    path = report_file(Path(path))
    try:
        content = read_json(path, "report")
    except InputError as error:
        raise InputError(f"report: expected a report of `{command}`, got {str(path)!r} ({error})") from error
    try:
        report = kind(**{"commit": None} | content)  # older reports do not state it
        _ = [content["options"][name] for name in options]
        _require_types(content, metrics)
        _ = as_text(report.tables(), 120)  # fails where a value is of another type than in reports
    except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"report: expected a report of `{command}`, got {str(path)!r}, other JSON") from error
    return report


def _require_types(content: dict[str, Any], counts: Sequence[str]) -> None:
    """Check the values that tables format as text and numbers; other values may be anything that can be printed.

    Raises:
        TypeError: the protocol is no text, or a count, a metric or a number of parameters is no number. Metrics may be
            None, and in one dictionary per kind of mask, as those of `amodal_ap` are.
        KeyError: a count is missing.
    """
    sizes = content["options"].get("parameters") or {}
    numbers = [content["metrics"][name] for name in counts] + [*sizes.values()]
    for metric in content["metrics"].values():
        values = metric.values() if isinstance(metric, dict) else [metric]
        numbers += [value for value in values if value is not None]
    if not isinstance(content["protocol"], str) or any(type(value) not in (int, float) for value in numbers):
        raise TypeError


@dataclass(frozen=True)
class Comparison:
    """Two reports on the same objects, made by `compare`.

    Attributes:
        first: one report.
        second: the other report.
        different: options that differ and were allowed to, or that only one of the reports states.
    """

    first: EvaluationReport
    second: EvaluationReport
    different: tuple[str, ...] = ()

    def __str__(self) -> str:
        """All tables as text, as the command line prints them."""
        return as_text(self.tables(), TEXT_WIDTH).rstrip("\n")

    def rows(self) -> list[dict[str, Any]]:
        """Return each metric that both reports have, with its difference: overall, then by occlusion range."""
        rows = []
        for objects, first, second in self._groups():
            for name in (name for name in first if name in second):
                x, y = first[name], second[name]
                difference = None if x is None or y is None else y - x
                rows.append({"objects": objects, "metric": name, "first": x, "second": y, "difference": difference})
        return rows

    def unshared(self) -> list[dict[str, Any]]:
        """Return the metrics that only one of the reports has, over all objects."""
        _, first, second = next(self._groups())
        pairs = ((self.first, first, second), (self.second, second, first))
        return [
            {"model": own.options["model"], "protocol": own.protocol, "metric": name, "value": value}
            for own, metrics, others in pairs
            for name, value in metrics.items()
            if name not in others
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "protocol": self.protocol,
            "num_objects": self.first.metrics["num_objects"],
            "models": [self.first.options["model"], self.second.options["model"]],
            "different_options": {n: [r.options.get(n) for r in (self.first, self.second)] for n in self.different},
            "rows": self.rows(),
            "unshared": self.unshared(),
        }

    @property
    def protocol(self) -> str:
        """The protocol of both reports, or both protocols."""
        return " and ".join(dict.fromkeys((self.first.protocol, self.second.protocol)))

    def table(self) -> Table:
        """Return a table with one line per shared metric and occlusion range."""
        notes = []
        for name in self.different:
            values = [r.options.get(name) for r in (self.first, self.second)]
            notes.append(f"; {name} {' against '.join(NOT_STATED if v is None else str(v) for v in values)}")
        title = f"{self.protocol}: {self.first.metrics['num_objects']} objects{''.join(notes)}"
        table = Table(title=title, title_justify="left")
        names = [str(r.options["model"]) for r in (self.first, self.second)]
        if self.first.protocol != self.second.protocol:
            names = [f"{n}, {r.protocol}" for n, r in zip(names, (self.first, self.second), strict=True)]
        for head in ("occluded", "metric"):
            table.add_column(head)
        for head in (*names, "difference"):
            table.add_column(head, justify="right")
        for row in self.rows():
            values = [("-" if row[k] is None else format(row[k], ".4f")) for k in ("first", "second")]
            difference = "-" if row["difference"] is None else format(row["difference"], "+.4f")
            table.add_row(row["objects"], row["metric"], *values, difference)
        return table

    def tables(self) -> Iterator[Table]:
        """Yield the table of the shared metrics, then that of the others if there are any."""
        yield self.table()
        rows = self.unshared()
        if rows:
            table = Table(title="in one report only", title_justify="left")
            for head in ("prediction", "protocol", "metric", "value"):
                table.add_column(head)
            for row in rows:
                value = "-" if row["value"] is None else format(row["value"], ".4f")
                table.add_row(str(row["model"]), row["protocol"], row["metric"], value)
            yield table

    def _groups(self) -> Iterator[tuple[str, dict[str, float | None], dict[str, float | None]]]:
        """Yield a label and the metrics of both reports, for all objects and per occlusion range."""
        yield "all", flatten(self.first.metrics)[0], flatten(self.second.metrics)[0]
        for a, b in zip(self.first.by_occlusion, self.second.by_occlusion, strict=False):
            yield range_label(a["above"], a["up_to"]), flatten(a)[0], flatten(b)[0]


def compare(first: EvaluationReport, second: EvaluationReport, allow: tuple[str, ...] = ()) -> Comparison:
    """Compare two reports on the same objects, of one protocol or of two.

    Options that only one report states do not stand in the way, because nobody knows whether they differ: a report of a
    predictions file does not know how the file was made. The comparison names them.

    Args:
        first: one report.
        second: the other report.
        allow: options of `COMPARED_OPTIONS` that may differ; the comparison names them.

    Raises:
        InputError: the reports differ in the objects or in another option, or `allow` has an unknown name.
    """
    digests = [r.options.get("objects_sha256") for r in (first, second)]
    if None in digests:
        raise InputError("compare: expected reports that name their objects (objects_sha256), got one without")
    if digests[0] != digests[1]:
        a, b = (f"{r.metrics['num_objects']} ({r.options.get('objects')})" for r in (first, second))
        raise InputError(f"compare: expected the same objects in both reports, got {a} and {b}, not the same ones")
    return Comparison(first, second, different_options(first.options, second.options, COMPARED_OPTIONS, allow))


def different_options(
    first: Mapping[str, Any], second: Mapping[str, Any], names: Sequence[str], allow: Sequence[str]
) -> tuple[str, ...]:
    """Return the named options in which two reports differ, or that only one of them states.

    Args:
        first: options of one report.
        second: options of the other report.
        names: options to compare.
        allow: those of `names` that may differ though both reports state them.

    Raises:
        InputError: the reports differ in another option, or `allow` has an unknown name.
    """
    for name in allow:
        if name not in names:
            raise InputError(f"allow: expected one of {', '.join(names)}, got {name!r}")
    different = tuple(name for name in names if first.get(name) != second.get(name))
    for name in different:
        values = [_stated(own, name, other) for own, other in ((first, second), (second, first))]
        if name not in allow and None not in values:
            shown = " and ".join(map(repr, values))
            raise InputError(f"compare: expected the same {name} in both reports, got {shown} (--allow {name})")
    return different


def _stated(options: Mapping[str, Any], name: str, other: Mapping[str, Any]) -> Any:
    """Value of an option of a report; None if it is unknown.

    The masks of a predictions file that are scored as they are may have been united before they were saved, so a model
    may be compared with its own file.
    """
    value = options.get(name)
    of_file = [PREDICTIONS_COUNT in of_report for of_report in (options, other)]
    return None if name == "union_visible" and not value and of_file == [True, False] else value
