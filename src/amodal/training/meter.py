"""Mean losses and speed between two lines of the log."""

from __future__ import annotations

import time

import torch
from accelerate import Accelerator
from torch import Tensor


class Meter:
    """Sums losses until they are read; the sums survive a checkpoint.

    Args:
        accelerator: the losses of all processes count.
        samples_per_step: crops a step, over all processes.
    """

    def __init__(self, accelerator: Accelerator, samples_per_step: int) -> None:
        self.accelerator, self.samples_per_step = accelerator, samples_per_step
        self.count = 0  # of steps summed up
        self.sums: dict[str, Tensor] = {}
        self.restart()

    def resume(self, pending: dict[str, float]) -> None:
        """Go on with what had been summed up but not read (see `pending`)."""
        sums, device = dict(pending), self.accelerator.device
        self.count = int(sums.pop("steps", 0))
        self.sums = {name: torch.tensor(value, device=device) for name, value in sums.items()}
        self.restart()

    def restart(self) -> None:
        """Start the clock anew, after a validation."""
        self.since, self.timed = time.monotonic(), 0

    def add(self, losses: dict[str, Tensor]) -> None:
        """Take in the losses of one step."""
        self.count += 1
        self.timed += 1
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(loss)) + loss

    def pending(self) -> dict[str, float]:
        """Sums that were not read yet and the number of their `steps`; every process must call this."""
        return self._over_processes() | {"steps": self.count} if self.count else {}

    def read(self) -> dict[str, float]:
        """Means by name, their sum as `loss`, and `samples_per_s`; every process must call this."""
        means = {name: total / self.count for name, total in self._over_processes().items()}
        rate = self.timed * self.samples_per_step / (time.monotonic() - self.since)
        self.count, self.sums = 0, {}
        self.restart()
        return means | {"loss": sum(means.values()), "samples_per_s": rate}

    def _over_processes(self) -> dict[str, float]:
        if not self.sums:
            return {}
        values = torch.stack([total.float() for total in self.sums.values()])
        if self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(values, "mean")
        return dict(zip(self.sums, values.tolist(), strict=True))
