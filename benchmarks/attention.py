"""Compare attention with folded relative positions and with an additive bias, by number of tokens.

Command: python benchmarks/attention.py

Both get the same queries, keys, values and tables (12 heads of 64 and a batch of 2, as in PLUG's two branches). `bias`
is what transformers' fused attention does. Memory is the growth of the peak resident size of a new process.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable

import torch
import torch.nn.functional as F
from measure import arguments, finish, interleave, peak_mib
from torch import Tensor

from amodal.nn.attention import folded_attention, relative_position_grid

HEADS, WIDTH, BATCH = 12, 64, 2
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    """Measure all sizes in both precisions, with and without gradients."""
    options = arguments(__doc__)
    sides = [8, 14] if options.quick else [8, 14, 16, 32, 48]
    rows = []
    for side in sides:
        for dtype in DTYPES:
            for gradients in (False, True):
                runs = {kind: contender(kind, side, dtype, gradients) for kind in ("bias", "folded")}
                times = interleave(runs, min(options.rounds, 3) if side >= 48 else options.rounds)
                rows += [
                    {
                        "kind": kind,
                        "tokens": side * side,
                        "dtype": dtype,
                        "gradients": gradients,
                        **times[kind],
                        "peak_mib": memory(kind, side, dtype, gradients, options.threads),
                        "speed_of_bias": times["bias"]["seconds"] / times[kind]["seconds"],
                        "cpu_speed_of_bias": times["bias"]["cpu_seconds"] / times[kind]["cpu_seconds"],
                    }
                    for kind in runs
                ]
    finish("attention", options, rows, {"x": "tokens", "y": "seconds", "series": ["kind", "dtype", "gradients"]})


def contender(kind: str, side: int, dtype: str, gradients: bool) -> Callable[[], None]:
    """Return a function that runs one call, with its backward pass if `gradients`."""
    torch.manual_seed(0)
    shape = (BATCH, HEADS, side * side, WIDTH)
    tensors = [torch.randn(shape).to(DTYPES[dtype]) for _ in range(3)]
    tables = [(torch.randn(2 * side - 1, WIDTH) * 0.1).to(DTYPES[dtype]) for _ in range(2)]
    for tensor in (*tensors, *tables):
        tensor.requires_grad_(gradients)
    attend = folded if kind == "folded" else additive

    def run() -> None:
        with torch.set_grad_enabled(gradients):
            out = attend(*tensors, *tables, side)
            if gradients:
                out.sum().backward()

    return run


def folded(q: Tensor, k: Tensor, v: Tensor, table_h: Tensor, table_w: Tensor, side: int) -> Tensor:
    """Compute attention with folded relative positions."""
    rows, columns = relative_position_grid(table_h, side), relative_position_grid(table_w, side)
    return folded_attention(q, k, v, rows, columns, (side, side))


def additive(q: Tensor, k: Tensor, v: Tensor, table_h: Tensor, table_w: Tensor, side: int) -> Tensor:
    """Compute attention with the bias as a mask of PyTorch's fused attention."""
    rows, columns = relative_position_grid(table_h, side), relative_position_grid(table_w, side)
    grid = q.unflatten(2, (side, side))
    bias_h = torch.einsum("bnhwd,hkd->bnhwk", grid, rows)
    bias_w = torch.einsum("bnhwd,wkd->bnhwk", grid, columns)
    bias = (bias_h[..., :, None] + bias_w[..., None, :]).flatten(4).flatten(2, 3)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def memory(kind: str, side: int, dtype: str, gradients: bool, threads: int) -> float:
    """Return the MiB that one call adds to a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(growth, (kind, side, dtype, gradients, threads))


def growth(kind: str, side: int, dtype: str, gradients: bool, threads: int) -> float:
    """Warm up on a small grid in the new process, then measure."""
    torch.set_num_threads(threads)
    contender(kind, 4, dtype, gradients)()
    run, before = contender(kind, side, dtype, gradients), peak_mib()
    run()
    return max(0.0, peak_mib() - before)


if __name__ == "__main__":
    main()
