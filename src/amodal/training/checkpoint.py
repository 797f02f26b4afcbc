"""Training state on disk: complete or absent, the newest one found again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from amodal.errors import InputError
from amodal.training.state import assign, whole

KEEP = 2
WRITING = ".writing_"


class Stateful(Protocol):
    """An optimiser, a loss scaler, an average of weights: what a resumed run needs besides the model."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers."""

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Take them back."""


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    parts: dict[str, Stateful],
    progress: dict[str, Any],
    *,
    writes: bool = True,
) -> None:
    """Write `folder/step_N`, under a temporary name first, and drop all but the newest.

    Args:
        folder: checkpoints of the run.
        step: steps done.
        model: what training changes of it is stored.
        parts: what else has a state, by file name.
        progress: JSON values to find again (best figure and the like).
        writes: whether this process writes; the others only take part in collecting what is
            spread over them.
    """
    tensors = {name: whole(tensor) for name, tensor in moving_tensors(model).items()}
    states = {name: part.state_dict() for name, part in parts.items()}
    if not writes:
        return

    def fill(temporary: Path) -> None:
        save_file(tensors, temporary / "model.safetensors")
        for name, state in states.items():
            torch.save(state, temporary / f"{name}.pt")

    write_checkpoint(folder, step, progress, fill)


def write_checkpoint(folder: Path, step: int, progress: dict[str, Any], fill: Callable[[Path], None]) -> None:
    """Have a temporary folder filled, then give it its name; older checkpoints go, those cut off too."""
    final, temporary = folder / f"step_{step:07d}", folder / f"{WRITING}{step:07d}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    fill(temporary)
    finish_checkpoint(temporary, final, step, progress)


def finish_checkpoint(temporary: Path, final: Path, step: int, progress: dict[str, Any]) -> None:
    """Name a filled folder and drop what is older."""
    (temporary / "progress.json").write_text(json.dumps({"step": step, **progress}))
    if final.is_dir():  # of a run that was stopped between this and what follows
        shutil.rmtree(final)
    os.replace(temporary, final)
    for old in complete_checkpoints(final.parent)[:-KEEP]:
        dropped = old.with_name(f"{WRITING}dropped_{old.name}")
        os.replace(old, dropped)  # a folder half deleted must not look complete
        shutil.rmtree(dropped)
    for left in final.parent.glob(f"{WRITING}*"):
        shutil.rmtree(left, ignore_errors=True)


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
    if not (newest / "model.safetensors").is_file():
        raise InputError(f"output: expected checkpoints of this kind of run in {folder}, got DeepSpeed's")
    state = load_file(newest / "model.safetensors")
    moving = moving_tensors(model)
    if {k: v.shape for k, v in state.items()} != {k: p.shape for k, p in moving.items()}:
        raise InputError(
            f"output: expected checkpoints of this recipe's model in {folder}, got another model's; "
            "choose another output"
        )
    for name in parts:
        if not (newest / f"{name}.pt").is_file():
            raise InputError(f"output: expected {newest} to hold {name}.pt, which this recipe needs, got none")
    for name, tensor in moving.items():
        assign(tensor, state[name])
    for name, part in parts.items():
        part.load_state_dict(torch.load(newest / f"{name}.pt", weights_only=True))
    return read_progress(newest)


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """What was stored as `progress`, with `step`."""
    progress: dict[str, Any] = json.loads((checkpoint / "progress.json").read_text())
    return progress


def moving_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What training changes, by name: trained parameters, and the stored buffers beside them (batch statistics)."""
    stored = model.state_dict(keep_vars=True).keys()
    moving: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for prefix, module in model.named_modules():
        if any(p.requires_grad for p in module.parameters(recurse=False)):
            named = module.named_buffers(prefix, recurse=False)
            moving |= {name: buffer for name, buffer in named if name in stored}
    return moving


def complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    return sorted(folder.glob("step_*"))
