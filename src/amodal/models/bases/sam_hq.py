"""The SAM-HQ family (`SamHQModel`): SAM with one more token for a finer mask.

The encoder is SAM's. Besides the embedding, the decoder reads what the encoder's first layer with global attention
returns: early features, in which outlines are sharper. From both it makes a map of pixels that the HQ token's mask is
read from. As in transformers with `hq_token_only=False`, that mask is a correction, added to SAM's.

Masks are those of the original code (github.com/SysCV/sam-hq; compared with random weights, equal to 1e-6). Differs
from transformers 5.23: because its decoder drops the image tokens that its transformer returns, and upscales those
that went in, with rows and columns exchanged.

Axes: B images (or crops), P prompts (objects) per image, C channels, h w feature cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, SamHQConfig, SamHQModel
from transformers.models.sam_hq.modeling_sam_hq import SamHQMaskDecoder

from amodal.models.bases.prompts import keep_single_mask
from amodal.models.bases.protocol import ImageFeatures, PromptEmbeddings, per_branch, rows_of
from amodal.models.bases.sam import PRESETS, SamFamily, new_sam, sam_at_size, sam_sizes
from amodal.nn.decoding import planes, two_way_transformer, upscaled_tokens, wide


class SamHQFamily(SamFamily):
    """SAM-HQ: SAM's encoder, adapters and prompt encoder, and a decoder with the HQ token."""

    model_type = "sam_hq"
    title = "SAM-HQ"
    config_class: ClassVar[type[PreTrainedConfig]] = SamHQConfig
    model_class: ClassVar[type[PreTrainedModel]] = SamHQModel
    presets = {
        f"hq-{name}": {
            "vision_config": vision | {"mlp_ratio": 4.0},
            "mask_decoder_config": {"vit_dim": vision["hidden_size"]},
        }
        for name, vision in PRESETS.items()
    }
    hub_ids = {
        "syscv-community/sam-hq-vit-base": "hq-vit-b",
        "syscv-community/sam-hq-vit-large": "hq-vit-l",
        "syscv-community/sam-hq-vit-huge": "hq-vit-h",
    }

    def sizes(self, config: PreTrainedConfig) -> dict[str, Any]:
        """The configurations of the three parts, without transformers' bookkeeping."""
        return {"model_type": self.model_type} | sam_sizes(config)

    def at_size(self, sizes: Mapping[str, Any], image_size: int) -> Any:
        """The grid of features and the coordinates of prompts follow the input."""
        return sam_at_size(sizes, image_size, SamHQConfig)

    def build_decoder(self, config: Any) -> Any:
        """See `SingleMaskHQDecoder`."""
        return SingleMaskHQDecoder(config.mask_decoder_config)

    def new_model(self, config: Any, seed: int = 0) -> Any:
        """See `new_sam_hq`."""
        return new_sam_hq(config, seed)

    def encode(self, encoder: Any, pixel_values: Tensor, num_branches: int) -> tuple[ImageFeatures, ...]:
        """Encode as SAM does; the early features come along as the one map of high resolution, (B, C', h, w)."""
        x = encoder.patch_embed(pixel_values)  # (B, h, w, C)
        if encoder.pos_embed is not None:
            x = x + encoder.pos_embed.to(x.dtype)
        early: list[Tensor] = []
        for layer in encoder.layers:
            x = layer(x)
            if layer.window_size == 0 and not early:
                early.append(x.permute(0, 3, 1, 2))
        return per_branch([encoder.neck(x), *early], num_branches)

    def decode(
        self,
        decoder: nn.Module,
        features: ImageFeatures,
        prompts: PromptEmbeddings,
        image_index: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits (R, P, 4h, 4w) and quality (R, P)."""
        logits, quality = decoder(features, prompts, image_index)
        return logits, quality


class SingleMaskHQDecoder(SamHQMaskDecoder):
    """SAM-HQ's mask decoder that returns the mask of its first token, corrected by that of the HQ token.

    As in `SingleMaskDecoder` the tokens of the other masks stay, and what only their masks need is left out.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        keep_single_mask(self)

    def forward(
        self, features: ImageFeatures, prompts: PromptEmbeddings, image_index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (R, P, 4h, 4w) and predicted quality (R, P), which is that of SAM's mask, as in SAM-HQ."""
        embedding = rows_of(features.embedding, image_index)
        grid = (embedding.shape[2], embedding.shape[3])
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight, self.hq_token.weight])
        positions = prompts.positions.expand_as(embedding)
        queries, keys = two_way_transformer(self.transformer, own, embedding, positions, prompts.sparse, prompts.dense)
        quality = self.iou_prediction_head(queries[:, :, 0])[..., 0]
        with torch.autocast(keys.device.type, enabled=False):  # in float32, as the masks of `decode_one_mask`
            tokens = queries.to(own.dtype)
            sam_mixture = wide(self.output_hypernetworks_mlps[0](tokens[:, :, 1]))  # (B, P, C / 8)
            hq_mixture = wide(self.hq_mask_mlp(tokens[:, :, len(own) - 1]))
            upscaled = planes(upscaled_tokens(self, keys).flatten(2, 4), grid)  # (B, P, C / 8, 4h, 4w)
            fine = self._prompt_features(upscaled) + rows_of(self._image_features(features), image_index)[:, None]
            logits = _mixed(upscaled, sam_mixture) + _mixed(fine, hq_mixture)
        return logits, quality

    def _image_features(self, features: ImageFeatures) -> Tensor:
        """What the HQ token's mask reads from the image alone: (B, C / 8, 4h, 4w)."""
        fine = self._upscaled_map("encoder", "conv1", "conv2", features.embedding)
        for early in features.high_resolution:  # none in an encoder without global attention
            fine = fine + self._upscaled_map("compress_vit", "conv1", "conv2", early)
        return fine

    def _upscaled_map(self, part: str, first: str, second: str, x: Tensor) -> Tensor:
        """Two transposed convolutions with a norm between them, each of which doubles the resolution."""
        x = self._normed(f"{part}_norm", _convolved(getattr(self, f"{part}_{first}"), x))
        return _convolved(getattr(self, f"{part}_{second}"), x)

    def _prompt_features(self, upscaled: Tensor) -> Tensor:
        """What the HQ token's mask reads from the upscaled image tokens of each prompt: (B, P, C / 8, 4h, 4w)."""
        x = self._normed("mask_norm", _convolved(self.mask_conv1, upscaled.flatten(0, 1)))
        return _convolved(self.mask_conv2, x).unflatten(0, upscaled.shape[:2])

    def _normed(self, name: str, x: Tensor) -> Tensor:
        """Layer norm over the channels of (B, C, H, W), and the activation."""
        norm: Any = getattr(self, name)
        x = F.layer_norm(x.permute(0, 2, 3, 1), norm.normalized_shape, wide(norm.weight), wide(norm.bias), norm.eps)
        return self.activation(x.permute(0, 3, 1, 2))


