"""The training loop: Accelerate underneath, resumable at any step.

What a step does depends on the weights, the optimiser's state, the seed and the step's number, on
nothing else: batches and random numbers are drawn by seed and step, the learning rate is a function
of the step. A run that was killed goes on as if it had not been.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, broadcast
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from amodal.errors import InputError
from amodal.io.files import write_whole
from amodal.training.average import MovingAverage
from amodal.training.build import Training, build, learning_rate_factor, total_steps
from amodal.training.checkpoint import (
    WRITING,
    Stateful,
    complete_checkpoints,
    finish_checkpoint,
    load_newest,
    read_progress,
    save_checkpoint,
)
from amodal.training.datasets.crops import ObjectCrops
from amodal.training.feeding import Batch, loader, step_sampler, to_device
from amodal.training.meter import Meter
from amodal.training.optimizers import new_optimizer
from amodal.training.pictures import draw_sheet
from amodal.training.recipe import Recipe
from amodal.training.record import Record, check_trackers
from amodal.training.state import (
    SpreadOptimizer,
    check_device_and_settings,
    is_spread,
    uses_deepspeed,
    whole_model,
)
from amodal.training.validation import fixed_predictions, validate, validate_answers

DECISIVE = {"sam": ("visible",), "plug": ("full", "occ"), "aura": ("visible", "full", "token")}
"""Figures whose sum says which weights are the best so far; those that a task computes."""


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
        FloatingPointError: the loss is not finite; the message names the file with the batch's ids.
    """
    out = Path(recipe.output)
    if not resume and complete_checkpoints(out / "checkpoints"):
        raise InputError(f"output: expected a folder without checkpoints for a new run, got {str(out)!r}")
    settings = recipe.training
    check_trackers(list(settings.trackers))
    accelerator = _accelerator(recipe, out)
    check_device_and_settings(accelerator, settings)
    training = build(recipe)
    if settings.gradient_checkpointing:
        model: Any = training.model
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if settings.compile:
        training.model.compile()
    run = _Run(accelerator, training, recipe)
    state = run.restore()
    record = Record(accelerator, recipe, state["step"])
    run.train_from(state, min(run.steps, run.steps if stop_after is None else stop_after), record, progress)
    accelerator.end_training()
    return out / "model"


