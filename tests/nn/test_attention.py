"""Attention equals that of transformers' SAM, in windows and globally; LoRA keeps K and starts without effect."""

from __future__ import annotations

import pytest
import torch
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionEncoder, SamVisionLayer

from amodal.nn import attention, kernels
from amodal.nn.attention import (
    FoldedAttention,
    FoldedLayer,
    join_groups,
    padding_logit,
    use_folded_attention,
    window_groups,
)
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
    """Random weights everywhere: SAM's relative positions start at zero, which would prove nothing."""
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


def test_new_adapter_changes_nothing_and_trained_adapter_keeps_k() -> None:
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
    x, q, k, v = (torch.randn(4, 3, 3, 6) for _ in range(4))  # branch-major: two rows per branch
    new_q, _, new_v = lora(x, q, k, v)
    for row in range(4):
        branch = row // 2
        for matrix, (new, old) in enumerate([(new_q, q), (new_v, v)]):
            update = x[row] @ lora.down[branch, matrix].T @ lora.up[branch, matrix].T
            torch.testing.assert_close(new[row], old[row] + 4 / 2 * update)


def test_layer_that_splits_branches_returns_the_shared_batch_once_per_branch() -> None:
    lora = ParallelLora(6, 2, num_branches=2, splits_branches=True)
    torch.nn.init.normal_(lora.up)
    doubled = ParallelLora(6, 2, num_branches=2)
    doubled.load_state_dict(lora.state_dict())
    x, q, k, v = (torch.randn(2, 3, 3, 6) for _ in range(4))
    got = lora(x, q, k, v)
    expected = doubled(*(torch.cat([t, t]) for t in (x, q, k, v)))
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


GRIDS = [(8, 8), (7, 7), (5, 9), (3, 2), (8, 6), (4, 7)]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("window", [0, 4])
def test_split_and_join_of_groups_restores_the_grid(grid: tuple[int, int], window: int) -> None:
    x = torch.randn(2, *grid, 3, 5)  # (B, H, W, n, D)
    bands = window_groups(grid, window)
    joined = join_groups([[group.join(group.split(x), 2) for group in band] for band in bands])
    assert torch.equal(joined, x.flatten(3))


def test_tokens_of_a_window_are_in_row_major_order() -> None:
    x = torch.arange(15.0).reshape(1, 3, 5, 1, 1)
    (whole, right), (below, corner) = window_groups((3, 5), 2)
    assert [g.shape for g in (whole, right, below, corner)] == [(2, 2), (2, 1), (1, 2), (1, 1)]
    assert whole.split(x).flatten(1).tolist() == [[0, 1, 5, 6], [2, 3, 7, 8]]
    assert right.split(x).flatten(1).tolist() == [[4, 9]]
    assert below.split(x).flatten(1).tolist() == [[10, 11], [12, 13]]
    assert corner.split(x).flatten(1).tolist() == [[14]]


def padded_layer(window: int, qkv_bias: bool = True, use_rel_pos: bool = True) -> SamVisionLayer:
    config = SamVisionConfig(
        hidden_size=24, num_attention_heads=2, window_size=window, mlp_dim=32, image_size=128,
        qkv_bias=qkv_bias, use_rel_pos=use_rel_pos,
    )  # fmt: skip
    config._attn_implementation = "eager"
    layer = SamVisionLayer(config, window)
    torch.manual_seed(0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return layer.eval()


@pytest.mark.parametrize("kernel", ["products", "fused"])
@pytest.mark.parametrize("grid", GRIDS)
def test_layer_equals_sams_padded_layer_forward_and_backward(
    grid: tuple[int, int], kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "choose_kernel", lambda q, k: kernel)
    theirs = padded_layer(4)
    x = torch.randn(2, *grid, 24, requires_grad=True)
    parameters = [x, *theirs.parameters()]
    expected = theirs(x)
    expected_grads = torch.autograd.grad(expected.square().sum(), parameters)
    ours = FoldedLayer(theirs)
    got = ours(x)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    got_grads = torch.autograd.grad(got.square().sum(), parameters)
    for our_grad, their_grad in zip(got_grads, expected_grads, strict=True):
        scale = their_grad.abs().max()
        torch.testing.assert_close(our_grad / scale, their_grad / scale, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", [{"qkv_bias": False}, {"use_rel_pos": False}])
def test_layers_without_bias_or_positions_equal_sams(settings: dict[str, bool]) -> None:
    theirs = padded_layer(4, **settings)
    x = torch.randn(2, 5, 7, 24)
    with torch.no_grad():
        expected = theirs(x)
        torch.testing.assert_close(FoldedLayer(theirs)(x), expected, atol=1e-5, rtol=1e-5)


def test_padded_tokens_are_not_projected(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = FoldedLayer(padded_layer(14))
    seen = []
    layer.attn.qkv.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    layer(torch.randn(1, 32, 32, 24))
    assert seen == [torch.Size([1, 32, 32, 24])]


def test_padding_logit_is_the_log_sum_exp_of_the_padded_tokens() -> None:
    q, key = torch.randn(1, 1, 6, 4), torch.randn(1, 4)
    rows, cols = torch.randn(1, 1, 6, 5), torch.randn(1, 1, 6, 5)  # a window of 5 with 2 x 3 real tokens
    each = (q @ key[0])[..., None, None] * 0.5 + rows[..., :, None] + cols[..., None, :]  # (1, 1, 6, 5, 5)
    each[..., :2, :3] = -torch.inf
    torch.testing.assert_close(
        padding_logit(q, key, rows, cols, (2, 3))[..., 0], each.flatten(-2).logsumexp(-1), atol=1e-5, rtol=1e-5
    )
