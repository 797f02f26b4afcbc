"""Quick scores during a training; `amodal.evaluation` computes the scores to report."""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from amodal.losses import mask_ious
from amodal.training.build import PromptedTask
from amodal.training.build_aura import AuraSamples
from amodal.training.checkpoint import reshard
from amodal.training.datasets.crops import ObjectCrops
from amodal.training.datasets.sampling import Batch, Key, evaluation_keys, loader, to_device
from amodal.training.tasks.aura import AuraTask

SCORES = ("visible", "full", "occ")


@torch.no_grad()
def validate_masks(
    accelerator: Accelerator, model: nn.Module, task: PromptedTask, crops: ObjectCrops, *,
    max_samples: int, batch_size: int, threshold: float, workers: int, seed: int,
) -> dict[str, float]:  # fmt: skip
    """Mean IoUs in the crop's frame over a fixed choice of objects, computed by all processes together.

    Args:
        accelerator: device and processes.
        model: prepared model.
        task: task of the model.
        crops: objects to choose from.
        max_samples: maximum number of objects.
        batch_size: crops per batch, over all processes.
        threshold: probability above which a pixel is foreground.
        workers: number of processes that read crops.
        seed: seed of the choice.

    Returns:
        `visible`, `full` (amodal mask) and `occ` (occluded part of the objects that have one).
    """
    model.eval()
    keys = evaluation_keys(crops, max_samples, seed)
    batches = _own_batches(keys, batch_size, accelerator.process_index, accelerator.num_processes)
    sums = torch.zeros(len(SCORES), 2, dtype=torch.float64)
    counts = [sum(slot is not None for slot in batch) for batch in batches]
    sampler = [[keys[0] if slot is None else slot for slot in batch] for batch in batches]
    for count, batch in zip(counts, loader(crops, sampler, workers), strict=True):
        batch = to_device(batch, accelerator.device)
        visible, amodal = (p[:count, 0] > threshold for p in task.predict(model, batch))
        sums += _sums_and_counts(visible, amodal, {k: v[:count] for k, v in batch.items()}).cpu()
    reshard(model)
    if accelerator.num_processes > 1:
        sums = accelerator.reduce(sums.to(accelerator.device), "sum").cpu()
    return {name: total / count if count else 0.0 for name, (total, count) in zip(SCORES, sums.tolist(), strict=True)}


@torch.no_grad()
def validate_answers(
    accelerator: Accelerator, model: nn.Module, task: AuraTask, images: AuraSamples, *,
    max_samples: int, batch_size: int, threshold: float, workers: int, seed: int,
) -> dict[str, float]:  # fmt: skip
    """Mean scores of a task's `scores` over a fixed choice of images: AURA's with the true answers, or a detector's.

    The arguments are those of `validate_masks`; `max_samples` and `batch_size` count images.
    """
    model.eval()
    keys = evaluation_keys(images, max_samples, seed)
    num_processes = accelerator.num_processes
    own_batch_size = max(batch_size // num_processes, 1)
    own = keys[accelerator.process_index :: num_processes]
    batches = [own[i : i + own_batch_size] for i in range(0, len(own), own_batch_size)]
    # All processes must call the model equally often.
    num_batches = math.ceil(math.ceil(len(keys) / num_processes) / own_batch_size)
    sampler = batches + [keys[:1]] * (num_batches - len(batches))
    sums: dict[str, Tensor] = {}
    for index, batch in enumerate(loader(images, sampler, workers)):
        with accelerator.autocast():
            scores = task.scores(model, to_device(batch, accelerator.device), threshold)
        for name, (total, count) in scores.items():
            counted = torch.tensor([total, count], dtype=torch.float64) * (index < len(batches))
            sums[name] = sums.get(name, torch.zeros(2, dtype=torch.float64)) + counted
    reshard(model)
    if num_processes > 1:
        sums = {k: accelerator.reduce(v.to(accelerator.device), "sum").cpu() for k, v in sums.items()}
    return {name: float(total / count) if count else 0.0 for name, (total, count) in sums.items()}


@torch.no_grad()
def fixed_predictions(
    accelerator: Accelerator, model: nn.Module, task: PromptedTask, crops: ObjectCrops, num_objects: int, seed: int
) -> tuple[Batch, Tensor, Tensor]:
    """Predictions for a few objects, which are the same in every call.

    Returns:
        The batch of the objects on the CPU, visible and amodal probabilities (B, P, S, S).
    """
    model.eval()
    keys = evaluation_keys(crops, num_objects, seed)
    batch = next(iter(loader(crops, [keys], workers=0)))
    visible, amodal = task.predict(model, to_device(batch, accelerator.device))
    reshard(model)
    return batch, visible, amodal


def _own_batches(keys: list[Key], batch_size: int, process_index: int, num_processes: int) -> list[list[Key | None]]:
    """Batches of this process; None pads them, so that all processes call the model equally often."""
    own_batch_size = max(batch_size // num_processes, 1)
    own: list[Key | None] = [*keys[process_index::num_processes]]
    num_samples = math.ceil(len(keys) / num_processes)
    own += [None] * (num_samples - len(own))
    return [own[i : i + own_batch_size] for i in range(0, num_samples, own_batch_size)]


def _sums_and_counts(visible: Tensor, amodal: Tensor, batch: Batch) -> Tensor:
    """(3, 2) sum and number of the IoUs of each score in `SCORES`; masks (B, S, S) bool."""
    true_visible, true_amodal = batch["visible_masks"][:, 0], batch["amodal_masks"][:, 0]
    has_amodal = batch["has_amodal"][:, 0]
    occluded = true_amodal & ~true_visible
    ious = (
        mask_ious(visible, true_visible),
        mask_ious(amodal, true_amodal)[has_amodal],
        mask_ious(amodal & ~true_visible, occluded)[has_amodal & occluded.any(-1).any(-1)],
    )
    return torch.stack([torch.stack([v.double().sum(), v.new_tensor(len(v)).double()]) for v in ious])
