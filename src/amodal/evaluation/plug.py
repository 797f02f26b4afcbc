"""PLUG as a predictor whose masks are left apart: the evaluator decides whether to unite them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amodal.evaluation.answers import Answer, Boxes, Pixels, check_threshold
from amodal.models.bases.sam import load_sam
from amodal.models.plug import PlugConfig, PlugModel, PlugProcessor
from amodal.models.plug.base import assemble
from amodal.ops.masks import FloatMap, resize_probs
from amodal.ops.rle import encode_window

SAM_THRESHOLD = 0.5
"""SAM's own: its masks are logits above 0."""


@dataclass(frozen=True)
class PlugPredictor:
    """A PLUG model, its masks as the network gives them.

    Differs from `AmodalSegmenter`: the amodal mask is united with the visible one only on request,
    and a model without a visible branch answers no visible mask.

    Attributes:
        model: the network.
        device: where it is.
        dtype: bfloat16 runs under autocast.
        threshold: probability above which a pixel is foreground.
        union_visible: unite the masks, as `AmodalSegmenter` does.
    """

    model: PlugModel
    device: torch.device
    dtype: torch.dtype
    threshold: float
    union_visible: bool = True

    @classmethod
    def of(cls, segmenter: Any, *, threshold: float | None = None, union_visible: bool = True) -> PlugPredictor:
        """From an `AmodalSegmenter`; the model's own threshold if None.

        Raises:
            InputError: an impossible threshold.
        """
        limit = check_threshold(segmenter.model.config.mask_threshold if threshold is None else threshold)
        return cls(segmenter.model, segmenter.device, segmenter.dtype, limit, union_visible)

    @property
    def has_visible(self) -> bool:
        """Whether answers come with a visible mask."""
        return bool(self.model.config.visible_branch)

    @torch.inference_mode()
    def predict(self, image: Pixels, boxes_xyxy: Boxes) -> list[Answer]:
        """One answer a box (N, 4) in image pixels; boxes are clipped to the image."""
        H, W = image.shape[:2]
        inside = np.clip(boxes_xyxy, 0, np.array([W, H, W, H], dtype=np.float64))
        inputs = PlugProcessor.from_config(self.model.config)(image, inside)
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            output = self.model(inputs.pixel_values.to(self.device), inputs.input_boxes.to(self.device))
        amodal = _probs(output.pred_masks)
        visible = None if output.visible_logits is None else _probs(output.visible_logits)
        scores = output.iou_scores[:, 0].float().clamp(0, 1).tolist()
        answers = []
        for i, window in enumerate(inputs.windows):
            whole = resize_probs(amodal[i], window) > self.threshold
            seen = None if visible is None else resize_probs(visible[i], window) > self.threshold
            if seen is not None and self.union_visible:
                whole |= seen
            own = None if seen is None else encode_window(seen, window, inputs.size)
            answers.append(Answer(encode_window(whole, window, inputs.size), own, scores[i]))
        return answers


def pretrained_sam(base: str, device: torch.device, dtype: torch.dtype, threshold: float | None) -> PlugPredictor:
    """SAM without fine-tuning as PLUG's table 2, row 1, runs it: crop and box in, one mask out.

    It is a PLUG without adapters, visible branch and refine module; the crop is at most the
    paper's 512 pixels wide, and no wider than the base's own input.

    Args:
        base: bundled name, folder, hub id or Meta `.pth` file of a SAM.
        device: where it runs.
        dtype: precision of the network.
        threshold: `SAM_THRESHOLD` if None.

    Raises:
        InputError: no such base, or an impossible threshold.
    """
    sam = load_sam(base)
    config = PlugConfig(
        image_size=min(sam.model.config.vision_config.image_size, PlugConfig().image_size),
        lora_rank=0, parallel_lora=False, visible_branch=False, refine=False, point_loss=False,
    )  # fmt: skip
    model = assemble(PlugModel, sam, config).to(device).eval()
    limit = check_threshold(SAM_THRESHOLD if threshold is None else threshold)
    return PlugPredictor(model, device, dtype, limit, union_visible=False)


def _probs(logits: Tensor) -> FloatMap:
    """(N, 1, S, S) logits to (N, S, S) probabilities on the CPU."""
    return np.asarray(logits[:, 0].float().sigmoid().cpu().numpy(), np.float32)
