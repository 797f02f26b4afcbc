"""Compare one encoding per image with one encoding per crop: time by number of boxes, and accuracy.

Command: python benchmarks/image_mode.py [--annotations data/scenes-test/annotations.json]
         python benchmarks/image_mode.py --base vit-b --image-sizes 512 1024

Time: whole calls of the segmenter, including resizing and masks, on one image of the dataset whose boxes are repeated
or cut to the required number. `overtakes` in the result is the smallest number of boxes from which on a mode is faster
than crops. Accuracy: protocol `strict` on the dataset, prompted by the box of the true visible mask. Without
`--annotations`, scenes are drawn first. With `--base`, weights are random and only time is measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import arguments, finish, interleave
from scenes import annotations

from amodal import AmodalSegmenter
from amodal.data.datasets import read_dataset
from amodal.inference.devices import pick_dtype
from amodal.metrics.mask_protocols import StrictIoU
from amodal.models.bases.families import base_config
from amodal.models.plug import PlugConfig, PlugModel

NUM_BOXES = (1, 2, 3, 4, 6, 8, 16)


def main() -> None:
    """Measure time and accuracy and print them."""
    options = arguments(
        __doc__,
        model={"default": "plug-small"},
        base={"help": "time random weights on this SAM instead of a model"},
        dtype={"default": "auto"},
        annotations={"type": Path},
        images={"type": int, "default": 100, "help": "number of images to score"},
        image_sizes={"type": int, "nargs": "+", "default": [192, 384]},
    )
    count = 2 if options.quick else options.images
    with annotations(options.annotations, count) as file:
        dataset = read_dataset("canonical", file)
        segmenters = load(options)
        numbers, rounds = (NUM_BOXES[:2], 1) if options.quick else (NUM_BOXES, options.rounds)
        rows = [row for number in numbers for row in timed(segmenters, dataset, number, rounds)]
        scores = {} if options.base else {n: accuracy(s, dataset, count) for n, s in segmenters.items()}
    finish(
        "image_mode",
        options,
        rows,
        {"x": "boxes", "y": "seconds", "series": "mode"},
        model=options.base or options.model,
        overtakes={name: overtakes(rows, name) for name in segmenters if name != "crop"},
        images=count,
        accuracy=scores,
    )


def load(options: Any) -> dict[str, AmodalSegmenter]:
    """Return one segmenter per mode, all with the same weights."""
    if options.base:
        model = PlugModel(PlugConfig(sam=base_config(options.base)))
    else:
        model = PlugModel.from_pretrained(options.model)
    place = torch.device("cpu")
    precision = pick_dtype(options.dtype, place)
    whole = {
        f"image {size}": AmodalSegmenter(model, place, precision, mode="image", image_size=size)
        for size in options.image_sizes
    }
    return {"crop": AmodalSegmenter(model, place, precision), **whole}


def overtakes(rows: list[dict[str, Any]], mode: str) -> int | None:
    """Return the smallest number of boxes from which on the mode is faster than crops, or None."""
    slower = [row["boxes"] for row in rows if row["mode"] == mode and row["speed_of_crop"] <= 1]
    faster = [row["boxes"] for row in rows if row["mode"] == mode and row["boxes"] > max(slower, default=0)]
    return min(faster, default=None)


def timed(segmenters: dict[str, AmodalSegmenter], dataset: Any, num_boxes: int, rounds: int) -> list[dict[str, Any]]:
    """Measure all modes with this number of boxes and return their rows."""
    image = max(dataset.images, key=lambda i: len(i.objects))
    pixels = image.load()
    own = np.array([o.visible_box_xyxy for o in image.objects if o.visible_box_xyxy[2] > o.visible_box_xyxy[0]])
    boxes = np.resize(own, (num_boxes, 4))
    times = interleave({name: lambda s=segmenter: s(pixels, boxes) for name, segmenter in segmenters.items()}, rounds)
    return [
        {
            "mode": name,
            "boxes": num_boxes,
            **times[name],
            "ms_per_object": times[name]["seconds"] / num_boxes * 1e3,
            "speed_of_crop": times["crop"]["seconds"] / times[name]["seconds"],
            "cpu_speed_of_crop": times["crop"]["cpu_seconds"] / times[name]["cpu_seconds"],
        }
        for name in times
    ]


@torch.inference_mode()
def accuracy(segmenter: AmodalSegmenter, dataset: Any, count: int) -> dict[str, float]:
    """Return the metrics of protocol `strict` on the first `count` images."""
    scores = StrictIoU()
    for image in dataset.images[:count]:
        annotated = [o for o in image.objects if o.visible_mask().any()]
        predictions = segmenter(image.load(), np.array([o.visible_box_xyxy for o in annotated])).objects
        for predicted, truth in zip(predictions, annotated, strict=True):
            scores.update(predicted.amodal_mask, truth.amodal_mask(), truth.visible_mask(), predicted.visible_mask)
    return {key: float(value) for key, value in scores.compute().items()}


if __name__ == "__main__":
    main()
