"""Speed and memory of one training step of PLUG on SAM ViT-B (random weights, 512 pixels) and of a reference.

The reference is a straightforward implementation with the same libraries: transformers' `SamModel` with eager
attention, PEFT with one adapter set per branch, the two branches one after the other, the decoders and the refine
module on top, and the same losses. Each contender runs in its own process, so that its peak memory can be measured;
all contenders alternate and use the same batches.

Command: python benchmarks/train_step.py --out train_step.json
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measure import finish
from torch import Tensor, nn
from transformers import SamConfig, SamModel

from amodal.models.bases.families import base_config
from amodal.models.plug import PlugConfig, PlugModel, PlugOutput
from amodal.nn.refine import RefineModule
from amodal.nn.uncertainty import uncertainty_map
from amodal.training.tasks.plug import PlugTask

SIZE = 512
Step = Callable[[], None]

# name: (ours or the reference, precision, gradient checkpointing, point loss)
CONTENDERS = {
    "reference float32": ("reference", "no", False, True),
    "reference bfloat16": ("reference", "bf16", False, True),
    "amodal float32": ("ours", "no", False, True),
    "amodal bfloat16": ("ours", "bf16", False, True),
    "amodal bfloat16, checkpointing": ("ours", "bf16", True, True),
    "amodal bfloat16, no point loss": ("ours", "bf16", False, False),
}


class Reference(nn.Module):
    """A straightforward implementation of PLUG."""

    def __init__(self, config: PlugConfig) -> None:
        super().__init__()
        from peft import LoraConfig, get_peft_model

        sam = SamModel._from_config(SamConfig(**_sizes(config)), attn_implementation="eager")
        self.prompt_encoder = sam.prompt_encoder
        self.amodal_decoder, self.visible_decoder = sam.mask_decoder, deepcopy(sam.mask_decoder)
        self.positions = sam.get_image_wide_positional_embeddings
        sam.requires_grad_(False)
        lora = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_rank, target_modules=["qkv"])
        self.encoder = get_peft_model(sam.vision_encoder, lora, adapter_name="visible")
        self.encoder.add_adapter("amodal", lora)
        for name, parameter in self.encoder.named_parameters():
            parameter.requires_grad_("lora_" in name)
        for part in (self.prompt_encoder, self.amodal_decoder, self.visible_decoder):
            part.requires_grad_(True)
        self.refine = RefineModule()
        self.epsilon = config.epsilon

    def forward(self, pixel_values: Tensor, input_boxes: Tensor) -> PlugOutput:
        """Predict masks for (B, 3, S, S) images and (B, P, 4) boxes, like `PlugModel`."""
        visible = self._branch("visible", self.visible_decoder, pixel_values, input_boxes)
        amodal = self._branch("amodal", self.amodal_decoder, pixel_values, input_boxes)
        uncertainties = [uncertainty_map(logits.float().sigmoid(), self.epsilon) for logits in (visible, amodal)]
        correction = self.refine(pixel_values, visible.sigmoid(), amodal.sigmoid(), *uncertainties)
        return PlugOutput(pred_masks=amodal + correction, coarse_amodal_logits=amodal, visible_logits=visible)

    def _branch(self, name: str, decoder: nn.Module, pixel_values: Tensor, boxes: Tensor) -> Tensor:
        self.encoder.set_adapter(name)
        for key, parameter in self.encoder.named_parameters():
            parameter.requires_grad_("lora_" in key)  # PEFT freezes the adapters that are not active
        embeddings = self.encoder(pixel_values).last_hidden_state
        sparse, dense = self.prompt_encoder(None, None, boxes, None)
        logits, _ = decoder(
            image_embeddings=embeddings,
            image_positional_embeddings=self.positions().expand(len(embeddings), -1, -1, -1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return F.interpolate(logits[:, :, 0].float(), size=(SIZE, SIZE), mode="bilinear")


def main() -> None:
    """Measure all contenders in turns, or one of them for the parent process."""
    options = _arguments()
    if options.contender is not None:
        print(json.dumps(measure(options.contender, options)))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for _ in range(options.rounds):
        for name in CONTENDERS:  # in turns, so that other work on the machine slows all of them
            found[name].append(_in_process(name, options))
            print(name, found[name][-1], file=sys.stderr)
    rows = [_row(name, values, options.batch) for name, values in found.items()]
    by_name = {row["contender"]: row for row in rows}
    base = by_name["reference float32"]
    for row in rows:
        row["rate_to_reference_float32"] = row["samples_per_s"] / base["samples_per_s"]
        row["work_to_reference_float32"] = row["cpu_seconds"] / base["cpu_seconds"]
        row["memory_to_reference_float32"] = row["step_mib"] / base["step_mib"]
    with_points, without = (by_name[n]["seconds"] for n in ("amodal bfloat16", "amodal bfloat16, no point loss"))
    finish(
        "train_step",
        options,
        rows,
        {"x": "contender", "y": "samples_per_s"},
        image_size=SIZE,
        batch=options.batch,
        steps=options.steps,
        point_loss_overhead=with_points / without - 1,
        point_loss_overhead_paper=0.1,
    )


def measure(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Seconds per step and peak memory of one contender, measured in this process."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    step = make_step(name, options)
    before = _resident_mib()
    step()
    seconds, work = [], []
    for _ in range(options.steps):
        begun, worked = time.perf_counter(), time.process_time()
        step()
        seconds.append(time.perf_counter() - begun)
        work.append(time.process_time() - worked)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"seconds": min(seconds), "cpu_seconds": min(work), "built_mib": before, "peak_mib": peak}


def make_step(name: str, options: argparse.Namespace) -> Step:
    """A function that runs forward, losses, backward and AdamW on a fixed batch."""
    kind, precision, checkpointing, point_loss = CONTENDERS[name]
    config = _config(options.quick, point_loss)
    model: Any
    if kind == "ours":
        model = PlugTask.prepare(PlugModel(config))
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    else:
        model = Reference(config)
    model.train()
    task, batch = PlugTask(config), _batch(options.batch)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            losses = task(model, batch, torch.Generator().manual_seed(0))
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _config(quick: bool, point_loss: bool) -> PlugConfig:
    sam = base_config("vit-b")
    if quick:
        sam.vision_config.num_hidden_layers, sam.vision_config.global_attn_indexes = 2, [1]
    return PlugConfig(sam=sam, point_loss=point_loss)


def _sizes(config: PlugConfig) -> dict[str, Any]:
    sam = config.base_config()
    return {k: getattr(sam, k).to_dict() for k in ("vision_config", "prompt_encoder_config", "mask_decoder_config")}


def _batch(size: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    visible = torch.zeros(size, 1, SIZE, SIZE, dtype=torch.bool)
    visible[:, :, 128:384, 128:300] = True
    amodal = visible.clone()
    amodal[:, :, 128:384, 300:384] = True
    return {
        "pixel_values": torch.randn(size, 3, SIZE, SIZE, generator=generator),
        "input_boxes": torch.tensor([128.0, 128.0, 300.0, 384.0]).repeat(size, 1, 1),
        "visible_masks": visible,
        "amodal_masks": amodal,
        "has_amodal": torch.ones(size, 1, dtype=torch.bool),
        "valid": torch.ones(size, 1, dtype=torch.bool),
    }


def _in_process(name: str, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).resolve()), "--contender", name]
    command += ["--batch", str(options.batch), "--steps", str(options.steps), "--threads", str(options.threads)]
    command += ["--quick"] if options.quick else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _row(name: str, values: list[dict[str, float]], batch: int) -> dict[str, Any]:
    """The smallest times and the largest memory of all rounds.

    `cpu_seconds` is the CPU time of all threads, which other work on the machine changes less than the wall-clock time.
    """
    seconds, peak = min(v["seconds"] for v in values), max(v["peak_mib"] for v in values)
    step = max(v["peak_mib"] - v["built_mib"] for v in values)
    return {
        "contender": name,
        "seconds": seconds,
        "samples_per_s": batch / seconds,
        "cpu_seconds": min(v["cpu_seconds"] for v in values),
        "peak_mib": peak,
        "step_mib": step,
    }


def _resident_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="Use two layers: a quick check that the benchmark runs.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="Number of timed steps per round, after an untimed one.")
    parser.add_argument("--batch", type=int, default=2, help="Number of crops per step.")
    parser.add_argument("--out", type=Path, help="JSON file to write.")
    parser.add_argument("--contender", choices=list(CONTENDERS), help="Measure only this contender, in this process.")
    options = parser.parse_args()
    if options.quick:
        options.rounds = options.steps = 1
    torch.set_num_threads(options.threads)
    return options


if __name__ == "__main__":
    main()
