"""Speed of reading crops: decode, crop, resize, and rasterise masks inside the crop.

Measures each stage alone in one process, decoding whole masks for comparison, and whole batches through the loader
with worker processes. `--rate` compares the results with the speed of a model (`samples_per_s` in the log of a run).
Without `--annotations`, scenes are generated first.

Command: python benchmarks/input_pipeline.py [--annotations data/scenes-train/annotations.json]
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import finish
from scenes import annotations

from amodal.data.datasets import read_dataset
from amodal.ops.boxes import crop_window
from amodal.ops.masks import crop_and_resize, crop_mask
from amodal.ops.rle import decode_mask, decode_window
from amodal.training.datasets.crops import Augmentation, ObjectCrops
from amodal.training.datasets.sampling import CropSource, StepSampler, limit_threads, loader


def main() -> None:
    """Print the table and write the JSON."""
    options = _arguments()
    limit_threads()
    with annotations(options.annotations, 20 if options.quick else 200) as file:
        measure(options, file)


def measure(options: argparse.Namespace, file: Path) -> None:
    """Time opening the dataset, each stage alone, and whole batches."""
    begun = time.perf_counter()
    dataset = read_dataset(options.format, file, options.images)
    crops = ObjectCrops(
        [CropSource(dataset)], image_size=options.size, augmentation=Augmentation() if options.augment else None
    )
    opened = time.perf_counter() - begun
    number = 32 if options.quick else options.samples
    rows: list[dict[str, Any]] = [
        {"what": name, "workers": 0, "samples_per_s": rate} for name, rate in stages(crops, number).items()
    ]
    for workers in options.workers:
        rate = through_loader(crops, workers, options.batch, max(number // options.batch, 2))
        rows.append({"what": "loader, whole batches", "workers": workers, "samples_per_s": rate})
    if options.rate:
        for row in rows:
            row["to_model_rate"] = row["samples_per_s"] / options.rate
    plot = {"x": "what", "y": "samples_per_s"}
    finish("input_pipeline", options, rows, plot, size=options.size, objects=sum(crops.lengths), open_seconds=opened)


def stages(crops: ObjectCrops, number: int) -> dict[str, float]:
    """Samples per second of each stage alone, on the same objects."""
    keys = list(itertools.islice(_keys(crops), number))
    S = crops.image_size
    located = [crops._locate(*key[:2]) for key in keys]
    windows = [crop_window(np.array(obj.visible_box_xyxy), image.size, crops.crop_scale) for image, obj in located]
    images = [image.load() for image, _ in located[:8]]
    jobs = list(zip(located, windows, strict=True))

    def rasterise(inside: bool) -> None:
        for (_, obj), window in jobs:
            for rle in (obj.visible_rle, obj.amodal_rle):
                if rle is None:
                    continue
                if inside:
                    x0, y0, x1, y1 = window
                    crop_mask(decode_window(rle, window), (0, 0, x1 - x0, y1 - y0), S)
                else:
                    crop_mask(decode_mask(rle), window, S)

    def resize() -> None:
        for i in range(number):
            crop_and_resize(images[i % len(images)], windows[i % len(images)], S)

    return {
        "read an object's record": _rate(number, lambda: [crops._locate(*key[:2])[1] for key in keys]),
        "decode the image": _rate(number, lambda: [image.load() for image, _ in located]),
        "crop and resize the image": _rate(number, resize),
        "masks inside the crop": _rate(number, lambda: rasterise(True)),
        "masks decoded whole": _rate(number, lambda: rasterise(False)),
        "whole sample": _rate(number, lambda: [crops[key] for key in keys]),
    }


def through_loader(crops: ObjectCrops, workers: int, batch: int, batches: int) -> float:
    """Samples per second of collated batches, after the first batch of every worker."""
    warm = max(workers, 1)
    sampler = StepSampler(crops.lengths, [1.0], batch, 0, 0, batches + warm)
    batches_read = iter(loader(crops, sampler, workers))
    for _ in range(warm):
        next(batches_read)
    begun = time.perf_counter()
    count = sum(len(batch["pixel_values"]) for batch in batches_read)
    return count / (time.perf_counter() - begun)


def _keys(crops: ObjectCrops) -> Any:
    for batch in StepSampler(crops.lengths, [1.0], 16, 0, 0, sys.maxsize):
        yield from batch


def _rate(number: int, work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return number / (time.perf_counter() - begun)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--format", default="canonical")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--size", type=int, default=512, help="Side of the crops in pixels.")
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--augment", action="store_true", help="Augment the crops as in training.")
    parser.add_argument("--rate", type=float, help="Samples per second of the model, for comparison.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="JSON file to write.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    return options


if __name__ == "__main__":
    main()
