"""What a run leaves beside its weights: log, curves, pictures, and what made it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml
from accelerate import Accelerator
from PIL import Image

from amodal.errors import InputError
from amodal.io.files import appearing, write_whole
from amodal.training.curves import draw_curves
from amodal.training.recipe import Recipe

LOG = "log.jsonl"
CURVES = "curves.png"
PICTURES = "pictures"


class Record:
    """Writes to the run folder and to the trackers of the recipe; only the first process does.

    Args:
        accelerator: knows the trackers and which process this is.
        recipe: written beside the result.
        step: steps done; log lines of later steps, which will be done again, are dropped.
    """

    def __init__(self, accelerator: Accelerator, recipe: Recipe, step: int) -> None:
        self.accelerator, self.out = accelerator, Path(recipe.output)
        self.started = False
        if accelerator.is_main_process:
            describe(self.out, recipe, step, strategy_of(accelerator), accelerator.num_processes)
        accelerator.wait_for_everyone()
        names = recipe.training.trackers
        if names:
            accelerator.init_trackers("amodal", init_kwargs=_tracker_settings(self.out, step))

    def log(self, step: int, values: dict[str, float]) -> None:
        """One line in the log, the same values to the trackers."""
        self.accelerator.log(values, step=step)
        if self.accelerator.is_main_process:
            line = {"step": step, "time": round(time.time(), 1)} | values
            with (self.out / LOG).open("a") as file:
                file.write(json.dumps(line) + "\n")

    def draw(self) -> None:
        """Replace the picture of the curves."""
        if self.accelerator.is_main_process:
            draw_curves(read_log(self.out), self.out / CURVES)

    def picture(self, step: int, sheet: npt.NDArray[np.uint8]) -> None:
        """Keep a picture (H, W, 3) of fixed objects at this step."""
        if not self.accelerator.is_main_process:
            return
        folder = self.out / PICTURES
        folder.mkdir(exist_ok=True)
        with appearing(folder / f"step_{step:07d}.png") as temporary:
            Image.fromarray(sheet).save(temporary)
        self._to_trackers(step, sheet)

    def _to_trackers(self, step: int, sheet: npt.NDArray[np.uint8]) -> None:
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images({"validation": sheet[None]}, step=step, dataformats="NHWC")
            elif tracker.name == "wandb":
                tracker.log_images({"validation": [sheet]}, step=step)
            elif tracker.name == "trackio":
                import trackio

                tracker.log({"validation": trackio.Image(sheet)}, step=step)


def check_trackers(names: list[str]) -> None:
    """Raises `InputError` where a tracker's library is not installed; the message says how to get it."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"training.trackers: expected the library of {name!r} to be installed, got none; "
                f"pip install 'amodal[{name}]'"
            )


def strategy_of(accelerator: Accelerator) -> str:
    """Accelerate's name for how the processes share the work: NO, MULTI_GPU, FSDP2, DEEPSPEED, ..."""
    return "FSDP2" if accelerator.is_fsdp2 else str(accelerator.distributed_type.value)


def read_log(out: Path) -> list[dict[str, float]]:
    """Complete lines of a run's log, oldest first; a line that was cut off by a kill is left out."""
    path = out / LOG
    lines = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def describe(out: Path, recipe: Recipe, step: int, strategy: str = "NO", processes: int = 1) -> None:
    """Leave the resolved recipe, how it ran, the versions and the commit; drop log lines beyond `step`."""
    import accelerate
    import transformers

    out.mkdir(parents=True, exist_ok=True)
    kept = [json.dumps(line) + "\n" for line in read_log(out) if line["step"] <= step]
    if (out / LOG).is_file():
        write_whole(out / LOG, "".join(kept))
    write_whole(out / "recipe.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    versions = {
        "commit": _commit(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "strategy": strategy,
        "processes": processes,
    }
    write_whole(out / "versions.json", json.dumps(versions, indent=1))


def _commit() -> str | None:
    try:
        return subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _tracker_settings(out: Path, step: int) -> dict[str, dict[str, Any]]:
    """A resumed run continues the one of the same output folder; TensorBoard hides steps done twice."""
    run = out.name
    return {
        "tensorboard": {"purge_step": step + 1},
        "wandb": {"name": run, "dir": str(out), "id": str(out).replace("/", "-"), "resume": "allow"},
        "trackio": {"name": run, "resume": "allow"},
    }
