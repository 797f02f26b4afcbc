"""From the network's output for some prompts to the objects of a scene."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from amodal.inference.prompts import ObjectPrompt
from amodal.inference.scene_object import SceneObject
from amodal.io.images import ImageArray
from amodal.models.plug import PlugOutput
from amodal.models.plug.processing import PlugInputs
from amodal.ops.arrays import FloatMap, Mask, Window
from amodal.ops.cleaning import CleanSettings, clean_masks
from amodal.ops.edges import guide_of, resize_along_edges
from amodal.ops.masks import resize_probs
from amodal.ops.rle import decode_window, rle_area, rle_box_xyxy


@dataclass(frozen=True)
class MaskOptions:
    """How masks are made from probabilities.

    Attributes:
        threshold: a pixel is foreground if its probability is above this.
        union_visible: unite each amodal mask with the visible mask; always done for a given visible mask.
        clean: settings of the cleaning of masks, or None for the masks as the network gives them.
        side: side of the network's input in pixels.
    """

    threshold: float
    union_visible: bool
    clean: CleanSettings | None
    side: int


def objects_of(
    output: PlugOutput,
    images: Sequence[ImageArray],
    inputs: Sequence[PlugInputs],
    prompts: Sequence[ObjectPrompt],
    options: MaskOptions,
    complete: npt.NDArray[np.bool_],
) -> Iterator[SceneObject]:
    """Convert the predictions of one forward pass to objects in the pixels of their images.

    Args:
        output: logits (B, P, S, S) of B crops with P objects each.
        images: B * P images (H, W, 3), the one of each object.
        inputs: B * P inputs, the one of each object's crop.
        prompts: B * P prompts with boxes; a visible mask in them is kept exactly.
        options: how the masks are made.
        complete: B * P, whether the object is complete, so that its amodal mask is the visible one.

    Yields:
        B * P objects.
    """
    assert output.amodal_uncertainty is not None and output.iou_scores is not None
    assert output.pred_masks is not None
    amodal = probs_of(output.pred_masks.flatten(0, 1))
    visible = amodal if output.visible_logits is None else probs_of(output.visible_logits.flatten(0, 1))
    uncertainty = output.amodal_uncertainty.flatten(0, 1).float().cpu().numpy()
    scores = output.iou_scores.flatten().float().clamp(0, 1).tolist()
    guide: tuple[ImageArray, Window, FloatMap] | None = None  # of the last object, which often has the same window
    for index, (image, own, prompt) in enumerate(zip(images, inputs, prompts, strict=True)):
        crop = own.windows[0]
        assert prompt.box_xyxy is not None
        amodal_probs = None if complete[index] and prompt.visible is None else resize_probs(amodal[index], crop)
        if options.clean is None or prompt.visible is not None or output.visible_logits is None:
            probs = resize_probs(visible[index], crop), amodal_probs
        else:
            if guide is None or guide[0] is not image or guide[1] != crop:
                guide = image, crop, guide_of(image, crop, (visible.shape[1], visible.shape[2]))
            moved = resize_along_edges(visible[index], image, crop, options.clean.edge_radius, guide[2])
            probs = moved, amodal_probs
        window, (visible_mask, amodal_mask) = _masks_of(probs, crop, prompt, options, is_complete=bool(complete[index]))
        yield SceneObject(
            window=window,
            visible_in_window=visible_mask,
            amodal_in_window=amodal_mask,
            size=own.size,
            visible_box_xyxy=prompt.box_xyxy,
            score=scores[index],
            uncertainty_crop=(uncertainty[index].copy(), crop),
            name=prompt.name,
            class_id=prompt.class_id,
            source_id=prompt.source_id,
            tracker_id=prompt.tracker_id,
            union_visible=options.union_visible or prompt.visible is not None,
        )


def _masks_of(
    probs: tuple[FloatMap, FloatMap | None],
    crop: Window,
    prompt: ObjectPrompt,
    options: MaskOptions,
    *,
    is_complete: bool,
) -> tuple[Window, tuple[Mask, Mask]]:
    """Visible and amodal mask of one object, with the given visible mask in place, cleaned if asked for.

    Args:
        probs: visible and amodal probabilities in the crop; None for a complete object without a given mask.
        crop: their window.
        prompt: of the object.
        options: how the masks are made.
        is_complete: whether the object is complete; pieces of a given mask are joined all the same.

    Returns:
        The window of the masks, which is the crop, or larger where a given mask reaches beyond it, and both masks.
    """
    visible, amodal_probs = probs[0] > options.threshold, probs[1]
    window = crop
    if prompt.visible is not None:
        assert amodal_probs is not None
        if rle_area(prompt.visible):
            box = [int(v) for v in rle_box_xyxy(prompt.visible)]
            window = (min(crop[0], box[0]), min(crop[1], box[1]), max(crop[2], box[2]), max(crop[3], box[3]))
        visible = decode_window(prompt.visible, window)
        placed = np.zeros(visible.shape, np.float32)
        x, y = crop[0] - window[0], crop[1] - window[1]
        placed[y : y + amodal_probs.shape[0], x : x + amodal_probs.shape[1]] = amodal_probs
        amodal_probs = placed
    amodal = visible if is_complete or amodal_probs is None else amodal_probs > options.threshold
    if options.clean is None:
        return window, (visible, amodal)
    pixel = math.sqrt((crop[2] - crop[0]) * (crop[3] - crop[1])) / options.side
    given = prompt.visible is not None
    return window, clean_masks(
        visible, amodal, settings=options.clean, pixel=pixel, keep_visible=given, amodal_probs=amodal_probs
    )


def probs_of(logits: Tensor) -> npt.NDArray[np.float32]:
    """Convert logits (..., S, S) to probabilities on the CPU."""
    return np.asarray(logits.float().sigmoid().cpu().numpy(), np.float32)
