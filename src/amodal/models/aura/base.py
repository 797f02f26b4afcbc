"""AURA on its two bases: a multi-modal LLM and a SAM."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    PreTrainedModel,
    SamConfig,
)

from amodal.errors import InputError
from amodal.models.aura.adapters import is_adapter
from amodal.models.aura.configuration import AuraConfig
from amodal.models.aura.processing import AuraProcessor
from amodal.models.aura.prompts import seg_token_id
from amodal.models.bases.sam import (
    LoadedSam,
    fit_encoder_weights,
    load_sam,
    new_sam,
    single_mask_decoder_weights,
)
from amodal.models.settings import sam_sizes

if TYPE_CHECKING:
    from amodal.models.aura.modeling import AuraModel

# Language models of LLaVA-1.5 (Vicuna 7B and 13B: Llama 2's sizes); the vision tower is CLIP's
# ViT-L/14 at 336 pixels in both.
LLAVA: dict[str, dict[str, int]] = {
    "llava-hf/llava-1.5-7b-hf": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "llava-hf/llava-1.5-13b-hf": {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
    },
}

_SAMPLE = 4096
"""Values of each tensor that the LLM's fingerprint looks at: all of 13 billion would take minutes."""


@dataclass
class LoadedMllm:
    """A multi-modal LLM in memory: model, processor, where it came from, what identifies its weights."""

    model: PreTrainedModel
    processor: Any
    name_or_path: str | None
    revision: str | None
    fingerprint: str | None


def load_mllm(name: str | Path, revision: str | None = None, dtype: torch.dtype | None = None) -> LoadedMllm:
    """Load an image-text model of transformers with its processor.

    Args:
        name: hub id or folder.
        revision: commit of the hub repository.
        dtype: of the weights; their own if None.

    Raises:
        InputError: nothing there, or no image-text model.
    """
    try:
        model = AutoModelForImageTextToText.from_pretrained(str(name), revision=revision or "main", dtype="auto")
        processor = AutoProcessor.from_pretrained(str(name), revision=revision or "main")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(
            f"mllm: expected a hub id or folder of an image-text model of transformers, got {str(name)!r} "
            f"({' '.join(str(error).split()):.120})"
        ) from error
    mark = sampled_fingerprint(model)
    revision = getattr(model.config, "_commit_hash", None) or revision
    return LoadedMllm(model if dtype is None else model.to(dtype), processor, str(name), revision, mark)


def mllm_config_for(name: str | Path) -> Any:
    """Configuration of an image-text model without its weights; LLaVA-1.5's needs no network.

    Raises:
        InputError: nothing of that name, or no configuration.
    """
    if str(name) in LLAVA:
        return _llava_config(**LLAVA[str(name)])
    try:
        return AutoConfig.from_pretrained(str(name))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"mllm: expected a hub id or folder of an image-text model, got {str(name)!r}") from error


def _llava_config(**text: int) -> LlavaConfig:
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    heads = text["num_attention_heads"]
    # 32,000 tokens of Llama, one for the image, one for padding, filled up to a multiple of 64
    llama = LlamaConfig(vocab_size=32064, max_position_embeddings=4096, num_key_value_heads=heads, **text)
    return LlavaConfig(vision_config=vision, text_config=llama, image_token_index=32000)


def build_mllm(config: AuraConfig) -> PreTrainedModel:
    """The LLM by its configuration, weights as transformers initialises them."""
    model: PreTrainedModel = AutoModelForImageTextToText.from_config(config.mllm_config())
    return model


