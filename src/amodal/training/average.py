"""A moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from amodal.training.state import assign, whole


class MovingAverage:
    """Exponential average of a model's trained tensors.

    Args:
        model: starts the average.
        decay: share of the old average that a step keeps; smaller during the first steps, which
            would otherwise hold on to the initial weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: p.detach().clone() for name, p in _trained(model)}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in _trained(model):
            self.tensors[name].lerp_(parameter, 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within the context the model has the averaged weights."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged tensors by name, whole; every process must call this."""
        return {name: whole(tensor) for name, tensor in self.tensors.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a stored average."""
        for name, tensor in self.tensors.items():
            assign(tensor, state[name])

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for name, parameter in _trained(model):
            present = parameter.detach().clone()
            parameter.copy_(self.tensors[name])
            self.tensors[name].copy_(present)


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]
