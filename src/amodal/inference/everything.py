"""Segmenting every object of an image: find the objects, segment them, remove duplicates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from amodal.inference.find import Detector, ObjectFinder
from amodal.inference.prompts import ObjectPrompt, check_confidence
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject, visible_iou
from amodal.io.images import ImageArray, ImageSource, load_image, path_of
from amodal.ops.cleaning import CleanSettings

MAX_OVERLAP = 0.5
"""Two objects whose visible masks overlap more than this (IoU) count as one object that was found twice."""


class Segmenter(Protocol):
    """What is needed of an `AmodalSegmenter`, which can then use this module for its `find`."""

    device: torch.device

    @property
    def finder(self) -> ObjectFinder:
        """The modal model that finds the boxes of objects."""
        ...

    def segment_batch(
        self,
        images: Sequence[ImageSource],
        prompts: Sequence[Sequence[ObjectPrompt]],
        *,
        threshold: float | None = None,
        clean: bool | CleanSettings = True,
    ) -> list[Scene]:
        """Segment the objects of several images."""
        ...


def scene_finder(
    segmenter: Segmenter,
    detector: str | None,
    texts: Sequence[str] | None,
    threshold: float | None,
    clean: bool | CleanSettings = True,
    confidence: float | None = None,
) -> Callable[[ImageArray], Scene]:
    """Build a function that finds and segments the objects of an image.

    Args:
        segmenter: makes the masks.
        detector: name of a detector of transformers that finds the boxes; None for the segmenter's finder.
        texts: what an open-vocabulary detector looks for.
        threshold: as for the segmenter.
        clean: as for the segmenter.
        confidence: as for `segment_everything`.

    Returns:
        A function from (H, W, 3) uint8 RGB to a scene.

    Raises:
        InputError: no such detector or base.
    """
    source: Detector | ObjectFinder
    if detector:
        source = Detector(detector, texts, segmenter.device)
    else:
        source = segmenter.finder
    return lambda image: segment_everything(
        segmenter, source, image, threshold=threshold, clean=clean, confidence=confidence
    )


def segment_everything(
    segmenter: Segmenter,
    source: Detector | ObjectFinder,
    image: ImageSource,
    *,
    threshold: float | None = None,
    clean: bool | CleanSettings = True,
    confidence: float | None = None,
) -> Scene:
    """Find the objects of an image and segment them.

    Args:
        segmenter: makes the masks.
        source: finds the boxes; its labels, where it has any, become phrases.
        image: path, PIL image or RGB array, as for the segmenter.
        threshold: as for the segmenter.
        clean: as for the segmenter.
        confidence: smallest score of a found object in [0, 1]; the source's own if None.

    Returns:
        Scene of the objects, best first, without duplicates.

    Raises:
        InputError: an unreadable image, or an impossible confidence or threshold.
    """
    check_confidence(confidence)
    pixels = load_image(image)
    labels: Sequence[str | None]
    if isinstance(source, Detector):
        boxes, labels = source(pixels, confidence)
    else:
        boxes, labels = source.find(pixels, confidence)
    H, W = pixels.shape[:2]
    inside = np.clip(np.asarray(boxes, np.float64).reshape(-1, 4), 0, (W, H, W, H)).tolist()
    found = [
        (ObjectPrompt((x0, y0, x1, y1)), label)
        for (x0, y0, x1, y1), label in zip(inside, labels, strict=True)
        if x0 < x1 and y0 < y1
    ]
    prompts = [prompt for prompt, _ in found]
    scene = segmenter.segment_batch([pixels], [prompts], threshold=threshold, clean=clean)[0]
    objects = [replace(obj, phrase=label) for obj, (_, label) in zip(scene.objects, found, strict=True)]
    return replace(scene, objects=remove_duplicates(objects), image_path=path_of(image))


def remove_duplicates(objects: list[SceneObject], max_overlap: float = MAX_OVERLAP) -> list[SceneObject]:
    """The objects in their order, without empty ones and without those that repeat an earlier visible mask."""
    kept: list[SceneObject] = []
    for obj in objects:
        if obj.visible_in_window.any() and all(visible_iou(obj, other) <= max_overlap for other in kept):
            kept.append(obj)
    return kept
