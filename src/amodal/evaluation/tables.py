"""Tables of several reports as papers print them, and the plot of accuracy over model size (figure 1 of PLUG)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from amodal.errors import InputError
from amodal.evaluation.report import EvaluationReport
from amodal.io.files import require_folder, write_atomic
from amodal.metrics.mask_protocols import MASK_PROTOCOLS

METRICS = ("mIoU_full", "mIoU_occ")
PERCENT = 100


@dataclass(frozen=True)
class RunTable:
    """Reports by row and by set of objects.

    Attributes:
        protocol: protocol of all reports.
        columns: title of each set of objects, by the digest of the set.
        rows: reports by label, then by the digest of the set.
    """

    protocol: str
    columns: dict[str, str]
    rows: dict[str, dict[str, EvaluationReport]]

    @classmethod
    def read(cls, runs: Sequence[str]) -> RunTable:
        """Read reports; those of one label and of different sets of objects share a row.

        Args:
            runs: `PATH` or `LABEL=PATH` per report, a path as for `EvaluationReport.load`. Without a label, the name of
                the model is the label.

        Raises:
            InputError: no report, a report of another protocol, or two reports for one cell.
        """
        protocol, columns, rows = "", dict[str, str](), dict[str, dict[str, EvaluationReport]]()
        for run in runs:
            stated, equals, path = ("", "", run) if Path(run).exists() else run.partition("=")
            report = EvaluationReport.load(path if equals else run)
            if report.protocol not in MASK_PROTOCOLS or report.protocol != (protocol or report.protocol):
                expected = protocol or f"one of {', '.join(MASK_PROTOCOLS)}"
                raise InputError(f"report {path or run}: expected the protocol {expected}, got {report.protocol}")
            protocol = report.protocol
            label = stated if equals else str(report.options["model"])
            digest = str(report.options.get("objects_sha256"))
            columns[digest] = f"{report.options.get('format')}, {report.metrics['num_objects']:,} objects"
            if digest in rows.setdefault(label, {}):
                raise InputError(
                    f"report {path or run}: expected one report per row and set of objects, got a second one of "
                    f"{label!r} (LABEL=PATH names a row)"
                )
            rows[label][digest] = report
        if not rows:
            raise InputError("report: expected one or more reports, got none")
        return cls(protocol, columns, rows)

    def parameters(self, label: str) -> dict[str, int]:
        """Return the numbers of parameters of a row as `amodal info` counts them; empty where they are unknown."""
        found = (report.options.get("parameters") for report in self.rows[label].values())
        return next((dict(counts) for counts in found if counts), {})

    def markdown(self) -> str:
        """Return the table in Markdown: per set of objects mIoU_full / mIoU_occ in percent, and the parameters."""
        head = ["row", *self.columns.values(), "incremental", "total"]
        lines = [head, ["---"] * len(head)]
        for label, reports in self.rows.items():
            counts = self.parameters(label)
            scores = [_scores(reports.get(digest)) for digest in self.columns]
            lines.append([label, *scores, *(_count(counts.get(name)) for name in ("incremental", "total"))])
        title = f"mIoU_full / mIoU_occ in percent, protocol {self.protocol}\n\n"
        return title + "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def plot_png(self) -> bytes:
        """Plot both metrics over the number of parameters, one panel per set of objects.

        Raises:
            InputError: no report states the parameters of its model.
        """
        sizes = {label: self.parameters(label)["total"] for label in self.rows if self.parameters(label)}
        if not sizes:
            raise InputError("report: expected a report of a model with its number of parameters, got none")
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and only needed for this plot
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.2 * len(self.columns), 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        for index, (digest, title) in enumerate(self.columns.items(), 1):
            axes = figure.add_subplot(1, len(self.columns), index)
            axes.set(title=title, xlabel="parameters (millions)", ylabel="mIoU in percent")
            for name, marker in zip(METRICS, "os", strict=True):
                self._plot_metric(axes, sizes, digest, name, marker)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
        content = BytesIO()
        figure.savefig(content, format="png", dpi=120)
        return content.getvalue()

    def save_folder(self, folder: Path) -> Path:
        """Write `table.md` and, where the size of a model is known, `figure1.png`; return the folder.

        Raises:
            InputError: the folder cannot be written to.
        """
        folder = require_folder(folder)
        if any(self.parameters(label) for label in self.rows):
            write_atomic(folder / "figure1.png", self.plot_png())
        write_atomic(folder / "table.md", self.markdown())
        return folder

    def _plot_metric(self, axes: Any, sizes: dict[str, int], digest: str, name: str, marker: str) -> None:
        known = [(sizes[label], label) for label in sizes if digest in self.rows[label]]
        points = [(size, self.rows[label][digest].metrics.get(name), label) for size, label in sorted(known)]
        shown = [(size / 1e6, value * PERCENT, label) for size, value, label in points if value is not None]
        axes.plot([x for x, _, _ in shown], [y for _, y, _ in shown], marker, ls=":", label=name)
        for x, y, label in shown:
            axes.annotate(label, (x, y), fontsize=7, xytext=(3, 3), textcoords="offset points")


def _scores(report: EvaluationReport | None) -> str:
    if report is None:
        return ""
    values = [report.metrics.get(name) for name in METRICS]
    return " / ".join("–" if value is None else f"{value * PERCENT:.2f}" for value in values)


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"
