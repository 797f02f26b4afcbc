"""Weights and optimiser states of a model that may be spread over processes.

Three cases: every process has all of it (one process, DDP), FSDP2 (parameters are DTensors), and
DeepSpeed, which keeps its own files.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from amodal.errors import InputError
from amodal.training.recipe import TrainingRecipe


def whole(tensor: Tensor) -> Tensor:
    """A copy of the whole tensor on the CPU; every process must call this."""
    full: Any = tensor.detach()
    if isinstance(tensor, DTensor):
        full = full.full_tensor()
    whole_copy: Tensor = full.cpu().clone().contiguous()
    return whole_copy


def assign(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one that may be spread, in place."""
    value = value.to(target.device)
    if isinstance(target, DTensor):
        value = distribute_tensor(value, target.device_mesh, target.placements)
    with torch.no_grad():
        target.copy_(value)


def settle(model: nn.Module) -> None:
    """Let go of parts that FSDP2 still holds together after a forward without a backward pass."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def is_spread(accelerator: Accelerator) -> bool:
    """Whether a process has only a part of the weights."""
    return accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def uses_deepspeed(accelerator: Accelerator) -> bool:
    """Whether DeepSpeed runs the optimiser."""
    return accelerator.distributed_type == DistributedType.DEEPSPEED


class SpreadOptimizer:
    """State of an optimiser under FSDP2, whole on disk, spread in memory.

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
        """Take the state back, each process its part."""
        from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

        set_optimizer_state_dict(self.model, self.optimizer, state, options=self._options())

    @staticmethod
    def _options() -> Any:
        from torch.distributed.checkpoint.state_dict import StateDictOptions

        return StateDictOptions(full_state_dict=True, cpu_offload=True)


def whole_model(accelerator: Accelerator, model: nn.Module, kind: type[nn.Module]) -> nn.Module | None:
    """The model with whole weights, to be saved; None on all but the first process.

    Args:
        accelerator: knows how the model is spread.
        model: prepared model.
        kind: its class before it was prepared.
    """
    if not is_spread(accelerator):
        return accelerator.unwrap_model(model) if accelerator.is_main_process else None
    state = accelerator.get_state_dict(model)  # every process takes part
    if not accelerator.is_main_process:
        return None
    config: Any = accelerator.unwrap_model(model).config
    with torch.device("meta"):
        saved = kind(config)
    saved.load_state_dict({name: tensor.cpu() for name, tensor in state.items()}, assign=True)
    return saved


def check_device_and_settings(accelerator: Accelerator, settings: TrainingRecipe) -> None:
    """Raises `InputError` for settings that these processes cannot train with."""
    processes, batch_size, ema = accelerator.num_processes, settings.batch_size, settings.ema
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise InputError("training.precision: expected 'bf16' or 'no' on a processor, got 'fp16', which needs a GPU")
    if batch_size % processes:
        raise InputError(f"training.batch_size: expected a multiple of the {processes} processes, got {batch_size}")
    if is_spread(accelerator) and settings.optimizer == "muon":
        raise InputError("training.optimizer: expected 'adamw' where weights are spread over processes, got 'muon'")
    if uses_deepspeed(accelerator):
        if ema > 0:
            raise InputError(f"training.ema: expected 0 with DeepSpeed, which keeps the weights, got {ema}")
        plugin = accelerator.state.deepspeed_plugin
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = batch_size // processes
