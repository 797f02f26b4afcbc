"""Weights rearranged once for inference on a processor: adapters folded in, matrices pre-packed.

Nothing here changes what a layer computes, but for `Int8Linear`, which has to be asked for. A
rearranged copy is made at the first call without gradients and made anew when a weight it came from
changed, so that loading, training and switching adapters need not know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.nn.kernels import cpu_has, is_recorded

Value = TypeVar("Value")
BLOCK_ELEMENTS = 2**18  # of an input that is rounded to 8 bits at a time
WHOLE_NUMBERS = 1.5 * 2**23  # float32 are whole from here to 2**24, their lowest bits those of an integer
TINY = 1e-12  # a scale of a row or an input that is zero throughout


class Prepared(Generic[Value]):
    """A value made from tensors; copies and pickles of the holder start without it."""

    def __init__(self) -> None:
        self._key: object = None
        self._held: list[Tensor] = []
        self._value: Value | None = None

    def get(self, sources: Sequence[Tensor | None], setting: object, make: Callable[[], Value]) -> Value:
        """The value for these tensors as they are now.

        Args:
            sources: tensors it is made from; each change of one makes it anew.
            setting: what else it depends on.
            make: computes it.
        """
        key = (setting, *(None if s is None else (s.data_ptr(), s._version, s.dtype, s.shape) for s in sources))
        if key != self._key or self._value is None:
            with torch.no_grad(), torch.autocast("cpu", enabled=False):
                self._value = make()
            self._key = key
            self._held = [s.detach() for s in sources if s is not None]  # else an address could come back
        return self._value

    def clear(self) -> None:
        """Forget the value."""
        self._key = self._value = None
        self._held = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Prepared[Value]:
        return Prepared()

    def __reduce__(self) -> tuple[type[Prepared[Value]], tuple[()]]:
        return Prepared, ()


class PackedLinear:
    """A linear map whose matrix lies as the processor's product wants it.

    In bfloat16 oneDNN's packed product is used, which can apply GELU before it writes; in float32
    the plain product is as fast.

    Args:
        weight: (N, K).
        bias: (N,) or None.
        dtype: of the product.
        rows: rows of the inputs to expect.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, rows: int) -> None:
        self.weight = weight.detach().to(dtype).contiguous()
        self.bias = None if bias is None else bias.detach().to(dtype)
        self.is_packed = dtype == torch.bfloat16 and _can_pack()
        if self.is_packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, rows)

    def __call__(self, x: Tensor, *, gelu: bool = False) -> Tensor:
        """(..., K) to (..., N), followed by the exact GELU if asked for."""
        x = x.to(self.weight.dtype)
        if self.is_packed:
            kind, form = ("gelu", "none") if gelu else ("none", "")
            out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, kind, [], form)
            return out
        out = F.linear(x, self.weight, self.bias)
        return F.gelu(out) if gelu else out


class Int8Linear:
    """A linear map in 8 bits: weights by output, inputs by call, sums in 32 bits (oneDNN).

    Weights are rounded to [-127, 127] with one scale an output; the inputs of each call to 8 bits
    with one scale and one zero point, from their own extremes. Nothing has to be calibrated.

    Args:
        weight: (N, K).
        bias: (N,) or None.
        dtype: of the result.
        rows: rows of the inputs to expect.
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
        """(..., K) to (..., N), followed by the exact GELU if asked for."""
        low, high = (float(v) for v in x.aminmax())
        low, high = min(low, 0.0), max(high, 0.0)
        step = max((high - low) / 254, TINY)  # one level is left for the rounding of the zero point
        zero = round(-low / step)
        narrow = round_to_8_bits(x.flatten(0, -2), step, zero)
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            narrow, step, zero, self.weight, self.scale, self.zero_point, self.bias,
            1.0, 0, self.dtype, "gelu" if gelu else "none", [], "none" if gelu else "",
        )  # fmt: skip
        return out.unflatten(0, x.shape[:-1])


def round_to_8_bits(x: Tensor, step: float, zero: int) -> Tensor:
    """round(x / step + zero) as uint8, in pieces whose float32 copies stay in cache.

    A large constant added to a small float leaves it rounded to an integer, in two's complement in
    its lowest bits. Torch converts floats to uint8 without vectors, five times as slowly as integers.

    Args:
        x: (M, K) with all values from -zero to 255 - zero steps.
        step: size of a step.
        zero: what stands for 0.

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
    """The map in the form to compute with."""
    return (Int8Linear if int8 else PackedLinear)(weight, bias, dtype, rows)


def prepared_linear(
    prepared: Prepared[PackedLinear | Int8Linear],
    linear: nn.Linear,
    x: Tensor,
    activation: nn.Module | None = None,
    *,
    int8: bool = False,
) -> Tensor:
    """`activation(linear(x))` by the linear's packed weights, with a GELU fused into the product.

    Args:
        prepared: where this linear keeps its packed form.
        linear: the map.
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
    """Whether this call can use prepared weights: on a processor, without gradients, not traced."""
    if module.training or torch.is_grad_enabled() or x.device.type != "cpu":
        return False
    return not is_recorded() and not any(p.is_inference() for p in module.parameters())


def product_dtype(x: Tensor) -> torch.dtype:
    """Precision in which a product with `x` runs, autocast taken into account."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def can_use_int8() -> bool:
    """Whether this torch has the products of `Int8Linear` and this processor is fast at them."""
    return hasattr(torch.ops.onednn, "qlinear_pointwise") and any(
        cpu_has(feature) for feature in ("avx512_vnni", "avx_vnni", "amx_int8")
    )


def _can_pack() -> bool:
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
