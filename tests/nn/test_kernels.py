"""Both kernels compute softmax attention; the choice depends on size, precision, gradients and CPU."""

from __future__ import annotations

import pytest
import torch

from amodal.nn import kernels
from amodal.nn.kernels import choose_kernel, softmax_attention

# Maximum bytes of a block of logits, and of one head before it is split into rows.
BUDGETS = pytest.mark.parametrize("budgets", [(1, 1), (1, 10**9), (10**9, 10**9), (3 * 11 * 4, 1)])


def set_budgets(budgets: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(kernels, "BLOCK_BYTES_PER_THREAD", budgets[0])
    monkeypatch.setattr(kernels, "HEAD_BYTES_PER_THREAD", budgets[1])


@pytest.mark.parametrize("kernel", ["products", "fused"])
@BUDGETS
@pytest.mark.parametrize("shape", [(2, 3, 10, 11, 8, 5), (1, 1, 1, 1, 4, 4), (2, 3, 40, 7, 8, 5), (2, 1, 40, 32, 8, 8)])
def test_kernels_agree_with_the_definition(
    kernel: str, budgets: tuple[int, int], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "choose_kernel", lambda q, k: kernel)
    set_budgets(budgets, monkeypatch)
    B, n, T, K, D, E = shape
    q, k, v = torch.randn(B, n, T, D), torch.randn(B, n, K, D), torch.randn(B, n, K, E)
    expected = torch.einsum("bntk,bnke->bnte", torch.einsum("bntd,bnkd->bntk", q, k).softmax(-1), v)
    with torch.no_grad():
        torch.testing.assert_close(softmax_attention(q, k, v), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(softmax_attention(q, k, v), expected, atol=1e-5, rtol=1e-5)


@BUDGETS
def test_recomputed_probabilities_give_the_same_gradients(
    budgets: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "choose_kernel", lambda q, k: "products")
    set_budgets(budgets, monkeypatch)
    shapes = (2, 3, 10, 8), (2, 3, 11, 8), (2, 3, 11, 5)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    kept = torch.autograd.grad(softmax_attention(*inputs).square().sum(), inputs)
    monkeypatch.setattr(kernels, "MAX_TOKENS_KEPT", 0)
    again = torch.autograd.grad(softmax_attention(*inputs).square().sum(), inputs)
    for one, two in zip(kept, again, strict=True):
        torch.testing.assert_close(one, two, atol=1e-12, rtol=1e-12)
    small = [torch.randn(2, 3, *shape, dtype=torch.float64, requires_grad=True) for shape in ((5, 2), (11, 2), (11, 2))]
    assert torch.autograd.gradcheck(softmax_attention, small)


@pytest.mark.parametrize("values", [torch.bfloat16, torch.float32])
def test_bfloat16_in_training_stays_close_to_float64(values: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under autocast, values may have another precision than queries."""
    monkeypatch.setattr(kernels, "has_amx", lambda: False)
    torch.manual_seed(0)
    shape = (1, 2, 300, 16)
    inputs = [torch.randn(shape).to(dtype).requires_grad_() for dtype in (torch.bfloat16, torch.bfloat16, values)]
    assert choose_kernel(inputs[0], inputs[1]) == "products"
    weights = torch.randn(shape)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = softmax_attention(*inputs)
    found = [mixed, *torch.autograd.grad((mixed.float() * weights).sum(), inputs)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = (exact[0] @ exact[1].transpose(-2, -1)).softmax(-1) @ exact[2]
    wanted = [expected, *torch.autograd.grad((expected * weights).sum(), exact)]
    for one, two in zip(found, wanted, strict=True):
        assert float((one - two).detach().norm() / two.detach().norm()) < 0.02


@pytest.mark.parametrize(
    ("tokens", "dtype", "gradients", "amx", "expected"),
    [
        (196, torch.float32, True, False, "products"),
        (196, torch.bfloat16, True, True, "products"),
        (1024, torch.float32, True, False, "products"),
        (1024, torch.bfloat16, True, False, "products"),
        (1024, torch.bfloat16, True, True, "fused"),
        (1024, torch.float32, False, False, "products"),
        (4096, torch.float32, False, False, "products"),
        (4096, torch.bfloat16, False, False, "products"),
        (4096, torch.bfloat16, False, True, "fused"),
    ],
)
def test_choice_of_kernel(
    tokens: int, dtype: torch.dtype, gradients: bool, amx: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "has_amx", lambda: amx)
    with torch.set_grad_enabled(gradients):
        q = torch.empty(1, 1, tokens, 4, dtype=dtype)
        assert choose_kernel(q, q) == expected
        assert choose_kernel(q.to("meta"), q.to("meta")) == "fused"


def test_few_queries_or_keys_use_products() -> None:
    few, many = torch.empty(1, 1, 7, 4), torch.empty(1, 1, 4096, 4)
    assert choose_kernel(few, many) == choose_kernel(many, few) == "products"


def test_torch_without_capabilities_reports_no_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not kernels.has_amx()
