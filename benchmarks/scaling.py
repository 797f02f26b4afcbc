"""Measure objects per second of `plug-small` by number of processes, and the time per image by input size.

Each process has one thread and segments the same image with 8 boxes.

Command: python benchmarks/scaling.py
"""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

import numpy as np
import torch
from measure import arguments, finish, interleave

from amodal import AmodalSegmenter

BOXES = [[20 + 20 * i, 30 + 10 * i, 90 + 20 * i, 130 + 10 * i] for i in range(8)]


def main() -> None:
    """Measure numbers of processes, then input sizes."""
    options = arguments(__doc__, processes={"type": int, "nargs": "+", "default": [1, 2]})
    rounds = 2 if options.quick else 12
    rows: list[dict[str, Any]] = []
    for count in options.processes:
        with multiprocessing.get_context("spawn").Pool(count) as pool:
            pool.map(segment, [1] * count)  # start the processes and load the model
            start = time.perf_counter()
            pool.map(segment, [rounds] * count, chunksize=1)
            seconds = time.perf_counter() - start
        rows.append(row("processes", count, seconds / rounds, count * rounds * len(BOXES) / seconds))
    image = noise_image()
    sizes = (128,) if options.quick else (128, 192, 256)
    segmenters = {size: AmodalSegmenter.from_pretrained("plug-small", mode="image", image_size=size) for size in sizes}
    times = interleave({str(s): lambda m=model: m(image, BOXES) for s, model in segmenters.items()}, rounds)
    rows += [row("image size", int(size), t["seconds"], len(BOXES) / t["seconds"]) for size, t in times.items()]
    finish("scaling", options, rows, {"x": "number", "y": "objects_per_second", "series": "what"})


def row(what: str, number: int, seconds: float, rate: float) -> dict[str, Any]:
    """Return one row of the result."""
    return {"what": what, "number": number, "seconds_per_image": seconds, "objects_per_second": rate}


def noise_image() -> np.ndarray:
    """Return the same noise in every process."""
    return np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)


_loaded: list[AmodalSegmenter] = []


def segment(rounds: int) -> None:
    """Load the model once per process, and segment."""
    torch.set_num_threads(1)
    if not _loaded:
        _loaded.append(AmodalSegmenter.from_pretrained("plug-small"))
    for _ in range(rounds):
        _loaded[0](noise_image(), BOXES)


if __name__ == "__main__":
    main()
