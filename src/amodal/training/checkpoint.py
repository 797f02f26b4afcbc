"""Training state on disk: complete or absent, the newest one found again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from amodal.errors import InputError

KEEP = 2


class Stateful(Protocol):
    """An optimiser, a loss scaler, an average of weights: what a resumed run needs besides the model."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers."""

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Take them back."""


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, parts: dict[str, Stateful], progress: dict[str, Any]
) -> None:
    """Write `folder/step_N`, under a temporary name first, and drop all but the newest.

    Args:
        folder: checkpoints of the run.
        step: steps done.
        model: its trainable tensors are stored.
        parts: what else has a state, by file name.
        progress: JSON values to find again (best figure and the like).
    """
    final = folder / f"step_{step:07d}"
    temporary = folder / f".writing_{step:07d}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(trainable_state(model), temporary / "model.safetensors")
    for name, part in parts.items():
        torch.save(part.state_dict(), temporary / f"{name}.pt")
    (temporary / "progress.json").write_text(json.dumps({"step": step, **progress}))
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    for old in complete_checkpoints(folder)[:-KEEP]:
        shutil.rmtree(old)


def load_newest(folder: Path, model: nn.Module, parts: dict[str, Stateful]) -> dict[str, Any] | None:
    """Load the newest complete checkpoint in place; None if there is none.

    Returns:
        What was stored as `progress`, with `step`.

    Raises:
        InputError: it belongs to another model or to other settings.
    """
    found = complete_checkpoints(folder)
    if not found:
        return None
    newest = found[-1]
    state, expected = load_file(newest / "model.safetensors"), trainable_state(model)
    if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in expected.items()}:
        raise InputError(
            f"output: expected checkpoints of this recipe's model in {folder}, got another model's; "
            "choose another output"
        )
    for name in parts:
        if not (newest / f"{name}.pt").is_file():
            raise InputError(f"output: expected {newest} to hold {name}.pt, which this recipe needs, got none")
    model.load_state_dict(state, strict=False)
    for name, part in parts.items():
        part.load_state_dict(torch.load(newest / f"{name}.pt", weights_only=True))
    progress: dict[str, Any] = json.loads((newest / "progress.json").read_text())
    return progress


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the tensors that training moves."""
    return {
        name: parameter.detach().cpu().clone().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    return sorted(folder.glob("step_*"))
