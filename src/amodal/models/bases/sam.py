"""The SAM base: loaded from the hub, a folder or Meta's original checkpoint, or made from a configuration."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamVisionConfig
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPositionalEmbedding, SamPromptEncoder
from transformers.utils import logging

from amodal.errors import InputError
from amodal.models.bases.checkpoints import load_meta_checkpoint
from amodal.models.increments import Origin, bundled_models
from amodal.nn.attention import resize_relative_positions
from amodal.nn.decoding import decode_one_mask

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
# ImageNet's mean and standard deviation of RGB in [0, 1], which SAM was trained with.
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
HUB_IDS = {
    "facebook/sam-vit-base": "vit-b",
    "facebook/sam-vit-large": "vit-l",
    "facebook/sam-vit-huge": "vit-h",
}
MASK_LOGIT = 10.0
"""Logit of the pixels of a binary mask prompt. SAM takes the logits of an earlier prediction as a prompt; SAM 2
converts binary masks to -10 and 10, and so do we."""


_PARTS = ("vision_config", "prompt_encoder_config", "mask_decoder_config")


@dataclass(frozen=True)
class LoadedSam:
    """A base in memory, and where its weights came from."""

    model: SamModel
    origin: Origin


def sam_config_for(name: str | Path) -> SamConfig:
    """Read the configuration of a base without loading its weights.

    Args:
        name: preset (`vit-b`, `vit-l`, `vit-h`), hub id, bundled name, or folder.

    Raises:
        InputError: there is no such base, or its configuration is unreadable.
    """
    preset = PRESETS.get(str(name)) or PRESETS.get(HUB_IDS.get(str(name), ""))
    if preset is not None:
        vision = SamVisionConfig(**preset, mlp_ratio=4.0)
        return SamConfig(vision_config=vision.to_dict())
    source = bundled_models().get(str(name), Path(name))
    try:
        return SamConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise _unknown_base(name) from error


def sam_at_size(sam: dict[str, Any], image_size: int) -> SamConfig:
    """Return a SAM's configuration for square inputs of `image_size` pixels."""
    parts = {key: dict(sam[key]) for key in _PARTS}
    patch = parts["vision_config"].get("patch_size", 16)
    parts["vision_config"]["image_size"] = image_size
    parts["prompt_encoder_config"] |= {
        "image_size": image_size,
        "patch_size": patch,
        "image_embedding_size": image_size // patch,
    }
    return SamConfig(**parts)


def sam_sizes(config: SamConfig) -> dict[str, dict[str, object]]:
    """Return the part of a SAM configuration that defines sizes, without transformers' bookkeeping."""
    return {
        name: {k: v for k, v in getattr(config, name).to_diff_dict().items() if k != "transformers_version"}
        for name in _PARTS
    }


