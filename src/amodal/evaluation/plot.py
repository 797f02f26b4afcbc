"""Figures by occlusion range as a picture."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from amodal.evaluation.report import EvaluationReport, flatten
from amodal.metrics.ranges import range_label


def plot_png(report: EvaluationReport) -> bytes:
    """One panel a figure: the model with its 95 % intervals, the baselines beside it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, seldom needed
    from matplotlib.figure import Figure

    rows = [flatten(row) for row in report.by_occlusion]
    names = [n for n in dict.fromkeys(n for figures, _ in rows for n in figures) if n[:4] in ("mIoU", "AP a", "AP v")]
    labels = [f"{range_label(r['above'], r['up_to'])}\n{r['num_objects']} objects" for r in report.by_occlusion]
    figure = Figure(figsize=(5.2 * max(len(names), 1), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(report.title, fontsize=10)
    for index, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), index + 1)
        _panel(axes, name, report, rows)
        axes.set_title(name, fontsize=10)
        axes.set_xticks(range(len(labels)), labels, fontsize=7)
        axes.set_xlabel("hidden share of the object", fontsize=8)
        axes.set_xlim(-0.6, len(labels) - 0.4)
        axes.set_ylim(0, 1.02)
        axes.grid(axis="y", alpha=0.3)
        if index == 0:
            figure.legend(*axes.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=3)
    content = BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


def _panel(axes: Any, name: str, report: EvaluationReport, rows: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    values = [figures.get(name) for figures, _ in rows]
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
