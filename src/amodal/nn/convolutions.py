"""Convolutions of trunks and decoders: parallel low-rank adapters on 1x1 convolutions, and depthwise convolutions.

A 1x1 convolution is a linear map of each cell's channels, so it takes the same pair as the projections of an
attention: W x + scale * B A x. The trunk is any module; its code is not known here. `last_stages` finds where its
coarse stages begin by running it once without data, and the branches separate at the input of the first of them: all
that a residual connection adds up then has the same batch.

Axes: B images, G branches, C channels, H W cells.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.nn.packing import Prepared, may_prepare, product_dtype


class PairedLora(nn.Module):
    """Low-rank update of a 1x1 convolution for one or more branches: scale * B A x.

    Args:
        width: C, input channels.
        out_width: C', output channels.
        rank: r, inner width.
        alpha: scale numerator; None means `rank`, a scale of one.
        num_branches: number of adapter sets.
    """

    def __init__(self, width: int, out_width: int, rank: int, *, alpha: float | None, num_branches: int) -> None:
        super().__init__()
        self.scale = (rank if alpha is None else alpha) / rank
        self.down = nn.Parameter(torch.empty(num_branches, rank, width))
        self.up = nn.Parameter(torch.empty(num_branches, out_width, rank))
        self.reset()

    def reset(self) -> None:
        """Start anew: an update of zero."""
        bound = 1 / math.sqrt(self.down.shape[-1])
        nn.init.uniform_(self.down, -bound, bound)
        nn.init.zeros_(self.up)

    def forward(self, x: Tensor) -> Tensor:
        """(G * B, C, H, W), branch-major, to (G * B, C', H, W)."""
        parts = x.unflatten(0, (self.down.shape[0], -1)).flatten(3).transpose(2, 3)  # (G, B, H * W, C)
        low = parts @ self.down.transpose(1, 2)[:, None] * self.scale
        update = (low @ self.up.transpose(1, 2)[:, None]).transpose(2, 3)
        return update.flatten(0, 1).unflatten(2, x.shape[2:])

    @torch.no_grad()
    def folded(self, weight: Tensor) -> Tensor:
        """Add each branch's update to a weight (C', C, 1, 1): (G, C', C, 1, 1) float32."""
        return weight.float() + self.scale * (self.up.float() @ self.down.float())[..., None, None]


class AdaptedConvolution(nn.Conv2d):
    """A 1x1 convolution with adapters; takes over the weights of `convolution`."""

    def __init__(self, convolution: nn.Conv2d, lora: PairedLora) -> None:
        with torch.device("meta"):
            super().__init__(
                convolution.in_channels,
                convolution.out_channels,
                1,
                stride=convolution.stride,  # type: ignore[arg-type]
                bias=convolution.bias is not None,
            )
        self.weight, self.bias = convolution.weight, convolution.bias
        self.lora = lora
        self._prepared: Prepared[list[Tensor]] = Prepared()

    def train(self, mode: bool = True) -> AdaptedConvolution:
        """Set the mode; training frees the weights that were prepared for inference."""
        if mode:
            self._prepared.clear()
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """(G * B, C, H, W), branch-major, to (G * B, C', H', W')."""
        if not may_prepare(self, x):
            row, column = self.stride
            return super().forward(x) + self.lora(x[:, :, ::row, ::column])
        dtype = product_dtype(x)
        weights = self._prepared.get(
            [self.weight, self.lora.down, self.lora.up],
            (dtype, self.lora.scale),
            lambda: [weight.to(dtype) for weight in self.lora.folded(self.weight)],
        )
        parts = x.chunk(len(weights))
        return torch.cat([F.conv2d(p, w, self.bias, self.stride) for p, w in zip(parts, weights, strict=True)])


def is_pointwise(module: nn.Module) -> bool:
    """Whether a module is a 1x1 convolution of all channels."""
    return type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.groups == 1


@torch.no_grad()
def last_stages(trunk: Any, image: Tensor) -> tuple[str, list[str]] | None:
    """Find the modules that make the two coarsest maps of a trunk.

    Args:
        trunk: returns its maps, finest first, as `last_hidden_state`. If it has an attribute `coarse_start`, the
            adapters begin at the module of that name.
        image: (1, 3, H, W), on the meta device like the trunk.

    Returns:
        Name of the outermost module that takes the third coarsest map, and those of all 1x1 convolutions that run
        from there on, on maps of more than one cell: the gates of squeeze-and-excitation are left out. None if there
        is no such module.
    """
    calls: list[tuple[str, nn.Module, Tensor]] = []

    def remember(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            calls.append((name, module, inputs[0]))

    hooks = [module.register_forward_pre_hook(partial(remember, name)) for name, module in trunk.named_modules()]
    third = trunk(image).last_hidden_state[-3]
    for hook in hooks:
        hook.remove()
    start = getattr(trunk, "coarse_start", None)
    begins = [name == start if start else taken is third for name, _, taken in calls]
    first = begins.index(True) if True in begins else None
    if first is None:
        return None
    convolutions = [name for name, module, x in calls[first:] if is_pointwise(module) and x.shape[-1] > 1]
    return calls[first][0], list(dict.fromkeys(convolutions))


def add_adapters(
    trunk: nn.Module, first: str, convolutions: list[str], rank: int, alpha: float | None, num_branches: int
) -> None:
    """Give a trunk's 1x1 convolutions adapters, in place.

    Args:
        trunk: the trunk.
        first: name of the module at whose input the branches separate.
        convolutions: names of the convolutions, all of which run from there on.
        rank: r of each adapter.
        alpha: scale numerator; None means the rank.
        num_branches: number of adapter sets.
    """
    trunk.get_submodule(first).register_forward_pre_hook(partial(_separate_branches, num_branches))
    for name in convolutions:
        convolution: Any = trunk.get_submodule(name)
        lora = PairedLora(
            convolution.in_channels, convolution.out_channels, rank, alpha=alpha, num_branches=num_branches
        )
        parent, _, own = name.rpartition(".")
        setattr(trunk.get_submodule(parent), own, AdaptedConvolution(convolution, lora))


def _separate_branches(num_branches: int, _module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Repeat the first input once per branch, branch-major, in its memory format, which `Tensor.repeat` would lose."""
    return (torch.cat([inputs[0]] * num_branches), *inputs[1:])


class DepthwiseConv(nn.Conv2d):
    """A convolution of each channel alone, which computes in float32 under a CPU's autocast while gradients are needed.

    Gradients of these layers in bfloat16 take longer: up to eleven times in the trunk, and 1.5 to 2 times in the
    decoders.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H', W') of the same type, or of that of autocast."""
        learns = torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad)
        is_mixed = torch.is_autocast_enabled("cpu") and self.weight.dtype == torch.float32
        if not (input.device.type == "cpu" and learns and is_mixed):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float()).to(torch.get_autocast_dtype("cpu"))
