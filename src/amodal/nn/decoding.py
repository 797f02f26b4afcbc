"""SAM's mask decoder for one mask per prompt, with the work that all prompts of an image share done once.

Same tensors and same result as transformers' `SamMaskDecoder`. That one copies the image tokens for
every prompt before its first layer, and rearranges tokens to planes and back for its upscaling.
Here the first layer projects the tokens of an image once for all of its prompts, unless each prompt
has a mask of its own, which is added to the tokens. The two transposed
convolutions, whose windows do not overlap, are linear maps of tokens; the pixels are put in their
order at the end, when one value per pixel is left.

Axes: B images, P prompts per image, Q tokens per prompt, T = h * w image tokens, C channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.nn.kernels import softmax_attention

if TYPE_CHECKING:
    from transformers.models.sam.modeling_sam import SamAttention, SamMaskDecoder, SamTwoWayAttentionBlock


def decode_one_mask(
    decoder: SamMaskDecoder, image_embeddings: Tensor, positions: Tensor, sparse: Tensor, dense: Tensor
) -> tuple[Tensor, Tensor]:
    """Decode the mask of the decoder's first mask token.

    Args:
        decoder: SAM's.
        image_embeddings: (B, C, h, w).
        positions: (B, C, h, w) of the image tokens.
        sparse: (B, P, n, C) embeddings of the prompts, n per prompt.
        dense: (B, C, h, w) embedding that all prompts of an image share, such as that of no mask, or
            (B, P, C, h, w) with one embedding per prompt.

    Returns:
        Logits (B, P, 4h, 4w) and predicted quality (B, P).
    """
    grid = (image_embeddings.shape[2], image_embeddings.shape[3])
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(*sparse.shape[:2], -1, -1), sparse], dim=2).to(own.dtype)  # (B, P, Q, C)
    shared = dense if dense.dim() == 5 else dense[:, None]
    keys = (image_embeddings[:, None] + shared).flatten(3).transpose(2, 3)  # (B, P or 1, T, C)
    places = positions.flatten(2).transpose(1, 2)[:, None]
    queries = tokens
    for layer in decoder.transformer.layers:
        queries, keys = _two_way(layer, queries, keys, tokens, places)
    last: Any = decoder.transformer
    attended = attend(last.final_attn_token_to_image, queries + tokens, keys + places, keys)
    queries = last.layer_norm_final_attn(queries + attended)
    quality = decoder.iou_prediction_head(queries[:, :, 0])[..., 0]
    with torch.autocast(keys.device.type, enabled=False):  # bfloat16 would change some hundredths of a mask
        mixture = decoder.output_hypernetworks_mlps[0](queries[:, :, 1].to(own.dtype))  # (B, P, C / 8)
        return _masks(decoder, keys, mixture, grid), quality


def attend(attention: SamAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Apply SAM's attention, where queries or keys may be shared by all prompts of an image.

    Args:
        attention: module with the projections.
        query: (B, P, Q, C), or (B, 1, Q, C) if all prompts share the queries.
        key: (B, P, T, C), or (B, 1, T, C) likewise; `value` likewise.

    Returns:
        (B, P, Q, C).
    """
    q, k, v = attention.q_proj(query), attention.k_proj(key), attention.v_proj(value)
    prompts, own = q.shape[1], q.shape[2]
    if k.shape[1] < prompts:  # one attention with the queries of all prompts
        q = q.flatten(1, 2)[:, None]
    elif prompts < k.shape[1]:
        prompts = k.shape[1]
        q = q.expand(-1, prompts, -1, -1)
    q, k, v = (_heads(x, attention.num_attention_heads) for x in (q * attention.scaling, k, v))
    mixed = softmax_attention(q, k, v).transpose(1, 2).flatten(2)
    return attention.out_proj(mixed.reshape(query.shape[0], prompts, own, -1))


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, P, T, C) to (B * P, heads, T, C / heads)."""
    return x.flatten(0, 1).unflatten(-1, (heads, -1)).transpose(1, 2)


def _two_way(
    layer: SamTwoWayAttentionBlock, queries: Tensor, keys: Tensor, tokens: Tensor, places: Tensor
) -> tuple[Tensor, Tensor]:
    """One layer: self-attention of the tokens, attention from tokens to image, and from image to tokens."""
    if layer.skip_first_layer_pe:
        queries = attend(layer.self_attn, queries, queries, queries)
    else:
        placed = queries + tokens
        queries = queries + attend(layer.self_attn, placed, placed, queries)
    queries = layer.layer_norm1(queries)
    placed_keys = keys + places
    queries = queries + attend(layer.cross_attn_token_to_image, queries + tokens, placed_keys, keys)
    queries = layer.layer_norm2(queries)
    queries = layer.layer_norm3(queries + layer.mlp(queries))
    keys = keys + attend(layer.cross_attn_image_to_token, placed_keys, queries + tokens, queries)
    return queries, layer.layer_norm4(keys)


def _masks(decoder: SamMaskDecoder, image_tokens: Tensor, mixture: Tensor, grid: tuple[int, int]) -> Tensor:
    """Image tokens (B, P, T, C) upscaled four times, each pixel's channels weighted by `mixture`: (B, P, 4h, 4w)."""
    norm: Any = decoder.upscale_layer_norm
    fine = _upscaled(decoder.upscale_conv1, _wide(image_tokens))  # (B, P, T, 4, C / 4)
    fine = F.layer_norm(fine, norm.normalized_shape, _wide(norm.weight), _wide(norm.bias), norm.eps)
    fine = decoder.activation(_upscaled(decoder.upscale_conv2, decoder.activation(fine)))  # (B, P, T, 4, 4, C / 8)
    pixels = fine.flatten(2, 4) @ _wide(mixture)[..., None]  # (B, P, T * 16, 1)
    B, P = pixels.shape[:2]
    return pixels.reshape(B, P, *grid, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(B, P, *(4 * n for n in grid))


def _upscaled(convolution: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """(..., C) to (..., 4, C'): the four pixels, row by row, that each token becomes; in the precision of `x`."""
    weight = _wide(convolution.weight).permute(2, 3, 1, 0).flatten(0, 2)  # (2 * 2 * C', C)
    bias = None if convolution.bias is None else _wide(convolution.bias).repeat(4)
    return F.linear(x, weight, bias).unflatten(-1, (4, -1))


def _wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
