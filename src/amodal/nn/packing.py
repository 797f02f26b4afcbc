"""Weights rearranged once for inference on a CPU: adapters added in, matrices pre-packed.

Nothing here changes what a layer computes, except `Int8Linear`, which the user has to choose. A
rearranged copy is made at the first call without gradients. It is made again when a weight it was
made from has changed, so that loading, training and switching adapters need no extra step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.nn.kernels import cpu_has, is_recorded

Value = TypeVar("Value")
BLOCK_ELEMENTS = 2**18  # number of input elements that are rounded to 8 bits at a time
WHOLE_NUMBERS = 1.5 * 2**23  # from here to 2**24 float32 holds integers, in its lowest bits
TINY = 1e-12  # scale of a row or an input of zeros


class Prepared(Generic[Value]):
    """A value computed from tensors and kept until one of them changes; copies and pickles start without it."""

    def __init__(self) -> None:
        self._key: object = None
        self._held: list[Tensor] = []
        self._value: Value | None = None

    def get(self, sources: Sequence[Tensor | None], setting: object, make: Callable[[], Value]) -> Value:
        """Return the value for these tensors, computed again if one has changed.

        Args:
            sources: tensors that the value depends on.
            setting: what else the value depends on.
            make: computes the value.
        """
        key = (setting, *(None if s is None else (s.data_ptr(), s._version, s.dtype, s.shape) for s in sources))
        if key != self._key or self._value is None:
            with torch.no_grad(), torch.autocast("cpu", enabled=False):
                self._value = make()
            self._key = key
            self._held = [s.detach() for s in sources if s is not None]  # else a new tensor could get an old address
        return self._value

    def clear(self) -> None:
        """Discard the value."""
        self._key = self._value = None
        self._held = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Prepared[Value]:
        return Prepared()

    def __reduce__(self) -> tuple[type[Prepared[Value]], tuple[()]]:
        return Prepared, ()


class PackedLinear:
    """A linear map whose matrix has the memory layout of the CPU's fastest product.

    In bfloat16 this is oneDNN's packed product, which can also apply GELU; in float32 the plain
    product is as fast.

    Args:
        weight: (N, K).
        bias: (N,) or None.
        dtype: of the product.
        rows: number of input rows to expect.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, rows: int) -> None:
        self.weight = weight.detach().to(dtype).contiguous()
        self.bias = None if bias is None else bias.detach().to(dtype)
        self.is_packed = dtype == torch.bfloat16 and _can_pack()
        if self.is_packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, rows)

    def __call__(self, x: Tensor, *, gelu: bool = False) -> Tensor:
        """(..., K) to (..., N), followed by the exact GELU on request."""
        x = x.to(self.weight.dtype)
        if self.is_packed:
            kind, form = ("gelu", "none") if gelu else ("none", "")
            out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, kind, [], form)
            return out
        out = F.linear(x, self.weight, self.bias)
        return F.gelu(out) if gelu else out


class Int8Linear:
    """A linear map in 8 bits with 32-bit sums (oneDNN).

    Weights are rounded to [-127, 127] with one scale per output. The inputs of each call are rounded
    to 8 bits with one scale and one zero point, from their minimum and maximum. Nothing has to be
    calibrated.

    Args:
        weight: (N, K).
        bias: (N,) or None.
        dtype: of the result.
        rows: number of input rows to expect.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, rows: int) -> None:
        weight = weight.detach().float()
        self.dtype = dtype
        self.scale = (weight.abs().amax(dim=1) / 127).clamp_min(TINY)  # (N,)
        rounded = (weight / self.scale[:, None]).round().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(rounded, [rows, weight.shape[1]])
        self.zero_point = torch.zeros(len(self.scale), dtype=torch.int32)
        self.bias = None if bias is None else bias.detach().float()

    def __call__(self, x: Tensor, *, gelu: bool = False) -> Tensor:
        """(..., K) to (..., N), followed by the exact GELU on request."""
        low, high = (float(v) for v in x.aminmax())
        low, high = min(low, 0.0), max(high, 0.0)
        step = max((high - low) / 254, TINY)  # one level is reserved for the rounding of the zero point
        zero = round(-low / step)
        narrow = round_to_8_bits(x.flatten(0, -2), step, zero)
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            narrow, step, zero, self.weight, self.scale, self.zero_point, self.bias,
            1.0, 0, self.dtype, "gelu" if gelu else "none", [], "none" if gelu else "",
        )  # fmt: skip
        return out.unflatten(0, x.shape[:-1])


def round_to_8_bits(x: Tensor, step: float, zero: int) -> Tensor:
    """Compute round(x / step + zero) as uint8, in pieces whose float32 copies stay in cache.

    Adding a large constant to a small float rounds it to an integer, in two's complement in its lowest
    bits. Torch converts floats to uint8 without vector instructions, five times slower than integers.

    Args:
        x: (M, K) with values between -zero and 255 - zero steps.
        step: size of a step.
        zero: the integer that stands for 0.

    Returns:
        (M, K).
    """
    rounded = torch.empty(x.shape, dtype=torch.uint8)
    rows = max(1, BLOCK_ELEMENTS // x.shape[1])
    wide = torch.empty(min(rows, len(x)), x.shape[1])
    for part, target in zip(x.split(rows), rounded.split(rows), strict=True):
        piece = wide[: len(part)].copy_(part)
        target.copy_(piece.mul_(1 / step).add_(WHOLE_NUMBERS + zero).view(torch.int32))  # the lowest 8 bits
    return rounded


def prepare_linear(
    weight: Tensor, bias: Tensor | None, dtype: torch.dtype, rows: int, *, int8: bool
) -> PackedLinear | Int8Linear:
    """Pack a linear map for its products."""
    return (Int8Linear if int8 else PackedLinear)(weight, bias, dtype, rows)


def prepared_linear(
    prepared: Prepared[PackedLinear | Int8Linear],
    linear: nn.Linear,
    x: Tensor,
    activation: nn.Module | None = None,
    *,
    int8: bool = False,
) -> Tensor:
    """Compute `activation(linear(x))` from packed weights, with a GELU fused into the product.

    Args:
        prepared: holds the packed form of `linear`.
        linear: the linear map.
        x: (..., K).
        activation: applied to the result; transformers' exact GELU is recognised.
        int8: compute the product in 8 bits.

    Returns:
        (..., N).
    """
    dtype, rows = product_dtype(x), x[..., 0].numel()
    packed = prepared.get(
        [linear.weight, linear.bias],
        (dtype, int8),
        lambda: prepare_linear(linear.weight, linear.bias, dtype, rows, int8=int8),
    )
    if activation is None:
        return packed(x)
    is_gelu = type(activation).__name__ == "GELUActivation" or (
        isinstance(activation, nn.GELU) and activation.approximate == "none"
    )
    return packed(x, gelu=True) if is_gelu else activation(packed(x))


def may_prepare(module: nn.Module, x: Tensor) -> bool:
    """Whether this call can use prepared weights: on a CPU, without gradients, not traced."""
    if module.training or torch.is_grad_enabled() or x.device.type != "cpu":
        return False
    return not is_recorded() and not any(p.is_inference() for p in module.parameters())


def product_dtype(x: Tensor) -> torch.dtype:
    """Precision in which a product with `x` runs, under autocast if that is on."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def can_use_int8() -> bool:
    """Whether this torch has the products of `Int8Linear` and this CPU runs them fast."""
    return hasattr(torch.ops.onednn, "qlinear_pointwise") and any(
        cpu_has(feature) for feature in ("avx512_vnni", "avx_vnni", "amx_int8")
    )


def _can_pack() -> bool:
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
