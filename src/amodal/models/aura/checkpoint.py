"""AURA on disk: increments on two bases, and whole models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from amodal.errors import InputError
from amodal.models.aura.adapters import base_name, is_adapter, merged_state
from amodal.models.aura.base import LoadedMllm, add_seg_token, load_mllm, load_sam_parts
from amodal.models.aura.configuration import AuraConfig
from amodal.models.aura.processing import AuraProcessor
from amodal.models.aura.prompts import seg_token_id
from amodal.models.bases.sam import load_sam
from amodal.models.increments import (
    INCREMENT,
    WHOLE,
    check_fingerprint,
    load_exactly,
    named_base,
    read_config,
    read_tensors,
    replaced_files,
    resolve_folder,
    stored_weights,
)

if TYPE_CHECKING:
    from amodal.models.aura.modeling import AuraModel

# Fixed parts that the SAM base brings along; PEFT keeps a copy of the rows it replaces.
_POSITIONS = "prompt_encoder.positions.positional_embedding"
_ORIGINAL_ROWS = "trainable_tokens_original"


def increment_state(model: AuraModel) -> dict[str, Tensor]:
    """The tensors an increment stores: all but what the frozen bases bring along."""
    return {name: tensor for name, tensor in model.state_dict().items() if not _belongs_to_base(name, model.config)}


def save_model(
    model: AuraModel, folder: Path, *, merged: bool = False, push_to_hub: bool = False, **kwargs: Any
) -> None:
    """See `AuraModel.save_pretrained`. Files appear complete or not at all; the weights come last."""
    weights = WHOLE if merged else INCREMENT
    with replaced_files(folder, weights) as temporary:
        config = _merged_config(model.config) if merged else model.config
        config.save_pretrained(temporary)
        if model.processor is not None:
            model.processor.save_pretrained(temporary)
        state = _whole_state(model) if merged else increment_state(model)
        save_file(_own_tensors(state), temporary / weights, metadata={"format": "pt"})
    if push_to_hub:
        model.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)


def load_model(
    cls: type[AuraModel],
    name: str | Path,
    *,
    mllm: str | Path | None = None,
    base: str | Path | None = None,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    mllm_dtype: torch.dtype | None = None,
) -> AuraModel:
    """See `AuraModel.from_pretrained`."""
    folder = resolve_folder(name, revision)
    config = read_config(folder, AuraConfig)
    processor = AuraProcessor.from_pretrained(folder)
    number = seg_token_id(processor.tokenizer, config.seg_token)
    if number != config.seg_token_id:
        raise InputError(f"model {folder}: expected {config.seg_token!r} as token {config.seg_token_id}, got {number}")
    weights = stored_weights(folder, name)
    whole = weights == WHOLE
    model = cls(config) if whole else _on_its_bases(cls, config, mllm, base, mllm_dtype or dtype)
    load_exactly(model, read_tensors(folder / weights), model.state_dict() if whole else increment_state(model), folder)
    model.processor = processor
    if dtype is not None:
        model = model.to(dtype)
    return model.eval()


def _on_its_bases(
    cls: type[AuraModel],
    config: AuraConfig,
    mllm: str | Path | None,
    base: str | Path | None,
    dtype: torch.dtype | None,
) -> AuraModel:
    model = cls(config, mllm=None if config.train_mllm else _base_mllm(config, mllm, dtype))
    source = named_base(base or config.base.get("name_or_path"), "base", "SAM")
    loaded = load_sam(source, None if base else config.base.get("revision"))
    check_fingerprint(f"base {source}", config.base, loaded.fingerprint)
    load_sam_parts(model, loaded)
    return model


def _base_mllm(config: AuraConfig, other: str | Path | None, dtype: torch.dtype | None) -> Any:
    source = named_base(other or config.mllm_base.get("name_or_path"), "mllm", "LLM")
    loaded: LoadedMllm = load_mllm(source, None if other else config.mllm_base.get("revision"), dtype)
    check_fingerprint(f"mllm {source}", config.mllm_base, loaded.fingerprint)
    add_seg_token(loaded.model, loaded.processor, config.seg_token)
    return loaded.model


def _belongs_to_base(name: str, config: AuraConfig) -> bool:
    if name == _POSITIONS or _ORIGINAL_ROWS in name:
        return True
    if name.startswith("vision_encoder."):
        return not config.train_vision
    return name.startswith("mllm.") and not config.train_mllm and not is_adapter(name)


def _merged_config(config: AuraConfig) -> AuraConfig:
    """A merged model has its own LLM, without adapters."""
    return AuraConfig.from_dict(config.to_dict() | {"train_mllm": True, "lora_rank": 0})


def _whole_state(model: AuraModel) -> dict[str, Tensor]:
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("mllm.")}
    return state | {f"mllm.{base_name(name)}": tensor for name, tensor in merged_state(model.mllm).items()}


def _own_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies where two names share memory (tied embeddings), which safetensors refuses."""
    seen: set[int] = set()
    own = {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        own[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return own
