"""Weights prepared for inference compute what the layer computes, and follow changes of its weights."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from amodal.nn import packing
from amodal.nn.attention import FoldedLayer, use_int8
from amodal.nn.lora import ParallelLora
from amodal.nn.packing import Int8Linear, PackedLinear, Prepared, can_use_int8, may_prepare, prepared_linear
from tests.nn.test_attention import padded_layer


def adapted_layer(*, branches: int = 2, splits_branches: bool = False) -> FoldedLayer:
    layer = FoldedLayer(padded_layer(4)).eval()
    lora = ParallelLora(24, 3, alpha=6, num_branches=branches, splits_branches=splits_branches)
    nn.init.normal_(lora.up, std=0.3)
    layer.attn.lora = lora.eval()
    return layer


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    return {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.1}


@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("splits_branches", [False, True])
def test_folded_adapters_equal_the_low_rank_product(branches: int, splits_branches: bool) -> None:
    layer = adapted_layer(branches=branches, splits_branches=splits_branches)
    x = torch.randn(2, 5, 6, 24)
    plain = layer.attn(x, 4)[0].detach()  # gradients on: nothing prepared
    with torch.no_grad():
        torch.testing.assert_close(layer.attn(x, 4)[0], plain, atol=1e-5, rtol=1e-5)
    assert layer.attn._prepared_qkv._value is not None


def test_folded_adapters_in_bfloat16_are_no_further_from_float32() -> None:
    layer, x = adapted_layer(), torch.randn(2, 5, 6, 24)
    exact = layer.attn(x, 4)[0].detach()
    layer.to(torch.bfloat16)
    plain = layer.attn(x.bfloat16(), 4)[0].detach()
    with torch.no_grad():
        folded = layer.attn(x.bfloat16(), 4)[0]
    assert folded.dtype == torch.bfloat16
    assert (folded - exact).abs().mean() < 1.2 * (plain - exact).abs().mean()


def test_product_under_autocast_is_bfloat16() -> None:
    layer = adapted_layer()
    x = torch.randn(2, 5, 6, 24)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = layer(x)
    torch.testing.assert_close(narrow.float(), layer(x).detach(), atol=0.3, rtol=0.1)
    assert layer.attn._prepared_qkv._value[0].weight.dtype == torch.bfloat16


@pytest.mark.parametrize("change", ["in place", "data", "load", "adapter", "optimizer"])
def test_changed_weight_is_noticed(change: str) -> None:
    layer, other = adapted_layer(), adapted_layer()
    x = torch.randn(2, 5, 6, 24)
    with torch.no_grad():
        before = layer(x)
        for parameter in other.parameters():
            parameter.mul_(1.5)
    if change == "in place":
        with torch.no_grad():
            for ours, theirs in zip(layer.parameters(), other.parameters(), strict=True):
                ours.copy_(theirs)
    elif change == "data":
        for ours, theirs in zip(layer.parameters(), other.parameters(), strict=True):
            ours.data = theirs.data
    elif change == "load":
        layer.load_state_dict(other.state_dict())
    elif change == "adapter":
        layer.attn.lora = other.attn.lora
    else:
        layer(x).square().sum().backward()
        torch.optim.SGD(layer.parameters(), 0.1).step()
    expected = layer(x).detach()
    with torch.no_grad():
        after = layer(x)
    torch.testing.assert_close(after, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(after, before, atol=1e-3)


def test_new_tensor_at_an_old_address_is_noticed() -> None:
    """A new adapter may be allocated where the previous one was."""
    layer = adapted_layer()
    x = torch.randn(2, 5, 6, 24)
    for seed in range(20):
        torch.manual_seed(seed)
        layer.attn.lora = None
        lora = ParallelLora(24, 3, num_branches=2)
        lora.up = nn.Parameter(torch.randn(2, 2, 24, 3))
        layer.attn.lora = lora.eval()
        with torch.no_grad():
            got = layer.attn(x, 4)[0]
        torch.testing.assert_close(got, layer.attn(x, 4)[0].detach(), atol=1e-4, rtol=1e-4)


def test_training_and_copies_start_without_prepared_weights() -> None:
    layer = adapted_layer()
    with torch.no_grad():
        layer(torch.randn(2, 5, 6, 24))
    assert layer.attn._prepared_proj._value is not None
    assert copy.deepcopy(layer).attn._prepared_qkv._value is None
    assert pickle.loads(pickle.dumps(Prepared()))._value is None
    assert not any("prepared" in name for name in layer.state_dict())
    layer.train()
    assert layer.attn._prepared_qkv._value is None and layer.attn._prepared_proj._value is None
    assert all(p._value is None for p in layer.mlp._prepared)


def test_only_inference_prepares_weights() -> None:
    layer, x = adapted_layer(), torch.randn(2, 5, 6, 24)
    assert not may_prepare(layer, x)
    with torch.no_grad():
        assert may_prepare(layer, x)
        assert not may_prepare(layer.train(), x)
        assert not may_prepare(layer.eval(), x.to("meta"))
    with torch.inference_mode():
        layer_of_inference_mode = adapted_layer()
        assert not may_prepare(layer_of_inference_mode, x)  # its tensors do not count their changes
        layer_of_inference_mode(x)


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_product_and_its_gelu(packs: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    if not packs:
        monkeypatch.setattr(packing, "_can_pack", lambda: False)
    linear, x = nn.Linear(12, 20), torch.randn(3, 5, 12)
    packed = PackedLinear(linear.weight, linear.bias, dtype, 15)
    with torch.no_grad():
        expected = linear(x)
        torch.testing.assert_close(packed(x).float(), expected, **tolerance(dtype))
        torch.testing.assert_close(packed(x, gelu=True).float(), nn.functional.gelu(expected), **tolerance(dtype))
        without = PackedLinear(linear.weight, None, dtype, 15)
        torch.testing.assert_close(without(x).float(), expected - linear.bias, **tolerance(dtype))


@pytest.mark.parametrize("name", ["gelu", "relu", "gelu_new"])
def test_activations_are_those_of_the_module(name: str) -> None:
    linear, x = nn.Linear(12, 20), torch.randn(3, 12)
    with torch.no_grad():
        got = prepared_linear(Prepared(), linear, x, activation=ACT2FN[name])
        torch.testing.assert_close(got, ACT2FN[name](linear(x)), atol=1e-5, rtol=1e-5)


needs_int8 = pytest.mark.skipif(not can_use_int8(), reason="CPU without 8-bit dot products")


@needs_int8
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_8_bit_product_is_within_the_rounding_error(dtype: torch.dtype, bias: bool, shift: float) -> None:
    linear = nn.Linear(64, 32, bias=bias)
    x = torch.randn(2, 5, 64) + shift
    exact = linear(x).detach()
    got = Int8Linear(linear.weight, linear.bias, dtype, rows=10)(x)
    assert got.shape == exact.shape and got.dtype == dtype
    step_x = float(x.max().clamp_min(0) - x.min().clamp_max(0)) / 254
    step_w = linear.weight.abs().amax(dim=1) / 127
    # each of the K products has an error of at most half a step of either factor
    bound = (step_x * linear.weight.abs().sum(1) + step_w * x.abs().sum(-1, keepdim=True).amax()).detach()
    assert ((got.float() - exact).abs() <= bound + 0.02).all()
    assert (got.float() - exact).std() < 0.02 * exact.std() + 0.02


@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (3, packing.BLOCK_ELEMENTS), (2 * packing.BLOCK_ELEMENTS // 5, 5)])
def test_rounding_to_8_bits_is_to_the_nearest_step(shape: tuple[int, int]) -> None:
    step, zero = 0.037, 91
    x = (torch.rand(shape) * 255 - zero) * step
    x.flatten()[0], x.flatten()[-1] = -zero * step, (255 - zero) * step
    got = packing.round_to_8_bits(x, step, zero)
    assert got.dtype == torch.uint8 and got.shape == x.shape
    assert (got.double() - (x.double() / step + zero)).abs().max() < 0.5001


@needs_int8
def test_8_bit_product_of_zeros_is_the_bias() -> None:
    linear = nn.Linear(8, 4)
    got = Int8Linear(linear.weight, linear.bias, torch.float32, rows=3)(torch.zeros(3, 8))
    torch.testing.assert_close(got, linear.bias.detach().expand(3, 4))
    zeros = Int8Linear(torch.zeros(4, 8), None, torch.float32, rows=3)(torch.randn(3, 8))
    torch.testing.assert_close(zeros, torch.zeros(3, 4))


@needs_int8
def test_8_bit_product_with_gelu() -> None:
    linear, x = nn.Linear(16, 16), torch.randn(3, 16)
    packed = Int8Linear(linear.weight, linear.bias, torch.float32, rows=3)
    torch.testing.assert_close(packed(x, gelu=True), nn.functional.gelu(packed(x)), atol=1e-5, rtol=1e-4)


@needs_int8
@pytest.mark.parametrize("branches", [1, 2])
def test_layer_switches_to_8_bits_and_back(branches: int) -> None:
    layer, x = adapted_layer(branches=branches), torch.randn(2, 5, 6, 24)
    with torch.no_grad():
        plain = layer(x)
        use_int8(layer)
        assert copy.deepcopy(layer).attn.int8
        narrow = layer(x)
        use_int8(layer, False)
        torch.testing.assert_close(layer(x), plain)
    assert 0 < (narrow - plain).abs().mean() < 0.05 * plain.abs().mean()
    assert isinstance(layer.mlp._prepared[0]._value, PackedLinear)


def test_8_bits_need_dot_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "cpu_has", lambda feature: feature == "amx_int8")
    assert can_use_int8()
    monkeypatch.setattr(packing, "cpu_has", lambda feature: False)
    assert not can_use_int8()
