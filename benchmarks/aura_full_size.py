"""Measure AURA with LLaVA-1.5 7B and SAM ViT-H in bfloat16 and random weights: one short answer with its masks.

    python benchmarks/aura_full_size.py            # needs about 18 GiB of free memory
    python benchmarks/aura_full_size.py --quick

Where less memory is free, it prints how much is needed and runs nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from typing import Any

import numpy as np
import torch
from random_llava import llava_config, llava_processor
from random_sam import SMALL, named_base
from transformers.initialization import no_init_weights

from amodal.inference.assistant import AmodalAssistant
from amodal.models.aura import AuraConfig, AuraModel, AuraProcessor
from amodal.models.aura.mllm import mllm_config_for, plain_settings
from amodal.models.aura.modeling import parameter_counts
from amodal.models.bases.sam import sam_sizes

ANSWER = "It is <p>the mug</p> [SEG]."
GIB = 2**30
OVERHEAD = 2.5  # GiB for activations, the key-value cache and Python


def main() -> None:
    """Build, answer once, print JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="use small sizes, to check that the benchmark runs")
    quick = parser.parse_args().quick
    config, processor = _config(quick)
    counts = parameter_counts(config)
    needed, free = 2 * counts["total"] / GIB + OVERHEAD, _available_gib()
    result: dict[str, Any] = {"parameters": counts, "needed_gib": round(needed, 1), "available_gib": round(free, 1)}
    if needed > free:
        print(json.dumps(result | {"ran": False}))
        return
    start = time.perf_counter()
    model = _build(config)
    model.processor = processor
    built = time.perf_counter() - start
    chat = AmodalAssistant(model, dtype=torch.bfloat16).chat(_noise_image())
    parts, started = [], time.perf_counter()
    reply = chat.ask("What could I drink from?", answer=ANSWER, on_part=lambda part: parts.append(time.perf_counter()))
    obj = reply.scene.objects[0]
    result |= {
        "ran": True,
        "build_seconds": round(built, 1),
        "first_words_seconds": round(parts[0] - started, 1),
        "answer_seconds": round(time.perf_counter() - started, 1),
        "masks": [list(obj.visible_mask.shape), list(obj.amodal_mask.shape)],
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    print(json.dumps(result))


def _config(quick: bool) -> tuple[AuraConfig, AuraProcessor]:
    """Return the configuration, and a processor with the LLM's image size and a small vocabulary."""
    image_size, patch_size = (64, 8) if quick else (336, 14)
    own = llava_processor(image_size, patch_size, ["What could I drink from?", ANSWER] * 3)
    own.tokenizer.add_tokens(["[SEG]"], special_tokens=True)
    if quick:
        mllm: Any = llava_config(own.tokenizer, image_size, patch_size, width=192, layers=4, heads=3)
    else:
        mllm = mllm_config_for("llava-hf/llava-1.5-7b-hf")
        mllm.image_token_index = mllm.image_token_id = own.tokenizer.convert_tokens_to_ids("<image>")
    config = AuraConfig(
        mllm=plain_settings(mllm),
        sam=sam_sizes(named_base(SMALL if quick else "vit-h")),
        image_size=128 if quick else 1024,
        seg_token_id=own.tokenizer.convert_tokens_to_ids("[SEG]"),
    )
    return config, AuraProcessor.from_config(config, own)


def _build(config: AuraConfig) -> AuraModel:
    """Build the model with random weights; repeating one block of normal values saves time."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        with no_init_weights():
            model = AuraModel(config)
    finally:
        torch.set_default_dtype(torch.float32)
    block = (torch.randn(2**20) * 0.02).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            flat = parameter.data.view(-1)
            for begin in range(0, flat.numel(), block.numel()):
                piece = flat[begin : begin + block.numel()]
                piece.copy_(block[: piece.numel()])
    return model.to(torch.bfloat16).eval()


def _noise_image() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)


def _available_gib() -> float:
    with open("/proc/meminfo", encoding="ascii") as file:
        lines = dict(line.split(":") for line in file)
    return int(lines["MemAvailable"].split()[0]) / 2**20


if __name__ == "__main__":
    main()
