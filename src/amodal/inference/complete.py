"""Which objects are complete: the network is asked about a hidden part twice, and both predictions must have one.

Differs from the paper, which asks once: with a visible mask as its prompt, `plug-small` adds hidden parts to far fewer
complete objects (docs/log/plug-models.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from amodal.inference.network_output import MaskOptions, probs_of
from amodal.inference.prompts import ObjectPrompt
from amodal.models.plug import PlugOutput
from amodal.ops.arrays import Mask
from amodal.ops.cleaning import CleanSettings, clean_masks
from amodal.ops.occlusion import occlusion_rate


def complete_objects(
    run: Callable[..., PlugOutput],
    output: PlugOutput,
    given: dict[str, Tensor],
    prompts: Sequence[ObjectPrompt],
    options: MaskOptions,
    *,
    asks_again: bool,
) -> npt.NDArray[np.bool_]:
    """Find the objects of one forward pass that nothing hides.

    An object without a given mask is complete if the first prediction has no hidden part, or if the second one, with
    the network's own visible mask as the prompt, has none. The network runs again only if it is needed.

    Args:
        run: the network for these objects, which takes mask prompts.
        output: of the first run, (B, P) objects.
        given: mask prompts of the first run.
        prompts: B * P; an object with a mask is never complete here, because its mask is a better prompt already.
        options: how masks are made.
        asks_again: whether the network was trained with mask prompts.

    Returns:
        (B * P,) bool; all False without cleaning, with `min_confirmed` 0, and for networks without mask prompts.
    """
    clean, logits = options.clean, output.visible_logits
    without_mask = np.array([prompt.visible is None for prompt in prompts])
    if clean is None or clean.min_confirmed <= 0 or not asks_again or logits is None or not without_mask.any():
        return np.zeros(len(prompts), bool)
    settings = replace(clean, min_occlusion=0.0)
    shown = probs_of(logits) > options.threshold
    own = [clean_masks(mask, mask, settings=settings)[0] for mask in shown]
    complete = without_mask & _has_no_hidden_part(own, output.pred_masks, options.threshold, settings)
    if (complete | ~without_mask).all():
        return complete
    masks = torch.from_numpy(np.stack(own)).view(logits.shape).to(logits.device)
    seen = masks.any(-1).any(-1)
    if given:
        is_given = given["mask_given"]
        masks = torch.where(is_given[..., None, None], given["input_masks"], masks)
        seen = seen | is_given
    second = run(input_masks=masks, mask_given=seen).pred_masks
    return complete | (without_mask & _has_no_hidden_part(own, second, options.threshold, settings))


def _has_no_hidden_part(
    visible: Sequence[Mask], amodal_logits: Tensor | None, threshold: float, settings: CleanSettings
) -> npt.NDArray[np.bool_]:
    """(N,) bool: whether the occlusion rate is below `min_confirmed` after cleaning."""
    assert amodal_logits is not None
    cleaned = [
        clean_masks(mask, (amodal > threshold) | mask, settings=settings, amodal_probs=amodal)
        for mask, amodal in zip(visible, probs_of(amodal_logits), strict=True)
    ]
    return np.array([occlusion_rate(*masks) for masks in cleaned]) < settings.min_confirmed
