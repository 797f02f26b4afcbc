"""Models on disk: what PLUG and AURA have in common. Weights are safetensors, an increment or the whole."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedConfig

from amodal.errors import InputError
from amodal.models.bundled import bundled_models

INCREMENT = "increment.safetensors"
WHOLE = "model.safetensors"

Config = TypeVar("Config", bound=PreTrainedConfig)


@contextmanager
def replaced_files(folder: Path, weights: str) -> Iterator[Path]:
    """A temporary folder whose files take their place in `folder` at the end, the weights last.

    Whoever finds weights finds the configuration they belong to. The other kind of weights goes.

    Args:
        folder: created if need be.
        weights: `INCREMENT` or `WHOLE`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        yield Path(name)
        for file in sorted(Path(name).iterdir(), key=lambda file: file.name == weights):
            target = folder / file.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(file, target)
    (folder / (INCREMENT if weights == WHOLE else WHOLE)).unlink(missing_ok=True)


def read_config(folder: Path, kind: type[Config]) -> Config:
    """Read `config.json` of a model.

    Raises:
        InputError: the file is missing, not JSON, or of another kind of model.
    """
    try:
        settings = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"model {folder}: expected a readable config.json, got none") from error
    if settings.get("model_type") != kind.model_type:
        raise InputError(f"model {folder}: expected model_type {kind.model_type!r}, got {settings.get('model_type')!r}")
    return kind.from_dict(settings)


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


def stored_weights(folder: Path, name: str | Path) -> str:
    """`WHOLE` or `INCREMENT`, whichever is there. Raises `InputError` where neither is."""
    for weights in (WHOLE, INCREMENT):
        if (folder / weights).is_file():
            return weights
    raise InputError(f"model {name}: expected {INCREMENT} or {WHOLE} in {folder}, got neither")


def named_base(source: str | Path | None, argument: str, what: str) -> str | Path:
    """Where the base of an increment is. Raises `InputError` where only its training knew."""
    if source is None:
        raise InputError(
            f"model: this increment was trained on a {what} with random weights; "
            f"expected {argument}=... naming the same weights, got none"
        )
    return source


def check_fingerprint(what: str, base: dict[str, Any], found: str | None) -> None:
    """Refuse a base whose weights are not those an increment was trained on."""
    expected = base.get("fingerprint")
    if found != expected:
        raise InputError(
            f"{what}: expected weights with fingerprint {expected}, which this model was trained on, got {found}"
        )


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file. Raises `InputError` where it is none."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"model {file}: expected a safetensors file, got {error}") from error


def load_exactly(
    model: nn.Module,
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
