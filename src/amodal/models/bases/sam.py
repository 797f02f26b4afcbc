"""The SAM family (`SamModel`): ViT-B/L/H, and SlimSAM, whose pruned widths come with its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, SamConfig, SamMaskDecoderConfig, SamModel, SamVisionConfig
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPromptEncoder, SamVisionEncoder

from amodal.models.bases.prompts import (
    Float32PositionalEmbedding,
    embed_prompts,
    keep_single_mask,
    single_mask_weights,
)
from amodal.models.bases.protocol import (
    Adapters,
    BaseFamily,
    ImageFeatures,
    PromptEmbeddings,
    Prompts,
    per_branch,
    rows_of,
)
from amodal.nn.attention import resize_relative_positions, use_folded_attention
from amodal.nn.decoding import decode_one_mask
from amodal.nn.lora import ParallelLora

# Sizes of the vision encoders of the three published models (SAM, appendix A; ViT-B/L/H).
PRESETS: dict[str, dict[str, Any]] = {
    "vit-b": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "global_attn_indexes": [2, 5, 8, 11],
    },
    "vit-l": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "global_attn_indexes": [5, 11, 17, 23],
    },
    "vit-h": {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "global_attn_indexes": [7, 15, 23, 31],
    },
}
HUB_IDS = {
    "facebook/sam-vit-base": "vit-b",
    "facebook/sam-vit-large": "vit-l",
    "facebook/sam-vit-huge": "vit-h",
}
_PARTS = ("vision_config", "prompt_encoder_config", "mask_decoder_config")


class SamFamily(BaseFamily):
    """SAM: a ViT with windowed attention, and adapters on Q and V of every layer (PLUG Eq. 3-4)."""

    model_type = "sam"
    title = "SAM"
    config_class = SamConfig
    model_class = SamModel
    presets: ClassVar[Mapping[str, dict[str, Any]]] = {
        name: {"vision_config": SamVisionConfig(**vision, mlp_ratio=4.0).to_dict()} for name, vision in PRESETS.items()
    }
    hub_ids: ClassVar[Mapping[str, str]] = HUB_IDS
    keeps_aspect_ratio = True

    def sizes(self, config: PreTrainedConfig) -> dict[str, Any]:
        """The configurations of the three parts, without transformers' bookkeeping."""
        return sam_sizes(config)

    def at_size(self, sizes: Mapping[str, Any], image_size: int) -> SamConfig:
        """See `sam_at_size`."""
        return sam_at_size(sizes, image_size)

    def native_size(self, sizes: Mapping[str, Any]) -> int:
        """Side of the square input."""
        return int(sizes["vision_config"].get("image_size", 1024))

    def stride(self, sizes: Mapping[str, Any]) -> int:
        """Side of a patch."""
        return int(sizes["vision_config"].get("patch_size", 16))

    def build_encoder(self, config: Any, adapters: Adapters) -> SamVisionEncoder:
        """transformers' encoder with folded attention; the branches separate in its first layer."""
        config.vision_config._attn_implementation = "sdpa"
        encoder = use_folded_attention(SamVisionEncoder(config.vision_config))
        if adapters.rank > 0:
            for index, layer in enumerate(encoder.layers):
                layer.attn.lora = ParallelLora(
                    config.vision_config.hidden_size,
                    adapters.rank,
                    alpha=adapters.alpha,
                    num_branches=adapters.num_branches,
                    splits_branches=index == 0,
                )
        return encoder

    def build_prompt_encoder(self, config: Any) -> SamPromptEncoder:
        """transformers' prompt encoder with coordinates in float32."""
        encoder = SamPromptEncoder(config)
        encoder.shared_embedding = Float32PositionalEmbedding(config.vision_config)
        return encoder

    def build_decoder(self, config: Any) -> SingleMaskDecoder:
        """See `SingleMaskDecoder`."""
        return SingleMaskDecoder(config.mask_decoder_config)

    def point_parameters(self, prompt_encoder: Any) -> list[nn.Parameter]:
        """The embeddings of the labels of points; those of the corners of boxes follow them."""
        return [prompt_encoder.not_a_point_embed.weight, *(embed.weight for embed in prompt_encoder.point_embed[:2])]

    def new_model(self, config: Any, seed: int = 0) -> SamModel:
        """See `new_sam`."""
        return new_sam(config, seed)

    def fit_encoder_weights(self, weights: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
        """See the function of the same name."""
        return fit_encoder_weights(weights, target)

    def load_prompt_encoder(self, prompt_encoder: nn.Module, model: PreTrainedModel) -> None:
        """Copy all of it."""
        prompt_encoder.load_state_dict(model.prompt_encoder.state_dict())

    def load_decoder(self, decoder: nn.Module, model: PreTrainedModel) -> None:
        """Copy what makes the first mask."""
        decoder.load_state_dict(single_mask_weights(model.mask_decoder))

    def encode(self, encoder: Any, pixel_values: Tensor, num_branches: int) -> tuple[ImageFeatures, ...]:
        """Encode all branches in one pass over a batch that the first layer multiplies."""
        x = encoder.patch_embed(pixel_values)  # (B, h, w, C)
        if encoder.pos_embed is not None:
            x = x + encoder.pos_embed.to(x.dtype)  # under autocast the residual stays in half precision
        for layer in encoder.layers:
            x = layer(x)  # (branches * B, h, w, C) from the first layer on, which separates the branches
        return per_branch([encoder.neck(x)], num_branches)

    def embed_prompts(self, prompt_encoder: Any, prompts: Prompts) -> PromptEmbeddings:
        """See `prompts.embed_prompts`."""
        return embed_prompts(prompt_encoder, prompts)

    def decode(
        self,
        decoder: nn.Module,
        features: ImageFeatures,
        prompts: PromptEmbeddings,
        image_index: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits (R, P, 4h, 4w) and quality (R, P)."""
        embedding = rows_of(features.embedding, image_index)
        positions = prompts.positions.expand_as(embedding)
        logits, quality = decoder(embedding, positions, prompts.sparse, prompts.dense)
        return logits, quality


def sam_at_size(sam: Mapping[str, Any], image_size: int, config_class: Any = SamConfig) -> Any:
    """Return a SAM's configuration, or that of a class with the same three parts, for square inputs of `image_size`."""
    parts = {key: dict(sam[key]) for key in _PARTS}
    patch = parts["vision_config"].get("patch_size", 16)
    parts["vision_config"]["image_size"] = image_size
    parts["prompt_encoder_config"] |= {
        "image_size": image_size,
        "patch_size": patch,
        "image_embedding_size": image_size // patch,
    }
    return config_class(**parts)


def sam_sizes(config: Any) -> dict[str, Any]:
    """Return the part of a SAM configuration that defines sizes, without transformers' bookkeeping."""
    return {
        name: {k: v for k, v in getattr(config, name).to_diff_dict().items() if k != "transformers_version"}
        for name in _PARTS
    }


def new_sam(config: SamConfig, seed: int = 0) -> SamModel:
    """Make a SAM with random weights that can be trained from scratch.

    Differs from transformers' initialisation: because that one only prepares for loading weights. It
    starts the vision encoder at 1e-10 and the Fourier features at a scale of half the encoder's width.
    Here the encoder's linear maps start as in ViT (Xavier), the absolute positions with a standard
    deviation of 0.02, the Fourier features with SAM's scale of one, and all else as in Meta's code, by
    torch's defaults.
    """
    torch.manual_seed(seed)
    model = SamModel(config)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
            module.reset_parameters()
    for module in model.vision_encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    if model.vision_encoder.pos_embed is not None:
        nn.init.trunc_normal_(model.vision_encoder.pos_embed, std=0.02)
    nn.init.normal_(model.shared_image_embedding.positional_embedding)
    model.tie_weights()
    shared = model.prompt_encoder.shared_embedding
    shared.positional_embedding = model.shared_image_embedding.positional_embedding
    shared.positional_embedding.requires_grad_(False)
    return model


def fit_encoder_weights(weights: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Interpolate position embeddings to another input size; other tensors stay as they are.

    Args:
        weights: state of a SAM vision encoder.
        target: state of an encoder that differs only in its input size.

    Returns:
        `weights` in the shapes of `target`: absolute positions bicubic, tables of the global
        layers linear. Tables of windowed layers do not depend on the input size.
    """
    fitted = {}
    for name, tensor in weights.items():
        shape = target[name].shape
        if tensor.shape != shape and name == "pos_embed":  # (1, h, w, C)
            tensor = nn.functional.interpolate(
                tensor.permute(0, 3, 1, 2).float(), size=shape[1:3], mode="bicubic"
            ).permute(0, 2, 3, 1)
        elif tensor.shape != shape and "rel_pos" in name:  # (2 * cells - 1, D)
            tensor = resize_relative_positions(tensor, (shape[0] + 1) // 2)
        fitted[name] = tensor
    return fitted


class SingleMaskDecoder(SamMaskDecoder):
    """SAM's mask decoder that returns the mask of its first token only.

    SAM's other three masks are for ambiguous clicks; a box is not ambiguous. Their tokens stay,
    because the tokens attend to each other: without them the first mask would change. What only
    their masks need (hypernetworks, quality outputs) is left out.
    """

    def __init__(self, config: SamMaskDecoderConfig) -> None:
        super().__init__(config)
        keep_single_mask(self)

    def forward(
        self, image_embeddings: Tensor, positions: Tensor, sparse: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, P, 4h, 4w) and predicted quality (B, P); see `decode_one_mask`."""
        return decode_one_mask(self, image_embeddings, positions, sparse, dense)
