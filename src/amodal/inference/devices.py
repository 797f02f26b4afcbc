"""Choice of device and precision by name, and the number of threads of forked processes."""

from __future__ import annotations

import os

import torch

from amodal.errors import InputError
from amodal.nn.kernels import has_bfloat16

if hasattr(os, "register_at_fork"):
    # A forked process has none of its parent's threads. OpenMP would wait for them forever, but not with one thread.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def pick_device(name: str) -> torch.device:
    """Choose a device by name.

    Args:
        name: `auto` (a GPU if there is one), `cpu`, `cuda`, ...

    Raises:
        InputError: unknown device, or a device that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device: expected auto, cpu, cuda, ... of this machine, got {name!r} ({reason})") from error
    return device


def pick_dtype(name: str, device: torch.device, *, int8: bool = False) -> torch.dtype:
    """Choose a precision by name.

    Args:
        name: `auto`, `float32`, `bfloat16` or, with `int8=True`, `int8`. `auto` is bfloat16 where the
            hardware computes in it (such GPUs, and CPUs with AMX or AVX-512-BF16), which takes at most
            half the time of float32, and float32 elsewhere.
        device: device of the model.
        int8: whether the caller supports int8.

    Raises:
        InputError: unknown name.
    """
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16} | ({"int8": torch.int8} if int8 else {})
    if name == "auto":
        return torch.bfloat16 if _fast_in_bfloat16(device) else torch.float32
    if name not in dtypes:
        raise InputError(f"dtype: expected one of auto, {', '.join(dtypes)}, got {name!r}")
    return dtypes[name]


def _fast_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and has_bfloat16()
