"""The multi-modal LLM of AURA: loading it, adding the `[SEG]` token, and adapting it by LoRA (PEFT)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TrainableTokensConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    PreTrainedModel,
)

from amodal.errors import InputError
from amodal.models.aura.configuration import AuraConfig
from amodal.models.aura.prompts import seg_token_id
from amodal.models.hub import find_source
from amodal.models.increments import Origin

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
"""Number of values per tensor in the LLM's fingerprint; all of 13 billion would take minutes."""


@dataclass(frozen=True)
class LoadedMllm:
    """A multi-modal LLM in memory with its processor, and where its weights came from.

    `new_tokens` are the ids of tokens that the LLM has not been trained with, and whose rows AURA therefore trains.
    """

    model: PreTrainedModel
    processor: Any
    origin: Origin = field(default_factory=Origin)
    new_tokens: tuple[int, ...] = ()


def load_mllm(name: str | Path, revision: str | None = None, dtype: torch.dtype | None = None) -> LoadedMllm:
    """Load an image-text model of transformers with its processor.

    Args:
        name: hub id or folder.
        revision: commit of the hub repository.
        dtype: of the weights; their own if None.

    Raises:
        InputError: there is no such model, or it is no image-text model.
    """
    source = find_source(name, argument="mllm", bundled={}, revision=revision)
    try:
        model = AutoModelForImageTextToText.from_pretrained(source.path, dtype="auto", trust_remote_code=False)
        processor = AutoProcessor.from_pretrained(source.path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(
            f"mllm: expected a hub id or folder of an image-text model of transformers, got {str(name)!r} "
            f"({' '.join(str(error).split()):.120})"
        ) from error
    origin = Origin(str(name), source.revision, sampled_fingerprint(model))
    return LoadedMllm(model if dtype is None else model.to(dtype), processor, origin)


def mllm_config_for(name: str | Path) -> Any:
    """Read the configuration of an image-text model without its weights; LLaVA-1.5's needs no download.

    Raises:
        InputError: there is no such model, or it has no configuration.
    """
    if str(name) in LLAVA:
        return _llava_config(**LLAVA[str(name)])
    source = find_source(name, argument="mllm", bundled={}, weights=False)
    try:
        return AutoConfig.from_pretrained(source.path, trust_remote_code=False)
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
    # Llama's 32,000 tokens, one for the image, one for padding, rounded up to a multiple of 64
    llama = LlamaConfig(vocab_size=32064, max_position_embeddings=4096, num_key_value_heads=heads, **text)
    return LlavaConfig(vision_config=vision, text_config=llama, image_token_index=32000)


def build_mllm(config: AuraConfig) -> PreTrainedModel:
    """Build the LLM from its configuration, with weights as transformers initialises them."""
    model: PreTrainedModel = AutoModelForImageTextToText.from_config(config.mllm_config(), trust_remote_code=False)
    return model


def sampled_fingerprint(module: nn.Module) -> str:
    """SHA-256 over names, shapes and evenly spaced values of all tensors, the first 32 digits.

    Unlike `models.bases.protocol.fingerprint_of` it reads only some thousand values per tensor. It
    distinguishes published or fine-tuned models, not a single changed weight among billions.
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
    """Add the `[SEG]` token to the tokenizer and its rows to the LLM's embeddings.

    A new row starts as in `start_rows`. A matrix with unused rows (published ones are often padded) keeps its size.

    Returns:
        The id of the token.

    Raises:
        InputError: the tokenizer still splits it.
    """
    tokenizer = processor.tokenizer
    known = len(tokenizer)
    tokenizer.add_tokens([token], special_tokens=True)
    number = seg_token_id(tokenizer, token)
    if number >= mllm.get_input_embeddings().weight.shape[0]:
        mllm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    start_rows(mllm, [number], known)
    return number


@torch.no_grad()
def start_rows(mllm: PreTrainedModel, numbers: Sequence[int], known: int) -> None:
    """Start the rows of new tokens at the mean of the others, so that they are the same on every machine.

    Args:
        mllm: whose input and output embeddings are changed in place.
        numbers: ids of tokens; those below `known` keep their rows.
        known: number of the tokens that the LLM has been trained with; unused rows may follow theirs.
    """
    new = [number for number in numbers if number >= known]
    for embedding in (mllm.get_input_embeddings(), mllm.get_output_embeddings()):
        if new and embedding is not None:
            weight: Any = embedding.weight
            weight[new] = weight[:known].float().mean(0).to(weight.dtype)


def plain_settings(config: Any) -> dict[str, Any]:
    """Return a configuration as JSON values, without transformers' bookkeeping and places of this machine."""
    settings: dict[str, Any] = config.to_dict()
    for part in (settings, *(value for value in settings.values() if isinstance(value, dict))):
        part.pop("_name_or_path", None)
    for key in ("transformers_version", "architectures", "dtype"):
        settings.pop(key, None)
    return settings


ADAPTER = "default"
_ADAPTER_MARKS = (".lora_A.", ".lora_B.", "trainable_tokens_delta")


def add_adapters(mllm: PreTrainedModel, config: AuraConfig) -> None:
    """Add LoRA to the language model, and make the new tokens' rows trainable, in place.

    The rows are those of the input embedding and, if that is another matrix, the output embedding.
    An LLM that is trained as a whole gets neither.

    Raises:
        InputError: the language model has no projection of the configured names.
    """
    if config.train_mllm or config.seg_token_id is None:
        return
    numbers = [config.seg_token_id, *config.new_token_ids]
    rows = dict.fromkeys(_embedding_names(mllm), numbers)
    if config.lora_rank == 0:
        only_rows = TrainableTokensConfig(target_modules=list(rows), token_indices=numbers)
        inject_adapter_in_model(only_rows, mllm, ADAPTER)
    else:
        _add_lora(mllm, config, rows)
    for name, parameter in mllm.named_parameters():
        if is_adapter(name):  # small optimiser steps would be lost in half precision
            parameter.data = parameter.data.float()


def _add_lora(mllm: PreTrainedModel, config: AuraConfig, rows: dict[str, list[int]]) -> None:
    targets = _targets(mllm, config.lora_targets)
    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        trainable_token_indices=rows,
    )
    inject_adapter_in_model(settings, mllm, ADAPTER)


