"""Tables, verdicts and curves of `ablation.py` from its results."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from scipy.stats import t

from amodal.io.files import atomic_path, write_atomic

Facts = dict[str, Any]
Results = list[dict[str, Any]]

METRICS = ("mIoU_full", "mIoU_occ")
TABLE_2 = ("sam", "ft", "pt", "rm", "pl")
TABLE_3 = ("rank4", "rank8", "pl", "rank32")

# PLUG table 2 (ViT-H): full and occ of KINS, then of COCOA.
PAPER = {
    "sam": (63.42, 18.57, 74.15, 14.36),
    "ft": (82.47, 50.10, 80.16, 27.07),
    "pt": (84.73, 53.45, 81.88, 29.35),
    "rm": (85.48, 55.12, 82.56, 31.28),
    "pl": (88.85, 62.66, 83.71, 34.12),
    "rank4": (88.01, 61.23, 83.44, 33.25),
    "rank8": (88.32, 61.87, 83.60, 33.81),
    "rank32": (88.54, 62.08, 83.54, 33.78),
}
PAPER_OVERHEAD = 0.10  # PLUG section 4.4: 4.3 s against 3.9 s per iteration
CLAIMS = (
    ("fine-tuning beats SAM", "sam", "ft"),
    ("the point loss helps", "ft", "pt"),
    ("the refine module helps", "pt", "rm"),
    ("parallel LoRA helps", "rm", "pl"),
    ("rank 16 beats rank 4", "rank4", "pl"),
    ("rank 16 beats rank 8", "rank8", "pl"),
    ("rank 16 beats rank 32", "rank32", "pl"),
)


def write_report(facts: Facts, results: Results, out: Path) -> None:
    """Replace `ablation.json`, `ablation.md` and `ablation.png` in a folder."""
    verdicts = [verdict(name, a, b, results) for name, a, b in CLAIMS]
    content = facts | {"results": results, "verdicts": verdicts}
    write_atomic(out / "ablation.json", json.dumps(content, indent=1) + "\n")
    write_atomic(out / "ablation.md", markdown(facts, results, verdicts))
    draw(facts, results, out / "ablation.png")


def values(results: Results, row: str, test: str, metric: str) -> dict[int, float]:
    """A score in percent by seed."""
    return {r["seed"]: 100 * r["scores"][test][metric] for r in results if r["row"] == row and test in r["scores"]}


def differences(results: Results, before: str, after: str, test: str, metric: str) -> list[float]:
    """`after` minus `before` for each seed; a row without training is compared with every seed."""
    a, b = values(results, before, test, metric), values(results, after, test, metric)
    if before == "sam" and a:
        a = dict.fromkeys(b, a[0])
    return [b[seed] - a[seed] for seed in sorted(a.keys() & b.keys())]


def verdict(name: str, before: str, after: str, results: Results) -> dict[str, Any]:
    """Whether a claim of the paper holds here, on every test set and metric.

    `holds`: the 95 % confidence interval of the mean difference (Student's t) is above zero. `fails`: it is
    below zero. `open`: anything else, including a single seed.
    """
    cells = []
    for test in _tests(results):
        for metric in METRICS:
            found = differences(results, before, after, test, metric)
            if found:
                cells.append({"test": test, "metric": metric, **judged(found)})
    return {"claim": name, "before": before, "after": after, "cells": cells}


def judged(found: list[float]) -> dict[str, Any]:
    """Whether the differences of all seeds support the claim that they are positive; see `verdict`."""
    mean = statistics.fmean(found)
    if len(found) < 2:
        return {"mean": mean, "error": None, "seeds": len(found), "says": "open"}
    error = statistics.stdev(found) / len(found) ** 0.5
    reach = float(t.ppf(0.975, len(found) - 1)) * error
    says = "holds" if mean > reach else "fails" if mean < -reach else "open"
    return {"mean": mean, "error": error, "seeds": len(found), "says": says}


def markdown(facts: Facts, results: Results, verdicts: list[dict[str, Any]]) -> str:
    """The report as Markdown."""
    done = sorted({(r["row"], r["seed"]) for r in results})
    wanted = sum(1 if row["name"] == "sam" else facts["seeds"] for row in facts["rows"])
    has_ranks = any(row["name"] in TABLE_3 and row["name"] not in TABLE_2 for row in facts["rows"])
    state = "" if len(done) == wanted else f"\n**Unfinished: {len(done)} of {wanted} runs.**\n"
    lines = [
        "# Ablation at our scale",
        "",
        f"PLUG's {'tables 2 and 3' if has_ranks else 'table 2'} on the frozen `sam-small`. Every row is trained in the",
        "same way: the recipe `recipes/plug/small.yaml` with the paper's losses and boxes as the only prompts,",
        f"{facts['steps']} steps with {facts['batch_size']} crops of up to two objects,",
        f"a learning rate of {facts['learning_rate']}, and {facts['seeds']} planned seeds (the tables show how many",
        "are finished). No row was tuned. The protocol is `strict` with the box of the true visible mask (for SAM, of",
        f"the true amodal mask) on the first {facts['test_objects']} objects of each set. Scores are percentages, mean",
        "± standard deviation over the seeds. The columns of the paper are ViT-H on KINS and COCOA, 50 epochs; a",
        f"run here trains on {facts['steps'] * facts['batch_size']:,} crops.",
        "",
        f"```bash\n{facts['command']}\n```",
        state,
        "## Table 2: parts of the method",
        "",
        *_table(facts, results, TABLE_2),
        "",
        *(["## Table 3: rank of the adapters", "", *_table(facts, results, TABLE_3), ""] if has_ranks else []),
        "![Validation while training](ablation.png)",
        "",
        "## Which of the paper's claims hold here",
        "",
        "The differences are computed for each seed. A claim holds where the 95 % confidence interval of the mean",
        "difference (Student's t) is above zero, and it fails where the interval is below zero; anything else is open.",
        "SAM gets the amodal box, whose extent the trained rows must predict from the visible box.",
        "",
        _tally(verdicts),
        "",
        *_verdict_lines(verdicts),
        "",
        "## What the point loss costs",
        "",
        _cost(facts["point_loss"]),
        "",
    ]
    return "\n".join(lines)


def _table(facts: Facts, results: Results, names: tuple[str, ...]) -> list[str]:
    tests = _tests(results)
    labels = {row["name"]: row["label"] for row in facts["rows"]}
    head = ["row", "seeds", *(f"{test} {m.removeprefix('mIoU_')}" for test in tests for m in METRICS)]
    head += ["paper KINS full / occ", "paper COCOA full / occ"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " --- |" * (len(head) - 1)]
    for name in names:
        cells = [_cell(values(results, name, test, metric)) for test in tests for metric in METRICS]
        kins_full, kins_occ, cocoa_full, cocoa_occ = PAPER[name]
        paper = [f"{kins_full} / {kins_occ}", f"{cocoa_full} / {cocoa_occ}"]
        seeds = str(len({r["seed"] for r in results if r["row"] == name}))
        lines.append("| " + " | ".join([labels[name], seeds, *cells, *paper]) + " |")
    return lines


def _cell(found: dict[int, float]) -> str:
    if not found:
        return ""
    mean = statistics.fmean(found.values())
    return f"{mean:.1f}" if len(found) < 2 else f"{mean:.1f} ± {statistics.stdev(found.values()):.1f}"


def _tally(verdicts: list[dict[str, Any]]) -> str:
    said = [cell["says"] for one in verdicts for cell in one["cells"]]
    counts = {word: said.count(word) for word in ("holds", "fails", "open")}
    agreed = {
        word: [v["claim"] for v in verdicts if {cell["says"] for cell in v["cells"]} == {word}] for word in counts
    }
    everywhere = [
        f"{start}: {', '.join(agreed[word])}."
        for word, start in (("holds", "Hold everywhere"), ("fails", "Fail everywhere"), ("open", "Open everywhere"))
        if agreed[word]
    ]
    return (
        f"**Of {len(said)} comparisons {counts['holds']} hold, {counts['fails']} fail and {counts['open']} are open.** "
        + " ".join(["With one seed a comparison is always open.", *everywhere])
    )


def _verdict_lines(verdicts: list[dict[str, Any]]) -> list[str]:
    lines = ["| claim | set | metric | mean difference | standard error | result |", "| --- |" + " --- |" * 5]
    for one in verdicts:
        for cell in one["cells"]:
            error = "" if cell["error"] is None else f"{cell['error']:.2f}"
            lines.append(
                f"| {one['claim']} | {cell['test']} | {cell['metric'].removeprefix('mIoU_')} "
                f"| {cell['mean']:+.2f} | {error} | {cell['says']} |"
            )
    return lines


def _cost(found: dict[str, float] | None) -> str:
    if found is None:
        return "Not measured yet."
    return (
        f"{found['with']:.3f} s per step with it and {found['without']:.3f} s without it (median of "
        f"{found['steps']:.0f} alternating steps on the same batches, full method): {found['overhead']:+.1%}. "
        f"The paper states about {PAPER_OVERHEAD:.0%}. "
        "These are wall-clock times, which other work on the machine increases."
    )


def draw(facts: Facts, results: Results, path: Path) -> None:
    """Plot the validation scores by step: the mean over the seeds and their range."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = {row["name"]: row["label"] for row in facts["rows"]}
    groups = [names for names in (TABLE_2[1:], TABLE_3) if names[0] in labels]
    figure = Figure(figsize=(13, 4 * len(groups)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(groups), 2, sharex=True, squeeze=False)
    for line, names in zip(panels, groups, strict=True):
        for panel, metric in zip(line, ("val_full", "val_occ"), strict=True):
            for name in names:
                curves = [r["curve"] for r in results if r["row"] == name]
                _plot(panel, curves, metric, labels.get(name, name))
            panel.set_title(f"validation mIoU_{metric.removeprefix('val_')}, in the crop")
            panel.set_xlabel("step")
            panel.grid(alpha=0.3)
            if panel.get_legend_handles_labels()[0]:
                panel.legend(fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def _plot(panel: Any, curves: list[list[dict[str, float]]], metric: str, label: str) -> None:
    steps = sorted({point["step"] for curve in curves for point in curve})
    by_step = [[p[metric] for curve in curves for p in curve if p["step"] == step] for step in steps]
    if not by_step:
        return
    panel.plot(steps, [statistics.fmean(v) for v in by_step], label=label, marker="o", markersize=3)
    panel.fill_between(steps, [min(v) for v in by_step], [max(v) for v in by_step], alpha=0.15)


def _tests(results: Results) -> list[str]:
    return list(dict.fromkeys(test for r in results for test in r["scores"]))
