"""PLUG on disk: increments on a base, and whole models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

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
from amodal.models.plug.base import assemble
from amodal.models.plug.configuration import PlugConfig
from amodal.models.plug.processing import PlugProcessor

if TYPE_CHECKING:
    from amodal.models.plug.modeling import PlugModel


def increment_state(model: PlugModel) -> dict[str, Tensor]:
    """The tensors an increment stores: all but the frozen encoder and the Fourier features."""
    return {name: tensor for name, tensor in model.state_dict().items() if not _belongs_to_base(name, model.config)}


def save_model(
    model: PlugModel, folder: Path, *, merged: bool = False, push_to_hub: bool = False, **kwargs: Any
) -> None:
    """See `PlugModel.save_pretrained`. Files appear complete or not at all."""
    state = model.state_dict() if merged else increment_state(model)
    weights = WHOLE if merged else INCREMENT
    with replaced_files(folder, weights) as temporary:
        model.config.save_pretrained(temporary)
        PlugProcessor.from_config(model.config).save_pretrained(temporary)
        tensors = {k: v.detach().cpu().contiguous() for k, v in state.items()}
        save_file(tensors, temporary / weights, metadata={"format": "pt"})
    if push_to_hub:
        model.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)


def load_model(
    cls: type[PlugModel],
    name: str | Path,
    *,
    base: str | Path | None = None,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
) -> PlugModel:
    """See `PlugModel.from_pretrained`."""
    folder = resolve_folder(name, revision)
    config = read_config(folder, PlugConfig)
    weights = stored_weights(folder, name)
    model = cls(config) if weights == WHOLE else _on_its_base(cls, config, base)
    expected = model.state_dict() if weights == WHOLE else increment_state(model)
    load_exactly(model, read_tensors(folder / weights), expected, folder)
    if dtype is not None:
        model = model.to(dtype)
    return model.eval()


def _on_its_base(cls: type[PlugModel], config: PlugConfig, base: str | Path | None) -> PlugModel:
    source = named_base(base or config.base.get("name_or_path"), "base", "base")
    loaded = load_sam(source, None if base else config.base.get("revision"))
    check_fingerprint(f"base {source}", config.base, loaded.fingerprint)
    return assemble(cls, loaded, config)


def _belongs_to_base(name: str, config: PlugConfig) -> bool:
    if name == "prompt_encoder.shared_embedding.positional_embedding":
        return True
    return name.startswith("vision_encoder.") and ".attn.lora." not in name and not config.train_base
