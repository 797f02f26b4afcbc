"""The training loop: Accelerate underneath, one forward a step, resumable at any step."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from amodal.data.crops import Key, ObjectCrops, StepSampler, collate, evaluation_keys, limit_threads
from amodal.training.build import Task, Training, build, learning_rate_factor, total_steps
from amodal.training.checkpoint import load_newest, save_checkpoint
from amodal.training.recipe import Recipe

Batch = dict[str, Tensor]


def train(recipe: Recipe, *, progress: bool = True, stop_after: int | None = None) -> Path:
    """Run or resume a training.

    Args:
        recipe: what to train.
        progress: show a bar.
        stop_after: end with a checkpoint after this step, for a run to be continued later.

    Returns:
        Folder of the best model, `output/model`.
    """
    out = Path(recipe.output)
    out.mkdir(parents=True, exist_ok=True)
    settings = recipe.training
    accelerator = Accelerator(
        mixed_precision=settings.precision,
        gradient_accumulation_steps=settings.accumulation,
        log_with="tensorboard",
        project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out / "logs")),
    )
    training = build(recipe)
    steps = total_steps(settings, sum(training.train.lengths))
    optimizer = _optimizer(training.model, recipe)
    model, optimizer = accelerator.prepare(training.model, optimizer)
    found = load_newest(out / "checkpoints", accelerator.unwrap_model(model), optimizer)
    state: dict[str, Any] = found or {"step": 0, "best": -1.0}
    _describe(out, recipe)
    accelerator.init_trackers("tensorboard")
    run = _Run(accelerator, model, optimizer, training, recipe, steps, out)
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

    def train_from(self, state: dict[str, Any], stop: int, progress: bool) -> None:
        """Steps `state["step"]` to `stop`, with validation and checkpoints on the way."""
        since, logged = time.monotonic(), state["step"]
        batches = self._batches(state["step"], stop)
        with _bar(progress) as bar:
            task = bar.add_task(Path(self.recipe.output).name, total=self.steps, completed=state["step"], note="")
            for step in range(state["step"], stop):
                losses = self._step(step, batches)
                done = step + 1
                if done % self.settings.log_every == 0 or done == stop:
                    elapsed = time.monotonic() - since
                    rate = (done - logged) * self.settings.batch_size * self.settings.accumulation / elapsed
                    self._log(done, {k: v.item() for k, v in losses.items()} | {"samples_per_s": rate})
                    since, logged = time.monotonic(), done
                    bar.update(task, note=f"loss {sum(v.item() for v in losses.values()):.3f} {rate:.0f}/s")
                if done % self.settings.validate_every == 0 or done == self.steps:
                    self._validate(done, state)
                    since = time.monotonic()
                if done % self.settings.checkpoint_every == 0 or done == stop:
                    save_checkpoint(
                        self.out / "checkpoints", done, self.accelerator.unwrap_model(self.model),
                        self.optimizer, {"best": state["best"]},
                    )  # fmt: skip
                bar.update(task, completed=done)

    def _step(self, step: int, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """One optimiser step over `accumulation` batches; returns the last one's losses."""
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * self.factor(step)
        for part in range(self.settings.accumulation):
            batch = self._to_device(next(batches))
            generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step * 97 + part)
            losses = self.training.task(self.model, batch, generator)
            total = torch.stack(list(losses.values())).sum()
            if not total.isfinite():
                raise FloatingPointError(f"loss is {total.item()} at step {step}: {losses}")
            self.accelerator.backward(total / self.settings.accumulation)
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {name: loss.detach() for name, loss in losses.items()}

    def _batches(self, start: int, stop: int) -> Iterator[Batch]:
        per_step = self.settings.accumulation
        crops = self.training.train
        sampler = StepSampler(
            crops.lengths, [s.weight for s in crops.sources], self.settings.batch_size,
            self.recipe.seed, start * per_step, stop * per_step,
        )  # fmt: skip
        return iter(_loader(crops, sampler, self.settings.workers))

    def _validate(self, step: int, state: dict[str, Any]) -> None:
        metrics = validate(
            self.accelerator, self.model, self.training.task, self.training.validation,
            limit=self.settings.validation_objects, batch_size=self.settings.batch_size,
            threshold=self.training.mask_threshold, workers=self.settings.workers, seed=self.recipe.seed,
        )  # fmt: skip
        self._log(step, {f"val_{name}": value for name, value in metrics.items()})
        score = metrics["visible"] if self.recipe.task == "sam" else metrics["full"] + metrics["occ"]
        if score >= state["best"]:
            state["best"] = score
            self._save_model()

    def _save_model(self) -> None:
        """Replace `output/model` by the present weights."""
        temporary, final = self.out / ".writing_model", self.out / "model"
        shutil.rmtree(temporary, ignore_errors=True)
        model: Any = self.accelerator.unwrap_model(self.model)
        model.save_pretrained(temporary)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)

    def _log(self, step: int, values: dict[str, float]) -> None:
        values = values | {"lr": self.optimizer.param_groups[0]["lr"]}
        self.accelerator.log(values, step=step)
        line = {"step": step, "time": round(time.time(), 1)} | {k: round(v, 5) for k, v in values.items()}
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _to_device(self, batch: Batch) -> Batch:
        return {k: v.to(self.accelerator.device, non_blocking=True) for k, v in batch.items()}


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


def _describe(out: Path, recipe: Recipe) -> None:
    """Leave the resolved recipe, the versions and the commit beside the result."""
    import accelerate
    import transformers

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


__all__ = ["Key", "train", "validate"]
