"""The training loop: Accelerate underneath, one forward a step, resumable at any step."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, broadcast
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from amodal.data.crops import ObjectCrops, StepSampler, collate, evaluation_keys, limit_threads
from amodal.errors import InputError
from amodal.training.average import MovingAverage
from amodal.training.build import Task, Training, build, learning_rate_factor, total_steps
from amodal.training.checkpoint import Stateful, complete_checkpoints, load_newest, save_checkpoint
from amodal.training.recipe import Recipe

Batch = dict[str, Tensor]
LOG = "log.jsonl"


def train(recipe: Recipe, *, progress: bool = True, stop_after: int | None = None, resume: bool = True) -> Path:
    """Run or resume a training.

    Args:
        recipe: what to train.
        progress: show a bar.
        stop_after: end with a checkpoint after this step, for a run to be continued later.
        resume: go on from the newest checkpoint in the output folder, if there is one.

    Returns:
        Folder of the best model, `output/model`.

    Raises:
        InputError: data, base or settings that cannot be used, or an output folder with
            checkpoints of something else.
    """
    out = Path(recipe.output)
    checkpoints = out / "checkpoints"
    if not resume and complete_checkpoints(checkpoints):
        raise InputError(f"output: expected a folder without checkpoints for a new run, got {str(out)!r}")
    settings = recipe.training
    accelerator = Accelerator(
        mixed_precision=settings.precision,
        log_with="tensorboard",
        project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out / "logs")),
        # A batch prompted by boxes leaves SAM's point embeddings out, and the other way round.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=recipe.task == "sam")],
    )
    if settings.batch_size % accelerator.num_processes:
        raise InputError(
            f"training.batch_size: expected a multiple of the {accelerator.num_processes} processes, "
            f"got {settings.batch_size}"
        )
    training = build(recipe)
    if settings.compile:
        training.model.compile()
    steps = total_steps(settings, sum(training.train.lengths))
    model, optimizer = accelerator.prepare(training.model, _optimizer(training.model, recipe))
    run = _Run(accelerator, model, optimizer, training, recipe, steps, out)
    state = load_newest(checkpoints, training.model, run.parts) or {"step": 0, "best": -1.0}
    if accelerator.is_main_process:
        _describe(out, recipe, state["step"])
    accelerator.wait_for_everyone()
    accelerator.init_trackers("tensorboard")
    run.train_from(state, min(steps, stop_after or steps), progress)
    accelerator.end_training()
    return out / "model"


class _Run:
    """One process's part in a training."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        training: Training,
        recipe: Recipe,
        steps: int,
        out: Path,
    ) -> None:
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self.training, self.recipe, self.steps, self.out = training, recipe, steps, out
        self.settings = recipe.training
        self.factor = learning_rate_factor(self.settings, steps)
        self.started = time.monotonic()
        self.parts: dict[str, Stateful] = {"optimizer": optimizer}
        if accelerator.scaler is not None:
            self.parts["scaler"] = accelerator.scaler
        self.average: MovingAverage | None = None
        if self.settings.ema > 0:
            self.average = self.parts["average"] = MovingAverage(training.model, self.settings.ema)

    def train_from(self, state: dict[str, Any], stop: int, progress: bool) -> None:
        """Steps `state["step"]` to `stop`, with validation and checkpoints on the way."""
        settings, done = self.settings, state["step"]
        batches = self._batches(done, stop)
        with _bar(progress and self.accelerator.is_main_process) as bar:
            task = bar.add_task(self.out.name, total=self.steps, completed=done, note="")
            meter = _Meter(done, settings.batch_size * settings.accumulation)
            for step in range(done, stop):
                meter.add(self._step(step, batches))
                done = step + 1
                last = done == stop or self._out_of_time()
                if done % settings.log_every == 0 or last:
                    values = meter.read(done)
                    self._log(done, values)
                    bar.update(task, note=f"loss {values['loss']:.3f} {values['samples_per_s']:.0f}/s")
                if done % settings.validate_every == 0 or done == self.steps:
                    self._validate(done, state)
                    meter.restart()
                if done % settings.checkpoint_every == 0 or last:
                    self._checkpoint(done, state)
                bar.update(task, completed=done)
                if last:
                    break
        if not (self.out / "model").is_dir():  # a short run: something to load all the same
            self._validate(done, state)

    def _step(self, step: int, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """One optimiser step over `accumulation` batches; returns the last one's losses."""
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * self.factor(step)
        device = self.accelerator.device
        for part in range(self.settings.accumulation):
            batch = self._to_device(next(batches))
            generator = torch.Generator(device).manual_seed(self.recipe.seed * 1_000_003 + step * 97 + part)
            complete = part == self.settings.accumulation - 1
            with nullcontext() if complete else self.accelerator.no_sync(self.model):
                losses = self.training.task(self.model, batch, generator)
                total = torch.stack(list(losses.values())).sum()
                if not total.isfinite():
                    raise FloatingPointError(f"loss is {total.item()} at step {step}: {losses}")
                self.accelerator.backward(total / self.settings.accumulation)
        if self.settings.clip_grad_norm > 0:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(self.training.model, step)
        return {name: loss.detach() for name, loss in losses.items()}

    def _batches(self, start: int, stop: int) -> Iterator[Batch]:
        per_step = self.settings.accumulation
        crops = self.training.train
        sampler = StepSampler(
            crops.lengths,
            [source.weight for source in crops.sources],
            self.settings.batch_size,
            self.recipe.seed,
            start * per_step,
            stop * per_step,
            part=self.accelerator.process_index,
            parts=self.accelerator.num_processes,
        )
        return iter(_loader(crops, sampler, self.settings.workers))

    def _out_of_time(self) -> bool:
        """Whether `max_minutes` are over; the first process decides for all."""
        if self.settings.max_minutes is None:
            return False
        late = time.monotonic() - self.started > 60 * self.settings.max_minutes
        if self.accelerator.num_processes == 1:
            return late
        return bool(broadcast(torch.tensor(int(late), device=self.accelerator.device)).item())

    def _validate(self, step: int, state: dict[str, Any]) -> None:
        """Score the weights as they would be saved, and save them if none were better."""
        averaged = nullcontext() if self.average is None else self.average.applied(self.training.model)
        with averaged:
            metrics = validate(
                self.accelerator, self.model, self.training.task, self.training.validation,
                limit=self.settings.validation_objects, batch_size=self.settings.batch_size,
                threshold=self.training.mask_threshold, workers=self.settings.workers, seed=self.recipe.seed,
            )  # fmt: skip
            score = metrics["visible"] if self.recipe.task == "sam" else metrics["full"] + metrics["occ"]
            if score >= state["best"]:
                state["best"] = score
                self._save_model()
        self._log(step, {f"val_{name}": value for name, value in metrics.items()})

    def _save_model(self) -> None:
        """Replace `output/model` by the present weights."""
        if not self.accelerator.is_main_process:
            return
        temporary, final = self.out / ".writing_model", self.out / "model"
        shutil.rmtree(temporary, ignore_errors=True)
        model: Any = self.training.model
        model.save_pretrained(temporary)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)

    def _checkpoint(self, step: int, state: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            progress = {"best": state["best"]}
            save_checkpoint(self.out / "checkpoints", step, self.training.model, self.parts, progress)

    def _log(self, step: int, values: dict[str, float]) -> None:
        values = values | {"lr": self.optimizer.param_groups[0]["lr"]}
        self.accelerator.log(values, step=step)
        if self.accelerator.is_main_process:
            line = {"step": step, "time": round(time.time(), 1)} | {k: round(v, 6) for k, v in values.items()}
            with (self.out / LOG).open("a") as file:
                file.write(json.dumps(line) + "\n")

    def _to_device(self, batch: Batch) -> Batch:
        return {k: v.to(self.accelerator.device, non_blocking=True) for k, v in batch.items()}


class _Meter:
    """Mean losses and speed since it was last read."""

    def __init__(self, step: int, samples_per_step: int) -> None:
        self.step, self.samples_per_step = step, samples_per_step
        self.sums: dict[str, Tensor] = {}
        self.restart()

    def restart(self) -> None:
        """Start the clock anew, after a validation."""
        self.since = time.monotonic()

    def add(self, losses: dict[str, Tensor]) -> None:
        """Take in the losses of one step."""
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(loss)) + loss

    def read(self, step: int) -> dict[str, float]:
        """Means by name, their sum as `loss`, and `samples_per_s`."""
        steps = step - self.step
        means = {name: total.item() / steps for name, total in self.sums.items()}
        rate = steps * self.samples_per_step / (time.monotonic() - self.since)
        self.step, self.sums = step, {}
        self.restart()
        return means | {"loss": sum(means.values()), "samples_per_s": rate}


