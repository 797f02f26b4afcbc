"""Measure memory and time of one forward pass of PLUG on SAM ViT-H, 512 pixels, both branches.

Command: python benchmarks/vit_h_forward.py

Weights are random. The reference is transformers' `SamModel` with eager attention, one PEFT adapter set per branch, and
two passes; it has neither refine module nor uncertainty map. Each contender runs in a process of its own, so that its
peak memory is its own. The first call is measured, which also prepares the weights. Prepared weights are copies (folded
adapters, packed matrices); a model that is built under `torch.inference_mode` has none.
"""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

import torch
from measure import arguments, finish, peak_mib
from objects import build_reference, reference_masks

from amodal.models.bases.families import base_config
from amodal.models.plug import PlugConfig, PlugModel

# name -> (ours or the reference, precision, whether weights may be prepared)
CONTENDERS = {
    "reference float32": ("reference", torch.float32, False),
    "reference bfloat16": ("reference", torch.bfloat16, False),
    "amodal float32": ("ours", torch.float32, True),
    "amodal bfloat16": ("ours", torch.bfloat16, True),
    "amodal bfloat16, nothing prepared": ("ours", torch.bfloat16, False),
}


def main() -> None:
    """Measure each contender in its own process, then print the table."""
    options = arguments(__doc__, base={"default": "vit-h"})
    base = "vit-b" if options.quick else options.base
    rows = []
    for name, (kind, dtype, prepares) in CONTENDERS.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append({"contender": name, **pool.apply(measure, (kind, dtype, prepares, base, options.threads))})
    first = rows[0]
    for row in rows:
        row["memory_to_reference_float32"] = row["peak_mib"] / first["peak_mib"]
    finish("vit_h_forward", options, rows, {"x": "contender", "y": "peak_mib"}, base=base)


def measure(kind: str, dtype: torch.dtype, prepares: bool, base: str, threads: int) -> dict[str, Any]:
    """Build the model in this precision in a new process and predict masks for one box."""
    torch.set_num_threads(threads)
    config = PlugConfig(sam=base_config(base))
    empty = peak_mib()
    torch.set_default_dtype(dtype)
    with torch.inference_mode(not prepares):
        model = PlugModel(config).to(dtype).eval() if kind == "ours" else build_reference(config).to(dtype)
    torch.set_default_dtype(torch.float32)
    built, size = peak_mib(), config.image_size
    with torch.inference_mode():
        pixels, boxes = torch.randn(1, 3, size, size).to(dtype), torch.tensor([[[0.25, 0.25, 0.75, 0.75]]]) * size
        start = time.perf_counter()
        masks = model(pixels, boxes).pred_masks if kind == "ours" else reference_masks(model, pixels, boxes)[-1]
        seconds = time.perf_counter() - start
    assert masks.isfinite().all()
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": seconds,
        "libraries_mib": empty,
        "built_mib": built,
        "peak_mib": peak_mib(),
    }


if __name__ == "__main__":
    main()
