"""What a run writes besides its weights: log, curves, images of validation objects, and how it was made."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from amodal.errors import InputError
from amodal.io.files import atomic_folder, atomic_path, write_atomic
from amodal.io.images import ImageArray
from amodal.models.bases.protocol import IMAGE_MEAN, IMAGE_STD
from amodal.ops.arrays import Mask
from amodal.training.checkpoint import complete_checkpoints
from amodal.training.recipe import NO_VALUE, RECIPE_FILE, Recipe, differences, load_recipe
from amodal.version import source_commit

VERSIONS = "versions.json"
LOG = "log.jsonl"
CURVES = "curves.png"
SHEETS = "pictures"
"""Folder of the sheets that `draw_sheet` makes."""

LogLines = list[dict[str, float]]
SPEED = "samples_per_s"
LEARNING_RATE = "lr"
NOT_LOSSES = {"step", "time", SPEED, LEARNING_RATE}

VISIBLE_COLOUR = (56, 168, 255)
OCCLUDED_COLOUR = (255, 112, 40)
SHEET_CELL = 192
"""Side in pixels of one image on a sheet."""
SHEET_GAP = 4

SHOWN_DIFFERENCES = 3
SHOWN_CHARACTERS = 60
"""Number of differing keys that an error message shows, and the length of each of their values."""


class RunRecord:
    """Writes to the run folder and to the trackers of the recipe, from the first process only.

    Args:
        accelerator: knows the trackers and which process this is.
        recipe: recipe of the run; it is written to the run folder when the run begins.
        step: number of steps done; log lines of later steps are dropped, because these steps will run again.
    """

    def __init__(self, accelerator: Accelerator, recipe: Recipe, step: int) -> None:
        self.accelerator, self.out = accelerator, Path(recipe.output)
        if accelerator.is_main_process:
            write_description(self.out, recipe, step, strategy_of(accelerator), accelerator.num_processes)
        accelerator.wait_for_everyone()
        names = recipe.training.trackers
        if names:
            accelerator.init_trackers("amodal", init_kwargs=_tracker_settings(self.out, step))

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append one line to the log and send the same values to the trackers."""
        self.accelerator.log(values, step=step)
        if self.accelerator.is_main_process:
            line = {"step": step, "time": round(time.time(), 1)} | values
            with (self.out / LOG).open("a") as file:
                file.write(json.dumps(line) + "\n")

    def draw_curves(self) -> None:
        """Replace the plot of the curves."""
        if self.accelerator.is_main_process:
            draw_curves(read_log(self.out), self.out / CURVES)

    def save_sheet(self, step: int, sheet: ImageArray) -> None:
        """Save a sheet (H, W, 3) of the fixed validation objects at this step and send it to the trackers."""
        if not self.accelerator.is_main_process:
            return
        folder = self.out / SHEETS
        folder.mkdir(exist_ok=True)
        with atomic_path(folder / f"step_{step:07d}.png") as temporary:
            Image.fromarray(sheet).save(temporary)
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images({"validation": sheet[None]}, step=step, dataformats="NHWC")
            elif tracker.name == "wandb":
                tracker.log_images({"validation": [sheet]}, step=step)
            elif tracker.name == "trackio":
                import trackio

                tracker.log({"validation": trackio.Image(sheet)}, step=step)


