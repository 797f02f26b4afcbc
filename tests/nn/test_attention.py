"""Folded attention equals transformers' SAM attention; LoRA keeps K and starts at nothing."""

from __future__ import annotations

import pytest
import torch
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionEncoder

from amodal.nn import attention, kernels
from amodal.nn.attention import FoldedAttention, use_folded_attention
from amodal.nn.lora import ParallelLora

SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 16,
    "output_channels": 8,
    "window_size": 14,
    "global_attn_indexes": [1],
}


def randomise(module: torch.nn.Module) -> None:
    """Random weights everywhere: SAM's relative positions start at zero, which proves nothing."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)


@pytest.fixture(params=["products", "fused"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(kernels, "choose_kernel", lambda q, k: request.param)
    return str(request.param)


@pytest.mark.parametrize("grid", [(5, 5), (7, 7)])
def test_layer_equals_transformers_forward_and_backward(grid: tuple[int, int], kernel: str) -> None:
    config = SamVisionConfig(**SMALL, image_size=16 * grid[0])
    theirs = SamVisionAttention(config, window_size=0)
    randomise(theirs)
    ours = FoldedAttention(theirs)
    x = torch.randn(2, *grid, 24, requires_grad=True)
    parameters = [x, *theirs.parameters()]
    expected = theirs(x)[0]
    got = ours(x)[0]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    expected_grads = torch.autograd.grad(expected.square().sum(), parameters)
    got_grads = torch.autograd.grad(got.square().sum(), parameters)
    for ours_grad, their_grad in zip(got_grads, expected_grads, strict=True):
        scale = their_grad.abs().max()
        torch.testing.assert_close(ours_grad / scale, their_grad / scale, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("image_size", [1024, 512])
def test_encoder_equals_transformers_in_windows_and_globally(image_size: int, kernel: str) -> None:
    encoder = SamVisionEncoder(SamVisionConfig(**SMALL, image_size=image_size)).eval()
    randomise(encoder)
    pixels = torch.randn(1, 3, image_size, image_size)
    with torch.no_grad():
        expected = encoder(pixels).last_hidden_state
        got = use_folded_attention(encoder)(pixels).last_hidden_state
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_table_of_another_grid_is_interpolated_as_transformers_does() -> None:
    config = SamVisionConfig(**SMALL, image_size=16 * 8)
    theirs = SamVisionAttention(config, window_size=0)
    randomise(theirs)
    for grid in (4, 8, 11):
        expected = theirs.get_rel_pos(grid, grid, theirs.rel_pos_h)
        got = attention.relative_position_grid(theirs.rel_pos_h, grid)
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)


def test_new_adapter_changes_nothing_and_a_trained_one_spares_k() -> None:
    lora = ParallelLora(6, 2, num_branches=2)
    x, q, k, v = (torch.randn(4, 3, 3, 6) for _ in range(4))
    for got, expected in zip(lora(x, q, k, v), (q, k, v), strict=True):
        assert torch.equal(got, expected)
    torch.nn.init.normal_(lora.up)
    new_q, new_k, new_v = lora(x, q, k, v)
    assert torch.equal(new_k, k)
    assert not torch.allclose(new_q, q) and not torch.allclose(new_v, v)


def test_branches_follow_equations_3_and_4() -> None:
    lora = ParallelLora(6, 2, alpha=4, num_branches=2)
    torch.nn.init.normal_(lora.up)
    x, q, k, v = (torch.randn(4, 3, 3, 6) for _ in range(4))  # branch-major: two rows a branch
    new_q, _, new_v = lora(x, q, k, v)
    for row in range(4):
        branch = row // 2
        for matrix, (new, old) in enumerate([(new_q, q), (new_v, v)]):
            update = x[row] @ lora.down[branch, matrix].T @ lora.up[branch, matrix].T
            torch.testing.assert_close(new[row], old[row] + 4 / 2 * update)


def test_where_branches_part_the_shared_batch_leaves_once_a_branch() -> None:
    lora = ParallelLora(6, 2, num_branches=2, parts_here=True)
    torch.nn.init.normal_(lora.up)
    doubled = ParallelLora(6, 2, num_branches=2)
    doubled.load_state_dict(lora.state_dict())
    x, q, k, v = (torch.randn(2, 3, 3, 6) for _ in range(4))
    got = lora(x, q, k, v)
    expected = doubled(*(torch.cat([t, t]) for t in (x, q, k, v)))
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
