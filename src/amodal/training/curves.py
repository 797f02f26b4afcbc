"""Learning rate, losses and validation of a run as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from amodal.io.files import appearing

Lines = list[dict[str, float]]

SPEED = "samples_per_s"
RATE = "lr"
NOT_LOSSES = {"step", "time", SPEED, RATE}


def draw_curves(lines: Lines, path: Path) -> None:
    """Write a PNG, complete or not at all; nothing for a log without values.

    Args:
        lines: log lines; those of a validation have keys that start with `val_`.
        path: file to replace.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    series = _series(lines)
    losses = {k: v for k, v in series.items() if k not in NOT_LOSSES and not k.startswith("val_")}
    scores = {k.removeprefix("val_"): v for k, v in series.items() if k.startswith("val_")}
    if not losses and not scores:
        return
    figure = Figure(figsize=(15, 4.2))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.04, right=0.99, bottom=0.12, top=0.92, wspace=0.12)
    panels = figure.subplots(1, 3)
    _plot(panels[0], losses, "losses", logarithmic=True)
    _plot(panels[1], scores, "validation, in the crop")
    _plot(panels[2], {k: v for k, v in series.items() if k == RATE}, "learning rate")
    with appearing(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def _series(lines: Lines) -> dict[str, tuple[list[float], list[float]]]:
    """Steps and values by name, in the order of the log."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name in ("step", "time"):
                continue
            steps, values = found.setdefault(name, ([], []))
            steps.append(line["step"])
            values.append(value)
    return found


def _plot(
    panel: Any, series: dict[str, tuple[list[float], list[float]]], title: str, *, logarithmic: bool = False
) -> None:
    for name, (steps, values) in series.items():
        total = name == "loss"
        panel.plot(
            steps, values, label=name, linewidth=2.2 if total else 1.2, color="black" if total else None,
            marker="o" if len(steps) < 12 else None, markersize=3,
        )  # fmt: skip
    panel.set_title(title)
    panel.set_xlabel("step")
    panel.grid(alpha=0.3)
    positive = all(value > 0 for _, values in series.values() for value in values)
    if logarithmic and series and positive:
        panel.set_yscale("log")
    if len(series) > 1:
        panel.legend(fontsize=7)
