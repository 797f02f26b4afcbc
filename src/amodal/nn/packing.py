"""Weights rearranged once for inference on a processor: adapters folded in, matrices pre-packed.

Nothing here changes what a layer computes. A rearranged copy is made at the first call without
gradients and made anew when a weight it came from changed, so that loading, training and
switching adapters need not know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.nn.kernels import is_recorded

Value = TypeVar("Value")


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


def prepared_linear(
    prepared: Prepared[PackedLinear], linear: nn.Linear, x: Tensor, activation: nn.Module | None = None
) -> Tensor:
    """`activation(linear(x))` by the linear's packed weights, with a GELU fused into the product.

    Args:
        prepared: where this linear keeps its packed form.
        linear: the map.
        x: (..., K).
        activation: applied to the result; transformers' exact GELU is recognised.

    Returns:
        (..., N).
    """
    dtype, rows = product_dtype(x), x[..., 0].numel()
    packed = prepared.get(
        [linear.weight, linear.bias], dtype, lambda: PackedLinear(linear.weight, linear.bias, dtype, rows)
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


def _can_pack() -> bool:
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
