"""A second prediction of occluded objects, from the left-right mirror images of their crops.

Its prompt is the visible mask: the given one, or the network's own. An occluded part that is really there is found in
both predictions; one that is not there is rarely found twice. The masks are the mean of both.

Differs from the paper, which predicts once: `plug-small` adds occluded parts to far fewer complete objects in this way
(docs/log/plug-models.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from amodal.inference.network_output import MaskOptions, probs_of
from amodal.inference.onnx import OnnxPlug
from amodal.inference.prompts import ObjectPrompt
from amodal.models.bases.protocol import ImageFeatures
from amodal.models.plug import PlugModel, PlugOutput
from amodal.ops.cleaning import clean_masks
from amodal.ops.occlusion import occlusion_rate

UPRIGHT, MIRRORED = "upright", "mirrored"

Encode = Callable[[Tensor, str], tuple[ImageFeatures, ImageFeatures]]
"""Encodes crops (B, 3, S, S), which are `UPRIGHT` or `MIRRORED`."""

AVERAGED = ("pred_masks", "visible_logits", "amodal_uncertainty", "iou_scores")
"""Outputs that become the mean of both predictions."""


def predict_twice(
    model: PlugModel | OnnxPlug,
    pixel_values: Tensor,
    input_boxes: Tensor,
    given: dict[str, Tensor],
    encode: Encode,
    *,
    prompts: Sequence[ObjectPrompt],
    options: MaskOptions,
) -> tuple[PlugOutput, npt.NDArray[np.bool_]]:
    """Predict the masks of objects, and find the complete ones.

    Objects with an occluded part in the first prediction are predicted again, and the outputs `AVERAGED` of these
    objects are the mean of both predictions. An object counts as complete if either prediction has no occluded part.

    Args:
        model: the network.
        pixel_values: (B, 3, S, S) crops, as the network takes them.
        input_boxes: (B, P, 4) boxes in their pixels.
        given: mask prompts, `input_masks` and `mask_given`; may be empty.
        encode: the network's encoder.
        prompts: B * P prompts of the objects.
        options: how masks are made.

    Returns:
        The prediction, and which objects are complete, (B * P,) bool. Without cleaning, with `min_confirmed` 0, and for
        networks without mask prompts, there is one prediction, and no object counts as complete. Neither does an object
        whose given mask is empty.
    """
    visible_features, amodal_features = encode(pixel_values, UPRIGHT)
    output = model.predict(pixel_values, visible_features, amodal_features, input_boxes, **given)
    settings, complete = options.clean, np.zeros(len(prompts), bool)
    if settings is None or settings.min_confirmed <= 0 or not model.config.mask_prompts:
        return output, complete
    visible_masks, has_visible = _visible_masks(output, given, prompts, options)
    limit = max(settings.min_confirmed, settings.min_occlusion)  # cleaning drops smaller occluded parts anyway
    complete[has_visible] = _occlusion_rates(visible_masks, output, prompts, options, has_visible) < limit
    occluded = has_visible & ~complete
    if occluded.any():
        chosen = torch.from_numpy(occluded.reshape(input_boxes.shape[:2])).to(visible_masks.device)
        second = _predict_mirrored(model, pixel_values, input_boxes, visible_masks, chosen, encode)
        complete[occluded] = (
            _occlusion_rates(visible_masks, second, prompts, options, occluded) < settings.min_confirmed
        )
        for name, again in second.items():
            place = chosen.view(*chosen.shape, *[1] * (again.ndim - 2))
            output[name] = torch.where(place, (output[name] + again) / 2, output[name])
    return output, complete


def _predict_mirrored(
    model: PlugModel | OnnxPlug,
    pixel_values: Tensor,
    input_boxes: Tensor,
    visible_masks: Tensor,
    chosen: Tensor,
    encode: Encode,
) -> PlugOutput:
    """Predict the chosen objects from mirror images of their crops, boxes and visible masks.

    Args:
        model: the network.
        pixel_values: (B, 3, S, S) crops that are not mirrored.
        input_boxes: (B, P, 4) and `visible_masks` (B, P, S, S) bool likewise.
        chosen: (B, P) bool; at least one object is.
        encode: the network's encoder.

    Returns:
        The outputs `AVERAGED` in the crops that are not mirrored, 0 for objects that are not chosen.
    """
    rows, columns = chosen.any(1), chosen.any(0)
    pixels, masks = pixel_values[rows].flip(-1), visible_masks[rows][:, columns].flip(-1)
    x0, y0, x1, y1 = input_boxes[rows][:, columns].unbind(-1)
    side = pixels.shape[-1]
    boxes = torch.stack([side - x1, y0, side - x0, y1], -1)
    visible_features, amodal_features = encode(pixels, MIRRORED)
    mask_given = masks.any(-1).any(-1)
    mirrored = model.predict(pixels, visible_features, amodal_features, boxes, input_masks=masks, mask_given=mask_given)
    own, output = chosen[rows][:, columns], PlugOutput()
    for name in AVERAGED:
        if mirrored.get(name) is not None:
            part = mirrored[name] if mirrored[name].ndim == 2 else mirrored[name].flip(-1)
            output[name] = part.new_zeros(*chosen.shape, *part.shape[2:])
            output[name][chosen] = part[own]
    return output


def _visible_masks(
    output: PlugOutput, given: dict[str, Tensor], prompts: Sequence[ObjectPrompt], options: MaskOptions
) -> tuple[Tensor, npt.NDArray[np.bool_]]:
    """The visible mask of each object, given or predicted and cleaned, (B, P, S, S) bool; which have one, (B * P,)."""
    assert output.pred_masks is not None and options.clean is not None
    masks = torch.zeros_like(output.pred_masks, dtype=torch.bool)
    known = np.zeros(len(prompts), bool)
    if output.visible_logits is not None:
        known = np.array([prompt.visible is None for prompt in prompts])
        place = torch.from_numpy(known.reshape(masks.shape[:2])).to(masks.device)
        shown = probs_of(output.visible_logits[place]) > options.threshold
        own = [clean_masks(mask, mask, settings=options.clean)[0] for mask in shown]
        if own:
            masks[place] = torch.from_numpy(np.stack(own)).to(masks.device)
    if given:
        place = given["mask_given"]
        masks[place] = given["input_masks"][place]
        known = known | place.flatten().cpu().numpy()
    return masks, known


def _occlusion_rates(
    visible_masks: Tensor,
    output: PlugOutput,
    prompts: Sequence[ObjectPrompt],
    options: MaskOptions,
    chosen: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float64]:
    """Occlusion rates of the chosen objects after cleaning, (N,) in [0, 1]; none is dropped for being small."""
    assert options.clean is not None and output.pred_masks is not None
    settings, rates = replace(options.clean, min_occlusion=0.0), []
    place = torch.from_numpy(chosen).to(visible_masks.device)
    masks, amodal = visible_masks.flatten(0, 1)[place].cpu().numpy(), output.pred_masks.flatten(0, 1)[place]
    is_given = [prompt.visible is not None for prompt, is_chosen in zip(prompts, chosen, strict=True) if is_chosen]
    for mask, probs, keep in zip(masks, probs_of(amodal), is_given, strict=True):
        whole = (probs > options.threshold) | mask
        cleaned = clean_masks(mask, whole, settings=settings, keep_visible=keep, amodal_probs=probs)
        rates.append(occlusion_rate(*cleaned))
    return np.array(rates)
