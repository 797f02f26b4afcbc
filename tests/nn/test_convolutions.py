"""Depthwise convolutions; tests/models/test_families.py tests the adapters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from amodal.nn.convolutions import DepthwiseConv


def test_depthwise_convolutions_compute_gradients_in_float32() -> None:
    torch.manual_seed(0)
    conv = DepthwiseConv(4, 4, 3, padding=1, groups=4)
    x = torch.randn(2, 4, 8, 8)
    expected = nn.Conv2d.forward(conv, x)
    assert torch.equal(conv(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(x)
        with torch.no_grad():
            assert conv(x).dtype == torch.bfloat16 and not torch.equal(conv(x), expected.bfloat16())
    assert torch.equal(out, expected.bfloat16())
    upstream = torch.randn_like(expected).bfloat16()
    (ours,) = torch.autograd.grad(out, conv.weight, upstream)
    (gradient,) = torch.autograd.grad(expected, conv.weight, upstream.float())
    torch.testing.assert_close(ours, gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_depthwise_convolutions_compute_as_others_where_they_learn_nothing_or_have_few_digits(
    dtype: torch.dtype, learns: bool
) -> None:
    """A frozen trunk gains nothing from float32, and weights in bfloat16 cannot be mixed with float32."""
    torch.manual_seed(0)
    conv = DepthwiseConv(4, 4, 3, padding=1, groups=4).to(dtype).requires_grad_(learns)
    x = torch.randn(2, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out, as_others = conv(x), nn.Conv2d.forward(conv, x)
    in_float32 = learns and dtype == torch.float32
    assert out.dtype == torch.bfloat16 and torch.equal(out, as_others) != in_float32