@torch.no_grad()
def validate(
    accelerator: Accelerator, model: nn.Module, task: Task, crops: ObjectCrops, *,
    limit: int, batch_size: int, threshold: float, workers: int, seed: int,
) -> dict[str, float]:  # fmt: skip
    """Quick mean IoUs in the crop's frame; the reported figures come from `evaluation`.

    Returns:
        `visible`, `full` (amodal) and `occ` (hidden part, objects that have one).
    """
    model.eval()
    keys = evaluation_keys(crops, limit, seed)
    sampler = [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)]
    sums: dict[str, list[Tensor]] = {"visible": [], "full": [], "occ": []}
    for batch in _loader(crops, sampler, workers):
        batch = {k: v.to(accelerator.device) for k, v in batch.items()}
        visible, amodal = (p[:, 0] > threshold for p in task.predict(model, batch))
        true_visible, true_amodal = batch["visible_masks"][:, 0], batch["amodal_masks"][:, 0]
        known = batch["has_amodal"][:, 0]
        sums["visible"].append(_ious(visible, true_visible))
        sums["full"].append(_ious(amodal, true_amodal)[known])
        hidden = true_amodal & ~true_visible
        sums["occ"].append(_ious(amodal & ~true_visible, hidden)[known & hidden.any(-1).any(-1)])
    joined = {name: torch.cat(values) for name, values in sums.items()}
    return {name: v.mean().item() if len(v) else 0.0 for name, v in joined.items()}