class LossMeter:
    """Sums losses until they are read; the sums survive a checkpoint.

    Args:
        accelerator: averages the losses over all processes.
        samples_per_step: samples per step, over all processes.
    """

    def __init__(self, accelerator: Accelerator, samples_per_step: int) -> None:
        self.accelerator, self.samples_per_step = accelerator, samples_per_step
        self.num_steps = 0
        self.sums: dict[str, Tensor] = {}
        self.restart_clock()

    def resume(self, pending: dict[str, float]) -> None:
        """Restore sums that were not read yet (see `pending`)."""
        sums, device = dict(pending), self.accelerator.device
        self.num_steps = int(sums.pop("steps", 0))
        self.sums = {name: torch.tensor(value, device=device) for name, value in sums.items()}
        self.restart_clock()

    def restart_clock(self) -> None:
        """Start measuring the speed again, after a validation for example."""
        self.start, self.num_timed_steps = time.monotonic(), 0

    def add(self, losses: dict[str, Tensor]) -> None:
        """Add the losses of one step."""
        self.num_steps += 1
        self.num_timed_steps += 1
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(loss)) + loss

    def pending(self) -> dict[str, float]:
        """Sums that were not read yet and the number of their `steps`; every process must call this."""
        return self._over_processes() | {"steps": self.num_steps} if self.num_steps else {}

    def read(self) -> dict[str, float]:
        """Means by name, their sum as `loss`, and `samples_per_s`; every process must call this."""
        means = {name: total / self.num_steps for name, total in self._over_processes().items()}
        rate = self.num_timed_steps * self.samples_per_step / (time.monotonic() - self.start)
        self.num_steps, self.sums = 0, {}
        self.restart_clock()
        return means | {"loss": sum(means.values()), SPEED: rate}

    def _over_processes(self) -> dict[str, float]:
        if not self.sums:
            return {}
        values = torch.stack([total.float() for total in self.sums.values()])
        if self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(values, "mean")
        return dict(zip(self.sums, values.tolist(), strict=True))


def check_trackers(names: list[str]) -> None:
    """Check that the libraries of all trackers are installed.

    Raises:
        InputError: a library is missing; the message says how to install it.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"training.trackers: expected the library of {name!r} to be installed, got none; "
                f"pip install 'amodal[{name}]'"
            )


def strategy_of(accelerator: Accelerator) -> str:
    """Accelerate's name for how the processes share the work: NO, MULTI_GPU, FSDP2, DEEPSPEED, ..."""
    return "FSDP2" if accelerator.is_fsdp2 else str(accelerator.distributed_type.value)


def read_log(out: Path) -> LogLines:
    """Lines of a run's log, oldest first; skips a line that is incomplete because the run was killed."""
    path = out / LOG
    lines = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def check_recipe(recipe: Recipe) -> None:
    """Check that the run folder of a recipe has no run yet, or one that began with the same recipe.

    Keys that do not change the result may differ, see `MAY_CHANGE`.

    Raises:
        InputError: the run began with another recipe; the message names the keys with both values.
    """
    file = Path(recipe.output) / RECIPE_FILE
    if not file.is_file():
        return
    different = differences(load_recipe(file), recipe)
    if not different:
        return
    shown = [
        f"{key} {_shortened(given)} instead of {_shortened(begun)}"
        for key, (begun, given) in list(different.items())[:SHOWN_DIFFERENCES]
    ]
    more = f" and {len(different) - len(shown)} more" if len(different) > len(shown) else ""
    raise InputError(
        f"recipe: expected the one that the run in {recipe.output!r} began with ({RECIPE_FILE}), got "
        f"{', '.join(shown)}{more}; choose another output, or --fork NAME for a new run from its last weights"
    )


