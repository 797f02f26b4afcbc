"""A SAM small enough for unit tests, with random weights everywhere."""

from __future__ import annotations

import sys
import types
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import SamConfig, SamModel

from amodal.models.bases.sam import new_sam
from amodal.models.plug import PlugConfig, PlugModel


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


def random_plug(image_size: int = 64, **settings: Any) -> PlugModel:
    """PLUG on the small SAM, without mask prompts by default; all weights are random, as if both were trained."""
    torch.manual_seed(3)
    config = PlugConfig(image_size=image_size, lora_rank=2, refine_channels=8, num_points=16, **settings)
    model = PlugModel.from_base(small_sam_config(image_size), config)
    draw_matrices(model)
    return model.eval()


def draw_matrices(model: torch.nn.Module) -> None:
    """Draw all matrices anew, far from zero, otherwise parity would prove little."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "shared" not in name:
            torch.nn.init.normal_(parameter, std=0.2)


@pytest.fixture
def sam() -> SamModel:
    model = new_sam(small_sam_config(), seed=1)
    torch.manual_seed(1)
    draw_matrices(model)
    return model.eval()


@pytest.fixture
def sam_folder(sam: SamModel, tmp_path: Path) -> Path:
    sam.save_pretrained(tmp_path / "sam")
    return tmp_path / "sam"


@pytest.fixture
def small_plug() -> PlugConfig:
    return PlugConfig(image_size=64, lora_rank=2, refine_channels=8, num_points=16)


@pytest.fixture
def meta_sam(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tiny model of Meta's own code with random weights (its import needs torchvision)."""
    for name in ("torchvision", "torchvision.ops", "torchvision.ops.boxes", "torchvision.transforms",
                 "torchvision.transforms.functional"):  # fmt: skip
        stub = types.ModuleType(name)
        stub.batched_nms = stub.box_area = stub.resize = stub.to_pil_image = None
        monkeypatch.setitem(sys.modules, name, stub)
    from segment_anything import modeling

    torch.manual_seed(0)
    model = modeling.Sam(
        image_encoder=modeling.ImageEncoderViT(
            img_size=64, patch_size=8, embed_dim=24, depth=3, num_heads=2, mlp_ratio=2,
            out_chans=16, qkv_bias=True, use_rel_pos=True, window_size=3, global_attn_indexes=(1,),
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        ),
        prompt_encoder=modeling.PromptEncoder(
            embed_dim=16, image_embedding_size=(8, 8), input_image_size=(64, 64), mask_in_chans=16
        ),
        mask_decoder=modeling.MaskDecoder(
            num_multimask_outputs=3,
            transformer=modeling.TwoWayTransformer(depth=2, embedding_dim=16, mlp_dim=32, num_heads=8),
            transformer_dim=16, iou_head_depth=3, iou_head_hidden_dim=16,
        ),
    )  # fmt: skip
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def save_meta(model: Any, path: Path) -> Path:
    """Save as Meta does, without the buffers of pixel normalisation."""
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("pixel_")}
    torch.save(state, path)
    return path
