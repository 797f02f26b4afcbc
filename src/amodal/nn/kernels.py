"""Softmax attention by the faster of two ways, chosen by size, precision and processor.

The figures behind the rule are in docs/speed.md; they are of processors, on a GPU torch's fused
attention is always taken.

Axes: B batch, n heads, T queries, K keys, D width of q and k, E width of v.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kernel = Literal["products", "fused"]

# With gradients the products keep their (T, K) probabilities up to this: worth it for windows, and where few
# tokens meet many. The sizes are those of a square of logits.
MAX_TOKENS_KEPT = 256
# Beyond, and without gradients, in blocks of heads whose logits stay in cache. Float32 gains little and loses on
# large grids; in bfloat16 torch's fused attention computes in float32 unless the processor has AMX.
MAX_TOKENS_FLOAT32 = 1024
BLOCK_BYTES_PER_THREAD = 2 * 2**20


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T) v in the precision of q; scale the queries before.

    Args:
        q: (B, n, T, D).
        k: (B, n, K, D).
        v: (B, n, K, E), E <= D.

    Returns:
        (B, n, T, E).
    """
    k, v = k.to(q.dtype), v.to(q.dtype)
    if choose_kernel(q, k) == "products":
        return _products(q, k, v)
    E = v.shape[-1]
    v = F.pad(v, (0, q.shape[-1] - E))  # fused kernels want one width for q, k and v
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :E]


def choose_kernel(q: Tensor, k: Tensor) -> Kernel:
    """The rule: two plain products on a processor as long as their logits are cheap to keep."""
    if q.device.type != "cpu":
        return "fused"
    if _few(q, k):
        return "products"
    if torch.is_grad_enabled() and (q.dtype != torch.bfloat16 or is_recorded()):
        return "fused"
    if q.dtype == torch.bfloat16:
        return "fused" if has_amx() else "products"
    return "products" if q.shape[2] * k.shape[2] <= MAX_TOKENS_FLOAT32**2 else "fused"


def has_amx() -> bool:
    """Whether the processor has matrix units for bfloat16."""
    return cpu_has("amx_bf16")


def cpu_has(feature: str) -> bool:
    """Whether torch finds an instruction set, e.g. `amx_bf16`, `avx512_bf16`, on this processor."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch cannot tell
    return bool(capabilities.get(feature, False))


def is_recorded() -> bool:
    """Whether this call is compiled or traced, so that its branches are taken once for all inputs."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def _few(q: Tensor, k: Tensor) -> bool:
    return q.shape[2] * k.shape[2] <= MAX_TOKENS_KEPT**2


def _products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if is_recorded() or (torch.is_grad_enabled() and _few(q, k)):
        return _mixed(q, k, v)
    flat = [x.flatten(0, 1) for x in (q, k, v)]
    mixed: Tensor = _Blocks.apply(*flat) if torch.is_grad_enabled() else _in_blocks(*flat)
    return mixed.unflatten(0, v.shape[:2])


def _mixed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The definition, (..., T, D), (..., K, D), (..., K, E) to (..., T, E)."""
    return (q @ k.transpose(-2, -1)).softmax(-1) @ v


class _Blocks(torch.autograd.Function):
    """Attention (M, T, D), (M, K, D), (M, K, E) in blocks of matrices; the backward pass has its probabilities anew."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mixed = _in_blocks(q, k, v)
        ctx.save_for_backward(q, k, v, mixed)
        return mixed

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, mixed = ctx.saved_tensors
        grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        # The softmax takes from each logit's gradient what its row has in sum, which is also this:
        rows = (grad.to(torch.promote_types(q.dtype, torch.float32)) * mixed).sum(-1, keepdim=True).to(q.dtype)
        for part in _parts(q, k):
            probs = torch.bmm(q[part], k[part].transpose(-2, -1)).softmax(-1)
            grads[2][part] = torch.bmm(probs.transpose(-2, -1), grad[part])
            logits = torch.bmm(grad[part], v[part].transpose(-2, -1)).sub_(rows[part]).mul_(probs)
            grads[0][part] = torch.bmm(logits, k[part])
            grads[1][part] = torch.bmm(logits.transpose(-2, -1), q[part])
        return grads


def _in_blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    parts = [_mixed(q[i], k[i], v[i]) for i in _parts(q, k)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _parts(q: Tensor, k: Tensor) -> list[slice]:
    """As many matrices at once as have their logits in cache."""
    size = q.shape[1] * k.shape[1] * q.element_size()
    block = max(1, BLOCK_BYTES_PER_THREAD * torch.get_num_threads() // size)
    return [slice(start, start + block) for start in range(0, len(q), block)]
