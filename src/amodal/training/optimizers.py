"""The optimiser of a training, and its learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from amodal.models.bases.efficientnet_lite import EfficientNetLite
from amodal.nn.convolutions import AdaptedConvolution
from amodal.training.recipe import TrainingRecipe

SMALLEST_SIZE = 0.01
"""Least root mean square that counts for the rate of a trunk's tensor, so that biases near zero can learn."""


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
    """AdamW. Vectors (biases and the parameters of norms) have no weight decay.

    Each group has a `rate_factor`, by which the training loop multiplies the learning rate of a step.
    """
    factors = {} if settings.trunk_rate is None else _trunk_factors(model, settings.trunk_rate)
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            decay = settings.weight_decay if parameter.dim() > 1 else 0.0
            groups.setdefault((factors.get(id(parameter), 1.0), decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": members, "weight_decay": decay, "rate_factor": factor}
            for (factor, decay), members in groups.items()
        ],
        lr=settings.learning_rate,
        betas=settings.betas,
    )


def _trunk_factors(model: nn.Module, trunk_rate: float) -> dict[int, float]:
    """Factors on the learning rate of the layers that ImageNet has trained, by the id of the parameter.

    A step of Adam moves each weight by about the learning rate, whatever the size of the weight. Batch norm is folded
    into the convolutions of an EfficientNet-Lite, which leaves weights of very different sizes (a root mean square of
    0.012 to 2.3). One rate for all of them destroyed the trunk within a training (docs/log/plug-models.md). So each
    tensor's rate is in proportion to its own root mean square, and that of an adapter to the gain of its convolution.
    """
    factors: dict[int, float] = {}
    for trunk in (module for module in model.modules() if isinstance(module, EfficientNetLite)):
        for part in (trunk.stem, trunk.blocks):
            for module in part.modules():
                if isinstance(module, AdaptedConvolution):
                    gain = _root_mean_square(module.weight) * math.sqrt(module.in_channels)
                    factors |= {id(p): min(1.0, trunk_rate * gain) for p in module.lora.parameters()}
                if isinstance(module, nn.Conv2d):
                    own = module.parameters(recurse=False)
                    factors |= {id(p): min(1.0, trunk_rate * max(_root_mean_square(p), SMALLEST_SIZE)) for p in own}
    return factors


def _root_mean_square(x: Tensor) -> float:
    return float(x.detach().float().square().mean().sqrt())
