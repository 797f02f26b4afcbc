"""The training loop, built on Accelerate and resumable at any step.

A step depends only on the weights, the optimiser's state, the seed and the number of the step: batches and
random numbers are drawn from the seed and the step, and the learning rate is a function of the step. A run
that was killed and resumed therefore gives the same result as an uninterrupted one.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, broadcast
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from amodal.errors import InputError
from amodal.io.files import one_writer, write_atomic
from amodal.training.build import TrainingSetup, build, step_sampler
from amodal.training.checkpoint import (
    WRITING,
    MovingAverage,
    ShardedOptimizer,
    Stateful,
    check_device_and_settings,
    complete_checkpoints,
    finish_checkpoint,
    full_model,
    is_sharded,
    load_newest,
    name_sharded_layers,
    read_progress,
    save_checkpoint,
    uses_deepspeed,
)
from amodal.training.datasets.crops import ObjectCrops
from amodal.training.datasets.sampling import Batch, StepSampler, loader, to_device
from amodal.training.optimizers import learning_rate_factor, new_optimizer, total_steps
from amodal.training.recipe import Recipe, load_recipe
from amodal.training.record import Fork, LossMeter, RunRecord, check_recipe, check_trackers, draw_sheet
from amodal.training.validation import fixed_predictions, validate_answers, validate_masks

SELECTION_SCORES = {
    "sam": ("visible",),
    "plug": ("full", "occ"),
    "aura": ("visible", "full", "token"),
    "detector": ("recall", "precision"),
}
"""Validation scores whose sum selects the best weights, by task; scores that a task does not compute count as 0."""


def train(
    recipe: Recipe | str | Path,
    *,
    overrides: list[str] | None = None,
    progress: bool = True,
    stop_after: int | None = None,
    resume: bool = True,
    fork: str | None = None,
) -> Path:
    """Run or resume the training that a recipe describes.

    The run folder, `output` in the recipe, holds the models (`best/`, `final/`, and `model/`, the one of them that
    `training.select` names), the log, curves and checkpoints; see docs/training.md. A run is only resumed with the
    recipe that it began with; keys on which its weights do not depend may differ. To run on several processes, start
    the calling program with `accelerate launch`.

    Args:
        recipe: a parsed recipe, or the path of a YAML recipe.
        overrides: changes to a YAML recipe as `key.inner=value`, whose values are YAML; for example
            `["training.steps=100", "output=runs/try"]`.
        progress: whether to show a progress bar.
        stop_after: write a checkpoint and stop after this step; a later call resumes the run.
        resume: whether to resume from the newest checkpoint in the run folder, if there is one.
        fork: name of a new run folder beside the recipe's `output`. The new run starts at step 0 with a new optimiser
            from the last weights of the run in `output`, which stays unchanged; the recipe may differ from its recipe.

    Returns:
        The folder of the model that `training.select` names, `model` in the run folder, for `from_pretrained`.

    Raises:
        InputError: the recipe, its data, base or settings cannot be used; the run folder has a run that began with
            another recipe, or has any checkpoints with `resume=False`; another training writes to it; or the run cannot
            be forked.
        FloatingPointError: the loss is not finite; the message names a file with the ids of the batch.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    elif overrides:
        raise InputError("overrides: expected none for a parsed recipe, got some; apply them with load_recipe")
    new_run = None if fork is None else Fork.of(recipe, fork)
    if new_run is not None:
        recipe = new_run.recipe
    out = Path(recipe.output)
    if not resume and complete_checkpoints(out / "checkpoints"):
        raise InputError(f"output: expected a folder without checkpoints for a new run, got {str(out)!r}")
    check_recipe(recipe)
    settings = recipe.training
    check_trackers(list(settings.trackers))
    accelerator = _accelerator(recipe, out)
    check_device_and_settings(accelerator, settings)
    with one_writer(out, "output") if accelerator.is_main_process else nullcontext():
        _train(accelerator, recipe, new_run, progress, stop_after)
    return out / "model"


def _train(
    accelerator: Accelerator, recipe: Recipe, new_run: Fork | None, progress: bool, stop_after: int | None
) -> None:
    """Build and train the model in this process."""
    settings = recipe.training
    if new_run is None:
        setup = build(recipe)
    else:
        setup = build(recipe.model_copy(update={"init": str(new_run.model)}), new_run.weights)
        new_run.begin(accelerator, setup.model)
    if settings.gradient_checkpointing:
        model: Any = setup.model
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if settings.compile:
        setup.model.compile()
    run = _TrainingRun(accelerator, setup, recipe)
    state = run.restore()
    if stop_after is not None and stop_after < state["step"]:
        raise InputError(f"stop-after: expected a step from {state['step']} on, where the run is, got {stop_after}")
    record = RunRecord(accelerator, recipe, state["step"])
    run.train_from(state, min(run.steps, run.steps if stop_after is None else stop_after), record, progress)
    accelerator.end_training()


