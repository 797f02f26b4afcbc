"""Hiera's blocks without padding equal those of transformers, which computes every softmax in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Sam2HieraDetConfig
from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModel, Sam2MultiScaleBlock

from amodal.nn import kernels
from amodal.nn.hiera import HieraAttention, HieraBlock, add_adapters, trunk_stages, use_hiera_blocks
from amodal.nn.packing import Int8Linear, can_use_int8


def trunk(window_sizes: list[int], global_blocks: list[int]) -> Sam2HieraDetModel:
    torch.manual_seed(0)
    config = Sam2HieraDetConfig(
        hidden_size=8,
        num_attention_heads=1,
        blocks_per_stage=[1, 2, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=window_sizes,
        global_attention_blocks=global_blocks,
        window_positional_embedding_background_size=[3, 3],
    )
    config._attn_implementation = "eager"
    model = Sam2HieraDetModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double()


def outputs_and_gradients(stages: Any, model: Sam2HieraDetModel, pixels: Tensor) -> list[Tensor]:
    model.zero_grad()
    found = stages(pixels)
    sum(stage.square().mean() for stage in found).backward()
    gradients = [p.grad.clone() for _, p in sorted(model.named_parameters()) if p.grad is not None]
    return [*(stage.detach() for stage in found), *gradients]


@pytest.mark.parametrize("kernel", ["products", "fused"])
@pytest.mark.parametrize(
    ("window_sizes", "global_blocks", "size"),
    [
        ([4, 4, 4, 2], [], 64),  # whole windows
        ([4, 2, 6, 3], [4], 96),  # borders in the third stage, also where its queries are pooled; a global block
        ([4, 6, 10, 5], [2], 160),  # borders everywhere
    ],
)
def test_stages_and_gradients_equal_those_of_transformers(
    window_sizes: list[int], global_blocks: list[int], size: int, kernel: Any
) -> None:
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1)).double()
    theirs = trunk(window_sizes, global_blocks)
    expected = outputs_and_gradients(lambda x: theirs(x).intermediate_hidden_states, theirs, pixels)
    ours = use_hiera_blocks(trunk(window_sizes, global_blocks))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    with kernels.forced_kernel(kernel):
        got = outputs_and_gradients(lambda x: trunk_stages(ours, x), ours, pixels)
        with torch.no_grad():
            packed = trunk_stages(ours.eval(), pixels)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(packed, expected[:4], atol=1e-5, rtol=1e-4)


def test_the_first_block_separates_the_branches() -> None:
    model = use_hiera_blocks(trunk([4, 2, 6, 3], [4]))
    add_adapters(model, rank=2, alpha=4.0, num_branches=2)
    model.double()
    shapes = [tuple(block.attn.lora.up.shape) for block in model.blocks]  # (branches, Q and V, width out, rank)
    assert shapes == [(2, 2, width, 2) for width in (8, 16, 16, 32, 32, 64)]
    pixels = torch.randn(3, 3, 64, 64).double()
    same = trunk_stages(model, pixels)
    assert [tuple(stage.shape) for stage in same] == [(6, 16, 16, 8), (6, 8, 8, 16), (6, 4, 4, 32), (6, 2, 2, 64)]
    torch.testing.assert_close(same[3][:3], same[3][3:])  # adapters start at zero
    for block in model.blocks:
        torch.nn.init.normal_(block.attn.lora.up, std=0.3)
    different = trunk_stages(model, pixels)
    assert not torch.allclose(different[3][:3], different[3][3:])
    with torch.no_grad():
        torch.testing.assert_close(trunk_stages(model.eval(), pixels), different, atol=1e-5, rtol=1e-5)


def test_only_the_softmax_of_the_attention_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    block = trunk([4, 4, 4, 2], []).blocks[0]
    assert isinstance(block, Sam2MultiScaleBlock)
    calls: list[tuple[int, ...]] = []
    softmax = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda x, dim: calls.append(tuple(x.shape)) or softmax(x, dim))
    HieraBlock(block)(torch.randn(1, 8, 8, 8).double())
    assert calls == [(4, 1, 16, 16)]


@pytest.mark.skipif(not can_use_int8(), reason="needs 8-bit dot products")
def test_8_bits_are_switched_per_encoder() -> None:
    from amodal.nn.attention import use_int8

    model = use_hiera_blocks(trunk([4, 4, 4, 2], [])).float().eval()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        exact = trunk_stages(model, pixels)[-1]
        use_int8(model)
        close = trunk_stages(model, pixels)[-1]
    attention = model.blocks[0].attn
    assert isinstance(attention, HieraAttention) and attention.int8
    assert isinstance(model.blocks[0].mlp._prepared[0]._value, Int8Linear)
    assert (close - exact).abs().mean() < 0.1 * exact.abs().mean()


def test_training_frees_weights_prepared_for_inference() -> None:
    """Also the projection of the residual at a transition between stages, which no attention owns."""
    model = use_hiera_blocks(trunk([4, 4, 4, 2], [])).float().eval()
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    blocks = [module for module in model.modules() if isinstance(module, HieraBlock)]
    assert any(block._prepared_proj._value is not None for block in blocks)
    model.train()
    assert all(block._prepared_proj._value is None for block in blocks)
