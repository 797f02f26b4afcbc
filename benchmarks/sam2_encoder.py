"""Compare PLUG's image encoder on SAM 2.1 (one 512-pixel input, both branches) with transformers' and the limit.

Command: python benchmarks/sam2_encoder.py

The references get a doubled batch and have no adapters, which is less work than PLUG needs. The floor is the time of
the encoder's arithmetic, without padded tokens and without adapters, at the rate of one large matrix product, in
float32 or bfloat16, whichever is faster on this CPU. On a machine with other load, compare CPU seconds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from measure import GEMM_FLOP, Row, arguments, finish, interleave, rate_contenders, rates
from plug_encoder import in_8_bits, randomised
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.sam2.modeling_sam2 import Sam2VisionModel

from amodal.models.bases.families import base_config, family_of
from amodal.models.bases.protocol import Adapters
from amodal.models.plug import PlugConfig, PlugModel


def main() -> None:
    """Build all contenders of each base, time them alternately and print the result."""
    further: dict[str, Any] = {"bases": {"nargs": "+", "default": ["sam2.1-base-plus", "sam2.1-tiny"]}}
    options = arguments(__doc__, **further)
    torch.manual_seed(0)
    size = 256 if options.quick else 512
    contenders: dict[str, Callable[[], object]] = rate_contenders()
    flop = {}
    bases = ["sam2.1-tiny"] if options.quick else options.bases
    for base in bases:
        config = PlugConfig(sam=base_config(base), image_size=size)
        contenders |= {f"{base}, {name}": run for name, run in encoders(config).items()}
        flop[base] = encoder_flop(config)
    with torch.inference_mode():
        times = interleave(contenders, 1 if options.quick else options.rounds)
    product = min(("gemm_float32", "gemm_bfloat16"), key=lambda name: times[name]["seconds"])
    rows = [row for base in bases for row in rows_of(base, times, flop[base] / GEMM_FLOP, times[product])]
    facts = {"image_size": size, "tflop": {base: n / 1e12 for base, n in flop.items()}, "floor_of": product}
    plot = {"x": "encoder", "y": "times_the_floor", "series": "base"}
    finish("sam2_encoder", options, rows, plot, limits=rates(times), **facts)


def encoders(config: PlugConfig) -> dict[str, Callable[[], object]]:
    """The encodings that are compared, by name."""
    pixels = torch.randn(1, 3, config.image_size, config.image_size)
    short, doubled = pixels.bfloat16(), pixels.repeat(2, 1, 1, 1)
    ours = randomised(PlugModel(config)).eval()
    narrow = copy.deepcopy(ours).to(torch.bfloat16)
    narrow8 = in_8_bits(narrow)  # outside inference mode, because tensors created in it are never prepared
    eager, fused = (reference(config, attention) for attention in ("eager", "sdpa"))
    fused16 = copy.deepcopy(fused).to(torch.bfloat16)
    return {
        "transformers eager float32": lambda: eager(doubled),
        "transformers fused float32": lambda: fused(doubled),
        "transformers fused bfloat16": lambda: fused16(doubled.bfloat16()),
        "ours float32": lambda: ours.encode(pixels),
        "ours bfloat16": lambda: narrow.encode(short),
        **({} if narrow8 is None else {"ours int8": lambda: narrow8.encode(short)}),
    }


def reference(config: PlugConfig, attention: str) -> nn.Module:
    """Build transformers' trunk and feature pyramid."""
    vision: Any = config.base_config()
    vision = vision.vision_config
    vision._attn_implementation = vision.backbone_config._attn_implementation = attention
    return randomised(Sam2VisionModel(vision)).eval()


def encoder_flop(config: PlugConfig) -> int:
    """Return the FLOP of our encoder for both branches, without adapters; one multiply-add counts as two."""
    family, base = family_of(config.sam), config.base_config()
    with torch.device("meta"):
        encoder = family.build_encoder(base, Adapters(rank=0)).eval()
        pixels = torch.empty(2, 3, config.image_size, config.image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        family.encode(encoder, pixels, 1)
    return int(counter.get_total_flops())


def rows_of(base: str, times: dict[str, Row], products: float, product: Row) -> list[Row]:
    """One row per encoder of a base.

    Args:
        base: its name.
        times: of all contenders.
        products: number of large matrix products that have the encoder's FLOP.
        product: times of one such product.
    """
    own = {name.removeprefix(f"{base}, "): row for name, row in times.items() if name.startswith(f"{base}, ")}
    eager, fused = own["transformers eager float32"], own["transformers fused bfloat16"]
    return [
        {
            "base": base,
            "encoder": name,
            **row,
            "speed_of_eager_float32": eager["seconds"] / row["seconds"],
            "speed_of_fused_bfloat16": fused["seconds"] / row["seconds"],
            "times_the_floor": row["seconds"] / (products * product["seconds"]),
            "cpu_speed_of_eager_float32": eager["cpu_seconds"] / row["cpu_seconds"],
            "cpu_speed_of_fused_bfloat16": fused["cpu_seconds"] / row["cpu_seconds"],
            "cpu_times_the_floor": row["cpu_seconds"] / (products * product["cpu_seconds"]),
        }
        for name, row in own.items()
    ]


if __name__ == "__main__":
    main()
