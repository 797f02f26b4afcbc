"""The losses of PLUG: BCE and point loss on every predicted mask (PLUG Eq. 9-10)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.losses import mask_bce, mask_dice, mask_ious, object_mean, occluded_dice, point_loss
from amodal.models.bases.conv_prompt import ConvPromptFamily
from amodal.models.plug import PlugConfig, PlugModel, PlugOutput
from amodal.training.datasets.sampling import Batch
from amodal.training.recipe import TrainingRecipe

FEW_CHANNELS = 16
"""Up to this width, contiguous inputs make training with the refine module's group norms faster on a CPU
(docs/log/training-speed.md)."""


class PlugTask:
    """L = L_b + L_p (Eq. 9) for the inmodal decoder, the amodal decoder and the refined mask.

    Differs from Eq. 9 where the configuration says so: `dice_weight` adds a Dice loss, `occluded_dice_weight` one of
    the occluded part, and `iou_weight` trains the mask-quality head.

    Args:
        config: the model's configuration.
        refined_point_loss: whether the refined mask gets L_p as well; Eq. 9 names the two decoders only.
        bce_at_decoder: compute L_b of the decoders before their logits are upsampled.
        own_mask_share: share of the crops whose mask prompts are replaced by what the model itself predicts for the
            box; see `with_own_masks`.
    """

    def __init__(
        self,
        config: PlugConfig,
        *,
        refined_point_loss: bool = True,
        bce_at_decoder: bool = False,
        own_mask_share: float = 0.0,
    ) -> None:
        self.config, self.refined_point_loss, self.bce_at_decoder = config, refined_point_loss, bce_at_decoder
        self.own_mask_share = own_mask_share

    @classmethod
    def from_recipe(cls, config: PlugConfig, training: TrainingRecipe, own_mask_share: float = 0.0) -> PlugTask:
        """The losses that a recipe states."""
        return cls(
            config,
            refined_point_loss=training.refined_point_loss,
            bce_at_decoder=training.bce_resolution == "decoder",
            own_mask_share=own_mask_share,
        )

    @staticmethod
    def prepare(model: nn.Module) -> nn.Module:
        """Speed up training without changing outputs."""
        assert isinstance(model, PlugModel)
        if isinstance(model.config.family, ConvPromptFamily):  # a float32 step takes a fifth less time on a CPU
            model.to(memory_format=torch.channels_last)
        if model.refine_module is not None:
            model.refine_module.stem.register_forward_pre_hook(_channels_last)
            for module in model.refine_module.modules():
                if isinstance(module, nn.GroupNorm) and module.num_channels <= FEW_CHANNELS:
                    module.register_forward_pre_hook(_contiguous)
        return model

    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Named losses of one batch in the form of `datasets.crops.collate`.

        Objects whose amodal mask is unknown only contribute to the losses of the visible mask.
        """
        if self.own_mask_share > 0:
            batch = self.with_own_masks(model, batch)
        output: PlugOutput = model(batch["pixel_values"], batch["input_boxes"], **_mask_prompts(batch))
        valid = batch["valid"]
        amodal_valid = valid & batch["has_amodal"]
        visible, amodal = batch["visible_masks"], batch["amodal_masks"]
        assert output.coarse_amodal_logits is not None and output.pred_masks is not None
        losses = self._mask_losses("amodal", output.coarse_amodal_logits, amodal, amodal_valid, generator)
        if output.visible_logits is not None:
            losses |= self._mask_losses("visible", output.visible_logits, visible, valid, generator)
        if self.bce_at_decoder:
            losses["amodal_bce"] = _cell_bce(output.amodal_decoder_logits, amodal, amodal_valid)
            if output.visible_decoder_logits is not None:
                losses["visible_bce"] = _cell_bce(output.visible_decoder_logits, visible, valid)
        if self.config.refine:
            losses |= self._mask_losses("refined", output.pred_masks, amodal, amodal_valid, generator)
        if self.config.occluded_dice_weight > 0:
            logits = output.pred_masks if self.config.refine else output.coarse_amodal_logits
            loss = occluded_dice(logits, amodal, visible, amodal_valid)
            losses["occluded_dice"] = self.config.occluded_dice_weight * loss
        if self.config.iou_weight > 0:
            assert output.iou_scores is not None
            predicted = output.pred_masks.detach().sigmoid() > self.config.mask_threshold
            error = (output.iou_scores.float() - mask_ious(predicted, amodal)) ** 2
            losses["quality"] = self.config.iou_weight * object_mean(error, amodal_valid)
        return losses

    @torch.no_grad()
    def with_own_masks(self, model: nn.Module, batch: Batch) -> Batch:
        """Replace the mask prompts of some crops by the visible masks that the model predicts for their boxes.

        Masks that a model has predicted have other faults than true masks with a moved outline: they reach into
        neighbours and miss parts. The crops are the first `own_mask_share` of the batch, rounded up, whose order is
        random; so every process asks its model once per batch. An object whose predicted mask is empty keeps its box
        only. Not in the paper, which has no mask prompts.

        Args:
            model: the model in training, as the loss calls it.
            batch: as in `__call__`, with mask prompts.

        Returns:
            A batch with other `input_masks` and `mask_given`; the rest is shared.
        """
        count = math.ceil(self.own_mask_share * len(batch["pixel_values"]))
        output: PlugOutput = model(batch["pixel_values"][:count], batch["input_boxes"][:count])
        assert output.visible_logits is not None
        own = output.visible_logits.float().sigmoid() > self.config.mask_threshold
        masks, given = batch["input_masks"].clone(), batch["mask_given"].clone()
        masks[:count] = own & given[:count, :, None, None]
        given[:count] &= own.any(-1).any(-1)
        return batch | {"input_masks": masks, "mask_given": given}

    @staticmethod
    def predict(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Visible and amodal probabilities (B, P, S, S); without a visible branch both are the amodal one."""
        output: PlugOutput = model(batch["pixel_values"], batch["input_boxes"], **_mask_prompts(batch))
        assert output.pred_masks is not None
        amodal = output.pred_masks.float().sigmoid()
        visible = amodal if output.visible_logits is None else output.visible_logits.float().sigmoid()
        return visible, amodal

    def _mask_losses(
        self, name: str, logits: Tensor, targets: Tensor, valid: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        config = self.config
        losses = {f"{name}_bce": mask_bce(logits, targets, valid)}
        if config.point_loss and (name != "refined" or self.refined_point_loss):
            losses[f"{name}_point"] = point_loss(
                logits,
                targets,
                epsilon=config.epsilon,
                num_points=config.num_points,
                oversample=config.oversample,
                importance=config.importance,
                alpha=config.alpha,
                beta=config.beta,
                generator=generator,
                valid=valid,
            )
        if config.dice_weight > 0:
            losses[f"{name}_dice"] = config.dice_weight * mask_dice(logits, targets, valid)
        return losses


def _cell_bce(logits: Tensor | None, targets: Tensor, valid: Tensor) -> Tensor:
    """L_b of logits (B, P, h, w) against the share of each cell that the mask (B, P, S, S) covers."""
    assert logits is not None
    h, w = logits.shape[-2:]
    return mask_bce(logits, F.adaptive_avg_pool2d(targets.float(), (h, w)), valid)


def _mask_prompts(batch: Batch) -> dict[str, Tensor]:
    """The mask prompts of a batch, if its crops have any."""
    return {name: batch[name] for name in ("input_masks", "mask_given") if name in batch}


def _channels_last(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """On a CPU, use the memory layout in which the refine module's convolutions run a third faster."""
    if inputs[0].device.type != "cpu":
        return inputs
    return (inputs[0].contiguous(memory_format=torch.channels_last),)


def _contiguous(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """On a CPU, use the memory layout in which the gradient of group norm is faster for few channels."""
    return (inputs[0].contiguous(),) if inputs[0].device.type == "cpu" else inputs
