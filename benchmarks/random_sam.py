"""A SAM with random weights that is small enough for a CPU, beside the published ones."""

from __future__ import annotations

from transformers import PreTrainedConfig, SamConfig

from amodal.models.bases.families import base_config

SMALL = "small"
"""Name of a SAM with a ViT of six layers and 160 channels."""
SMALL_SIZE = 128
"""Side of its input in pixels."""


def named_base(name: str) -> PreTrainedConfig:
    """The configuration of the small SAM, or of a base that `base_config` knows."""
    return _small() if name == SMALL else base_config(name)


def _small() -> SamConfig:
    channels = 128
    return SamConfig(
        vision_config={
            "hidden_size": 160,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "image_size": SMALL_SIZE,
            "patch_size": 8,
            "window_size": 8,
            "global_attn_indexes": [2, 5],
            "output_channels": channels,
            "num_pos_feats": channels // 2,
            "mlp_dim": 640,
        },
        prompt_encoder_config={"hidden_size": channels, "image_size": SMALL_SIZE, "patch_size": 8},
        mask_decoder_config={
            "hidden_size": channels,
            "mlp_dim": 4 * channels,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": channels,
        },
    )
