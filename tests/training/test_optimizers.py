from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from torch import nn

from amodal.errors import InputError
from amodal.training.checkpoint import check_device_and_settings
from amodal.training.optimizers import new_optimizer
from amodal.training.recipe import TrainingRecipe


def settings(optimizer: str, **changes: Any) -> TrainingRecipe:
    return TrainingRecipe.model_validate({"optimizer": optimizer, "steps": 1, "weight_decay": 0.2} | changes)


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 5))


def run_steps(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(step))
        model(images).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_biases_and_norms_are_not_decayed(name: str) -> None:
    groups = new_optimizer(small_model(), settings(name)).param_groups
    assert sum(len(group["params"]) for group in groups) == 6
    assert all((p.dim() > 1) == (group["weight_decay"] == 0.2) for group in groups for p in group["params"])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("trunk_rate", [1.0, 0.5])
@pytest.mark.parametrize("model", [small_model(), nn.Linear(3, 2), nn.Linear(3, 2, bias=False), nn.LayerNorm(3)])
def test_at_most_one_group_is_empty(model: nn.Module, trunk_rate: float, optimizer: str) -> None:
    """Sharded checkpoints of PyTorch allow one empty group at most, because groups are matched by their parameters."""
    made = new_optimizer(model, settings(optimizer, trunk_rate=trunk_rate))
    groups = [len(group["params"]) for group in made.param_groups]
    assert groups.count(0) <= 1 and sum(groups) == len(list(model.parameters()))


def test_muon_updates_linear_layers_and_adamw_everything_else() -> None:
    model = small_model()
    alone = copy.deepcopy(model)
    both = new_optimizer(model, settings("muon"))
    adamw = new_optimizer(alone, settings("adamw"))
    muon = torch.optim.Muon([alone[3].weight], lr=1e-3, weight_decay=0.2, adjust_lr_fn="match_rms_adamw")
    run_steps(model, both, range(1))
    alone(torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    muon.step()
    alone[3].weight.grad = None
    adamw.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), alone.parameters(), strict=True))


def test_muon_with_an_older_pytorch_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(InputError, match="training.optimizer: expected 'adamw' with torch .*, got 'muon'"):
        new_optimizer(small_model(), settings("muon"))


@pytest.mark.parametrize("sharding", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_muon_with_sharded_weights_is_rejected(sharding: DistributedType) -> None:
    accelerator: Any = SimpleNamespace(
        num_processes=2, mixed_precision="no", device=torch.device("cpu"), distributed_type=sharding
    )
    with pytest.raises(InputError, match="expected 'adamw' for weights sharded over processes, got 'muon'"):
        check_device_and_settings(accelerator, settings("muon", batch_size=2))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_stored_state_can_be_resumed(name: str) -> None:
    model = small_model()
    optimizer = new_optimizer(model, settings(name))
    run_steps(model, optimizer, range(3))
    other = copy.deepcopy(model)
    state = copy.deepcopy(optimizer.state_dict())
    resumed = new_optimizer(other, settings(name))
    resumed.load_state_dict(state)
    for one in (optimizer, resumed):
        for group in one.param_groups:
            group["lr"] = 0.01
    run_steps(model, optimizer, range(3, 6))
    run_steps(other, resumed, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
