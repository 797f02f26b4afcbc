"""Quick scores during a training; the reported figures come from `amodal.evaluation`."""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from amodal.training.aura import AuraSamples
from amodal.training.build import PromptedTask
from amodal.training.datasets.crops import Key, ObjectCrops, evaluation_keys
from amodal.training.feeding import loader, to_device
from amodal.training.state import settle
from amodal.training.tasks.aura import AuraTask

NAMES = ("visible", "full", "occ")


@torch.no_grad()
def validate(
    accelerator: Accelerator, model: nn.Module, task: PromptedTask, crops: ObjectCrops, *,
    limit: int, batch_size: int, threshold: float, workers: int, seed: int,
) -> dict[str, float]:  # fmt: skip
    """Mean IoUs in the crop's frame over a fixed choice of objects, shared by the processes.

    Args:
        accelerator: device and processes.
        model: prepared model.
        task: its task.
        crops: objects to choose from.
        limit: objects at most.
        batch_size: crops a batch, over all processes.
        threshold: probability above which a pixel is foreground.
        workers: processes that read crops.
        seed: seed of the choice.

    Returns:
        `visible`, `full` (amodal) and `occ` (hidden part, objects that have one).
    """
    model.eval()
    keys = evaluation_keys(crops, limit, seed)
    batches = _own_batches(keys, batch_size, accelerator.process_index, accelerator.num_processes)
    sums = torch.zeros(len(NAMES), 2, dtype=torch.float64)
    counts = [sum(slot is not None for slot in batch) for batch in batches]
    sampler = [[keys[0] if slot is None else slot for slot in batch] for batch in batches]
    for count, batch in zip(counts, loader(crops, sampler, workers), strict=True):
        batch = to_device(batch, accelerator.device)
        visible, amodal = (p[:count, 0] > threshold for p in task.predict(model, batch))
        sums += _scores(visible, amodal, {k: v[:count] for k, v in batch.items()}).cpu()
    settle(model)
    if accelerator.num_processes > 1:
        sums = accelerator.reduce(sums.to(accelerator.device), "sum").cpu()
    return {name: total / count if count else 0.0 for name, (total, count) in zip(NAMES, sums.tolist(), strict=True)}


@torch.no_grad()
def validate_answers(
    accelerator: Accelerator, model: nn.Module, task: AuraTask, pictures: AuraSamples, *,
    limit: int, batch_size: int, threshold: float, workers: int, seed: int,
) -> dict[str, float]:  # fmt: skip
    """Mean figures of `AuraTask.scores` over a fixed choice of pictures, the true answers given.

    Arguments as `validate`; `limit` and `batch_size` count pictures.
    """
    model.eval()
    keys = evaluation_keys(pictures, limit, seed)
    share, parts = max(batch_size // accelerator.num_processes, 1), accelerator.num_processes
    own = keys[accelerator.process_index :: parts]
    batches = [own[i : i + share] for i in range(0, len(own), share)]
    wanted = math.ceil(math.ceil(len(keys) / parts) / share)  # all processes call the model equally often
    sampler = batches + [keys[:1]] * (wanted - len(batches))
    sums: dict[str, Tensor] = {}
    for index, batch in enumerate(loader(pictures, sampler, workers)):
        with accelerator.autocast():
            found = task.scores(model, to_device(batch, accelerator.device), threshold)
        for name, (total, count) in found.items():
            counted = torch.tensor([total, count], dtype=torch.float64) * (index < len(batches))
            sums[name] = sums.get(name, torch.zeros(2, dtype=torch.float64)) + counted
    settle(model)
    if parts > 1:
        sums = {k: accelerator.reduce(v.to(accelerator.device), "sum").cpu() for k, v in sums.items()}
    return {name: float(total / count) if count else 0.0 for name, (total, count) in sums.items()}


@torch.no_grad()
def fixed_predictions(
    accelerator: Accelerator, model: nn.Module, task: PromptedTask, crops: ObjectCrops, number: int, seed: int
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The same few objects at every call, and what the model says now.

    Returns:
        Their batch on the CPU, visible and amodal probabilities (B, P, S, S).
    """
    model.eval()
    keys = evaluation_keys(crops, number, seed)
    batch = next(iter(loader(crops, [keys], workers=0)))
    visible, amodal = task.predict(model, to_device(batch, accelerator.device))
    settle(model)
    return batch, visible, amodal


def _own_batches(keys: list[Key], batch_size: int, part: int, parts: int) -> list[list[Key | None]]:
    """This process's share; None fills up, so that all processes call the model equally often."""
    share = max(batch_size // parts, 1)
    own: list[Key | None] = [*keys[part::parts]]
    wanted = math.ceil(len(keys) / parts)
    own += [None] * (wanted - len(own))
    return [own[i : i + share] for i in range(0, wanted, share)]


def _scores(visible: Tensor, amodal: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """(3, 2): sum and number of the IoUs of each of `NAMES`; masks (B, S, S) bool."""
    true_visible, true_amodal = batch["visible_masks"][:, 0], batch["amodal_masks"][:, 0]
    known = batch["has_amodal"][:, 0]
    hidden = true_amodal & ~true_visible
    ious = (
        _ious(visible, true_visible),
        _ious(amodal, true_amodal)[known],
        _ious(amodal & ~true_visible, hidden)[known & hidden.any(-1).any(-1)],
    )
    return torch.stack([torch.stack([v.double().sum(), v.new_tensor(len(v)).double()]) for v in ious])


def _ious(a: Tensor, b: Tensor) -> Tensor:
    union = (a | b).sum((-2, -1))
    return torch.where(union > 0, (a & b).sum((-2, -1)) / union.clamp_min(1), 1.0)
