"""LoRA and the row of the new token in a multi-modal LLM, by PEFT."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, TrainableTokensConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from amodal.errors import InputError
from amodal.models.aura.configuration import AuraConfig

ADAPTER = "default"
_MARKS = (".lora_A.", ".lora_B.", "trainable_tokens_delta")


def add_adapters(mllm: PreTrainedModel, config: AuraConfig) -> None:
    """Put LoRA into the language model, and make the new token's rows trainable, in place.

    The rows are those of the input and, where it is not the same matrix, the output embedding.
    An LLM that is trained whole gets neither.

    Raises:
        InputError: the language model has no projection of the configured names.
    """
    if config.train_mllm or config.seg_token_id is None:
        return
    rows = {name: [config.seg_token_id] for name in _embedding_names(mllm)}
    if config.lora_rank == 0:
        only_rows = TrainableTokensConfig(target_modules=list(rows), token_indices=[config.seg_token_id])
        inject_adapter_in_model(only_rows, mllm, ADAPTER)
    else:
        _add_lora(mllm, config, rows)
    for name, parameter in mllm.named_parameters():
        if is_adapter(name):  # an optimiser's small steps vanish in half precision
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
    return any(mark in name for mark in _MARKS)


def base_name(name: str) -> str:
    """Name of a tensor of the LLM without what PEFT puts around its layers."""
    for wrapper in (".token_adapter.base_layer.", ".original_module.", ".base_layer."):
        name = name.replace(wrapper, ".")
    return name


@torch.no_grad()
def merged_state(mllm: nn.Module) -> dict[str, Tensor]:
    """State of the LLM without adapters, their effect folded into its weights; `mllm` stays as it is."""
    modules = dict(mllm.named_modules())
    state: dict[str, Tensor] = {}
    for name, tensor in mllm.state_dict().items():
        if is_adapter(name) or "trainable_tokens_original" in name:
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
    """Fold the adapters into the LLM's weights in place, which makes generation faster."""
    for module in mllm.modules():
        if isinstance(module, LoraLayer | TrainableTokensLayer):
            layer: Any = module
            if not layer.merged:
                layer.merge()


def _embedding_names(mllm: PreTrainedModel) -> list[str]:
    """Full names of the input embedding and of an output embedding of its own."""
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
