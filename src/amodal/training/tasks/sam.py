"""The losses of a promptable segmenter of visible masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.losses import mask_bce, mask_dice, mask_ious, object_mean
from amodal.training.datasets.sampling import Batch

_BOXES: tuple[str, ...] = ("input_boxes",)
_POINTS: tuple[str, ...] = ("input_points", "input_labels")


class SamTask:
    """Losses of SAM's training at small scale: BCE, Dice and the mask-quality error.

    Differs from SAM's recipe: BCE instead of focal loss, because crops around objects have no strong
    class imbalance; one mask per prompt; and targets at the decoder's resolution, where a target pixel
    is the share of the cell that the object covers.

    Args:
        points_share: share of batches that are prompted by points instead of boxes.
        both_share: share of batches that are prompted by points and boxes.
        dice_weight: weight of the Dice loss.
        quality_weight: weight of the squared error of the predicted IoU.
    """

    def __init__(
        self,
        points_share: float = 0.2,
        dice_weight: float = 1.0,
        quality_weight: float = 0.2,
        *,
        both_share: float = 0.0,
    ) -> None:
        self.points_share = points_share
        self.both_share = both_share
        self.dice_weight = dice_weight
        self.quality_weight = quality_weight

    @staticmethod
    def prepare(model: nn.Module) -> nn.Module:
        """Nothing to prepare."""
        return model

    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Named losses of one batch in the form of `datasets.crops.collate`."""
        drawn = torch.rand((), generator=generator, device=generator.device).item()
        names = _POINTS if drawn < self.points_share else _BOXES
        if self.points_share <= drawn < self.points_share + self.both_share:
            names = _POINTS + _BOXES
        output = model(pixel_values=batch["pixel_values"], multimask_output=False, **_prompts(batch, names))
        logits = output.pred_masks[:, :, 0].float()  # (B, P, h, w)
        factor = batch["visible_masks"].shape[-1] // logits.shape[-1]
        truth = batch["visible_masks"].float()
        targets = F.avg_pool2d(truth, factor)
        valid = batch["valid"]
        quality = (output.iou_scores[:, :, 0].float() - mask_ious(logits.detach() > 0, targets > 0.5)) ** 2
        return {
            "visible_bce": mask_bce(logits, targets, valid),
            "visible_dice": self.dice_weight * mask_dice(logits, targets, valid),
            "quality": self.quality_weight * object_mean(quality, valid),
        }

    @staticmethod
    def predict(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Visible and amodal probabilities (B, P, S, S); both are the visible one, which is all the model predicts."""
        output = model(pixel_values=batch["pixel_values"], multimask_output=False, **_prompts(batch, _BOXES))
        S = batch["visible_masks"].shape[-1]
        logits = output.pred_masks[:, :, 0].float()
        full = F.interpolate(logits, size=(S, S), mode="bilinear", align_corners=False).sigmoid()
        return full, full


def _prompts(batch: Batch, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The prompts of these names, and the mask prompts if there are any."""
    return {name: batch[name] for name in (*names, "input_masks", "mask_given") if name in batch}
