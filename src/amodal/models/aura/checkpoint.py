"""AURA on disk: increments on two bases, and whole models."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from amodal.errors import InputError
from amodal.models.aura.adapters import base_name, is_adapter, merged_state
from amodal.models.aura.base import LoadedMllm, add_seg_token, load_mllm, load_sam_parts
from amodal.models.aura.configuration import AuraConfig
from amodal.models.aura.processing import AuraProcessor
from amodal.models.aura.prompts import seg_token_id
from amodal.models.plug.checkpoint import INCREMENT, WHOLE, resolve_folder
from amodal.models.sam import load_sam

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
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        temporary = Path(name)
        config = _merged_config(model.config) if merged else model.config
        config.save_pretrained(temporary)
        if model.processor is not None:
            model.processor.save_pretrained(temporary)
        state = _whole_state(model) if merged else increment_state(model)
        weights = WHOLE if merged else INCREMENT
        save_file(_own_tensors(state), temporary / weights, metadata={"format": "pt"})
        for file in sorted(temporary.iterdir(), key=lambda file: file.name == weights):
            target = folder / file.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(file, target)
    (folder / (INCREMENT if merged else WHOLE)).unlink(missing_ok=True)
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
    config = read_config(folder)
    processor = AuraProcessor.from_pretrained(folder)
    number = seg_token_id(processor.tokenizer, config.seg_token)
    if number != config.seg_token_id:
        raise InputError(f"model {folder}: expected {config.seg_token!r} as token {config.seg_token_id}, got {number}")
    if (folder / WHOLE).is_file():
        model = cls(config)
        _load_exactly(model, _read_tensors(folder / WHOLE), model.state_dict(), folder)
    elif (folder / INCREMENT).is_file():
        model = _on_its_bases(cls, config, mllm, base, mllm_dtype or dtype)
        _load_exactly(model, _read_tensors(folder / INCREMENT), increment_state(model), folder)
    else:
        raise InputError(f"model {name}: expected {INCREMENT} or {WHOLE} in {folder}, got neither")
    model.processor = processor
    if dtype is not None:
        model = model.to(dtype)
    return model.eval()


def read_config(folder: Path) -> AuraConfig:
    """Read `config.json` of an AURA model.

    Raises:
        InputError: the file is missing, not JSON, or of another kind of model.
    """
    try:
        settings = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"model {folder}: expected a readable config.json, got none") from error
    if settings.get("model_type") != AuraConfig.model_type:
        raise InputError(f"model {folder}: expected model_type 'aura', got {settings.get('model_type')!r}")
    return AuraConfig.from_dict(settings)


def _on_its_bases(
    cls: type[AuraModel],
    config: AuraConfig,
    mllm: str | Path | None,
    base: str | Path | None,
    dtype: torch.dtype | None,
) -> AuraModel:
    model = cls(config, mllm=None if config.train_mllm else _base_mllm(config, mllm, dtype))
    source = base or config.base.get("name_or_path")
    if source is None:
        raise _no_base("base", "SAM")
    loaded = load_sam(source, None if base else config.base.get("revision"))
    _check_fingerprint(f"base {source}", config.base, loaded.fingerprint)
    load_sam_parts(model, loaded)
    return model


def _base_mllm(config: AuraConfig, other: str | Path | None, dtype: torch.dtype | None) -> Any:
    source = other or config.mllm_base.get("name_or_path")
    if source is None:
        raise _no_base("mllm", "LLM")
    loaded: LoadedMllm = load_mllm(source, None if other else config.mllm_base.get("revision"), dtype)
    _check_fingerprint(f"mllm {source}", config.mllm_base, loaded.fingerprint)
    add_seg_token(loaded.model, loaded.processor, config.seg_token)
    return loaded.model


def _no_base(argument: str, what: str) -> InputError:
    return InputError(
        f"model: this increment was trained on a {what} with random weights; "
        f"expected {argument}=... naming the same weights, got none"
    )


def _check_fingerprint(what: str, base: dict[str, Any], found: str | None) -> None:
    expected = base.get("fingerprint")
    if found != expected:
        raise InputError(
            f"{what}: expected weights with fingerprint {expected}, which this model was trained on, got {found}"
        )


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


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"model {file}: expected a safetensors file, got {error}") from error


def _load_exactly(model: AuraModel, tensors: dict[str, Tensor], expected: dict[str, Tensor], folder: Path) -> None:
    missing = sorted(expected.keys() - tensors.keys())
    foreign = sorted(tensors.keys() - expected.keys())
    shapes = [k for k in expected.keys() & tensors.keys() if expected[k].shape != tensors[k].shape]
    if missing or foreign or shapes:
        raise InputError(
            f"model {folder}: expected {len(expected)} tensors, got {len(missing)} missing "
            f"{missing[:2]}, {len(foreign)} foreign {foreign[:2]}, {len(shapes)} of another shape {shapes[:2]}"
        )
    model.load_state_dict(tensors, strict=False)
