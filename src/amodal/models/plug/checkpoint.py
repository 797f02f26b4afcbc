"""PLUG on disk: increments on a base, and whole models."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from amodal.errors import InputError
from amodal.models.bundled import bundled_models
from amodal.models.plug.base import assemble
from amodal.models.plug.configuration import PlugConfig
from amodal.models.plug.processing import PlugProcessor
from amodal.models.sam import load_sam

if TYPE_CHECKING:
    from amodal.models.plug.modeling import PlugModel

INCREMENT = "increment.safetensors"
WHOLE = "model.safetensors"


def increment_state(model: PlugModel) -> dict[str, Tensor]:
    """The tensors an increment stores: all but the frozen encoder and the Fourier features."""
    return {name: tensor for name, tensor in model.state_dict().items() if not _belongs_to_base(name, model.config)}


def save_model(
    model: PlugModel, folder: Path, *, merged: bool = False, push_to_hub: bool = False, **kwargs: Any
) -> None:
    """See `PlugModel.save_pretrained`. Files appear complete or not at all."""
    state = model.state_dict() if merged else increment_state(model)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        temporary = Path(name)
        model.config.save_pretrained(temporary)
        PlugProcessor.from_config(model.config).save_pretrained(temporary)
        tensors = {k: v.detach().cpu().contiguous() for k, v in state.items()}
        save_file(tensors, temporary / (WHOLE if merged else INCREMENT), metadata={"format": "pt"})
        for file in temporary.iterdir():
            shutil.move(file, folder / file.name)
    (folder / (INCREMENT if merged else WHOLE)).unlink(missing_ok=True)
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
    config = read_config(folder)
    if (folder / WHOLE).is_file():
        model = cls(config)
        load_exactly(model, read_tensors(folder / WHOLE), model.state_dict(), folder)
    elif (folder / INCREMENT).is_file():
        model = _on_its_base(cls, config, base)
        expected = increment_state(model)
        load_exactly(model, read_tensors(folder / INCREMENT), expected, folder)
    else:
        raise InputError(f"model {name}: expected {INCREMENT} or {WHOLE} in {folder}, got neither")
    if dtype is not None:
        model = model.to(dtype)
    return model.eval()


def read_config(folder: Path) -> PlugConfig:
    """Read `config.json` of a PLUG model.

    Raises:
        InputError: the file is missing, not JSON, or of another kind of model.
    """
    file = folder / "config.json"
    try:
        settings = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"model {folder}: expected a readable config.json, got none") from error
    if settings.get("model_type") != PlugConfig.model_type:
        raise InputError(f"model {folder}: expected model_type 'plug', got {settings.get('model_type')!r}")
    return PlugConfig.from_dict(settings)


def resolve_folder(name: str | Path, revision: str | None = None) -> Path:
    """Folder of a bundled name, a local folder, or a hub repository (downloaded).

    Raises:
        InputError: nothing of that name.
    """
    bundled = bundled_models()
    if str(name) in bundled:
        return bundled[str(name)]
    if Path(name).is_dir():
        return Path(name)
    unknown = InputError(
        f"model: expected a bundled name ({', '.join(bundled) or 'none'}), a folder or a hub id, got {str(name)!r}"
    )
    if str(name).count("/") != 1 or str(name).startswith((".", "/")):
        raise unknown
    try:
        return Path(snapshot_download(str(name), revision=revision))
    except (OSError, HfHubHTTPError, HFValidationError, ValueError) as error:
        raise unknown from error


def _on_its_base(cls: type[PlugModel], config: PlugConfig, base: str | Path | None) -> PlugModel:
    source = base or config.base.get("name_or_path")
    if source is None:
        raise InputError(
            "model: this increment was trained on a base with random weights; "
            "expected base=... naming the same weights, got none"
        )
    loaded = load_sam(source, None if base else config.base.get("revision"))
    expected = config.base.get("fingerprint")
    if loaded.fingerprint != expected:
        raise InputError(
            f"base {source}: expected weights with fingerprint {expected}, which this model was "
            f"trained on, got {loaded.fingerprint}"
        )
    return assemble(cls, loaded, config)


def _belongs_to_base(name: str, config: PlugConfig) -> bool:
    if name == "prompt_encoder.shared_embedding.positional_embedding":
        return True
    return name.startswith("vision_encoder.") and ".attn.lora." not in name and not config.train_base


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file. Raises `InputError` where it is none."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"model {file}: expected a safetensors file, got {error}") from error


def load_exactly(
    model: PlugModel,
    tensors: dict[str, Tensor],
    expected: dict[str, Tensor],
    folder: Path,
    *,
    shared: dict[str, Tensor] | None = None,
) -> None:
    """Load `tensors`, which must be those that are `expected`.

    Args:
        model: takes them.
        tensors: by name.
        expected: names and shapes.
        folder: where they are from.
        shared: tensors of another model that `model`, built on the meta device, is to use too.

    Raises:
        InputError: a tensor is missing, foreign or of another shape.
    """
    missing = sorted(expected.keys() - tensors.keys())
    foreign = sorted(tensors.keys() - expected.keys())
    shapes = [k for k in expected.keys() & tensors.keys() if expected[k].shape != tensors[k].shape]
    if missing or foreign or shapes:
        raise InputError(
            f"model {folder}: expected {len(expected)} tensors, got {len(missing)} missing "
            f"{missing[:2]}, {len(foreign)} foreign {foreign[:2]}, {len(shapes)} of another shape "
            f"{shapes[:2]}"
        )
    if shared is None:
        model.load_state_dict(tensors, strict=False)
    else:
        model.load_state_dict(tensors | shared, assign=True)
