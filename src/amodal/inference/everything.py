"""Segmenting every object of an image: find the objects, segment them, remove duplicates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from amodal.inference.find import Detector, ObjectFinder
from amodal.inference.prompts import check_confidence
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject, visible_iou
from amodal.inference.segmenter import AmodalSegmenter
from amodal.io.images import ImageArray
from amodal.ops.cleaning import CleanSettings

MAX_OVERLAP = 0.5
"""Two objects whose visible masks overlap more than this (IoU) count as one object that was found twice."""


def scene_finder(
    segmenter: AmodalSegmenter,
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
    segmenter: AmodalSegmenter,
    source: Detector | ObjectFinder,
    image: ImageArray,
    *,
    threshold: float | None = None,
    clean: bool | CleanSettings = True,
    confidence: float | None = None,
) -> Scene:
    """Find the objects of an image and segment them.

    Args:
        segmenter: makes the masks.
        source: finds the boxes; its labels, where it has any, become phrases.
        image: (H, W, 3) uint8 RGB.
        threshold: as for the segmenter.
        clean: as for the segmenter.
        confidence: smallest score of a found object in [0, 1]; the source's own if None.

    Returns:
        Scene of the objects, best first, without duplicates.

    Raises:
        InputError: an impossible confidence or threshold.
    """
    check_confidence(confidence)
    labels: Sequence[str | None]
    if isinstance(source, Detector):
        boxes, labels = source(image, confidence)
    else:
        boxes, labels = source.find(image, confidence)
    if len(boxes) == 0:
        return Scene([], (image.shape[0], image.shape[1]), image)
    scene = segmenter(image, boxes, threshold=threshold, clean=clean)
    objects = [replace(obj, phrase=label) for obj, label in zip(scene.objects, labels, strict=True)]
    return replace(scene, objects=remove_duplicates(objects))


def remove_duplicates(objects: list[SceneObject], max_overlap: float = MAX_OVERLAP) -> list[SceneObject]:
    """The objects in their order, without empty ones and without those that repeat an earlier visible mask."""
    kept: list[SceneObject] = []
    for obj in objects:
        if obj.visible_in_window.any() and all(visible_iou(obj, other) <= max_overlap for other in kept):
            kept.append(obj)
    return kept
