"""Batches for the loop: made by worker processes, in an order that depends on seed and step."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from amodal.training.datasets.conversations import PictureConversations
from amodal.training.datasets.crops import ObjectCrops, StepSampler, limit_threads
from amodal.training.datasets.named_pictures import NamedPictures
from amodal.training.recipe import Recipe

Batch = dict[str, Tensor]
Samples = ObjectCrops | PictureConversations | NamedPictures


def step_sampler(
    recipe: Recipe, crops: Samples, start: int, stop: int, *, part: int = 0, parts: int = 1
) -> StepSampler:
    """Keys of steps `start` to `stop` for process `part` of `parts`."""
    settings = recipe.training
    return StepSampler(
        crops.lengths,
        [source.weight for source in crops.sources],
        settings.batch_size,
        recipe.seed,
        start,
        stop,
        accumulation=settings.accumulation,
        part=part,
        parts=parts,
    )


def loader(crops: Samples, sampler: Any, workers: int) -> DataLoader[Batch]:
    """Collated batches of a sampler's keys; pinned where there is a GPU to copy to."""
    return DataLoader(
        crops,
        batch_sampler=sampler,
        collate_fn=crops.collate,
        num_workers=workers,
        worker_init_fn=_init_worker,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on another device; the copy does not wait."""
    return {k: v.to(device, non_blocking=True) for k, v in batch.items()}


def _init_worker(_: int) -> None:
    limit_threads()
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()


def _leave_with(parent: int) -> None:
    """End this worker once its parent is gone.

    torch's own watch over a killed parent ends the worker's loop, but not the worker, which waits
    for somebody to take the batches it has made.
    """
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
