"""One forward of PLUG on SAM ViT-H, bfloat16, random weights: does it fit, and in how much memory?

Command: python benchmarks/vit_h_forward.py
"""

from __future__ import annotations

import json
import resource
import time

import torch

from amodal.models.plug import PlugConfig, PlugModel
from amodal.models.sam import sam_config_for


def main() -> None:
    """Build, run once, print JSON."""
    torch.set_default_dtype(torch.bfloat16)
    model = PlugModel(PlugConfig(sam=sam_config_for("vit-h"))).to(torch.bfloat16).eval()
    torch.set_default_dtype(torch.float32)
    size = model.config.image_size
    built = peak_gib()
    start = time.perf_counter()
    with torch.inference_mode():
        output = model(torch.randn(1, 3, size, size), torch.tensor([[[128.0, 128.0, 384.0, 384.0]]]))
    result = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "input": size,
        "mask": list(output.pred_masks.shape),
        "finite": bool(output.pred_masks.isfinite().all()),
        "seconds": round(time.perf_counter() - start, 1),
        "peak_gib_after_build": round(built, 2),
        "peak_gib": round(peak_gib(), 2),
    }
    print(json.dumps(result))


def peak_gib() -> float:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
