"""The optimisers that a recipe can name, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from amodal.errors import InputError
from amodal.models.bases.efficientnet_lite import EfficientNetLite
from amodal.training.recipe import TrainingRecipe


def total_steps(settings: TrainingRecipe, num_objects: int) -> int:
    """Number of optimiser steps of the whole training; one epoch reads every object once on average."""
    if settings.steps is not None:
        return settings.steps
    assert settings.epochs is not None
    return max(settings.epochs * num_objects // (settings.batch_size * settings.accumulation), 1)


def learning_rate_factor(settings: TrainingRecipe, steps: int) -> Callable[[int], float]:
    """Factor on the learning rate by step: linear warm-up, then decay to 0 (PLUG section 4.2)."""

    def factor(step: int) -> float:
        if step < settings.warmup_steps:
            return (step + 1) / settings.warmup_steps
        done = (step - settings.warmup_steps) / max(steps - settings.warmup_steps, 1)
        return 1 - done if settings.decay == "linear" else 0.5 * (1 + math.cos(math.pi * min(done, 1)))

    return factor


def new_optimizer(model: nn.Module, settings: TrainingRecipe) -> torch.optim.Optimizer:
    """AdamW, or Muon for linear layers and AdamW for all other parameters.

    Vectors (biases and the parameters of norms) have no weight decay.

    Raises:
        InputError: Muon is set, but the installed PyTorch does not have it.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = _linear_weights(model) if settings.optimizer == "muon" else []
    muon_ids = {id(p) for p in matrices}
    others = [p for p in trained if id(p) not in muon_ids]
    slow_ids = {id(p) for p in _pretrained(model)} if settings.trunk_rate != 1 else set()
    groups: list[dict[str, Any]] = []
    for rate, members in (
        (1.0, [p for p in others if id(p) not in slow_ids]),
        (settings.trunk_rate, [p for p in others if id(p) in slow_ids]),
    ):
        for vectors, decay in ((False, settings.weight_decay), (True, 0.0)):
            params = [p for p in members if (p.dim() <= 1) == vectors]
            if params:
                groups.append({"params": params, "weight_decay": decay, "lr": settings.learning_rate * rate})
    if not groups:  # Muon has all parameters
        groups.append({"params": [], "weight_decay": settings.weight_decay})
    adamw = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas)
    if settings.optimizer == "adamw":
        return adamw
    if not hasattr(torch.optim, "Muon"):
        raise InputError(f"training.optimizer: expected 'adamw' with torch {torch.__version__}, got 'muon' (torch 2.9)")
    muon = torch.optim.Muon(
        [{"params": matrices}],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return MuonAndAdamW(muon, adamw)


class MuonAndAdamW(torch.optim.Optimizer):
    """Two optimisers behind the interface of one, with a joint list of groups and a joint state.

    Muon orthogonalises the update of a matrix; `match_rms_adamw` scales the update so that AdamW's
    learning rate and weight decay also suit Muon.

    Args:
        muon: optimiser of the matrices.
        adamw: optimiser of all other parameters.
    """

    def __init__(self, muon: torch.optim.Optimizer, adamw: torch.optim.Optimizer) -> None:
        self.optimizers = (muon, adamw)
        self.num_muon_groups = len(muon.param_groups)
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self._share_state()

    def step(self, closure: Any = None) -> Any:
        """Take one step with both optimisers and return the loss of the closure, if there is one."""
        loss = None if closure is None else closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint; PyTorch replaces groups and state, so both optimisers must share them again."""
        super().__setstate__(state)
        self._share_state()

    def _share_state(self) -> None:
        muon, adamw = self.optimizers
        muon.param_groups = self.param_groups[: self.num_muon_groups]
        adamw.param_groups = self.param_groups[self.num_muon_groups :]
        muon.state = adamw.state = self.state


def _pretrained(model: nn.Module) -> list[Tensor]:
    """The parameters of an EfficientNet-Lite in the model that ImageNet has trained."""
    trunks = [module for module in model.modules() if isinstance(module, EfficientNetLite)]
    return [p for trunk in trunks for part in (trunk.stem, trunk.blocks) for p in part.parameters()]


def _linear_weights(model: nn.Module) -> list[Tensor]:
    """Weights of linear layers without a language model's output layer, whose rows are words as in the embeddings."""
    linears = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear) and m.weight.requires_grad]
    return [linear.weight for name, linear in linears if not name.endswith("lm_head")]
