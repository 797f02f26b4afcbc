"""Windows without padding: they tile the grid, and attention in them equals SAM's padded windows."""

from __future__ import annotations

import pytest
import torch
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionLayer

from amodal.nn import kernels
from amodal.nn.attention import FoldedLayer, join_groups, padding_logit, window_groups

GRIDS = [(8, 8), (7, 7), (5, 9), (3, 2), (8, 6), (4, 7)]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("window", [0, 4])
def test_groups_come_back_as_the_grid(grid: tuple[int, int], window: int) -> None:
    x = torch.randn(2, *grid, 3, 5)  # (B, H, W, n, D)
    bands = window_groups(grid, window)
    joined = join_groups([[group.join(group.split(x), 2) for group in band] for band in bands])
    assert torch.equal(joined, x.flatten(3))


def test_each_window_holds_neighbours_in_row_major_order() -> None:
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
def test_a_layer_equals_sams_padded_one_forward_and_backward(
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
def test_layers_without_bias_or_positions_are_padded_alike(settings: dict[str, bool]) -> None:
    theirs = padded_layer(4, **settings)
    x = torch.randn(2, 5, 7, 24)
    with torch.no_grad():
        expected = theirs(x)
        torch.testing.assert_close(FoldedLayer(theirs)(x), expected, atol=1e-5, rtol=1e-5)


def test_no_missing_token_is_projected(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = FoldedLayer(padded_layer(14))
    seen = []
    layer.attn.qkv.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    layer(torch.randn(1, 32, 32, 24))
    assert seen == [torch.Size([1, 32, 32, 24])]


def test_padding_logit_is_the_log_sum_exp_of_the_missing_tokens() -> None:
    q, key = torch.randn(1, 1, 6, 4), torch.randn(1, 4)
    rows, cols = torch.randn(1, 1, 6, 5), torch.randn(1, 1, 6, 5)  # a window of 5 with 2 x 3 real tokens
    each = (q @ key[0])[..., None, None] * 0.5 + rows[..., :, None] + cols[..., None, :]  # (1, 1, 6, 5, 5)
    each[..., :2, :3] = -torch.inf
    torch.testing.assert_close(
        padding_logit(q, key, rows, cols, (2, 3))[..., 0], each.flatten(-2).logsumexp(-1), atol=1e-5, rtol=1e-5
    )
