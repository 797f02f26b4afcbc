"""Run the benchmarks and write JSON, a table and a plot for each.

Example: make bench BENCH="plug_encoder attention --out bench"
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from amodal.errors import InputError
from amodal.io.files import require_folder


def main(arguments: list[str] | None = None) -> int:
    """Run the suite; returns 0, or 2 after an input error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="benchmarks to run, by file name; default: all")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="folder of the benchmark scripts")
    parser.add_argument("--out", type=Path, default=Path("bench"), help="folder for the results")
    parser.add_argument("--quick", action="store_true", help="use small sizes, to check that the benchmarks run")
    parser.add_argument("--threads", type=int, help="number of PyTorch threads; default: all cores")
    parser.add_argument("--json", action="store_true", help="print all results as JSON")
    options = parser.parse_args(arguments)
    try:
        run_suite(options.names, options.folder, options.out, options.quick, options.threads, options.json)
    except InputError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return 0


def run_suite(names: list[str], folder: Path, out: Path, quick: bool, threads: int | None, as_json: bool) -> None:
    """Run benchmarks one after the other, each in its own process.

    Args:
        names: benchmarks by file name; all if empty.
        folder: folder of the scripts.
        out: folder for the results.
        quick: use small sizes.
        threads: number of PyTorch threads; all cores if None.
        as_json: print the results as JSON instead of tables.

    Raises:
        InputError: an unknown benchmark, no scripts, `out` is a file, or a benchmark that fails.
    """
    scripts = find_scripts(folder)
    unknown = sorted(set(names) - scripts.keys())
    if unknown:
        raise InputError(f"names: expected some of {', '.join(scripts)}, got {', '.join(unknown)}")
    require_folder(out).mkdir(parents=True, exist_ok=True)
    results = {}
    for name in names or scripts:
        print(f"{name} ...", file=sys.stderr)
        results[name] = _run(scripts[name], out, quick, threads)
        (out / f"{name}.txt").write_text(table(results[name]["rows"]) + "\n")
        if results[name]["plot"] is not None:
            _plot(results[name], out / f"{name}.png")
        if not as_json:
            print(table(results[name]["rows"]))
    print(json.dumps(results) if as_json else f"Written: JSON, table and plot of each benchmark in {out}")


def find_scripts(folder: Path) -> dict[str, Path]:
    """The benchmarks of the suite by name: the scripts that import `measure.py`.

    Raises:
        InputError: no such folder, or no benchmark in it.
    """
    scripts = {
        path.stem: path
        for path in sorted(folder.glob("*.py"))
        if re.search(r"^(from measure import|import measure)", path.read_text(), re.M)
    }
    if not scripts:
        raise InputError(f"folder: expected benchmark scripts, got none in {str(folder)!r}")
    return scripts


def table(rows: list[dict[str, Any]]) -> str:
    """Format rows with the same keys as aligned text."""
    cells = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    lines = [list(rows[0]), *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in lines)


def _run(script: Path, out: Path, quick: bool, threads: int | None) -> dict[str, Any]:
    """Run one benchmark in its own process, because benchmarks set threads and measure memory."""
    file = (out / f"{script.stem}.json").resolve()
    command = [sys.executable, str(script), "--out", str(file), *(["--quick"] if quick else [])]
    environment = os.environ if threads is None else os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"{script.stem}: expected it to finish, got: {reason}")
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


if __name__ == "__main__":
    sys.exit(main())
