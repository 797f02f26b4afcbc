"""One encoding for the whole picture against one a crop: time by number of boxes, accuracy of both.

Command: python benchmarks/image_mode.py [--annotations data/scenes-test/annotations.json]
         python benchmarks/image_mode.py --base vit-b --picture-sizes 512 1024

Time: whole calls of the segmenter (resizing and masks included) on one picture of the set with its
boxes repeated or cut to the number wanted; `overtakes` in the result is the smallest of these numbers
from which on a mode is faster than crops. Accuracy: protocol `strict` over the set, box of the true
visible mask. Without `--annotations` scenes are drawn first; with `--base` weights are random, and
only time is measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import arguments, finish, interleave
from pictures import annotations

from amodal import AmodalSegmenter
from amodal.data.readers import read_dataset
from amodal.inference.segmenter import pick_dtype
from amodal.metrics.strict import StrictIoU
from amodal.models.bases.sam import sam_config_for
from amodal.models.plug import PlugConfig, PlugModel

NUM_BOXES = (1, 2, 3, 4, 6, 8, 16)


def main() -> None:
    """Time, score, print."""
    options = arguments(
        __doc__,
        model={"default": "plug-tiny"},
        base={"help": "time random weights on this SAM instead of a model"},
        dtype={"default": "auto"},
        annotations={"type": Path},
        images={"type": int, "default": 100, "help": "pictures to score"},
        picture_sizes={"type": int, "nargs": "+", "default": [128, 256]},
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
        pictures=count,
        accuracy=scores,
    )


def load(options: Any) -> dict[str, AmodalSegmenter]:
    """One segmenter a mode, on the same weights."""
    if options.base:
        model = PlugModel(PlugConfig(sam=sam_config_for(options.base)))
    else:
        model = PlugModel.from_pretrained(options.model)
    place = torch.device("cpu")
    precision = pick_dtype(options.dtype, place)
    whole = {
        f"image {size}": AmodalSegmenter(model, place, precision, mode="image", picture_size=size)
        for size in options.picture_sizes
    }
    return {"crop": AmodalSegmenter(model, place, precision), **whole}


def overtakes(rows: list[dict[str, Any]], mode: str) -> int | None:
    """Smallest number of boxes from which on the mode is faster than crops; None if it never is."""
    slower = [row["boxes"] for row in rows if row["mode"] == mode and row["speed_of_crop"] <= 1]
    faster = [row["boxes"] for row in rows if row["mode"] == mode and row["boxes"] > max(slower, default=0)]
    return min(faster, default=None)


def timed(segmenters: dict[str, AmodalSegmenter], dataset: Any, num_boxes: int, rounds: int) -> list[dict[str, Any]]:
    """Rows of one number of boxes."""
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
    """Figures of protocol `strict` on the first `count` pictures."""
    scores = StrictIoU()
    for image in dataset.images[:count]:
        things = [o for o in image.objects if o.visible_mask().any()]
        answers = segmenter.predict(image.load(), np.array([o.visible_box_xyxy for o in things]))
        for answer, thing in zip(answers, things, strict=True):
            scores.update(answer.amodal_mask, thing.amodal_mask(), thing.visible_mask(), answer.visible_mask)
    return {key: float(value) for key, value in scores.compute().items()}


if __name__ == "__main__":
    main()
