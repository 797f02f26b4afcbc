"""Softmax attention by the faster of two ways, chosen by size, precision and processor.

The figures behind the rule are in docs/speed.md; they are of processors, on a GPU torch's fused
attention is always taken.

Axes: B batch, n heads, T queries, K keys, D width of q and k, E width of v.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kernel = Literal["products", "fused"]

# With gradients the products keep their (T, K) probabilities: worth it for windows, and where few tokens
# meet many. The sizes are those of a square of logits.
MAX_TOKENS_WITH_GRADIENTS = 256
# Without, in blocks of heads whose logits stay in cache. Float32 gains little and loses on large
# grids; in bfloat16 torch's fused attention computes in float32 unless the processor has AMX.
MAX_TOKENS_FLOAT32 = 1024
BLOCK_BYTES_PER_THREAD = 2 * 2**20


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T) v; scale the queries before.

    Args:
        q: (B, n, T, D).
        k: (B, n, K, D).
        v: (B, n, K, E), E <= D.

    Returns:
        (B, n, T, E).
    """
    if choose_kernel(q, k) == "products":
        return _products(q, k, v)
    E = v.shape[-1]
    v = F.pad(v, (0, q.shape[-1] - E))  # fused kernels want one width for q, k and v
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :E]


def choose_kernel(q: Tensor, k: Tensor) -> Kernel:
    """The rule: two plain products on a processor as long as their logits are cheap to keep."""
    logits = q.shape[2] * k.shape[2]
    if q.device.type != "cpu":
        return "fused"
    if logits <= MAX_TOKENS_WITH_GRADIENTS**2:
        return "products"
    if torch.is_grad_enabled():
        return "fused"
    if q.dtype == torch.bfloat16:
        return "fused" if has_amx() else "products"
    return "products" if logits <= MAX_TOKENS_FLOAT32**2 else "fused"


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


def _products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    size = q.shape[2] * k.shape[2] * q.element_size()
    block = max(1, BLOCK_BYTES_PER_THREAD * torch.get_num_threads() // size)
    num_matrices = q.shape[0] * q.shape[1]
    if torch.is_grad_enabled() or is_recorded() or block >= num_matrices:
        return (q @ k.transpose(-2, -1)).softmax(-1) @ v
    q, k, flat = (x.flatten(0, 1) for x in (q, k, v))
    parts = [
        torch.bmm((q[i : i + block] @ k[i : i + block].transpose(-2, -1)).softmax(-1), flat[i : i + block])
        for i in range(0, num_matrices, block)
    ]
    return torch.cat(parts).unflatten(0, v.shape[:2])
