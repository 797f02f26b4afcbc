"""The optimiser of a training, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

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
    """AdamW. Vectors (biases and the parameters of norms) have no weight decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    slow_ids = {id(p) for p in _pretrained(model)} if settings.trunk_rate != 1 else set()
    groups: list[dict[str, Any]] = []
    for rate, members in (
        (1.0, [p for p in trained if id(p) not in slow_ids]),
        (settings.trunk_rate, [p for p in trained if id(p) in slow_ids]),
    ):
        for vectors, decay in ((False, settings.weight_decay), (True, 0.0)):
            params = [p for p in members if (p.dim() <= 1) == vectors]
            if params:
                groups.append({"params": params, "weight_decay": decay, "lr": settings.learning_rate * rate})
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas)


def _pretrained(model: nn.Module) -> list[Tensor]:
    """The parameters of an EfficientNet-Lite in the model that ImageNet has trained."""
    trunks = [module for module in model.modules() if isinstance(module, EfficientNetLite)]
    return [p for trunk in trunks for part in (trunk.stem, trunk.blocks) for p in part.parameters()]
