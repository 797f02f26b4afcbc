from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from amodal.training.optimizers import new_optimizer
from amodal.training.recipe import TrainingRecipe


def settings(**changes: Any) -> TrainingRecipe:
    return TrainingRecipe.model_validate({"steps": 1, "weight_decay": 0.2} | changes)


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 5))


def run_steps(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(step))
        model(images).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_biases_and_norms_are_not_decayed() -> None:
    groups = new_optimizer(small_model(), settings()).param_groups
    assert sum(len(group["params"]) for group in groups) == 6
    assert all((p.dim() > 1) == (group["weight_decay"] == 0.2) for group in groups for p in group["params"])


@pytest.mark.parametrize("trunk_rate", [1.0, 0.5, None])
@pytest.mark.parametrize("model", [small_model(), nn.Linear(3, 2), nn.Linear(3, 2, bias=False), nn.LayerNorm(3)])
def test_no_group_is_empty(model: nn.Module, trunk_rate: float | None) -> None:
    """Sharded checkpoints of PyTorch allow one empty group at most, because groups are matched by their parameters."""
    made = new_optimizer(model, settings(trunk_rate=trunk_rate))
    groups = [len(group["params"]) for group in made.param_groups]
    assert groups.count(0) == 0 and sum(groups) == len(list(model.parameters()))


def test_a_stored_state_can_be_resumed() -> None:
    model = small_model()
    optimizer = new_optimizer(model, settings())
    run_steps(model, optimizer, range(3))
    other = copy.deepcopy(model)
    state = copy.deepcopy(optimizer.state_dict())
    resumed = new_optimizer(other, settings())
    resumed.load_state_dict(state)
    for one in (optimizer, resumed):
        for group in one.param_groups:
            group["lr"] = 0.01
    run_steps(model, optimizer, range(3, 6))
    run_steps(other, resumed, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
