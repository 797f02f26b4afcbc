"""Training a modal promptable segmenter with SAM's layout from scratch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamAttention

from amodal.losses import mask_bce, mask_dice, object_mean
from amodal.nn.attention import use_folded_attention

Batch = dict[str, Tensor]


class SamTask:
    """Losses of SAM's training at small scale: BCE, Dice and the mask-quality error.

    Differs from SAM's recipe: BCE in the place of focal loss (no class imbalance to fight in
    crops around objects), one mask a prompt, and targets at the decoder's resolution, where a
    target pixel is the share of the object in the cell.

    Args:
        points_share: share of batches prompted by points instead of boxes.
        dice_weight: weight of the Dice loss.
        quality_weight: weight of the squared error of the predicted IoU.
    """

    def __init__(self, points_share: float = 0.2, dice_weight: float = 1.0, quality_weight: float = 0.2) -> None:
        self.points_share = points_share
        self.dice_weight = dice_weight
        self.quality_weight = quality_weight

    @staticmethod
    def prepare(model: nn.Module) -> nn.Module:
        """Make training fast; outputs stay the same.

        The encoder gets its folded attention, and autocast's precision between its layers: the
        absolute positions are float32, added to the patches they would lift every layer's input
        back to float32, with a copy for each norm and each projection.
        """
        encoder: Any = model.vision_encoder
        use_folded_attention(encoder)
        use_plain_products(model.mask_decoder)  # type: ignore[arg-type]
        encoder.layers[0].register_forward_pre_hook(_to_autocast)
        prompts: Any = model.prompt_encoder
        prompts.register_forward_hook(_reach_all_prompts)
        return model

    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Named losses of one batch (`data.crops.collate` form)."""
        by_points = torch.rand((), generator=generator, device=generator.device).item() < self.points_share
        output = model(pixel_values=batch["pixel_values"], multimask_output=False, **_prompts(batch, by_points))
        logits = output.pred_masks[:, :, 0].float()  # (B, P, h, w)
        factor = batch["visible_masks"].shape[-1] // logits.shape[-1]
        truth = batch["visible_masks"].float()
        targets = F.avg_pool2d(truth, factor)
        valid = batch["valid"]
        quality = (output.iou_scores[:, :, 0].float() - _iou(logits, targets)) ** 2
        return {
            "visible_bce": mask_bce(logits, targets, valid),
            "visible_dice": self.dice_weight * mask_dice(logits, targets, valid),
            "quality": self.quality_weight * object_mean(quality, valid),
        }

    @staticmethod
    def predict(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Visible and amodal probabilities (B, P, S, S); a modal model gives one for both."""
        output = model(pixel_values=batch["pixel_values"], multimask_output=False, **_prompts(batch, False))
        S = batch["visible_masks"].shape[-1]
        logits = output.pred_masks[:, :, 0].float()
        full = F.interpolate(logits, size=(S, S), mode="bilinear", align_corners=False).sigmoid()
        return full, full


def use_plain_products(decoder: nn.Module) -> None:
    """Take the fused kernels out of a mask decoder's attention, in place; outputs stay the same.

    The decoder attends between a handful of tokens and the image. There the backward pass of
    the fused kernel took a sixth of a training step on a processor.
    """
    for module in decoder.modules():
        if isinstance(module, SamAttention):
            module.config._attn_implementation = "eager"


def _to_autocast(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    device = inputs[0].device.type
    if not torch.is_autocast_enabled(device):
        return inputs
    return (inputs[0].to(torch.get_autocast_dtype(device)),)


def _reach_all_prompts(prompts: Any, _: Any, embeddings: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Have box batches reach the embeddings of points, and the other way round, with gradients of zero.

    FSDP2 adds up the gradients that a process has. Where one process prompts by a box and
    another by points they would have different ones.
    """
    nothing = sum(layer.weight.sum() * 0 for layer in (*prompts.point_embed, prompts.not_a_point_embed))
    return (embeddings[0] + nothing, *embeddings[1:])


def _prompts(batch: Batch, by_points: bool) -> dict[str, Tensor]:
    if by_points:
        return {"input_points": batch["input_points"], "input_labels": batch["input_labels"]}
    return {"input_boxes": batch["input_boxes"]}


def _iou(logits: Tensor, targets: Tensor) -> Tensor:
    """IoU of each predicted mask with its target, no gradient."""
    predicted, truth = logits.detach() > 0, targets > 0.5
    overlap = (predicted & truth).sum((-2, -1)).float()
    return overlap / (predicted | truth).sum((-2, -1)).clamp_min(1)
