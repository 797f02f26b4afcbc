"""Tiny bases with random weights, one row per family, for tests that every family passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import EdgeTamConfig, PreTrainedConfig, PreTrainedModel, Sam2Config, Sam3TrackerConfig, SamHQConfig

from amodal.models.bases.conv_prompt import ConvPromptConfig
from amodal.models.bases.families import FAMILIES
from amodal.models.bases.protocol import BaseFamily
from tests.models.conftest import draw_matrices, small_sam_config
from tests.models.trunk import TinyTrunkConfig


def small_sam2_config(image_size: int = 64) -> Sam2Config:
    """SAM 2 with borders of incomplete windows, a global block, and one block per stage that pools its queries."""
    widths = [8, 16, 32, 64]
    return Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": widths[0],
                "num_attention_heads": 1,
                "blocks_per_stage": [1, 2, 2, 1],
                "embed_dim_per_stage": widths,
                "num_attention_heads_per_stage": [1, 2, 4, 8],
                "window_size_per_stage": [4, 2, 6, 3],
                "global_attention_blocks": [4],
                "window_positional_embedding_background_size": [3, 3],
                "image_size": [image_size, image_size],
            },
            "backbone_channel_list": widths[::-1],
            "backbone_feature_sizes": [[image_size // 4] * 2, [image_size // 8] * 2, [image_size // 16] * 2],
            "fpn_hidden_size": 16,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": image_size},
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )


def small_sam_hq_config(image_size: int = 64) -> SamHQConfig:
    """The small SAM with SAM-HQ's decoder."""
    sam = small_sam_config(image_size).to_dict()
    parts = {
        name: {k: v for k, v in sam[name].items() if k != "model_type"}
        for name in ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    }
    parts["mask_decoder_config"]["vit_dim"] = parts["vision_config"]["hidden_size"]
    return SamHQConfig(**parts)


