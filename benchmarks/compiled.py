"""Measure what `torch.compile` and torchao add to the encoder, with a cold and a warm compilation cache.

Command: python benchmarks/compiled.py [--base vit-b]

Each contender runs in two processes, one after the other, that share a cache folder which starts empty. `first_cold`
and `first_warm` are the seconds to the first result without building the model. Compiled contenders use the weights as
they are, with separate adapters; the others use weights prepared for inference. torchao takes part where it is
installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import arguments, finish
from random_sam import SMALL, SMALL_SIZE, named_base

from amodal.models.plug import PlugConfig, PlugModel
from amodal.nn.attention import use_int8
from amodal.nn.packing import can_use_int8

# name -> (precision, compiled, implementation of 8-bit products)
CONTENDERS = {
    "ours float32": (torch.float32, False, None),
    "ours bfloat16": (torch.bfloat16, False, None),
    "ours int8": (torch.bfloat16, False, "ours"),
    "compiled float32": (torch.float32, True, None),
    "compiled bfloat16": (torch.bfloat16, True, None),
    "torchao int8": (torch.bfloat16, False, "torchao"),
    "compiled torchao int8": (torch.bfloat16, True, "torchao"),
}


def main() -> None:
    """Measure all contenders that can run here, or only `--contender` on behalf of the parent process."""
    options = arguments(__doc__, base={"default": SMALL}, contender={"choices": list(CONTENDERS)})
    if options.contender is not None:
        print(json.dumps(measure(options.contender, options)))
        return
    rows: list[dict[str, Any]] = []
    for name in CONTENDERS:
        if not _can_run(name) or (options.quick and not name.startswith("ours")):
            continue
        with tempfile.TemporaryDirectory() as cache:
            cold, warm = (_in_process(name, options, cache) for _ in range(2))
        rows.append(
            {
                "contender": name,
                "seconds": min(cold["seconds"], warm["seconds"]),
                "cpu_seconds": min(cold["cpu_seconds"], warm["cpu_seconds"]),
                "first_cold": cold["first"],
                "first_warm": warm["first"],
            }
        )
        print(rows[-1], file=sys.stderr)
    base = next(row for row in rows if row["contender"] == "ours bfloat16")
    for row in rows:
        row["speed_of_ours_bfloat16"] = base["seconds"] / row["seconds"]
        row["cpu_speed_of_ours_bfloat16"] = base["cpu_seconds"] / row["cpu_seconds"]
    finish("compiled", options, rows, {"x": "contender", "y": "seconds"}, base=options.base)


def measure(name: str, options: Any) -> dict[str, float]:
    """Measure one contender in this process: seconds to the first result, and of a later one."""
    run = build(name, options.base)
    begun = time.perf_counter()
    run()
    first = time.perf_counter() - begun
    times, works = [], []
    for _ in range(1 if options.quick else options.rounds):
        begun, worked = time.perf_counter(), time.process_time()
        run()
        times.append(time.perf_counter() - begun)
        works.append(time.process_time() - worked)
    return {"first": first, "seconds": min(times), "cpu_seconds": min(works)}


def build(name: str, base: str) -> Callable[[], object]:
    """Build one contender's encoder, ready to be called."""
    dtype, is_compiled, int8 = CONTENDERS[name]
    torch.manual_seed(0)
    size = SMALL_SIZE if base == SMALL else 512
    model = PlugModel(PlugConfig(sam=named_base(base), image_size=size)).to(dtype).eval()
    pixels = torch.randn(1, 3, size, size, dtype=dtype)
    if int8 == "ours":
        use_int8(model.vision_encoder)
    elif int8 == "torchao":
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(model.vision_encoder, Int8DynamicActivationInt8WeightConfig())
    encode = torch.compile(model.encode) if is_compiled else model.encode

    def run() -> None:
        with torch.no_grad():
            encode(pixels)

    return run


def _can_run(name: str) -> bool:
    kind = CONTENDERS[name][2]
    if kind == "torchao":
        return importlib.util.find_spec("torchao") is not None
    return kind is None or can_use_int8()


def _in_process(name: str, options: Any, cache: str) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).resolve()), "--contender", name, "--base", options.base]
    command += ["--threads", str(options.threads), "--rounds", str(options.rounds)]
    command += ["--quick"] if options.quick else []
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
