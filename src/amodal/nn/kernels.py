"""Softmax attention by the faster of two implementations, chosen by size, precision and CPU.

The measurements behind the rule are in docs/speed.md. They are of CPUs; on a GPU torch's fused
attention is always used.

Axes: B batch, n heads, T queries, K keys, D width of q and k, E width of v.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kernel = Literal["products", "fused"]

# With gradients, plain products keep all (T, K) probabilities in memory up to this side of a square of logits:
# worth it for windows, and where few tokens attend to many.
MAX_TOKENS_KEPT = 256
# Beyond that size, and without gradients, products run in blocks of heads whose logits stay in cache, or in
# blocks of queries if the logits of one head are too many. Torch's fused attention computes in float32 unless
# the CPU has AMX, and is slower in float32 too.
BLOCK_BYTES_PER_THREAD = 2 * 2**20
HEAD_BYTES_PER_THREAD = 8 * 2**20
# Up to this many keys softmax runs across the rows of logits; along them torch's vectors would be half empty.
FEW_KEYS = 32

_forced_kernel: Kernel | None = None


@contextmanager
def forced_kernel(kernel: Kernel) -> Iterator[None]:
    """Within the context every attention uses this kernel, whatever the device and the sizes."""
    global _forced_kernel
    previous, _forced_kernel = _forced_kernel, kernel
    try:
        yield
    finally:
        _forced_kernel = previous


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute softmax(q k^T) v in the precision of q. The caller scales the queries.

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
    v = F.pad(v, (0, q.shape[-1] - E))  # fused kernels need one width for q, k and v
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :E]


def choose_kernel(q: Tensor, k: Tensor) -> Kernel:
    """Choose two plain products on a CPU, unless its matrix units make torch's fused attention faster."""
    if _forced_kernel is not None:
        return _forced_kernel
    if q.device.type != "cpu":
        return "fused"
    if _few(q, k):
        return "products"
    if torch.is_grad_enabled() and is_recorded():  # a trace has no blocks; all probabilities would be kept
        return "fused"
    return "fused" if q.dtype == torch.bfloat16 and has_amx() else "products"


def has_amx() -> bool:
    """Whether the CPU has matrix units for bfloat16."""
    return cpu_has("amx_bf16")


def has_bfloat16() -> bool:
    """Whether the CPU has any instructions for bfloat16; without them, its products are several times slower."""
    return has_amx() or cpu_has("avx512_bf16")


def cpu_has(feature: str) -> bool:
    """Whether torch finds an instruction set, e.g. `amx_bf16` or `avx512_bf16`, on this CPU."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch cannot tell
    return bool(capabilities.get(feature, False))


def is_recorded() -> bool:
    """Whether this call is being compiled or traced, so that its branches are fixed for all later inputs."""
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
    """Attention by its definition, (..., T, D), (..., K, D), (..., K, E) to (..., T, E)."""
    if k.shape[-2] <= FEW_KEYS < q.shape[-2]:
        return (k @ q.transpose(-2, -1)).softmax(-2).transpose(-2, -1) @ v
    return (q @ k.transpose(-2, -1)).softmax(-1) @ v


class _Blocks(torch.autograd.Function):
    """Attention (M, T, D), (M, K, D), (M, K, E) of M heads in blocks; backward recomputes probabilities."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mixed = _in_blocks(q, k, v)
        ctx.save_for_backward(q, k, v, mixed)
        return mixed

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, mixed = ctx.saved_tensors
        wide = torch.promote_types(q.dtype, torch.float32)
        grads = torch.empty_like(q), k.new_zeros(k.shape, dtype=wide), v.new_zeros(v.shape, dtype=wide)
        # The softmax subtracts from each logit's gradient the sum over its row, which equals this:
        sums = (grad.to(wide) * mixed).sum(-1, keepdim=True).to(q.dtype)
        for heads, rows in _blocks(q, k):
            own_q, own_k, own_v, own_grad = q[heads, rows], k[heads], v[heads], grad[heads, rows]
            probs = torch.bmm(own_q, own_k.transpose(-2, -1)).softmax(-1)
            grads[2][heads] += torch.bmm(probs.transpose(-2, -1), own_grad)
            logits = torch.bmm(own_grad, own_v.transpose(-2, -1)).sub_(sums[heads, rows]).mul_(probs)
            grads[0][heads, rows] = torch.bmm(logits, own_k)
            grads[1][heads] += torch.bmm(logits.transpose(-2, -1), own_q)
        return grads[0], grads[1].to(k.dtype), grads[2].to(v.dtype)


def _in_blocks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    blocks = list(_blocks(q, k))
    if len(blocks) == 1:
        return _mixed(q, k, v)
    mixed = v.new_empty(*q.shape[:2], v.shape[2])
    for heads, rows in blocks:
        mixed[heads, rows] = _mixed(q[heads, rows], k[heads], v[heads])
    return mixed


def _blocks(q: Tensor, k: Tensor) -> Iterator[tuple[slice, slice]]:
    """Heads, and rows of queries, to compute at once: as many as fit with their logits into the cache."""
    row = k.shape[1] * q.element_size()
    head, threads = q.shape[1] * row, torch.get_num_threads()
    is_large = head > HEAD_BYTES_PER_THREAD * threads
    num_heads = max(1, BLOCK_BYTES_PER_THREAD * threads // head)
    num_rows = max(1, BLOCK_BYTES_PER_THREAD * threads // row) if is_large else q.shape[1]
    for heads in range(0, len(q), num_heads):
        for rows in range(0, q.shape[1], num_rows):
            yield slice(heads, heads + num_heads), slice(rows, rows + num_rows)