def _ious(a: Tensor, b: Tensor) -> Tensor:
    union = (a | b).sum((-2, -1))
    return torch.where(union > 0, (a & b).sum((-2, -1)) / union.clamp_min(1), 1.0)


def _loader(crops: ObjectCrops, sampler: Any, workers: int) -> DataLoader[Batch]:
    return DataLoader(
        crops,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=_init_worker,
        prefetch_factor=4 if workers else None,
    )


def _init_worker(_: int) -> None:
    limit_threads()


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; vectors (biases, norms) are not decayed."""
    settings = recipe.training
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas)


def _describe(out: Path, recipe: Recipe, step: int) -> None:
    """Leave the resolved recipe, the versions and the commit beside the result.

    Log lines of steps that a resumed run will do again are dropped.
    """
    import accelerate
    import transformers

    out.mkdir(parents=True, exist_ok=True)
    if (out / LOG).is_file():
        lines = (out / LOG).read_text().splitlines(keepends=True)
        (out / LOG).write_text("".join(line for line in lines if json.loads(line)["step"] <= step))
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    versions = {
        "commit": commit, "torch": torch.__version__, "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
    }  # fmt: skip
    (out / "versions.json").write_text(json.dumps(versions, indent=1))


def _bar(show: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TimeRemainingColumn(), disable=not show,
    )  # fmt: skip
