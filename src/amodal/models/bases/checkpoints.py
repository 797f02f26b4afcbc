"""Checkpoint files of SAM as people have them: Meta's layout, whole or in part, wrapped or not."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor
from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

from amodal.errors import InputError


def load_meta_checkpoint(path: Path) -> SamModel:
    """Read an original `sam_vit_*.pth`; the shapes of its tensors give the sizes.

    Raises:
        InputError: there is no such file, it is unreadable, or it has other tensors than a SAM.
    """
    if not path.is_file():
        raise InputError(f"base: expected a Meta SAM checkpoint, got no file at {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a broken file
        raise InputError(f"base {path}: expected a torch checkpoint, got {error!r:.80}") from error
    if not isinstance(state, dict) or "image_encoder.patch_embed.proj.weight" not in state:
        raise InputError(f"base {path}: expected the tensors of Meta's SAM, got other content")
    model = SamModel(config_from_meta(state))
    try:
        model.load_state_dict(convert_meta_state(state), strict=True)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise InputError(f"base {path}: expected the tensors of Meta's SAM, got {detail}") from error
    return model


def config_from_meta(state: dict[str, Tensor]) -> SamConfig:
    """Derive the sizes of a Meta checkpoint from the shapes of its tensors."""
    hidden, _, patch, _ = state["image_encoder.patch_embed.proj.weight"].shape
    grid = state["image_encoder.pos_embed"].shape[1]
    depth = 1 + max(_layer_numbers(state, r"image_encoder\.blocks\.(\d+)\."))
    tables = [state[f"image_encoder.blocks.{i}.attn.rel_pos_h"] for i in range(depth)]
    lengths = [table.shape[0] for table in tables]
    windows = [(length + 1) // 2 for length in lengths if length != 2 * grid - 1]
    channels = state["image_encoder.neck.0.weight"].shape[0]
    decoder_layers = 1 + max(_layer_numbers(state, r"mask_decoder\.transformer\.layers\.(\d+)\."))
    vision = SamVisionConfig(
        hidden_size=hidden,
        output_channels=channels,
        num_hidden_layers=depth,
        num_attention_heads=hidden // tables[0].shape[1],
        image_size=grid * patch,
        patch_size=patch,
        mlp_dim=state["image_encoder.blocks.0.mlp.lin1.weight"].shape[0],
        window_size=windows[0] if windows else 0,
        global_attn_indexes=[i for i, length in enumerate(lengths) if length == 2 * grid - 1],
        num_pos_feats=channels // 2,
    )
    prompts = SamPromptEncoderConfig(
        hidden_size=channels,
        image_size=grid * patch,
        patch_size=patch,
        mask_input_channels=state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
    )
    decoder = SamMaskDecoderConfig(
        hidden_size=channels,
        mlp_dim=state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
        num_hidden_layers=decoder_layers,
        num_multimask_outputs=state["mask_decoder.mask_tokens.weight"].shape[0] - 1,
        iou_head_hidden_dim=state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
        layer_norm_eps=1e-5,  # torch's default, which Meta's decoder keeps
    )
    return SamConfig(
        vision_config=vision.to_dict(),
        prompt_encoder_config=prompts.to_dict(),
        mask_decoder_config=decoder.to_dict(),
    )


# Meta's names -> transformers' names, applied in order.
_RENAMES: tuple[tuple[str, str], ...] = (
    (r"^image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"^image_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"^image_encoder\.blocks\.(\d+)\.norm", r"vision_encoder.layers.\1.layer_norm"),
    (r"^image_encoder\.blocks\.", "vision_encoder.layers."),
    (r"^image_encoder\.pos_embed", "vision_encoder.pos_embed"),
    (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (
        r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$",
        "shared_image_embedding.positional_embedding",
    ),
    (r"^(mask_decoder\.transformer\.layers\.\d+)\.norm", r"\1.layer_norm"),
    (r"^mask_decoder\.transformer\.norm_final_attn", "mask_decoder.transformer.layer_norm_final_attn"),
    (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
)


def convert_meta_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename Meta's tensors to transformers' names."""
    converted = {}
    for name, tensor in state.items():
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        converted[_rename_mlp_layers(name, state)] = tensor
    positions = "shared_image_embedding.positional_embedding"
    if positions in converted:
        converted["prompt_encoder.shared_embedding.positional_embedding"] = converted[positions]
    return converted


def _rename_mlp_layers(name: str, state: dict[str, Tensor]) -> str:
    """Meta numbers the layers of its MLPs; transformers names the first and the last."""
    match = re.match(r"(.*(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.(\d+)\.(.*)", name)
    if match is None:
        return name
    head, number, tail = match[1], int(match[2]), match[3]
    last = max(_layer_numbers(state, re.escape(head) + r"\.layers\.(\d+)\."))
    if number == 0:
        return f"{head}.proj_in.{tail}"
    return f"{head}.proj_out.{tail}" if number == last else f"{head}.layers.{number - 1}.{tail}"


def _layer_numbers(state: dict[str, Tensor], pattern: str) -> list[int]:
    return [int(m[1]) for m in (re.match(pattern, name) for name in state) if m]
