"""Compare PLUG's image encoder (ViT-B, one 512-pixel input, both branches) with transformers', Meta's and the limit.

Command: python benchmarks/plug_encoder.py

The references get a doubled batch and have no adapters, which is less work than PLUG needs. Meta's own code takes part
where its package `segment-anything` is installed. The floor is the time of the encoder's arithmetic at the rate of one
large bfloat16 product, measured in the same run; 8-bit products can be faster. On a machine with other load, compare
CPU seconds (`--threads 1`).
"""

from __future__ import annotations

import copy
import sys
import types
from collections.abc import Callable
from functools import partial

import torch
from measure import GEMM_FLOP, arguments, finish, interleave, rate_contenders, rates
from torch import nn
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionEncoder

from amodal.models.bases.families import base_config
from amodal.models.plug import PlugConfig, PlugModel
from amodal.nn.attention import use_int8
from amodal.nn.packing import can_use_int8


def main() -> None:
    """Build all contenders, time them alternately and print the result."""
    options = arguments(__doc__)
    torch.manual_seed(0)
    config = PlugConfig(sam=base_config("vit-b"), image_size=224 if options.quick else 512)
    ours = randomised(PlugModel(config)).eval()
    narrow = PlugModel(config).eval()
    narrow.load_state_dict(ours.state_dict())
    narrow.to(torch.bfloat16)
    vision = config.base_config().vision_config
    eager = reference(vision, "eager", torch.float32)
    fused32, fused = reference(vision, "sdpa", torch.float32), reference(vision, "sdpa", torch.bfloat16)
    narrow8 = in_8_bits(narrow)  # outside inference mode, because tensors created in it are never prepared
    pixels = torch.randn(1, 3, config.image_size, config.image_size)
    short, doubled = pixels.bfloat16(), pixels.repeat(2, 1, 1, 1)
    meta32, meta = meta_encoder(vision, torch.float32), meta_encoder(vision, torch.bfloat16)
    originals: dict[str, Callable[[], object]] = {}
    if meta32 is not None and meta is not None:
        originals = {"meta float32": lambda: meta32(doubled), "meta bfloat16": lambda: meta(doubled.bfloat16())}
    with torch.inference_mode():
        times = interleave(
            {
                **rate_contenders(),
                **originals,
                "transformers eager float32": lambda: eager(doubled),
                "transformers fused float32": lambda: fused32(doubled),
                "transformers fused bfloat16": lambda: fused(doubled.bfloat16()),
                "ours float32": lambda: ours.encode(pixels),
                "ours bfloat16": lambda: narrow.encode(short),
                **({} if narrow8 is None else {"ours int8": lambda: narrow8.encode(short)}),
            },
            1 if options.quick else options.rounds,
        )
    limits = rates(times)
    flop = encoder_flop(vision, branches=2)
    floor = flop / GEMM_FLOP * times["gemm_bfloat16"]["seconds"]
    work_floor = flop / GEMM_FLOP * times["gemm_bfloat16"]["cpu_seconds"]
    rows = [
        {
            "encoder": name,
            **times[name],
            "speed_of_eager_float32": times["transformers eager float32"]["seconds"] / times[name]["seconds"],
            "speed_of_fused_bfloat16": times["transformers fused bfloat16"]["seconds"] / times[name]["seconds"],
            "times_the_floor": times[name]["seconds"] / floor,
            "cpu_times_the_floor": times[name]["cpu_seconds"] / work_floor,
        }
        for name in times
        if name.startswith(("meta", "transformers", "ours"))
    ]
    facts = {"image_size": config.image_size, "tflop": flop / 1e12, "floor_seconds": floor, "limits": limits}
    finish("plug_encoder", options, rows, {"x": "encoder", "y": "times_the_floor"}, **facts)


def in_8_bits(model: PlugModel) -> PlugModel | None:
    """Return a copy of the model with 8-bit linear layers, or None where the CPU has no 8-bit products."""
    if not can_use_int8():
        return None
    narrow = copy.deepcopy(model)
    use_int8(narrow.vision_encoder)
    return narrow


def reference(vision: SamVisionConfig, attention: str, dtype: torch.dtype) -> nn.Module:
    """Build transformers' encoder."""
    vision._attn_implementation = attention
    return randomised(SamVisionEncoder(vision)).to(dtype).eval()


def meta_encoder(vision: SamVisionConfig, dtype: torch.dtype) -> nn.Module | None:
    """Build the original code's encoder with the same sizes, or return None where the package is missing."""
    for name in ("torchvision", "torchvision.ops", "torchvision.ops.boxes", "torchvision.transforms",
                 "torchvision.transforms.functional"):  # fmt: skip
        stub = types.ModuleType(name)  # the package's predictor imports it, its encoder does not use it
        stub.batched_nms = stub.box_area = stub.resize = stub.to_pil_image = None  # type: ignore[attr-defined]
        sys.modules.setdefault(name, stub)
    try:
        from segment_anything.modeling import ImageEncoderViT
    except ImportError:
        return None
    encoder: nn.Module = ImageEncoderViT(
        img_size=vision.image_size, patch_size=vision.patch_size, embed_dim=vision.hidden_size,
        depth=vision.num_hidden_layers, num_heads=vision.num_attention_heads,
        mlp_ratio=vision.mlp_dim / vision.hidden_size, out_chans=vision.output_channels, qkv_bias=True,
        use_rel_pos=True, window_size=vision.window_size, global_attn_indexes=tuple(vision.global_attn_indexes),
        norm_layer=partial(nn.LayerNorm, eps=vision.layer_norm_eps),
    )  # fmt: skip
    return randomised(encoder).to(dtype).eval()


def randomised(model: nn.Module) -> nn.Module:
    """Initialise weights with usual values, because denormal numbers can slow down products."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.02)
    return model


def encoder_flop(vision: SamVisionConfig, branches: int) -> int:
    """Return the FLOP of SAM's encoder without padded tokens; one multiply-add counts as two."""
    side, C, window = vision.image_size // vision.patch_size, vision.hidden_size, vision.window_size
    tokens, out = side * side, vision.output_channels
    linear = tokens * C * (4 * C + 2 * vision.mlp_dim)
    num_global = len(vision.global_attn_indexes)
    local = sum(h * h * w * w for h in _sides(side, window) for w in _sides(side, window))
    attention = 2 * C * (num_global * tokens**2 + (vision.num_hidden_layers - num_global) * local)
    ends = tokens * (3 * vision.patch_size**2 * C + C * out + 9 * out * out)
    return 2 * branches * (vision.num_hidden_layers * linear + attention + ends)


def _sides(length: int, window: int) -> list[int]:
    return [min(window, length - start) for start in range(0, length, window)]


if __name__ == "__main__":
    main()