def load_sam(name: str | Path | SamConfig | LoadedSam, revision: str | None = None) -> LoadedSam:
    """Load a base with its weights.

    Args:
        name: bundled name, folder or hub id of a transformers SAM, or a Meta `.pth` file; a
            `SamConfig` for random weights; a base in memory is returned as it is.
        revision: commit of the hub repository.

    Raises:
        InputError: there is no such base, or tensors are missing, foreign or unreadable.
    """
    if isinstance(name, LoadedSam):
        return name
    if isinstance(name, SamConfig):
        return LoadedSam(new_sam(name), Origin(fingerprint=""))
    path = Path(name)
    if path.suffix == ".pth":
        model = load_meta_checkpoint(path)
    else:
        source = bundled_models().get(str(name), path if path.is_dir() else str(name))
        try:
            with _hidden_progress_bars():  # loading takes a second; a bar would hide the caller's output
                model, notes = SamModel.from_pretrained(
                    source, revision=revision or "main", output_loading_info=True, dtype=torch.float32
                )
        except (OSError, ValueError, SafetensorError) as error:
            raise _unknown_base(name) from error
        wrong = {k: sorted(notes.get(k, ())) for k in ("missing_keys", "unexpected_keys")}
        if any(wrong.values()):
            raise InputError(f"base {name}: expected the tensors of a SAM, got {wrong}")
        revision = getattr(model.config, "_commit_hash", None) or revision
    return LoadedSam(model, Origin(str(name), revision, fingerprint(model.vision_encoder)))


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


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over names, shapes and float32 bytes of all tensors, the first 32 digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


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
        hypernetworks: Any = self.output_hypernetworks_mlps
        del hypernetworks[1:]
        head = self.iou_prediction_head
        head.proj_out = nn.Linear(head.proj_out.in_features, 1)

    def forward(
        self, image_embeddings: Tensor, positions: Tensor, sparse: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, P, 4h, 4w) and predicted quality (B, P); see `decode_one_mask`."""
        return decode_one_mask(self, image_embeddings, positions, sparse, dense)


def single_mask_decoder_weights(decoder: SamMaskDecoder) -> dict[str, Tensor]:
    """Select the tensors of a SAM mask decoder that a `SingleMaskDecoder` has."""
    weights = {}
    for name, tensor in decoder.state_dict().items():
        if re.match(r"output_hypernetworks_mlps\.[1-9]", name):
            continue
        weights[name] = tensor[:1] if name.startswith("iou_prediction_head.proj_out.") else tensor
    return weights


class Float32PositionalEmbedding(SamPositionalEmbedding):
    """SAM's random Fourier features in float32, also in a cast model and under autocast.

    In bfloat16 a coordinate has eight bits, so neighbouring pixels of a 512 input would coincide.
    """

    def forward(self, input_coords: Tensor, input_shape: tuple[int, int] | None = None) -> Tensor:
        """Encode points (..., 2), in pixels of `input_shape` or in [0, 1]; see transformers."""
        with torch.autocast(input_coords.device.type, enabled=False):
            return super().forward(input_coords.float(), input_shape)

    def image_positions(self, cells: int) -> Tensor:
        """(1, C, cells, cells) features of the cell centres of a square image, float32."""
        device = self.positional_embedding.device
        centres = (torch.arange(cells, device=device, dtype=torch.float32) + 0.5) / cells
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return self(torch.stack([x, y], dim=-1)).permute(2, 0, 1)[None]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.positional_embedding.data = self.positional_embedding.data.float()
        return self


def embed_masks(encoder: SamPromptEncoder, masks: Tensor, mask_given: Tensor | None = None) -> Tensor:
    """Embed one mask prompt per object; transformers' `SamPromptEncoder` takes one per image.

    Args:
        encoder: SAM's.
        masks: (B, P, H', W') in the frame of the network's input, of any resolution: bool, or logits of an
            earlier prediction. They are resized to four times the embedding grid, bilinear and antialiased as in
            SAM 2.
        mask_given: (B, P) bool; the other prompts get the embedding of no mask. All masks count if None.

    Returns:
        (B, P, C, h, w).
    """
    logits = (masks.float() * 2 - 1) * MASK_LOGIT if masks.dtype == torch.bool else masks.float()
    size = tuple(4 * cells for cells in encoder.image_embedding_size)
    if logits.shape[-2:] != size:
        logits = nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False, antialias=True)
    no_mask = encoder.no_mask_embed.weight[0, :, None, None]
    dense = encoder.mask_embed(logits.flatten(0, 1)[:, None].to(no_mask.dtype)).unflatten(0, masks.shape[:2])
    return (
        dense if mask_given is None else torch.where(mask_given[..., None, None, None], dense, no_mask.to(dense.dtype))
    )


def load_encoder(encoder: nn.Module, sam: SamModel) -> None:
    """Copy the base's vision encoder into `encoder`, fitted to its input size; adapters stay as they are."""
    own = encoder.state_dict()
    encoder.load_state_dict(own | fit_encoder_weights(sam.vision_encoder.state_dict(), own))


def load_decoders(decoders: list[SingleMaskDecoder], sam: SamModel) -> None:
    """Start every decoder from the base's mask decoder."""
    for decoder in decoders:
        decoder.load_state_dict(single_mask_decoder_weights(sam.mask_decoder))


@contextmanager
def _hidden_progress_bars() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _unknown_base(name: str | Path) -> InputError:
    known = ", ".join([*bundled_models(), *PRESETS])
    return InputError(
        f"base: expected a bundled name or preset ({known}), a folder, a hub id or a Meta .pth "
        f"file, got {str(name)!r}, which cannot be read as a SAM"
    )
