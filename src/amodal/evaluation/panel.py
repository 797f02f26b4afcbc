"""Draws methods side by side: one row per object with the image, the truth and each method's mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.evaluation.matching import MatchedRecords, ObjectRecords
from amodal.evaluation.predictions import MaskPrediction
from amodal.evaluation.selection import ObjectKey, ObjectSelection
from amodal.evaluation.worst import OCCLUDED, VISIBLE, captioned, paint, window_around
from amodal.io.images import ImageArray
from amodal.ops.masks import mask_iou
from amodal.ops.rle import decode_mask, decode_window

GREY = (230, 230, 230)
MIN_RATE, MAX_RATE = 0.1, 0.7
"""Occlusion rates of the objects that are shown if none are named."""

Records = ObjectRecords | MatchedRecords


def draw_methods(
    dataset: AnnotatedDataset,
    methods: Mapping[str, Records],
    objects: Sequence[ObjectKey] | None = None,
    count: int = 6,
) -> ImageArray:
    """Draw one row per object: the image, the annotated truth, and the amodal mask of each method with its IoU.

    In all masks, the part inside the true visible mask and the part outside of it have the colours of the visible and
    of the occluded part.

    Args:
        dataset: dataset with visible and amodal masks.
        methods: predictions by the name of their method, in the order of the columns.
        objects: the objects to draw; if None, those of `example_objects`.
        count: number of objects if none are named.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: no method, no object, an object that the dataset does not have or whose amodal mask is unknown, an
            image that cannot be read, or an invalid prediction.
    """
    if not methods:
        raise InputError("panel: expected predictions of one or more methods, got none")
    chosen = example_objects(dataset, count) if objects is None else [_find(dataset, key) for key in objects]
    if not chosen:
        raise InputError(
            f"panel: expected an object of which {MIN_RATE:.0%} to {MAX_RATE:.0%} is occluded, or --object, got none"
        )
    return np.concatenate([_row(image, obj, methods) for image, obj in chosen], axis=0)


def example_objects(dataset: AnnotatedDataset, count: int) -> list[tuple[ImageSample, ObjectSample]]:
    """Return the first occluded object of each of the first images that have one, up to `count` of them."""
    chosen = list[tuple[ImageSample, ObjectSample]]()
    for image in dataset.images:
        if len(chosen) == count:
            break
        objects = ObjectSelection().objects_of(image)
        occluded = (obj for obj in objects if MIN_RATE <= obj.occlusion_rate() <= MAX_RATE)
        chosen += [(image, obj) for obj in [next(occluded, None)] if obj is not None]
    return chosen


def _find(dataset: AnnotatedDataset, key: ObjectKey) -> tuple[ImageSample, ObjectSample]:
    for image in dataset.images:
        for obj in ObjectSelection(frozenset([key])).objects_of(image) if image.id == key[0] else []:
            return image, obj
    raise InputError(f"object: expected an annotated object with an amodal mask, got {key[0]}_{key[1]}")


def _row(image: ImageSample, obj: ObjectSample, methods: Mapping[str, Records]) -> ImageArray:
    assert obj.amodal_rle is not None
    found = {name: records.predictions(image, [obj], False)[0] for name, records in methods.items()}
    shown = [prediction.amodal for prediction in found.values() if prediction is not None]
    window = window_around([obj.amodal_rle, obj.visible_rle, *shown], image.size)
    x0, y0, x1, y1 = window
    crop = image.load()[y0:y1, x0:x1]
    visible, truth = decode_window(obj.visible_rle, window), decode_window(obj.amodal_rle, window)
    panels = [captioned(crop, [(f"image {image.id}, object {obj.id}", GREY)])]
    caption = [("truth: ", GREY), ("visible ", VISIBLE), ("occluded", OCCLUDED)]
    panels.append(captioned(paint(crop, [(truth & visible, VISIBLE), (truth & ~visible, OCCLUDED)]), caption))
    for name, prediction in found.items():
        if prediction is None:
            panels.append(captioned(paint(crop, []), [(f"{name}: no prediction", GREY)]))
            continue
        mask = decode_window(prediction.amodal, window)
        drawn = paint(crop, [(mask & visible, VISIBLE), (mask & ~visible, OCCLUDED)])
        panels.append(captioned(drawn, [(f"{name}: IoU {_iou(prediction, obj):.3f}", GREY)]))
    return np.concatenate(panels, axis=1)


def _iou(prediction: MaskPrediction, obj: ObjectSample) -> float:
    truth = obj.amodal_mask()
    assert truth is not None
    return mask_iou(decode_mask(prediction.amodal), truth)
