"""One encoding for the whole picture against one a crop: time by number of boxes, accuracy of both.

Command: python benchmarks/image_mode.py --annotations data/scenes-test/annotations.json

Time: whole calls of the segmenter (resizing and masks included) on one picture of the set with
its boxes repeated or cut to the number wanted. Accuracy: protocol `strict` over the set, box of
the true visible mask.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import arguments, finish, interleave

from amodal import AmodalSegmenter
from amodal.data.readers import read_dataset
from amodal.metrics.strict import StrictIoU


def main() -> None:
    """Time, score, print."""
    options = arguments(
        __doc__,
        model={"default": "plug-tiny"},
        annotations={"type": Path, "default": Path("data/scenes-test/annotations.json")},
        images={"type": int, "default": 420, "help": "pictures to score"},
        picture_sizes={"type": int, "nargs": "+", "default": [128, 256]},
    )
    dataset = read_dataset("canonical", options.annotations)
    segmenters = {"crop": AmodalSegmenter.from_pretrained(options.model, dtype="float32")}
    for size in options.picture_sizes:
        name = f"image {size}"
        segmenters[name] = AmodalSegmenter.from_pretrained(
            options.model, dtype="float32", mode="image", picture_size=size
        )
    rows = [row for num_boxes in (1, 2, 4, 8, 16) for row in timed(segmenters, dataset, num_boxes, options.rounds)]
    count = 2 if options.quick else options.images
    scores = {name: accuracy(segmenter, dataset, count) for name, segmenter in segmenters.items()}
    plot = {"x": "boxes", "y": "seconds", "series": "mode"}
    finish("image_mode", options, rows, plot, model=options.model, pictures=count, accuracy=scores)


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