def small_edgetam_config(image_size: int = 64) -> EdgeTamConfig:
    """EdgeTAM on a tiny convolutional trunk; that of the published model needs timm."""
    return EdgeTamConfig(
        vision_config={
            "backbone_config": TinyTrunkConfig().to_dict(),
            "backbone_channel_list": [32, 24, 16, 8],
            "backbone_feature_sizes": [[image_size // 4] * 2, [image_size // 8] * 2, [image_size // 16] * 2],
            "fpn_hidden_size": 16,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": image_size},
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )


def small_sam3_config(image_size: int = 64) -> Sam3TrackerConfig:
    """SAM 3's tracker with borders of incomplete windows, tiled positions and a global layer."""
    cells = image_size // 8
    return Sam3TrackerConfig(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "image_size": image_size,
                "patch_size": 8,
                "window_size": 3,
                "global_attn_indexes": [1],
                "pretrain_image_size": 24,
            },
            "scale_factors": [4.0, 2.0, 1.0],
            "backbone_feature_sizes": [[4 * cells] * 2, [2 * cells] * 2, [cells] * 2],
            "fpn_hidden_size": 16,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": image_size, "patch_size": 8},
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )


def small_conv_prompt_config(image_size: int = 64) -> ConvPromptConfig:
    """The layout of the convolutional segmenter with few channels."""
    stages = [[1, 3, 1, 1, 8], [1, 3, 2, 2, 8], [1, 5, 2, 2, 8], [1, 3, 2, 2, 16], [1, 5, 2, 2, 16]]
    trunk = {"stem_channels": 8, "stages": stages, "mixed_channels": 16}
    return ConvPromptConfig(trunk=trunk, image_size=image_size, widths=(8, 8, 16, 16, 16), blocks=(1, 2, 2, 1))


@dataclass(frozen=True)
class TinyBase:
    """A family's row.

    Attributes:
        family: the family.
        config: makes a tiny configuration for an input size.
        predict: transformers' own model, pixels (B, 3, S, S) and prompts to logits (B, P, h, w) and quality (B, P).
        embedding: transformers' own image embedding (B, C, h, w) of pixels.
        sizes: further input sizes at which transformers' model is compared.
    """

    family: BaseFamily
    config: Callable[[int], PreTrainedConfig]
    predict: Callable[..., tuple[Tensor, Tensor]]
    embedding: Callable[[Any, Tensor], Tensor]
    sizes: tuple[int, ...]

    def model(self, seed: int = 1) -> PreTrainedModel:
        """A base whose weights are far from zero, otherwise parity would prove little."""
        model = self.family.new_model(self.config(64), seed)
        torch.manual_seed(seed)
        draw_matrices(model)
        return model.eval()

    def at_size(self, model: PreTrainedModel, image_size: int) -> PreTrainedModel:
        """transformers' model with the same weights at another input size."""
        config = self.family.at_size(self.family.sizes(model.config), image_size)
        resized = self.family.model_class(config).to(model.dtype)
        state = model.state_dict()
        own = {k.removeprefix("vision_encoder."): v for k, v in resized.state_dict().items() if "vision_encoder." in k}
        fitted = self.family.fit_encoder_weights(
            {k.removeprefix("vision_encoder."): v for k, v in state.items() if k.startswith("vision_encoder.")}, own
        )
        resized.load_state_dict(state | {f"vision_encoder.{k}": v for k, v in fitted.items()})
        return resized.eval()


def single_mask(model: Any, pixels: Tensor, **prompts: Tensor) -> tuple[Tensor, Tensor]:
    """The first mask of transformers' model, also where SAM 2 would replace it by one of the others."""
    if hasattr(model.mask_decoder, "dynamic_multimask_via_stability"):
        model.mask_decoder.dynamic_multimask_via_stability = False
    output = model(pixel_values=pixels, multimask_output=False, **prompts)
    return output.pred_masks[:, :, 0], output.iou_scores[:, :, 0]


def single_hq_mask(model: Any, pixels: Tensor, **prompts: Tensor) -> tuple[Tensor, Tensor]:
    """SAM-HQ's mask by transformers' model, after a correction.

    The decoder of transformers 5.23 upscales the image tokens that went into its transformer, with rows and columns
    exchanged. The original code upscales those that come out of it, as SAM does.
    """
    decoder, kept = model.mask_decoder, []
    hooks = [
        decoder.transformer.register_forward_hook(lambda _module, _inputs, outputs: kept.append(outputs[1])),
        decoder.upscale_conv1.register_forward_pre_hook(
            lambda _module, inputs: (kept[-1].transpose(2, 3).reshape(inputs[0].shape),)
        ),
    ]
    try:
        return single_mask(model, pixels, **prompts)
    finally:
        for hook in hooks:
            hook.remove()


ROWS = {
    "sam": TinyBase(
        FAMILIES["sam"],
        small_sam_config,
        single_mask,
        lambda model, pixels: model.get_image_embeddings(pixels),
        sizes=(96,),
    ),
    "sam_hq": TinyBase(
        FAMILIES["sam_hq"],
        small_sam_hq_config,
        single_hq_mask,
        lambda model, pixels: model.get_image_embeddings(pixels)[0],
        sizes=(96,),
    ),
    "sam2": TinyBase(
        FAMILIES["sam2"],
        small_sam2_config,
        single_mask,
        lambda model, pixels: model.get_image_embeddings(pixels)[-1],
        sizes=(96, 160),
    ),
    "edgetam": TinyBase(
        FAMILIES["edgetam"],
        small_edgetam_config,
        single_mask,
        lambda model, pixels: model.get_image_embeddings(pixels)[-1],
        sizes=(96, 160),
    ),
    "sam3_tracker": TinyBase(
        FAMILIES["sam3_tracker"],
        small_sam3_config,
        single_mask,
        lambda model, pixels: model.get_image_embeddings(pixels)[-1],
        sizes=(96, 112),
    ),
    "conv_prompt": TinyBase(
        FAMILIES["conv_prompt"],
        small_conv_prompt_config,
        single_mask,
        lambda model, pixels: model.vision_encoder(pixels)[0],
        sizes=(96, 160),
    ),
}