def _shortened(value: Any) -> str:
    text = NO_VALUE if value == NO_VALUE else json.dumps(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."


@dataclass(frozen=True)
class Fork:
    """A new run that starts from the last weights of another run, with a new optimiser, at step 0.

    Attributes:
        recipe: recipe of the new run. Its `init` is a copy of the last weights in the new run folder, so that the
            other run may continue or be deleted.
        model: saved model of the other run.
        weights: file of its newest checkpoint with the tensors that replace those of `model`.
        origin: `folder`, `step` and `commit` of the other run.
    """

    recipe: Recipe
    model: Path
    weights: Path
    origin: dict[str, Any]

    @classmethod
    def of(cls, recipe: Recipe, name: str) -> Fork:
        """Find the last weights of the run in the recipe's `output`, without writing anything.

        Args:
            recipe: its `output` is the run folder of the other run. All other keys hold for the new run.
            name: name of the new run folder, beside the other one.

        Raises:
            InputError: the name is not that of a new folder, or the other run has no checkpoint or no model.
        """
        source = Path(recipe.output)
        if name in ("", "..") or Path(name).name != name:
            raise InputError(f"fork: expected the name of a new folder beside {str(source)!r}, got {name!r}")
        target = source.parent / name
        if target.exists():
            raise InputError(
                f"fork: expected the name of a new folder, got {str(target)!r}, which exists; "
                f"resume a fork with its own {RECIPE_FILE}"
            )
        checkpoints = complete_checkpoints(source / "checkpoints")
        model, weights = source / "model", checkpoints[-1] / "model.safetensors" if checkpoints else None
        if weights is None or not weights.is_file() or not model.is_dir():
            raise InputError(
                f"fork: expected a run with a checkpoint and a model in {str(source)!r}, got none; "
                "the key 'init' starts from any saved model"
            )
        step = json.loads((weights.parent / "progress.json").read_text())["step"]
        origin = {"folder": str(source), "step": step, "commit": _read_versions(source).get("commit")}
        forked = recipe.model_copy(update={"output": str(target), "init": str(target / "init")})
        return cls(forked, model, weights, origin)

    def begin(self, accelerator: Accelerator, model: nn.Module) -> None:
        """Write the new run folder with its first weights, which appears complete or not at all.

        Args:
            accelerator: knows which process this is; every process must call this.
            model: built model with the last weights of the other run, before it is prepared.
        """
        accelerator.wait_for_everyone()  # until every process has found the folder missing
        if accelerator.is_main_process:
            saved: Any = model
            with atomic_folder(Path(self.recipe.output)) as folder:
                saved.save_pretrained(folder / "init")
                write_atomic(folder / VERSIONS, json.dumps({"forked_from": self.origin}, indent=1))
                _write_recipe(folder, self.recipe)
        accelerator.wait_for_everyone()


def write_description(out: Path, recipe: Recipe, step: int, strategy: str = "NO", processes: int = 1) -> None:
    """Write the strategy, the versions and the commit, and drop log lines of steps after `step`.

    The resolved recipe is written once, when the run begins. What the run was forked from is kept.
    """
    import accelerate
    import transformers

    out.mkdir(parents=True, exist_ok=True)
    kept = [json.dumps(line) + "\n" for line in read_log(out) if line["step"] <= step]
    if (out / LOG).is_file():
        write_atomic(out / LOG, "".join(kept))
    if not (out / RECIPE_FILE).is_file():
        _write_recipe(out, recipe)
    versions = {
        "commit": source_commit(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "strategy": strategy,
        "processes": processes,
    }
    kept_versions = {name: value for name, value in _read_versions(out).items() if name == "forked_from"}
    write_atomic(out / VERSIONS, json.dumps(versions | kept_versions, indent=1))


def _write_recipe(out: Path, recipe: Recipe) -> None:
    write_atomic(out / RECIPE_FILE, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))


def _read_versions(out: Path) -> dict[str, Any]:
    file = out / VERSIONS
    versions: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return versions


def _tracker_settings(out: Path, step: int) -> dict[str, dict[str, Any]]:
    """Let a resumed run continue the tracked run of its output folder; TensorBoard hides steps that run again."""
    run = out.name
    return {
        "tensorboard": {"purge_step": step + 1},
        "wandb": {"name": run, "dir": str(out), "id": str(out).replace("/", "-"), "resume": "allow"},
        "trackio": {"name": run, "resume": "allow"},
    }


def draw_curves(lines: LogLines, path: Path) -> None:
    """Plot losses, validation scores and learning rate of a run as a PNG; writes nothing for an empty log.

    Args:
        lines: log lines; those of a validation have keys that start with `val_`.
        path: file to replace.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    series = _series(lines)
    losses = {k: v for k, v in series.items() if k not in NOT_LOSSES and not k.startswith("val_")}
    scores = {k.removeprefix("val_"): v for k, v in series.items() if k.startswith("val_")}
    if not losses and not scores:
        return
    figure = Figure(figsize=(15, 4.2))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.04, right=0.99, bottom=0.12, top=0.92, wspace=0.12)
    panels = figure.subplots(1, 3)
    _plot(panels[0], losses, "losses", logarithmic=True)
    _plot(panels[1], scores, "validation, in the crop")
    _plot(panels[2], {k: v for k, v in series.items() if k == LEARNING_RATE}, "learning rate")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def _series(lines: LogLines) -> dict[str, tuple[list[float], list[float]]]:
    """Steps and values by name, in the order of the log."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name in ("step", "time"):
                continue
            steps, values = series.setdefault(name, ([], []))
            steps.append(line["step"])
            values.append(value)
    return series


def _plot(
    panel: Any, series: dict[str, tuple[list[float], list[float]]], title: str, *, logarithmic: bool = False
) -> None:
    for name, (steps, values) in series.items():
        is_total = name == "loss"
        panel.plot(
            steps, values, label=name, linewidth=2.2 if is_total else 1.2, color="black" if is_total else None,
            marker="o" if len(steps) < 12 else None, markersize=3,
        )  # fmt: skip
    panel.set_title(title)
    panel.set_xlabel("step")
    panel.grid(alpha=0.3)
    all_positive = all(value > 0 for _, values in series.values() for value in values)
    if logarithmic and series and all_positive:
        panel.set_yscale("log")
    if len(series) > 1:
        panel.legend(fontsize=7)


def draw_sheet(
    batch: dict[str, Tensor],
    visible_probs: Tensor,
    amodal_probs: Tensor,
    threshold: float,
    *,
    image_mean: Sequence[float] = IMAGE_MEAN,
    image_std: Sequence[float] = IMAGE_STD,
) -> ImageArray:
    """Draw one row per object: the crop, the true masks, the predicted masks and the amodal probability.

    Args:
        batch: collated crops on the CPU; the first prompt of each is drawn.
        visible_probs: (B, P, S, S) in [0, 1].
        amodal_probs: (B, P, S, S) in [0, 1].
        threshold: probability above which a pixel is foreground.
        image_mean: with which the crops were normalised.
        image_std: likewise.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    images = _denormalised(batch["pixel_values"], image_mean, image_std)
    truth = [batch[name][:, 0].numpy() for name in ("visible_masks", "amodal_masks")]
    predicted = [(p[:, 0].float().cpu() > threshold).numpy() for p in (visible_probs, amodal_probs)]
    probs = amodal_probs[:, 0].float().cpu().numpy()
    rows = []
    for i, image in enumerate(images):
        heat = cv2.applyColorMap((probs[i] * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]
        overlays = [_overlay(image, visible[i], amodal[i]) for visible, amodal in (truth, predicted)]
        rows.append(np.concatenate([_cell(part) for part in (image, *overlays, heat)], axis=1))
    return np.ascontiguousarray(np.concatenate(rows, axis=0))


def _denormalised(values: Tensor, image_mean: Sequence[float], image_std: Sequence[float]) -> ImageArray:
    """(B, 3, S, S) normalised values as (B, S, S, 3) uint8."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (image_mean, image_std))
    pixels = (values.float().cpu() * std + mean).clamp(0, 1) * 255
    return np.asarray(pixels.round().to(torch.uint8).permute(0, 2, 3, 1).numpy())


def _overlay(image: ImageArray, visible: Mask, amodal: Mask) -> ImageArray:
    drawn = image.copy()
    for mask, colour in ((visible, VISIBLE_COLOUR), (amodal & ~visible, OCCLUDED_COLOUR)):
        drawn[mask] = (0.45 * drawn[mask] + 0.55 * np.array(colour)).astype(np.uint8)
    return drawn


def _cell(part: ImageArray) -> ImageArray:
    """An image at the size of a sheet's cells, with a white gap to the right and below."""
    interpolation = cv2.INTER_AREA if part.shape[0] > SHEET_CELL else cv2.INTER_NEAREST
    size = (SHEET_CELL, SHEET_CELL)
    resized = np.asarray(cv2.resize(np.ascontiguousarray(part), size, interpolation=interpolation), np.uint8)
    return np.pad(resized, ((0, SHEET_GAP), (0, SHEET_GAP), (0, 0)), constant_values=255)
