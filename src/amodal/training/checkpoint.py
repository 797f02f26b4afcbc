"""The state of a training: moving average, tensors sharded over processes, and checkpoints on disk.

Weights are in one of three forms: every process has all of them (one process, DDP), FSDP2 shards them
(parameters are DTensors), or DeepSpeed shards them and writes its own files.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from amodal.errors import InputError
from amodal.nn.kernels import has_bfloat16
from amodal.training.recipe import TrainingRecipe

NUM_KEPT_CHECKPOINTS = 2
WRITING = ".writing_"
"""Prefix of folders that are not complete."""


class Stateful(Protocol):
    """State that a resumed run needs besides the model: an optimiser, a loss scaler, an average of weights."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers of the state."""

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restore a state."""


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether each process has only a shard of the weights."""
    return accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def uses_deepspeed(accelerator: Accelerator) -> bool:
    """Whether DeepSpeed runs the optimiser."""
    return accelerator.distributed_type == DistributedType.DEEPSPEED


def check_device_and_settings(accelerator: Accelerator, settings: TrainingRecipe) -> None:
    """Check that these processes can train with these settings; warn if bfloat16 is slow on this CPU.

    Raises:
        InputError: precision, batch size or moving average do not work here.
    """
    processes, batch_size, ema = accelerator.num_processes, settings.batch_size, settings.ema
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise InputError("training.precision: expected 'bf16' or 'no' on a CPU, got 'fp16', which needs a GPU")
    slow_in_bf16 = accelerator.device.type == "cpu" and not has_bfloat16()
    if accelerator.mixed_precision == "bf16" and slow_in_bf16 and accelerator.is_main_process:
        message = "bf16 is several times slower than 'no' on this CPU, which has no instructions for bfloat16"
        warnings.warn(f"training.precision: {message}", stacklevel=2)
    if batch_size % processes:
        raise InputError(f"training.batch_size: expected a multiple of the {processes} processes, got {batch_size}")
    if uses_deepspeed(accelerator):
        if ema > 0:
            raise InputError(f"training.ema: expected 0 with DeepSpeed, which owns the weights, got {ema}")
        plugin = accelerator.state.deepspeed_plugin
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = batch_size // processes


def full_tensor(tensor: Tensor) -> Tensor:
    """A copy of the whole tensor on the CPU; every process must call this."""
    full: Any = tensor.detach()
    if isinstance(tensor, DTensor):
        full = full.full_tensor()
    copied: Tensor = full.cpu().clone().contiguous()
    return copied