class _Run:
    """One process's part in a training."""

    def __init__(self, accelerator: Accelerator, training: Training, recipe: Recipe) -> None:
        self.accelerator, self.training, self.recipe = accelerator, training, recipe
        self.settings, self.out = recipe.training, Path(recipe.output)
        self.steps = total_steps(self.settings, sum(training.train.lengths))
        self.factor = learning_rate_factor(self.settings, self.steps)
        self.started = time.monotonic()
        self.kind = type(training.model)  # FSDP2 gives the object another class
        self.model, self.optimizer = accelerator.prepare(training.model, new_optimizer(training.model, self.settings))
        spread = is_spread(accelerator)
        self.parts: dict[str, Stateful] = {
            "optimizer": SpreadOptimizer(self.model, self.optimizer) if spread else self.optimizer
        }
        if accelerator.scaler is not None:
            self.parts["scaler"] = accelerator.scaler
        self.average: MovingAverage | None = None
        if self.settings.ema > 0:
            self.average = self.parts["average"] = MovingAverage(training.model, self.settings.ema)
        self.meter = Meter(accelerator, self.settings.batch_size * self.settings.accumulation)

    def restore(self) -> dict[str, Any]:
        """The newest checkpoint's state in place, or a new run's."""
        folder = self.out / "checkpoints"
        found = complete_checkpoints(folder)
        state: dict[str, Any] | None
        if uses_deepspeed(self.accelerator) and found:
            self.accelerator.load_state(str(found[-1] / "deepspeed"), load_module_strict=False)
            state = read_progress(found[-1])
        else:
            state = load_newest(folder, self.training.model, self.parts)
        state = state or {"step": 0, "best": -1.0}
        self.meter.resume(state.get("losses", {}))
        return state

    def train_from(self, state: dict[str, Any], stop: int, record: Record, progress: bool) -> None:
        """Steps `state["step"]` to `stop`, with validation and checkpoints on the way."""
        settings, done = self.settings, state["step"]
        batches = self._batches(done, stop)
        with _bar(progress and self.accelerator.is_main_process) as bar:
            task = bar.add_task(self.out.name, total=self.steps, completed=done, note="")
            for step in range(done, stop):
                self.meter.add(self._step(step, batches))
                done = step + 1
                last = done == stop or self._out_of_time()
                if done % settings.log_every == 0 or done == self.steps:
                    values = self.meter.read()
                    record.log(done, values | {"lr": self._learning_rate(step)})
                    bar.update(task, note=f"loss {values['loss']:.3f} {values['samples_per_s']:.0f}/s")
                if done % settings.validate_every == 0 or done == self.steps:
                    self._validate(done, state, record)
                if done % settings.checkpoint_every == 0 or last:
                    self._checkpoint(done, state)
                bar.update(task, completed=done)
                if last:
                    break
        if state["best"] < 0:  # a short run: something to load all the same
            self._validate(done, state, record)
        elif done % settings.validate_every and done != self.steps:
            record.draw()

    def _step(self, step: int, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """One optimiser step over `accumulation` batches; returns the mean of their losses."""
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(step)
        device, sums = self.accelerator.device, dict[str, Tensor]()
        for part in range(self.settings.accumulation):
            batch = to_device(next(batches), device)
            number = self._number(step, part)
            torch.manual_seed(number)  # dropout, where a model has it
            with self.accelerator.accumulate(self.model):
                losses = self.training.task(self.model, batch, torch.Generator(device).manual_seed(number))
                total = torch.stack(list(losses.values())).sum()
                self._check_finite(total, losses, step, part)
                self.accelerator.backward(total)  # divides by the accumulation
                if self.accelerator.sync_gradients and self.settings.clip_grad_norm > 0:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0) + loss.detach() / self.settings.accumulation
        if self.average is not None:
            self.average.update(self.training.model, step)
        return sums

    def _number(self, step: int, part: int) -> int:
        """Seed of a batch: the same for two processes as for one that accumulates twice as much."""
        batch = part * self.accelerator.num_processes + self.accelerator.process_index
        return self.recipe.seed * 1_000_003 + step * 97 + batch

    def _learning_rate(self, step: int) -> float:
        return self.settings.learning_rate * self.factor(step)

    def _check_finite(self, total: Tensor, losses: dict[str, Tensor], step: int, part: int) -> None:
        """Stop all processes where the loss of one is not finite, and leave the batch's ids."""
        bad = ~total.detach().isfinite()
        anywhere = bad
        if self.accelerator.num_processes > 1:
            anywhere = self.accelerator.reduce(bad.float(), "sum") > 0
        if not anywhere.item():
            return
        file = self.out / f"not_finite_step_{step + 1:07d}_process_{self.accelerator.process_index}.json"
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        sampler = step_sampler(self.recipe, self.training.train, step, step + 1, part=process, parts=processes)
        content = {
            "step": step + 1,
            "losses": {name: float(loss.detach()) for name, loss in losses.items()},
            "batch": [self.training.train.describe(key) for key in sampler.keys(step, part)],
        }
        write_whole(file, json.dumps(content, indent=1))
        names = [name for name, loss in losses.items() if not loss.detach().isfinite()] or ["another process's loss"]
        raise FloatingPointError(
            f"step {step + 1}: expected a finite loss, got {total.item()} ({', '.join(names)}); "
            f"the batch's ids are in {file}; nothing was changed by this step"
        )

    def _batches(self, start: int, stop: int) -> Iterator[Batch]:
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        sampler = step_sampler(self.recipe, self.training.train, start, stop, part=process, parts=processes)
        return iter(loader(self.training.train, sampler, self.settings.workers))

    def _out_of_time(self) -> bool:
        """Whether `max_minutes` are over; the first process decides for all."""
        if self.settings.max_minutes is None:
            return False
        late = time.monotonic() - self.started > 60 * self.settings.max_minutes
        if self.accelerator.num_processes == 1:
            return late
        return bool(broadcast(torch.tensor(int(late), device=self.accelerator.device)).item())

    def _validate(self, step: int, state: dict[str, Any], record: Record) -> None:
        """Score the weights as they would be saved, and save them if none were better."""
        averaged = nullcontext() if self.average is None else self.average.applied(self.training.model)
        samples = self.training.validation
        task: Any = self.training.task
        settings, seed = self.settings, self.recipe.seed
        with averaged:
            score: Any = validate if isinstance(samples, ObjectCrops) else validate_answers
            metrics = score(
                self.accelerator, self.model, task, samples,
                limit=settings.validation_objects, batch_size=settings.batch_size,
                threshold=self.training.mask_threshold, workers=settings.workers, seed=seed,
            )  # fmt: skip
            total = sum(metrics.get(name, 0.0) for name in DECISIVE[self.recipe.task])
            if total >= state["best"]:
                state["best"] = total
                self._save_model()
            if settings.picture_objects > 0 and isinstance(samples, ObjectCrops):
                shown = fixed_predictions(self.accelerator, self.model, task, samples, settings.picture_objects, seed)
                record.picture(step, draw_sheet(*shown, self.training.mask_threshold))
        record.log(step, {f"val_{name}": value for name, value in metrics.items()})
        record.draw()
        self.meter.restart()

    def _save_model(self) -> None:
        """Replace `output/model` by the present weights."""
        model: Any = whole_model(self.accelerator, self.model, self.kind)
        if model is None:
            return
        temporary, final = self.out / f"{WRITING}model", self.out / "model"
        shutil.rmtree(temporary, ignore_errors=True)
        model.save_pretrained(temporary)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)

    def _checkpoint(self, step: int, state: dict[str, Any]) -> None:
        folder, main = self.out / "checkpoints", self.accelerator.is_main_process
        progress = {"best": state["best"], "losses": self.meter.pending()}
        if not uses_deepspeed(self.accelerator):
            save_checkpoint(folder, step, self.training.model, self.parts, progress, writes=main)
            return
        temporary = folder / f"{WRITING}{step:07d}"
        if main:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(temporary / "deepspeed"), exclude_frozen_parameters=True)
        self.accelerator.wait_for_everyone()
        if main:
            finish_checkpoint(temporary, folder / f"step_{step:07d}", step, progress)


def _accelerator(recipe: Recipe, out: Path) -> Accelerator:
    settings = recipe.training
    if not torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier training in this process
    return Accelerator(
        mixed_precision=settings.precision,
        gradient_accumulation_steps=settings.accumulation,
        log_with=list(settings.trackers) or None,
        project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out / "logs")),
        # A batch prompted by boxes leaves SAM's point embeddings out, and the other way round.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=recipe.task != "plug")],
    )


def _bar(show: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TimeRemainingColumn(), disable=not show,
    )  # fmt: skip
