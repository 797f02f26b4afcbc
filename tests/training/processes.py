"""Trainings in processes of their own, which can be several at once and can be killed.

The processes are forked from a server that has imported the libraries once.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_SERVER: Any = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.training.processes_imports"])

FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "FoldedLayer",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_OFFLOAD_PARAMS": "false",
}


def start(recipe_file: Path, processes: int = 1, **environment: str) -> list[BaseProcess]:
    """Start one training over several processes; errors go to `recipe_file` with `.<rank>` appended."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    world = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} | environment
    if processes > 1:
        world |= {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = []
    for rank in range(processes):
        own = world | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {})
        process = _SERVER.Process(target=run_training, args=(str(recipe_file), own))
        process.start()
        started.append(process)
    return started


def finish(processes: list[BaseProcess], recipe_file: Path, seconds: float = 240) -> None:
    """Wait for a training; its errors fail the test."""
    for process in processes:
        process.join(seconds)
    errors = [error_of(recipe_file, str(rank)) for rank in range(len(processes))]
    assert all(process.exitcode == 0 for process in processes), "\n".join(errors)


def error_of(recipe_file: Path, rank: str = "0") -> str:
    """What a process that failed had to say."""
    file = recipe_file.with_suffix(f".{rank}")
    return file.read_text() if file.is_file() else ""


def run_training(recipe_file: str, environment: dict[str, str]) -> None:
    """Body of a process."""
    os.environ.update(environment)
    import torch

    from amodal.training.loop import train
    from amodal.training.recipe import load_recipe

    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of data workers; here it is inherited
    if "ACCELERATE_USE_FSDP" in environment:
        _let_accelerate_shard_on_processors()
    try:
        train(load_recipe(recipe_file), progress=False)
    except BaseException:
        rank = environment.get("RANK", "0")
        Path(recipe_file).with_suffix(f".{rank}").write_text(traceback.format_exc())
        raise


def _let_accelerate_shard_on_processors() -> None:
    """Accelerate takes FSDP up on GPUs alone; what it then does works on gloo as well."""
    from accelerate import state
    from accelerate.utils import DistributedType

    original = state.AcceleratorState.__init__

    def patched(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    state.AcceleratorState.__init__ = patched
