"""Training AURA: text, masks and occlusion (AURA Eq. 1-4)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.losses import box_loss, mask_bce, mask_dice, object_mean
from amodal.models.aura import AuraConfig, AuraOutput
from amodal.nn.occlusion_encoders import occlusion_map, occlusion_rates

Batch = dict[str, Tensor]

TARGETS = {
    "visible_masks", "amodal_masks", "has_amodal", "names", "name_boxes", "meanings", "visible_boxes", "pointing",
}  # fmt: skip
"""Entries of a batch that the model does not read."""


class AuraTask:
    """L = L_text + L_mask + L_occ (Eq. 4).

    L_text is the cross-entropy of the answers' tokens (Eq. 1); L_mask binary cross-entropy and
    Dice of visible and amodal masks (Eq. 2); L_occ the squared error of the occlusion rate and the
    cross-entropy of the spatial map (Eq. 3). Where only names are learned
    (`AuraConfig.names_only`) nothing else is computed.

    Differs from the paper where the configuration says so: `iou_weight` trains the mask-quality
    head, `naming_weight` names the object under each image token, `box_weight` points at the
    object and finds its visible box.

    Args:
        config: the model's configuration.
    """

    def __init__(self, config: AuraConfig) -> None:
        self.config = config

    @staticmethod
    def prepare(model: nn.Module) -> nn.Module:
        """The model as it is: nothing needs to be made ready."""
        return model

    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Named losses of one batch (`data.conversations.collate_conversations` form)."""
        config = self.config
        if config.names_only:
            return self._naming_losses(model(pixel_values=batch["pixel_values"]), batch)
        output: AuraOutput = model(**{name: value for name, value in batch.items() if name not in TARGETS})
        assert output.logits is not None and output.targets is not None and output.masks is not None
        losses = {"text": config.text_weight * text_loss(output.logits, output.targets)}
        losses |= self._mask_losses(output.masks, batch)
        losses |= self._occlusion_losses(output.masks, batch)
        losses |= self._naming_losses(output, batch)
        if output.boxes is not None and output.pointing is not None:
            losses["box"] = config.box_weight * box_loss(output.boxes, batch["visible_boxes"])
            losses["pointing"] = config.box_weight * pointing_loss(output.pointing, batch["pointing"])
        return losses

    def _naming_losses(self, output: AuraOutput, batch: Batch) -> dict[str, Tensor]:
        """Auxiliary: what is under each image token, and the visible box of it; what each mask token means."""
        if output.naming_logits is None or output.naming_boxes is None:
            return {}
        shares, weight = batch["names"], self.config.naming_weight
        distance = (output.naming_boxes - batch["name_boxes"]).abs().sum(-1)
        losses = {
            "naming": weight * F.cross_entropy(output.naming_logits.float().flatten(0, 1), shares.flatten(0, 1)),
            "naming_box": weight * object_mean(distance, shares.argmax(-1) > 0),
        }
        if output.meaning_logits is not None and len(output.meaning_logits):
            losses["meaning"] = weight * F.cross_entropy(output.meaning_logits.float(), batch["meanings"])
        return losses

    def _mask_losses(self, masks: Any, batch: Batch) -> dict[str, Tensor]:
        """Eq. 2, and the quality head's."""
        config, valid = self.config, batch["has_amodal"]
        visible, amodal = batch["visible_masks"], batch["amodal_masks"]
        everything = torch.ones_like(valid)
        losses = {
            "visible_bce": config.bce_weight * mask_bce(masks.visible_logits, visible, everything),
            "amodal_bce": config.bce_weight * mask_bce(masks.amodal_logits, amodal, valid),
            "visible_dice": config.dice_weight * mask_dice(masks.visible_logits, visible, everything),
            "amodal_dice": config.dice_weight * mask_dice(masks.amodal_logits, amodal, valid),
        }
        if config.iou_weight > 0:
            error = (masks.iou_scores.float() - _ious(masks.amodal_logits, amodal, config.mask_threshold)) ** 2
            losses["quality"] = config.iou_weight * object_mean(error, valid)
        return losses

    def _occlusion_losses(self, masks: Any, batch: Batch) -> dict[str, Tensor]:
        """Eq. 3, of the encoders that are there."""
        config, valid = self.config, batch["has_amodal"]
        visible, amodal = batch["visible_masks"], batch["amodal_masks"]
        losses = {}
        if masks.rates is not None:
            error = (masks.rates - occlusion_rates(visible, amodal)) ** 2
            losses["rate"] = config.rate_weight * object_mean(error, valid)
        if masks.map_logits is not None:
            truth = occlusion_map(visible, amodal)
            wrong = F.cross_entropy(masks.map_logits.float(), truth, reduction="none").mean((-2, -1))
            losses["map"] = config.map_weight * object_mean(wrong, valid)
        return losses

    @staticmethod
    @torch.no_grad()
    def scores(model: nn.Module, batch: Batch, threshold: float) -> dict[str, tuple[float, int]]:
        """Sums and counts of quick figures, the true answers given (teacher forcing).

        Returns:
            `visible`, `full` and `occ`: IoUs of visible, amodal and hidden masks; `token`: share of
            answer tokens that are guessed right; `rate_error`: absolute, if the model predicts it. Of a
            model that only learns to see, `full`: the share of tokens on objects that are named right.
        """
        bare: Any = getattr(model, "module", model)
        if bare.config.names_only:
            logits = model(pixel_values=batch["pixel_values"]).naming_logits
            names = batch["names"].argmax(-1)
            right = (logits.argmax(-1) == names)[names > 0]
            return {"full": (float(right.sum()), len(right))}
        output: AuraOutput = model(**{name: value for name, value in batch.items() if name not in TARGETS})
        masks: Any = output.masks
        assert output.logits is not None and output.targets is not None
        counted = output.targets != -100
        right = (output.logits.argmax(-1) == output.targets) & counted
        visible, amodal = (x.float().sigmoid() > threshold for x in (masks.visible_logits, masks.amodal_logits))
        amodal = amodal | visible
        true_visible, true_amodal, known = batch["visible_masks"], batch["amodal_masks"], batch["has_amodal"]
        hidden = true_amodal & ~true_visible
        has_hidden = known & hidden.flatten(1).any(1)
        figures = {
            "visible": _overlap(visible, true_visible),
            "full": _overlap(amodal, true_amodal)[known],
            "occ": _overlap(amodal & ~true_visible, hidden)[has_hidden],
        }
        if masks.rates is not None:
            figures["rate_error"] = (masks.rates - occlusion_rates(true_visible, true_amodal)).abs()[known]
        sums = {name: (float(values.sum()), len(values)) for name, values in figures.items()}
        return sums | {"token": (float(right.sum()), int(counted.sum()))}


def text_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Eq. 1: mean cross-entropy of the answers' tokens.

    Args:
        logits: (B, K, vocabulary).
        targets: (B, K), -100 where no answer stands.
    """
    counted = targets != -100
    if not counted.any():
        return logits.float().sum() * 0
    return F.cross_entropy(logits[counted].float(), targets[counted])


def pointing_loss(logits: Tensor, shares: Tensor) -> Tensor:
    """Mean cross-entropy between the image tokens pointed at and those where the object is seen.

    Args:
        logits: (N, n).
        shares: (N, n) of the object's seen area under each token; all zero for one that is not seen.
    """
    missed = -(shares * logits.log_softmax(-1)).sum(-1)
    return object_mean(missed, torch.ones_like(missed, dtype=torch.bool))


def _ious(logits: Tensor, targets: Tensor, threshold: float) -> Tensor:
    return _overlap(logits.detach().float().sigmoid() > threshold, targets)


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """(N,) IoU of masks (N, H, W); 1 where both are empty."""
    union = (a | b).sum((-2, -1))
    return torch.where(union > 0, (a & b).sum((-2, -1)) / union.clamp_min(1), 1.0)
