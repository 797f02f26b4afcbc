"""Trainings in separate processes, of which several can run at once and which tests can kill.

The processes are forked from a server that has imported the libraries once.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
import traceback
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, NoReturn

_SERVER: Any = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.training.processes_imports"])

FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_OFFLOAD_PARAMS": "false",
}


Place = Literal["step", "filling", "naming", "dropping", "model"]
PLACES: tuple[Place, ...] = ("step", "filling", "naming", "dropping", "model")


@dataclass(frozen=True)
class Hold:
    """Where a training waits until it is killed, independent of the speed of the machine.

    Attributes:
        place: `filling` waits while a checkpoint's first file is half written; `naming` after all files are
            written, before the folder is renamed; `dropping` after the rename, before older checkpoints are
            deleted; `model` after the old model is removed, before the new one has its name; `step` waits in none
            of these places.
        first: first step at which the place applies.
        last: step that does not start in any case.
    """

    place: Place
    first: int
    last: int


def start(
    recipe_file: Path, processes: int = 1, hold: Hold | None = None, fork: str | None = None, **environment: str
) -> list[BaseProcess]:
    """Start one training over several processes; errors go to `recipe_file` with `.<rank>` appended."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} | environment
    if processes > 1:
        world |= {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = []
    for rank in range(processes):
        own = world | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {})
        process = _SERVER.Process(target=run_training, args=(str(recipe_file), own, hold, fork))
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
    """Traceback of a process that failed."""
    file = recipe_file.with_suffix(f".{rank}")
    return file.read_text() if file.is_file() else ""


def sign_of(recipe_file: Path) -> Path:
    """File that appears once a training waits in its place."""
    return recipe_file.with_suffix(".holds")


def run_training(recipe_file: str, environment: dict[str, str], hold: Hold | None, fork: str | None) -> None:
    """Body of a process."""
    os.environ.update(environment)
    import torch

    from amodal.training.loop import train
    from amodal.training.recipe import load_recipe

    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # for data workers; this process inherits another method
    if "ACCELERATE_USE_FSDP" in environment:
        _allow_fsdp_on_cpus()
    if hold is not None:
        _wait_at(hold, sign_of(Path(recipe_file)))
    try:
        train(load_recipe(recipe_file), progress=False, fork=fork)
    except BaseException:
        rank = environment.get("RANK", "0")
        Path(recipe_file).with_suffix(f".{rank}").write_text(traceback.format_exc())
        raise


def _allow_fsdp_on_cpus() -> None:
    """Accelerate enables FSDP only on GPUs, but the rest of its code also works with gloo."""
    from accelerate import state
    from accelerate.utils import DistributedType

    original = state.AcceleratorState.__init__

    def patched(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    state.AcceleratorState.__init__ = patched


def _wait_at(hold: Hold, sign: Path) -> None:
    """Make this process wait at the given place until it is killed."""
    from amodal.training import checkpoint, loop

    def wait() -> NoReturn:
        sign.touch()
        while True:
            time.sleep(60)

    run: Any = loop._TrainingRun
    step, rename = run._step, Path.rename
    write, finish_one = checkpoint.write_checkpoint, checkpoint.finish_checkpoint
    complete = checkpoint.complete_checkpoints

    def held_step(self: Any, number: int, batches: Any) -> Any:
        return wait() if number >= hold.last else step(self, number, batches)

    def held_write(folder: Path, number: int, progress: Any, fill: Any) -> None:
        def half_written(temporary: Path) -> None:
            (temporary / "model.safetensors").write_bytes(b"half")
            wait()

        write(folder, number, progress, half_written if number >= hold.first else fill)

    def held_finish(temporary: Path, final: Path, number: int, progress: Any) -> None:
        return wait() if number >= hold.first else finish_one(temporary, final, number, progress)

    def held_complete(folder: Path) -> list[Path]:
        paths = complete(folder)
        return wait() if paths and int(paths[-1].name.removeprefix("step_")) >= hold.first else paths

    def held_rename(self: Path, target: Path) -> Path:
        return wait() if target.name == "model" else rename(self, target)

    run._step = held_step
    if hold.place == "filling":
        checkpoint.write_checkpoint = held_write
    elif hold.place == "naming":
        checkpoint.finish_checkpoint = held_finish
    elif hold.place == "dropping":
        checkpoint.complete_checkpoints = held_complete
    elif hold.place == "model":
        Path.rename = held_rename