def new_sam_hq(config: Any, seed: int = 0) -> SamHQModel:
    """Make a SAM-HQ with random weights that can be trained from scratch: a `new_sam`, and its own parts by default."""
    torch.manual_seed(seed)
    model = SamHQModel(config)
    for module in model.mask_decoder.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
            module.reset_parameters()
    sam = new_sam(sam_at_size(sam_sizes(config), config.vision_config.image_size), seed)
    model.load_state_dict(sam.state_dict(), strict=False)
    shared = model.prompt_encoder.shared_embedding
    shared.positional_embedding = model.shared_image_embedding.positional_embedding
    shared.positional_embedding.requires_grad_(False)
    return model


def _convolved(convolution: Any, x: Tensor) -> Tensor:
    """Apply a convolution of stride 1 or a transposed one of stride 2, in float32 at least."""
    weight, bias = wide(convolution.weight), wide(convolution.bias)
    if isinstance(convolution, nn.ConvTranspose2d):
        return F.conv_transpose2d(wide(x), weight, bias, stride=convolution.stride)
    return F.conv2d(wide(x), weight, bias, padding=convolution.padding)


def _mixed(maps: Tensor, mixture: Tensor) -> Tensor:
    """Weight the channels of (B, P, C, H, W) by (B, P, C): (B, P, H, W)."""
    return (mixture[:, :, None] @ maps.flatten(3)).unflatten(-1, maps.shape[3:])[:, :, 0]
