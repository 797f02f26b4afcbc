"""Whole pictures without a prompt: what a finder finds, segmented and without repeats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from amodal.inference.find import Detector, ObjectFinder
from amodal.inference.scene import Scene, SceneObject, shared_pixels
from amodal.inference.segmenter import AmodalSegmenter

Pixels = npt.NDArray[np.uint8]

# Visible masks that overlap more than this (IoU) are taken for one object, found twice.
MAX_OVERLAP = 0.5


def segment_everything(
    segmenter: AmodalSegmenter, source: Detector | ObjectFinder, image: Pixels, *, threshold: float | None = None
) -> Scene:
    """Find the objects of a picture and segment them.

    Args:
        segmenter: what makes the masks.
        source: what finds the boxes; a detector's labels become phrases.
        image: (H, W, 3) uint8 RGB.
        threshold: as for the segmenter.

    Returns:
        Scene of the objects found, best first; of two with nearly the same visible mask the better.
    """
    labels: list[str] | None = None
    if isinstance(source, Detector):
        boxes, labels = source(image)
    else:
        boxes = source.everything(image)
    if len(boxes) == 0:
        return Scene([], (image.shape[0], image.shape[1]), image)
    scene = segmenter(image, boxes, threshold=threshold)
    objects = scene.objects
    if labels is not None:
        objects = [replace(thing, phrase=label) for thing, label in zip(objects, labels, strict=True)]
    return Scene(without_repeats(objects), scene.size, scene.image)


def without_repeats(objects: list[SceneObject], max_overlap: float = MAX_OVERLAP) -> list[SceneObject]:
    """Objects in their order without the empty ones and those whose visible mask an earlier one has."""
    kept: list[SceneObject] = []
    for thing in objects:
        if thing.visible_in_window.any() and all(_iou(thing, other) <= max_overlap for other in kept):
            kept.append(thing)
    return kept


def scene_of_frame(folder: Path, image: Pixels, find: Callable[[Pixels], Scene]) -> Scene:
    """The scene in `folder`, from disk if an earlier run left it there, else found and saved."""
    if (folder / "scene.json").is_file():
        done = Scene.load(folder)
        if done.size == image.shape[:2]:
            return Scene(done.objects, done.size, image)
    scene = find(image)
    scene.save(folder)
    return scene


def _iou(a: SceneObject, b: SceneObject) -> float:
    """Of the visible masks, neither empty."""
    shared = shared_pixels(a.visible_in_window, a.window, b)
    areas = np.count_nonzero(a.visible_in_window) + np.count_nonzero(b.visible_in_window)
    return shared / (areas - shared)
