"""`amodal bench`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from amodal.errors import InputError
from amodal.io.files import no_file


def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Benchmarks by file name; all if none is given.")] = None,
    folder: Annotated[Path, typer.Option(help="Folder of the scripts, in a checkout.")] = Path("benchmarks"),
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("bench"),
    quick: Annotated[bool, typer.Option(help="Small sizes: shows that it runs, proves nothing.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch; all cores if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all results as JSON.")] = False,
) -> None:
    """Run the benchmark suite: JSON, a table and a plot of each.

    Example: amodal bench plug_encoder attention --out bench
    """
    scripts = find_scripts(folder)
    unknown = sorted(set(names or ()) - scripts.keys())
    if unknown:
        raise InputError(f"bench: expected some of {', '.join(scripts)}, got {', '.join(unknown)}")
    no_file(out)
    results = {}
    for name in names or scripts:
        typer.echo(f"{name} ...", err=True)
        results[name] = _run(scripts[name], out, quick, threads)
        (out / f"{name}.txt").write_text(table(results[name]["rows"]) + "\n")
        if results[name]["plot"] is not None:
            _plot(results[name], out / f"{name}.png")
        if not as_json:
            typer.echo(table(results[name]["rows"]))
    typer.echo(json.dumps(results) if as_json else f"Written: {out}/ (json, txt and png of each)")


def find_scripts(folder: Path) -> dict[str, Path]:
    """Benchmarks of the suite: scripts that share `measure.py`.

    Raises:
        InputError: no such folder, or no benchmark in it.
    """
    found = {
        path.stem: path
        for path in sorted(folder.glob("*.py"))
        if re.search(r"^(from measure import|import measure)", path.read_text(), re.M)
    }
    if not found:
        raise InputError(f"folder: expected the benchmarks of a checkout, got none in {str(folder)!r}")
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Rows with the same keys as aligned text."""
    shown = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    lines = [list(rows[0]), *shown]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in lines)


def _run(script: Path, out: Path, quick: bool, threads: int | None) -> dict[str, Any]:
    """A process of its own: benchmarks set threads and measure memory."""
    file = (out / f"{script.stem}.json").resolve()
    command = [sys.executable, str(script), "--out", str(file), *(["--quick"] if quick else [])]
    environment = os.environ if threads is None else os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"bench {script.stem}: expected it to finish, got: {reason}")
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def _plot(result: dict[str, Any], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plot, rows = result["plot"], result["rows"]
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    keys = plot.get("series") or []
    keys = [keys] if isinstance(keys, str) else keys
    if keys:
        for label in dict.fromkeys(tuple(row[k] for k in keys) for row in rows):
            own = [row for row in rows if tuple(row[k] for k in keys) == label]
            text = ", ".join(f"{k} {v}" for k, v in zip(keys, label, strict=True))
            axes.plot([r[plot["x"]] for r in own], [r[plot["y"]] for r in own], marker="o", label=text)
        axes.legend(fontsize="small")
        axes.set_xlabel(plot["x"])
        axes.set_ylabel(plot["y"])
    else:
        axes.barh([str(row[plot["x"]]) for row in rows], [row[plot["y"]] for row in rows])
        axes.invert_yaxis()
        axes.set_xlabel(plot["y"])
    axes.set_title(result["benchmark"])
    figure.savefig(file, dpi=120)
    plt.close(figure)
