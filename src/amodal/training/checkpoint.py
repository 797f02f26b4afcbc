"""Training state on disk: complete or absent, the newest one found again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

KEEP = 2


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]
) -> None:
    """Write `folder/step_N`, under a temporary name first, and drop all but the newest.

    Args:
        folder: checkpoints of the run.
        step: steps done.
        model: its trainable tensors are stored.
        optimizer: stored with its state.
        progress: JSON values to find again (best figure and the like).
    """
    final = folder / f"step_{step:07d}"
    temporary = folder / f".writing_{step:07d}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(trainable_state(model), temporary / "model.safetensors")
    torch.save(optimizer.state_dict(), temporary / "optimizer.pt")
    (temporary / "progress.json").write_text(json.dumps({"step": step, **progress}))
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    for old in _complete(folder)[:-KEEP]:
        shutil.rmtree(old)


def load_newest(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Load the newest complete checkpoint in place; None if there is none.

    Returns:
        What was stored as `progress`, with `step`.
    """
    found = _complete(folder)
    if not found:
        return None
    state = load_file(found[-1] / "model.safetensors")
    model.load_state_dict(state, strict=False)
    optimizer.load_state_dict(torch.load(found[-1] / "optimizer.pt", weights_only=True))
    progress: dict[str, Any] = json.loads((found[-1] / "progress.json").read_text())
    return progress


def trainable_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the tensors that training moves."""
    return {
        name: parameter.detach().cpu().clone().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def _complete(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*"))
