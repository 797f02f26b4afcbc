"""Which samples each training step reads, and the loader that reads them in worker processes.

The batches of step t are a function of (seed, t) alone, so a resumed run reads what an uninterrupted run reads.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from amodal.data.reason_seg import ReasonDataset
from amodal.data.samples import AnnotatedDataset
from amodal.errors import InputError
from amodal.losses import IGNORE_INDEX

Batch = dict[str, Tensor]

Key = tuple[int, int, tuple[int, ...]]
"""(index of the source, index of the sample within it, seed of the sample's random numbers)."""


@dataclass(frozen=True)
class CropSource:
    """An annotated dataset and its share of the batches."""

    dataset: AnnotatedDataset
    weight: float = 1.0
    min_visible_pixels: int = 1


UNNAMED = IGNORE_INDEX
"""Class of objects whose kind is not known."""


@dataclass(frozen=True)
class ReasonSource:
    """A dataset of conversations, its share of the batches, and the classes of its categories for the naming losses.

    `classes` maps ids of categories to numbers from 1 that all sources of a training share; 0 is the background, and
    `UNNAMED` an object whose kind is not known, from which no name is learned.
    """

    dataset: ReasonDataset
    weight: float = 1.0
    classes: Mapping[int, int] = field(default_factory=dict)


class TrainingSamples(Protocol):
    """A map-style dataset over several weighted sources, addressed by `Key`."""

    @property
    def sources(self) -> Sequence[CropSource | ReasonSource]:
        """The sources in the order of the keys' first entry."""

    @property
    def lengths(self) -> list[int]:
        """Number of samples of each source."""

    @property
    def collate(self) -> Callable[[list[dict[str, Any]]], Batch]:
        """The function that stacks samples into a batch."""

    def describe(self, key: Key) -> dict[str, Any]:
        """Ids and file of the sample that a key addresses, as JSON values."""

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """One sample before collation."""


class StepSampler:
    """Batch sampler whose keys for step t are a function of (seed, t), so that a run can resume at any step.

    Each step has `num_processes * accumulation` batches of equal size. Batch m of process p holds the keys
    m * num_processes + p, m * num_processes + p + num_processes * accumulation, ... of the step. Two processes
    therefore draw, batch by batch, what one process with twice the accumulation and half the batch size draws.

    Args:
        lengths: number of samples of each source.
        weights: share of each source in the batches.
        batch_size: samples per batch, over all processes.
        seed: seed of the run.
        start: first step.
        stop: step after the last.
        accumulation: batches per step and process.
        process_index: rank of this process.
        num_processes: number of processes that share each step.

    Raises:
        InputError: no source has both samples and a positive weight.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        weights: Sequence[float],
        batch_size: int,
        seed: int,
        start: int,
        stop: int,
        *,
        accumulation: int = 1,
        process_index: int = 0,
        num_processes: int = 1,
    ) -> None:
        self.lengths = list(lengths)
        shares = np.array([w if n else 0.0 for w, n in zip(weights, lengths, strict=True)])
        if not shares.sum() > 0:
            raise InputError(f"weight: expected a source with objects and a weight above 0, got {list(weights)}")
        self.shares = shares / shares.sum()
        self.batch_size, self.seed, self.start, self.stop = batch_size, seed, start, stop
        self.accumulation, self.process_index, self.num_processes = accumulation, process_index, num_processes

    def __len__(self) -> int:
        return (self.stop - self.start) * self.accumulation

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self.start, self.stop):
            for batch in range(self.accumulation):
                yield self.keys(step, batch)

    def keys(self, step: int, batch: int = 0) -> list[Key]:
        """Keys of one batch of a step for this process."""
        rng = np.random.default_rng([self.seed, step])
        sources = rng.choice(len(self.shares), self.batch_size * self.accumulation, p=self.shares)
        keys: list[Key] = [
            (int(s), int(rng.integers(self.lengths[s])), (self.seed, step, slot)) for slot, s in enumerate(sources)
        ]
        return keys[batch * self.num_processes + self.process_index :: self.num_processes * self.accumulation]


def evaluation_keys(samples: TrainingSamples, max_samples: int, seed: int) -> list[Key]:
    """Keys of a fixed random choice of up to `max_samples` samples over all sources."""
    keys: list[Key] = [(s, i, (seed,)) for s, n in enumerate(samples.lengths) for i in range(n)]
    chosen = np.random.default_rng(seed).permutation(len(keys))[:max_samples]
    return [keys[i] for i in chosen]


def loader(samples: TrainingSamples, sampler: Any, workers: int) -> DataLoader[Batch]:
    """Loader of collated batches for a sampler's keys; uses pinned memory if there is a GPU to copy to."""
    dataset: Any = samples
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=samples.collate,
        num_workers=workers,
        worker_init_fn=_init_worker,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on another device; the copy is asynchronous where the device supports it."""
    return {k: v.to(device, non_blocking=True) for k, v in batch.items()}


def limit_threads() -> None:
    """Restrict a worker process to one thread, because the model needs the other cores."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _init_worker(_: int) -> None:
    limit_threads()
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()


def _exit_with_parent(parent: int) -> None:
    """End this worker once its parent process no longer exists.

    PyTorch's own check for a killed parent ends the worker's loop, but the worker process then waits
    for a reader of the batches that it has already queued.
    """
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