def sampled_fingerprint(module: nn.Module) -> str:
    """SHA-256 over names, shapes and evenly spaced values of all tensors; 32 digits.

    Unlike `models.sam.fingerprint` it reads a few thousand values of a tensor: it tells one
    published model or fine-tuning from another, not one changed weight in billions.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(flat.numel() // _SAMPLE, 1)]
        digest.update(sample.cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


@torch.no_grad()
def add_seg_token(mllm: PreTrainedModel, processor: Any, token: str) -> int:
    """Make the mask token one token of tokenizer and LLM.

    A new row starts at the mean of the others, the same on every machine. A matrix that has rows
    to spare (published ones are often padded) keeps its size.

    Returns:
        The token's number.

    Raises:
        InputError: the tokenizer takes it apart all the same.
    """
    tokenizer = processor.tokenizer
    known = len(tokenizer)
    tokenizer.add_tokens([token], special_tokens=True)
    number = seg_token_id(tokenizer, token)
    if number >= mllm.get_input_embeddings().weight.shape[0]:
        mllm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    if number >= known:
        for embedding in (mllm.get_input_embeddings(), mllm.get_output_embeddings()):
            if embedding is not None:
                weight = embedding.weight
                weight[number] = weight[:known].float().mean(0).to(weight.dtype)
    return number


def build_on_bases(
    cls: type[AuraModel],
    mllm: LoadedMllm | str | Path,
    sam: str | Path | SamConfig,
    config: AuraConfig,
    *,
    revision: str | None = None,
    mllm_revision: str | None = None,
    mllm_dtype: torch.dtype | None = None,
) -> AuraModel:
    """See `AuraModel.from_base`."""
    base = LoadedSam(new_sam(sam), None, None, "") if isinstance(sam, SamConfig) else load_sam(sam, revision)
    loaded = mllm if isinstance(mllm, LoadedMllm) else load_mllm(mllm, mllm_revision, mllm_dtype)
    return assemble(cls, loaded, base, config)


def assemble(cls: type[AuraModel], mllm: LoadedMllm, base: LoadedSam, config: AuraConfig) -> AuraModel:
    """A new AURA: LLM with the new token and adapters, backbone and both decoders from the SAM."""
    number = add_seg_token(mllm.model, mllm.processor, config.seg_token)
    settings = config.to_dict() | {
        "mllm": plain_settings(mllm.model.config),
        "mllm_base": {
            "name_or_path": mllm.name_or_path,
            "revision": mllm.revision,
            "fingerprint": mllm.fingerprint,
        },
        "sam": sam_sizes(base.model.config),
        "base": {
            "name_or_path": base.name_or_path,
            "revision": base.revision,
            "fingerprint": base.fingerprint,
        },
        "seg_token_id": number,
    }
    model = cls(AuraConfig.from_dict(settings), mllm=mllm.model)
    load_sam_parts(model, base)
    model.processor = AuraProcessor.from_config(model.config, mllm.processor)
    return model.eval()


def load_sam_parts(model: AuraModel, base: LoadedSam) -> None:
    """Copy the base's encoder, decoders and what the prompt encoder takes from it into `model`."""
    sam = base.model
    own = model.vision_encoder.state_dict()
    model.vision_encoder.load_state_dict(fit_encoder_weights(sam.vision_encoder.state_dict(), own))
    prompts = model.prompt_encoder
    prompts.no_mask_embed.load_state_dict(sam.prompt_encoder.no_mask_embed.state_dict())
    prompts.positions.load_state_dict(sam.prompt_encoder.shared_embedding.state_dict())
    if prompts.box_reader is not None:
        corners = [embed.weight for embed in sam.prompt_encoder.point_embed[2:4]]
        prompts.corner_embed.load_state_dict({"weight": torch.cat(corners)})
    for decoder in model.decoders():
        decoder.load_state_dict(single_mask_decoder_weights(sam.mask_decoder))


def parameter_counts(config: AuraConfig) -> dict[str, int]:
    """Parameters by part, counted on the meta device.

    Returns:
        `mllm` (without adapters), `vision_encoder`, `lora`, `token_rows`, `prompt_encoder`,
        `mask_decoders`, `condition_encoder`, `spatial_encoder`; `total`, the sum of these; and
        `trainable`.
    """
    from amodal.models.aura.modeling import AuraModel

    if config.seg_token_id is None:  # a recipe, whose tokenizer has not been seen: the next free row
        vocabulary = config.mllm_config().get_text_config().vocab_size
        config = AuraConfig.from_dict(config.to_dict() | {"seg_token_id": vocabulary - 1})
    with torch.device("meta"):
        model = AuraModel(config)
    lora = rows = llm = 0
    for name, parameter in model.mllm.named_parameters():
        if ".lora_" in name:
            lora += parameter.numel()
        elif is_adapter(name):
            rows += parameter.numel()
        else:
            llm += parameter.numel()
    counts = {
        "mllm": llm,
        "vision_encoder": _count(model.vision_encoder),
        "lora": lora,
        "token_rows": rows,
        "prompt_encoder": _count(model.prompt_encoder),
        "mask_decoders": sum(_count(decoder) for decoder in model.decoders()),
        "condition_encoder": _count(model.condition_encoder),
        "spatial_encoder": _count(model.spatial_encoder),
    }
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return counts | {"total": sum(counts.values()), "trainable": trainable}


def plain_settings(config: Any) -> dict[str, Any]:
    """A configuration as JSON values, without transformers' bookkeeping."""
    settings: dict[str, Any] = config.to_dict()
    for key in ("transformers_version", "_name_or_path", "architectures", "dtype"):
        settings.pop(key, None)
    return settings


def _count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())
