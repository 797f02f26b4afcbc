"""Shared by all benchmarks: interleaved timing, the machine's own rates, and the form of a result.

Contenders take turns, so that other load on the machine slows all of them alike. The smallest time of each shows what
the machine can do, the median what it did. Compare only results of the same run.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

Row = dict[str, Any]


def arguments(description: str | None, **further: dict[str, Any]) -> argparse.Namespace:
    """Parse `--quick`, `--threads`, `--rounds`, `--out FILE` and further options.

    Args:
        description: the script's docstring, whose first line is the description.
        further: arguments of `argparse.add_argument` by name of the option.
    """
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="use small sizes, to check that the benchmark runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="file to write the JSON to")
    for name, settings in further.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **settings)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def interleave(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Row]:
    """Time the contenders alternately, after one call each that does not count.

    Returns:
        For each contender `seconds` (smallest), `median`, and `cpu_seconds` (smallest, summed over threads).
    """
    walls: dict[str, list[float]] = {name: [] for name in contenders}
    works: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        run()
    for _ in range(rounds):
        for name, run in contenders.items():
            wall, work = time.perf_counter(), time.process_time()
            run()
            walls[name].append(time.perf_counter() - wall)
            works[name].append(time.process_time() - work)
    return {
        name: {"seconds": min(walls[name]), "median": statistics.median(walls[name]), "cpu_seconds": min(works[name])}
        for name in contenders
    }


def gemm(dtype: torch.dtype, rows: int = 2048, inner: int = 768, columns: int = 3072) -> Callable[[], object]:
    """Return a matrix product of the size of ViT-B's MLP; in bfloat16 with a packed weight, which is faster."""
    x, weight = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
    if dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        return lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    return lambda: F.linear(x, weight)


GEMM_FLOP = 2 * 2048 * 768 * 3072
COPY_BYTES = 64 * 2**20


def rate_contenders() -> dict[str, Callable[[], object]]:
    """Return the machine's limits as contenders: two matrix products and a copy."""
    source = torch.ones(COPY_BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)
    return {
        "gemm_float32": gemm(torch.float32),
        "gemm_bfloat16": gemm(torch.bfloat16),
        "copy": lambda: target.copy_(source),
    }


def rates(times: Mapping[str, Row]) -> Row:
    """Convert the times of `rate_contenders` to GFLOP/s, and to GB/s read plus written."""
    return {
        "gemm_float32_gflops": GEMM_FLOP / times["gemm_float32"]["seconds"] / 1e9,
        "gemm_bfloat16_gflops": GEMM_FLOP / times["gemm_bfloat16"]["seconds"] / 1e9,
        "copy_gb_per_s": 2 * COPY_BYTES / times["copy"]["seconds"] / 1e9,
    }


def machine() -> Row:
    """Describe the machine without naming it."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return {
        "processor": platform.machine(),
        "features": sorted(k for k, v in capabilities.items() if v is True and ("bf16" in k or "vnni" in k)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def peak_mib() -> float:
    """Return the peak resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def finish(name: str, options: argparse.Namespace, rows: list[Row], plot: Row | None = None, **facts: Any) -> None:
    """Print a table to stderr and the result as one line of JSON to stdout.

    Args:
        name: name of the benchmark.
        options: result of `arguments`.
        rows: one row per contender, all with the same keys.
        plot: how `suite.py` plots the rows: keys `x` and `y`, optionally `series`.
        facts: further entries of the result. `limits` are the machine's own rates if they were measured
            together with the contenders; otherwise they are measured now.
    """
    limits = facts.pop("limits", None) or rates(interleave(rate_contenders(), 3))
    result = {
        "benchmark": name, "quick": options.quick, "machine": machine(), "limits": limits, **facts,
        "rows": rows, "plot": plot,
    }  # fmt: skip
    print(_table(rows), file=sys.stderr)
    text = json.dumps(_rounded(result))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")
    print(text)


def _table(rows: list[Row]) -> str:
    cells = [list(rows[0]), *([_shown(v) for v in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in cells)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value
