"""SAM's and SAM 2's mask decoder for one mask per prompt; what all prompts of an image share is computed once.

Same tensors and same result as transformers' `SamMaskDecoder` and `Sam2MaskDecoder`. Those copy the image tokens for
every prompt before their first layer, and rearrange tokens to planes and back for their upscaling.
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
    from transformers.models.sam.modeling_sam import SamTwoWayAttentionBlock


def decode_one_mask(
    decoder: Any,
    image_embeddings: Tensor,
    positions: Tensor,
    sparse: Tensor,
    dense: Tensor,
    high_resolution: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Decode the mask of the decoder's first mask token.

    Args:
        decoder: SAM's or SAM 2's; the latter has one more token, `obj_score_token`, before the others.
        image_embeddings: (B, C, h, w).
        positions: (B, C, h, w) of the image tokens.
        sparse: (B, P, n, C) embeddings of the prompts, n per prompt.
        dense: (B, C, h, w) embedding that all prompts of an image share, such as that of no mask, or
            (B, P, C, h, w) with one embedding per prompt.
        high_resolution: (B, C / 8, 4h, 4w) and (B, C / 4, 2h, 2w), added to the upscaled tokens in SAM 2.

    Returns:
        Logits (B, P, 4h, 4w) and predicted quality (B, P).
    """
    grid = (image_embeddings.shape[2], image_embeddings.shape[3])
    before = [decoder.obj_score_token.weight] if hasattr(decoder, "obj_score_token") else []
    own = torch.cat([*before, decoder.iou_token.weight, decoder.mask_tokens.weight])
    iou_token = len(before)
    queries, keys = two_way_transformer(decoder.transformer, own, image_embeddings, positions, sparse, dense)
    quality = decoder.iou_prediction_head(queries[:, :, iou_token])[..., 0]
    with torch.autocast(keys.device.type, enabled=False):  # bfloat16 would change some hundredths of a mask
        mixture = decoder.output_hypernetworks_mlps[0](queries[:, :, iou_token + 1].to(own.dtype))  # (B, P, C / 8)
        pixels = upscaled_tokens(decoder, keys, high_resolution)
        return planes(pixels.flatten(2, 4) @ wide(mixture)[..., None], grid)[:, :, 0], quality


def two_way_transformer(
    transformer: Any, own: Tensor, image_embeddings: Tensor, positions: Tensor, sparse: Tensor, dense: Tensor
) -> tuple[Tensor, Tensor]:
    """Let the tokens of all prompts and the image attend to each other.

    Args:
        transformer: `SamTwoWayTransformer` or that of SAM 2.
        own: (K, C) the decoder's own tokens, which stand before those of each prompt.
        image_embeddings: (B, C, h, w); this and the other inputs are those of `decode_one_mask`.

    Returns:
        (B, P, K + n, C) tokens, and (B, P, T, C) image tokens per prompt.
    """
    tokens = torch.cat([own.expand(*sparse.shape[:2], -1, -1), sparse], dim=2).to(own.dtype)  # (B, P, Q, C)
    shared = dense if dense.dim() == 5 else dense[:, None]
    keys = (image_embeddings[:, None] + shared).flatten(3).transpose(2, 3)  # (B, P or 1, T, C)
    places = positions.flatten(2).transpose(1, 2)[:, None]
    queries = tokens
    for layer in transformer.layers:
        queries, keys = _two_way(layer, queries, keys, tokens, places)
    attended = attend(transformer.final_attn_token_to_image, queries + tokens, keys + places, keys)
    return transformer.layer_norm_final_attn(queries + attended), keys


def attend(attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Apply SAM's or SAM 2's attention, where queries or keys may be shared by all prompts of an image.

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
    project_out = attention.out_proj if hasattr(attention, "out_proj") else attention.o_proj  # the name in SAM 2
    return project_out(mixed.reshape(query.shape[0], prompts, own, -1))


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


def upscaled_tokens(decoder: Any, image_tokens: Tensor, high_resolution: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Upscale image tokens (B, P, T, C) four times: (B, P, T, 4, 4, C / 8), the 16 pixels of each token."""
    norm: Any = decoder.upscale_layer_norm
    fine = _upscaled(decoder.upscale_conv1, wide(image_tokens))  # (B, P, T, 4, C / 4)
    if high_resolution is not None:
        fine = fine + wide(_pixels_of_tokens(high_resolution[1], 1))
    fine = F.layer_norm(fine, norm.normalized_shape, wide(norm.weight), wide(norm.bias), norm.eps)
    fine = _upscaled(decoder.upscale_conv2, decoder.activation(fine))  # (B, P, T, 4, 4, C / 8)
    if high_resolution is not None:
        fine = fine + wide(_pixels_of_tokens(high_resolution[0], 2))
    return decoder.activation(fine)


def planes(pixels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Order the pixels of `upscaled_tokens`, (B, P, T * 16, C), as planes (B, P, C, 4h, 4w)."""
    x = pixels.unflatten(2, (*grid, 2, 2, 2, 2))  # (B, P, h, w, row and column of each doubling, C)
    x = x.permute(0, 1, 8, 2, 4, 6, 3, 5, 7)
    return x.flatten(6).flatten(3, 5)


def _pixels_of_tokens(maps: Tensor, doublings: int) -> Tensor:
    """Order the pixels of (B, C, H, W) as one or two calls of `_upscaled` do: (B, 1, T, 4, C) or (B, 1, T, 4, 4, C)."""
    if doublings == 1:
        x = maps.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (B, C, h, 2, w, 2)
        return x.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)[:, None]
    x = maps.unflatten(3, (-1, 2, 2)).unflatten(2, (-1, 2, 2))  # (B, C, h, 2, 2, w, 2, 2)
    x = x.permute(0, 2, 5, 3, 6, 4, 7, 1)  # (B, h, w, first rows and columns, second rows and columns, C)
    return x.flatten(5, 6).flatten(3, 4).flatten(1, 2)[:, None]


def _upscaled(convolution: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """(..., C) to (..., 4, C'): the four pixels, row by row, that each token becomes; in the precision of `x`."""
    weight = wide(convolution.weight).permute(2, 3, 1, 0).flatten(0, 2)  # (2 * 2 * C', C)
    bias = None if convolution.bias is None else wide(convolution.bias).repeat(4)
    return F.linear(x, weight, bias).unflatten(-1, (4, -1))


def wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