def assign(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded, in place."""
    value = value.to(target.device)
    if isinstance(target, DTensor):
        value = distribute_tensor(value, target.device_mesh, target.placements)
    with torch.no_grad():
        target.copy_(value)


def reshard(model: nn.Module) -> None:
    """Free the whole parameters that FSDP2 keeps after a forward pass without a backward pass."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def name_sharded_layers(model: Any) -> None:
    """Tell Accelerate which layers FSDP2 shards one by one, where the launch file names none.

    They are the repeated layers of the image encoder and of the language model, whatever their architecture. The layers
    of mask decoders are not among them: the decoders call their parts, which would not gather the weights.
    """
    parts: list[nn.Module | None] = [getattr(model, name, None) for name in ("vision_encoder", "mllm")]
    layers = [layer for part in parts if part is not None for layer in part.modules()]
    names = {type(layer).__name__ for layer in layers if isinstance(layer, GradientCheckpointingLayer)}
    model._no_split_modules = sorted(names)


def full_model(accelerator: Accelerator, model: nn.Module, model_class: type[nn.Module]) -> nn.Module | None:
    """The model with whole weights, ready to be saved; None on all processes except the first.

    Args:
        accelerator: knows whether the model is sharded.
        model: prepared model.
        model_class: its class before it was prepared.
    """
    if not is_sharded(accelerator):
        return accelerator.unwrap_model(model) if accelerator.is_main_process else None
    state = accelerator.get_state_dict(model)  # every process takes part
    if not accelerator.is_main_process:
        return None
    whole: Any = accelerator.unwrap_model(model)
    with torch.device("meta"):
        full: Any = model_class(whole.config)
    if hasattr(whole, "processor"):  # AURA is saved with it
        full.processor = whole.processor
    full.load_state_dict({name: tensor.cpu() for name, tensor in state.items()}, assign=True)
    return full


class ShardedOptimizer:
    """State of an optimiser under FSDP2: whole on disk, sharded in memory.

    Args:
        model: prepared model.
        optimizer: prepared optimiser.
    """

    def __init__(self, model: nn.Module, optimizer: Any) -> None:
        self.model, self.optimizer = model, optimizer.optimizer

    def state_dict(self) -> dict[str, Any]:
        """Whole tensors by parameter name; every process must call this."""
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        return get_optimizer_state_dict(self.model, self.optimizer, options=self._options())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state; each process keeps its shard."""
        from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

        set_optimizer_state_dict(self.model, self.optimizer, state, options=self._options())

    @staticmethod
    def _options() -> Any:
        from torch.distributed.checkpoint.state_dict import StateDictOptions

        return StateDictOptions(full_state_dict=True, cpu_offload=True)


class MovingAverage:
    """Exponential moving average of a model's trained tensors.

    Args:
        model: its weights are the initial average.
        decay: share of the old average that each step keeps. It is smaller during the first steps,
            because the average would otherwise stay near the initial weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: p.detach().clone() for name, p in _trained(model)}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Add the weights after step number `step` to the average."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in _trained(model):
            self.tensors[name].lerp_(parameter, 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within the context the model has the averaged weights."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    def state_dict(self) -> dict[str, Tensor]:
        """The whole averaged tensors by name; every process must call this."""
        return {name: full_tensor(tensor) for name, tensor in self.tensors.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a stored average."""
        for name, tensor in self.tensors.items():
            assign(tensor, state[name])

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for name, parameter in _trained(model):
            current = parameter.detach().clone()
            parameter.copy_(self.tensors[name])
            self.tensors[name].copy_(current)


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    states: dict[str, Stateful],
    progress: dict[str, Any],
    saved: Path,
    *,
    writes: bool = True,
) -> None:
    """Write `folder/step_N` under a temporary name, rename it, and delete all but the newest checkpoints.

    Args:
        folder: folder of the run's checkpoints.
        step: number of steps done.
        model: the tensors that training changes are stored.
        states: further state, by file name.
        progress: JSON values to restore, such as the best score.
        saved: folder of the saved model, which is moved into the checkpoint as `model`.
        writes: whether this process writes; the other processes only take part in gathering sharded tensors.
    """
    tensors = {name: full_tensor(tensor) for name, tensor in changing_tensors(model).items()}
    contents = {name: state.state_dict() for name, state in states.items()}
    if not writes:
        return

    def fill(temporary: Path) -> None:
        save_file(tensors, temporary / "model.safetensors")
        for name, content in contents.items():
            torch.save(content, temporary / f"{name}.pt")
        os.replace(saved, temporary / "model")

    write_checkpoint(folder, step, progress, fill)


def write_checkpoint(folder: Path, step: int, progress: dict[str, Any], fill: Callable[[Path], None]) -> None:
    """Let `fill` write into a temporary folder, then rename it and delete older and incomplete checkpoints."""
    final, temporary = folder / f"step_{step:07d}", folder / f"{WRITING}{step:07d}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    fill(temporary)
    finish_checkpoint(temporary, final, step, progress)


def finish_checkpoint(temporary: Path, final: Path, step: int, progress: dict[str, Any]) -> None:
    """Rename a complete temporary folder and delete older and incomplete checkpoints."""
    (temporary / "progress.json").write_text(json.dumps({"step": step, **progress}))
    if final.is_dir():  # left by a run that was killed between the rename and the deletions below
        shutil.rmtree(final)
    os.replace(temporary, final)
    for old in complete_checkpoints(final.parent)[:-NUM_KEPT_CHECKPOINTS]:
        dropped = old.with_name(f"{WRITING}dropped_{old.name}")
        os.replace(old, dropped)  # a partly deleted folder must not look complete
        shutil.rmtree(dropped)
    for incomplete in final.parent.glob(f"{WRITING}*"):
        shutil.rmtree(incomplete, ignore_errors=True)


def load_newest(folder: Path, model: nn.Module, states: dict[str, Stateful]) -> dict[str, Any] | None:
    """Load the newest complete checkpoint in place.

    Returns:
        The stored `progress` with `step`, or None if there is no checkpoint.

    Raises:
        InputError: the checkpoint belongs to another model or to other settings.
    """
    checkpoints = complete_checkpoints(folder)
    if not checkpoints:
        return None
    newest = checkpoints[-1]
    if not (newest / "model.safetensors").is_file():
        raise InputError(f"output: expected checkpoints of this kind of run in {folder}, got DeepSpeed's")
    tensors = load_file(newest / "model.safetensors")
    targets = changing_tensors(model)
    if {k: v.shape for k, v in tensors.items()} != {k: p.shape for k, p in targets.items()}:
        raise InputError(
            f"output: expected checkpoints of this recipe's model in {folder}, got another model's; "
            "choose another output"
        )
    for name in states:
        if not (newest / f"{name}.pt").is_file():
            raise InputError(f"output: expected {newest} to contain {name}.pt, which this recipe needs, got none")
    for name, target in targets.items():
        assign(target, tensors[name])
    for name, state in states.items():
        state.load_state_dict(torch.load(newest / f"{name}.pt", weights_only=True))
    return read_progress(newest)


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """The stored `progress` of a checkpoint, with `step`."""
    progress: dict[str, Any] = json.loads((checkpoint / "progress.json").read_text())
    return progress


def changing_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Tensors that training changes, by name: trained parameters, and saved buffers (batch statistics) next to them."""
    saved_names = model.state_dict(keep_vars=True).keys()
    tensors: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for prefix, module in model.named_modules():
        if any(p.requires_grad for p in module.parameters(recurse=False)):
            buffers = module.named_buffers(prefix, recurse=False)
            tensors |= {name: buffer for name, buffer in buffers if name in saved_names}
    return tensors


def complete_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted(folder.glob("step_*"))