class _TrainingRun:
    """The part of a training that one process runs."""

    def __init__(self, accelerator: Accelerator, setup: TrainingSetup, recipe: Recipe) -> None:
        self.accelerator, self.setup, self.recipe = accelerator, setup, recipe
        self.settings, self.out = recipe.training, Path(recipe.output)
        self.steps = total_steps(self.settings, sum(setup.train.lengths))
        self.factor = learning_rate_factor(self.settings, self.steps)
        self.start_time = time.monotonic()
        self.model_class = type(setup.model)  # FSDP2 changes the class of the object
        name_sharded_layers(setup.model)
        if is_sharded(accelerator):
            model: Any = setup.model
            model.to(memory_format=torch.contiguous_format)  # FSDP2 refuses other layouts
        self.model, self.optimizer = accelerator.prepare(setup.model, new_optimizer(setup.model, self.settings))
        self.states: dict[str, Stateful] = {
            "optimizer": ShardedOptimizer(self.model, self.optimizer) if is_sharded(accelerator) else self.optimizer
        }
        if accelerator.scaler is not None:
            self.states["scaler"] = accelerator.scaler
        self.average: MovingAverage | None = None
        if self.settings.ema > 0:
            self.average = self.states["average"] = MovingAverage(setup.model, self.settings.ema)
        self.meter = LossMeter(accelerator, self.settings.batch_size * self.settings.accumulation)

    def restore(self) -> dict[str, Any]:
        """Load the newest checkpoint in place and return its progress, or the progress of a new run."""
        folder = self.out / "checkpoints"
        checkpoints = complete_checkpoints(folder)
        state: dict[str, Any] | None
        if uses_deepspeed(self.accelerator) and checkpoints:
            self.accelerator.load_state(str(checkpoints[-1] / "deepspeed"), load_module_strict=False)
            state = read_progress(checkpoints[-1])
        else:
            state = load_newest(folder, self.setup.model, self.states)
        state = state or {"step": 0, "best": -1.0}
        self.meter.resume(state.get("losses", {}))
        return state

    def train_from(self, state: dict[str, Any], stop: int, record: RunRecord, progress: bool) -> None:
        """Run the steps from `state["step"]` to `stop` with their validations and checkpoints."""
        settings, done = self.settings, state["step"]
        batches = self._batches(done, stop)
        with _progress_bar(progress and self.accelerator.is_main_process) as bar:
            task = bar.add_task(self.out.name, total=self.steps, completed=done, note="")
            for step in range(done, stop):
                self.meter.add(self._step(step, batches))
                done = step + 1
                is_last = done == stop or self._out_of_time()
                if done % settings.log_every == 0 or done == self.steps:
                    values = self.meter.read()
                    record.log(done, values | {"lr": self._learning_rate(step)})
                    bar.update(task, note=f"loss {values['loss']:.3f} {values['samples_per_s']:.0f}/s")
                if done % settings.validate_every == 0 or done == self.steps:
                    self._validate(done, state, record)
                if done % settings.checkpoint_every == 0 or is_last:
                    self._checkpoint(done, state)
                bar.update(task, completed=done)
                if is_last:
                    break
        if state["best"] < 0:  # no validation yet: save a model even after a short run
            self._validate(done, state, record)
        elif done % settings.validate_every and done != self.steps:
            record.draw_curves()

    def _step(self, step: int, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """Run one optimiser step over `accumulation` batches and return the mean of their losses."""
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(step) * group["rate_factor"]
        device, means = self.accelerator.device, dict[str, Tensor]()
        for index in range(self.settings.accumulation):
            batch = to_device(next(batches), device)
            seed = self._batch_seed(step, index)
            torch.manual_seed(seed)  # for dropout, where a model has it
            with self.accelerator.accumulate(self.model):
                losses = self.setup.task(self.model, batch, torch.Generator(device).manual_seed(seed))
                total = torch.stack(list(losses.values())).sum()
                self._check_finite(total, losses, step, index)
                self.accelerator.backward(total)  # divides by the accumulation
                if self.accelerator.sync_gradients and self.settings.clip_grad_norm > 0:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            for name, loss in losses.items():
                means[name] = means.get(name, 0) + loss.detach() / self.settings.accumulation
        if self.average is not None:
            self.average.update(self.setup.model, step)
        return means

    def _batch_seed(self, step: int, index: int) -> int:
        """Seed of a batch; it is the same for two processes as for one with twice the accumulation."""
        batch = index * self.accelerator.num_processes + self.accelerator.process_index
        return self.recipe.seed * 1_000_003 + step * 97 + batch

    def _learning_rate(self, step: int) -> float:
        return self.settings.learning_rate * self.factor(step)

    def _check_finite(self, total: Tensor, losses: dict[str, Tensor], step: int, index: int) -> None:
        """Stop all processes if the loss of one is not finite, and write the ids of its batch to a file."""
        is_bad = ~total.detach().isfinite()
        is_bad_anywhere = is_bad
        if self.accelerator.num_processes > 1:
            is_bad_anywhere = self.accelerator.reduce(is_bad.float(), "sum") > 0
        if not is_bad_anywhere.item():
            return
        file = self.out / f"not_finite_step_{step + 1:07d}_process_{self.accelerator.process_index}.json"
        content = {
            "step": step + 1,
            "losses": {name: float(loss.detach()) for name, loss in losses.items()},
            "batch": [self.setup.train.describe(key) for key in self._sampler(step, step + 1).keys(step, index)],
        }
        write_atomic(file, json.dumps(content, indent=1))
        names = [name for name, loss in losses.items() if not loss.detach().isfinite()] or ["another process's loss"]
        raise FloatingPointError(
            f"step {step + 1}: expected a finite loss, got {total.item()} ({', '.join(names)}); "
            f"the batch's ids are in {file}; this step has changed nothing"
        )

    def _batches(self, start: int, stop: int) -> Iterator[Batch]:
        return iter(loader(self.setup.train, self._sampler(start, stop), self.settings.workers))

    def _sampler(self, start: int, stop: int) -> StepSampler:
        process_index, num_processes = self.accelerator.process_index, self.accelerator.num_processes
        return step_sampler(
            self.recipe, self.setup.train, start, stop, process_index=process_index, num_processes=num_processes
        )

    def _out_of_time(self) -> bool:
        """Whether `max_minutes` are over; the first process decides for all."""
        if self.settings.max_minutes is None:
            return False
        is_late = time.monotonic() - self.start_time > 60 * self.settings.max_minutes
        if self.accelerator.num_processes == 1:
            return is_late
        return bool(broadcast(torch.tensor(int(is_late), device=self.accelerator.device)).item())

    def _validate(self, step: int, state: dict[str, Any], record: RunRecord) -> None:
        """Score the weights in the form in which they would be saved, and save them if no earlier ones were better."""
        samples = self.setup.validation
        task: Any = self.setup.task
        settings, seed = self.settings, self.recipe.seed
        with self._averaged():
            validate: Any = validate_masks if isinstance(samples, ObjectCrops) else validate_answers
            scores = validate(
                self.accelerator, self.model, task, samples,
                max_samples=settings.validation_objects, batch_size=settings.batch_size,
                threshold=self.setup.mask_threshold, workers=settings.workers, seed=seed,
            )  # fmt: skip
            total = sum(scores.get(name, 0.0) for name in SELECTION_SCORES[self.recipe.task])
            is_best = total >= state["best"]
            state["best"] = max(total, state["best"])
            is_chosen = is_best or settings.select == "last"
            names = {"best": is_best, "final": step == self.steps, "model": is_chosen}
            self._save_model([name for name, is_due in names.items() if is_due])
            if settings.picture_objects > 0 and isinstance(samples, ObjectCrops):
                predictions = fixed_predictions(
                    self.accelerator, self.model, task, samples, settings.picture_objects, seed
                )
                record.save_sheet(
                    step,
                    draw_sheet(
                        *predictions,
                        self.setup.mask_threshold,
                        image_mean=samples.image_mean,
                        image_std=samples.image_std,
                    ),
                )
        record.log(step, {f"val_{name}": value for name, value in scores.items()})
        record.draw_curves()
        self.meter.restart_clock()

    def _averaged(self) -> AbstractContextManager[None]:
        """Within the context the model has the weights that are validated and saved."""
        return nullcontext() if self.average is None else self.average.applied(self.setup.model)

    def _save_model(self, names: list[str]) -> None:
        """Replace these folders of the run folder with the current weights."""
        if not names:
            return
        model: Any = full_model(self.accelerator, self.model, self.model_class)
        if model is None:
            return
        for name in names:
            temporary, final = self.out / f"{WRITING}model", self.out / name
            shutil.rmtree(temporary, ignore_errors=True)
            model.save_pretrained(temporary)
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)

    def _checkpoint(self, step: int, state: dict[str, Any]) -> None:
        folder, is_main = self.out / "checkpoints", self.accelerator.is_main_process
        progress = {"best": state["best"], "losses": self.meter.pending()}
        with self._averaged():
            model: Any = full_model(self.accelerator, self.model, self.model_class)
            saved = folder / f"{WRITING}model"
            if model is not None:
                shutil.rmtree(saved, ignore_errors=True)
                model.save_pretrained(saved)
        if not uses_deepspeed(self.accelerator):
            save_checkpoint(folder, step, self.setup.model, self.states, progress, saved, writes=is_main)
            return
        temporary = folder / f"{WRITING}{step:07d}"
        if is_main:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(temporary / "deepspeed"), exclude_frozen_parameters=True)
        self.accelerator.wait_for_everyone()
        if is_main:
            os.replace(saved, temporary / "model")
            finish_checkpoint(temporary, folder / f"step_{step:07d}", step, progress)


def _accelerator(recipe: Recipe, out: Path) -> Accelerator:
    settings = recipe.training
    if not torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)  # left by an earlier training in this process
    return Accelerator(
        cpu=not torch.accelerator.is_available(),  # else several processes on CPUs would not find each other
        mixed_precision=settings.precision,
        gradient_accumulation_steps=settings.accumulation,
        log_with=list(settings.trackers) or None,
        project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out / "logs")),
        # A batch prompted by boxes does not use SAM's point embeddings, and vice versa.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=recipe.task != "plug")],
    )


def _progress_bar(show: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TimeRemainingColumn(), disable=not show,
    )  # fmt: skip
