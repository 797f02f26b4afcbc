"""Measure PLUG on one image with 1, 4 and 16 boxes, compared with a straightforward reference.

Command: python benchmarks/objects.py [--base vit-b] [--c2f-seg CHECKOUT]

The reference uses the libraries as they are: transformers' SamModel with eager attention, one PEFT adapter set per
branch, two passes, one crop at a time, float32. It has no refine module and no uncertainty map, so it does less than
PLUG. Weights are random, which does not change the time. Only forward passes are timed; crops are made beforehand. With
`--c2f-seg`, the network of C2F-Seg takes part, one object at a time as in its test script.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from c2f_seg import SIDE, released_network
from measure import arguments, finish, interleave, peak_mib, rate_contenders, rates
from random_sam import SMALL, SMALL_SIZE, named_base
from torch import Tensor
from transformers import SamModel

from amodal.models.plug import PlugConfig, PlugModel

RANK = 16


def main() -> None:
    """Time all contenders alternately for each number of boxes."""
    options = arguments(
        __doc__,
        base={"default": SMALL},
        boxes={"type": int, "nargs": "+", "default": [1, 4, 16]},
        c2f_seg={"type": Path, "help": "checkout of the C2F-Seg repository"},
    )
    sam = named_base(options.base)
    size = SMALL_SIZE if options.base == SMALL else 512
    config = PlugConfig(sam=sam, image_size=size, lora_rank=RANK, refine_channels=16 if options.base == SMALL else 64)
    ours = PlugModel(config).eval()
    narrow = copy.deepcopy(ours).to(torch.bfloat16)
    reference = build_reference(config)
    c2f_seg = None if options.c2f_seg is None else released_network(options.c2f_seg)
    rows, boxes = [], torch.tensor([[[0.25, 0.25, 0.75, 0.75]]]) * size
    for count in options.boxes:
        pixels = torch.randn(count, 3, size, size)
        contenders: dict[str, Callable[[], object]] = {
            "reference float32": lambda p=pixels: reference_masks(reference, p, boxes),
            "ours float32": lambda p=pixels, n=count: ours(p, boxes.expand(n, -1, -1)),
            "ours bfloat16": lambda p=pixels, n=count: narrow(p, boxes.expand(n, -1, -1)),
            "ours bfloat16, one encoding": lambda p=pixels, n=count: narrow(p[:1], boxes.expand(1, n, -1)),
        }
        if c2f_seg is not None:
            contenders["C2F-Seg float32"] = partial(one_by_one, c2f_seg, count)
        with torch.inference_mode():
            times = interleave({**rate_contenders(), **contenders}, 1 if options.quick else options.rounds)
        first = times["reference float32"]
        rows += [
            {
                "model": name,
                "boxes": count,
                **times[name],
                "ms_per_object": times[name]["seconds"] / count * 1e3,
                "speed_of_reference": first["seconds"] / times[name]["seconds"],
                "cpu_speed_of_reference": first["cpu_seconds"] / times[name]["cpu_seconds"],
            }
            for name in contenders
        ]
    plot = {"x": "boxes", "y": "seconds", "series": "model"}
    finish("objects", options, rows, plot, base=options.base, limits=rates(times), peak_mib=peak_mib())


def build_reference(config: PlugConfig) -> Any:
    """Build a SAM with two adapter sets by PEFT."""
    from peft import LoraConfig, get_peft_model

    sam = config.base_config()
    sam._attn_implementation = "eager"
    settings = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=r"vision_encoder\.layers\.\d+\.attn\.qkv")
    model = get_peft_model(SamModel(sam), settings, adapter_name="visible")
    model.add_adapter("amodal", settings)
    return model.eval()


def reference_masks(model: Any, pixels: Tensor, boxes: Tensor) -> list[Tensor]:
    """Run two passes per object, one per branch."""
    masks = []
    for crop in pixels:
        for branch in ("visible", "amodal"):
            model.set_adapter(branch)
            masks.append(model(pixel_values=crop[None], input_boxes=boxes, multimask_output=False).pred_masks)
    return masks


def one_by_one(network: Callable[[Tensor, Tensor], Tensor], count: int) -> list[Tensor]:
    """Run C2F-Seg on this number of objects, one at a time."""
    return [network(torch.randn(1, 3, SIDE, SIDE), torch.ones(1, 1, SIDE, SIDE)) for _ in range(count)]


if __name__ == "__main__":
    main()
