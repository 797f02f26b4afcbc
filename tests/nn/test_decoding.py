"""One mask per prompt equals that of transformers' SAM."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Sam2MaskDecoderConfig, SamMaskDecoderConfig
from transformers.models.sam.modeling_sam import SamMaskDecoder
from transformers.models.sam2.modeling_sam2 import Sam2MaskDecoder

from amodal.models.bases.prompts import single_mask_weights
from amodal.models.bases.protocol import ImageFeatures, PromptEmbeddings
from amodal.models.bases.sam import SingleMaskDecoder
from amodal.models.bases.sam2 import SingleMaskSam2Decoder
from amodal.nn import kernels

CONFIG: dict[str, Any] = {
    "hidden_size": 32,
    "mlp_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "iou_head_hidden_dim": 24,
}


def theirs_and_ours(**changes: Any) -> tuple[SamMaskDecoder, SingleMaskDecoder]:
    torch.manual_seed(0)
    config = SamMaskDecoderConfig(**CONFIG | changes)
    config._attn_implementation = "eager"
    whole = SamMaskDecoder(config)
    for parameter in whole.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    single = SingleMaskDecoder(config)
    single.load_state_dict(single_mask_weights(whole))
    return whole.eval(), single.eval()


def inputs(images: int, prompts: int, grid: tuple[int, int] = (5, 7)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(images, 32, *grid, generator=generator) for _ in range(3)]
    sparse = torch.randn(images, prompts, 3, 32, generator=generator)
    return [maps[0], maps[1], sparse, maps[2]]


@pytest.mark.parametrize("kernel", ["products", "fused"])
@pytest.mark.parametrize(("images", "prompts"), [(1, 1), (1, 4), (3, 1), (2, 3)])
def test_same_masks_and_gradients_as_transformers(
    images: int, prompts: int, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "choose_kernel", lambda q, k: kernel)
    whole, single = theirs_and_ours()
    found = []
    for decoder in (whole, single):
        given = [x.requires_grad_() for x in inputs(images, prompts)]
        if decoder is whole:
            masks, quality = whole(*given, multimask_output=False)
            masks, quality = masks[:, :, 0], quality[:, :, 0]
        else:
            masks, quality = single(*given)
        assert masks.shape == (images, prompts, 20, 28) and quality.shape == (images, prompts)
        (masks.square().mean() + quality.square().mean()).backward()
        grads = [x.grad for x in given] + [decoder.upscale_conv1.weight.grad, decoder.mask_tokens.weight.grad]
        found.append([masks, quality, *grads])
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_any_number_of_layers() -> None:
    whole, single = theirs_and_ours(num_hidden_layers=3)
    given = inputs(2, 2)
    torch.testing.assert_close(
        single(*given)[0], whole(*given, multimask_output=False)[0][:, :, 0], atol=1e-5, rtol=1e-4
    )


def test_first_layer_projects_image_tokens_once_for_all_prompts() -> None:
    _, single = theirs_and_ours()
    seen = []
    first = single.transformer.layers[0].cross_attn_token_to_image.k_proj
    first.register_forward_hook(lambda _, x, y: seen.append(y.shape[:2]))
    single(*inputs(2, 6))
    assert seen == [(2, 1)]


def test_one_dense_embedding_per_prompt_equals_one_call_per_prompt() -> None:
    _, single = theirs_and_ours()
    embeddings, positions, sparse, _ = inputs(2, 3)
    dense = torch.randn(2, 3, 32, 5, 7, generator=torch.Generator().manual_seed(2))
    together = single(embeddings, positions, sparse, dense)
    for p in range(3):
        alone = single(embeddings, positions, sparse[:, p : p + 1], dense[:, p])
        for ours, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(ours[:, p : p + 1], expected, atol=1e-5, rtol=1e-4)


def test_a_shared_dense_embedding_equals_its_copies_per_prompt() -> None:
    _, single = theirs_and_ours()
    embeddings, positions, sparse, dense = inputs(2, 3)
    shared = single(embeddings, positions, sparse, dense)
    copied = single(embeddings, positions, sparse, dense[:, None].expand(-1, 3, -1, -1, -1))
    for ours, expected in zip(copied, shared, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shared", [True, False], ids=["no mask", "one mask per prompt"])
def test_same_masks_and_gradients_as_transformers_sam_2(shared: bool) -> None:
    """Also with one embedding per prompt, which transformers takes as one image per prompt."""
    torch.manual_seed(0)
    config = Sam2MaskDecoderConfig(**CONFIG, dynamic_multimask_via_stability=False)
    config._attn_implementation = "eager"
    whole = Sam2MaskDecoder(config)
    for parameter in whole.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    single = SingleMaskSam2Decoder(config)
    weights = single_mask_weights(whole)
    single.load_state_dict({k: v for k, v in weights.items() if not k.startswith("pred_obj_score_head.")})
    embedding, positions, sparse, dense = inputs(2, 3)
    fine, middle = torch.randn(2, 32, 20, 28), torch.randn(2, 32, 10, 14)
    if not shared:
        dense = torch.randn(2, 3, 32, 5, 7)
    prompts = PromptEmbeddings(sparse, dense, positions[:1])
    masks, quality = single(ImageFeatures(embedding, (fine, middle)), prompts)
    for prompt in range(3):
        expected, expected_quality, *_ = whole(
            embedding,
            positions[:1].expand(2, -1, -1, -1),
            sparse[:, prompt : prompt + 1],
            dense if shared else dense[:, prompt],
            multimask_output=False,
            high_resolution_features=[whole.conv_s0(fine), whole.conv_s1(middle)],
        )
        torch.testing.assert_close(masks[:, prompt], expected[:, 0, 0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(quality[:, prompt], expected_quality[:, 0, 0], atol=1e-5, rtol=1e-5)
    (masks.square().mean() + quality.square().mean()).backward()
    assert all(p.grad is not None for p in single.parameters())