def is_adapter(name: str) -> bool:
    """Whether a tensor of this name belongs to an adapter."""
    return any(mark in name for mark in _ADAPTER_MARKS)


def is_replaced_row(name: str) -> bool:
    """Whether a tensor of this name is PEFT's copy of a base's embedding row that an adapter replaces."""
    return "trainable_tokens_original" in name


def base_name(name: str) -> str:
    """Return a tensor's name in the LLM without PEFT's wrappers."""
    for wrapper in (".token_adapter.base_layer.", ".original_module.", ".base_layer."):
        name = name.replace(wrapper, ".")
    return name


@torch.no_grad()
def merged_state(mllm: nn.Module) -> dict[str, Tensor]:
    """Return the LLM's state with the adapters merged into its weights; `mllm` stays as it is."""
    modules = dict(mllm.named_modules())
    state: dict[str, Tensor] = {}
    for name, tensor in mllm.state_dict().items():
        if is_adapter(name) or is_replaced_row(name):
            continue
        parent = modules.get(name.rsplit(".base_layer.", 1)[0]) if ".base_layer." in name else None
        if getattr(parent, "merged", False):
            pass
        elif isinstance(parent, LoraLayer) and name.endswith(".weight"):
            layer: Any = parent
            tensor = tensor + layer.get_delta_weight(ADAPTER).to(tensor.dtype)
        elif isinstance(parent, TrainableTokensLayer) and name.endswith(".weight"):
            tensor = parent.get_merged_weights([ADAPTER]).to(tensor.dtype)
        state.setdefault(base_name(name), tensor)
    return state


def merge_adapters(mllm: nn.Module) -> None:
    """Merge the adapters into the LLM's weights in place, which makes generation faster."""
    for module in mllm.modules():
        if isinstance(module, LoraLayer | TrainableTokensLayer):
            layer: Any = module
            if not layer.merged:
                layer.merge()


def _embedding_names(mllm: PreTrainedModel) -> list[str]:
    """Full names of the input embedding and, if it is another matrix, of the output embedding."""
    source, target = mllm.get_input_embeddings(), mllm.get_output_embeddings()
    wanted = [source] if target is None or target.weight is source.weight else [source, target]
    return [name for module in wanted for name, m in mllm.named_modules() if m is module]


def _targets(mllm: PreTrainedModel, names: list[str]) -> list[str]:
    decoder: Any = mllm.get_decoder()
    inside = {id(module) for module in decoder.modules()}
    found = [
        name
        for name, module in mllm.named_modules()
        if isinstance(module, nn.Linear) and id(module) in inside and name.rsplit(".", 1)[-1] in names
    ]
    if not found:
        raise InputError(f"lora_targets: expected names of projections in the language model, got {names}")
    return found
