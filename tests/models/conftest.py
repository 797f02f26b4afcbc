"""A SAM small enough for unit tests, with random weights everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import SamConfig, SamModel

from amodal.models.bases.sam import new_sam
from amodal.models.plug import PlugConfig


def small_sam_config(image_size: int = 64) -> SamConfig:
    return SamConfig(
        vision_config={
            "hidden_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": image_size,
            "patch_size": 8,
            "window_size": 3,
            "global_attn_indexes": [1],
            "output_channels": 16,
            "num_pos_feats": 8,
            "mlp_dim": 48,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": image_size, "patch_size": 8},
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )


@pytest.fixture
def sam() -> SamModel:
    model = new_sam(small_sam_config(), seed=1)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "shared" not in name:  # far from zero, otherwise parity would prove little
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture
def sam_folder(sam: SamModel, tmp_path: Path) -> Path:
    sam.save_pretrained(tmp_path / "sam")
    return tmp_path / "sam"


@pytest.fixture
def small_plug() -> PlugConfig:
    return PlugConfig(image_size=64, lora_rank=2, refine_channels=8, num_points=16)
