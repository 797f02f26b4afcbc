"""Saving and loading models: the bundled ones, increments on a frozen base, and whole models.

An increment holds the tensors that were trained. Its `config.json` names each frozen base that the
tensors belong to, by id, revision and fingerprint (`Origin`). A whole ("merged") model holds
everything. Both are safetensors files next to a `config.json`.

Nothing here knows a model class: a model says which of its tensors belong to a frozen base
(`IncrementalModel`), and its own `save_pretrained` and `from_pretrained` call these functions.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from huggingface_hub import create_repo, upload_folder
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedConfig

from amodal.errors import InputError
from amodal.io.files import content_digest
from amodal.io.json_stream import read_json
from amodal.models.hub import find_source

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
INCREMENT = "increment.safetensors"
WHOLE = "model.safetensors"

Config = TypeVar("Config", bound=PreTrainedConfig)


def bundled_models() -> dict[str, Path]:
    """Names and folders of the models that ship inside the package, in alphabetical order."""
    if not WEIGHTS.is_dir():
        return {}
    folders = sorted(p for p in WEIGHTS.iterdir() if (p / "config.json").is_file())
    return {folder.name: folder for folder in folders}


@dataclass(frozen=True)
class Origin:
    """Where the weights of a base came from, as a model's configuration records it.

    Attributes:
        name_or_path: bundled name, hub id, folder or file; None for random weights.
        revision: commit of the hub repository, if there is one.
        fingerprint: identifies the weights themselves.
    """

    name_or_path: str | None = None
    revision: str | None = None
    fingerprint: str | None = None

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Origin:
        """From the form in `config.json`."""
        return cls(record.get("name_or_path"), record.get("revision"), record.get("fingerprint"))

    def record(self) -> dict[str, str | None]:
        """The form in `config.json`."""
        return asdict(self)

    def location(self, given: str | Path | None, argument: str) -> tuple[str | Path, str | None]:
        """Where to load the base from, and its revision.

        Args:
            given: another place of the same base; the recorded one if None.
            argument: name of the keyword that names another place.

        Raises:
            InputError: the base had random weights, so only the caller can know where they are.
        """
        if given is not None:
            return given, None
        if self.name_or_path is None:
            raise InputError(
                f"model: this increment was trained on a base with random weights; "
                f"expected {argument}=... naming the same weights, got none"
            )
        return self.name_or_path, self.revision

    def check(self, found: Origin, argument: str) -> None:
        """Raise `InputError` if `found` has other weights than those the increment was trained on."""
        if found.fingerprint != self.fingerprint:
            raise InputError(
                f"{argument} {found.name_or_path}: expected weights with fingerprint {self.fingerprint}, "
                f"which this model was trained on, got {found.fingerprint}"
            )


class IncrementalModel(Protocol):
    """A model of which only a part is stored."""

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors by name."""

    def is_base_tensor(self, name: str) -> bool:
        """Whether the tensor of this name comes with a frozen base, so that an increment leaves it out."""


def increment_state(model: IncrementalModel) -> dict[str, Tensor]:
    """The tensors that an increment stores."""
    return {name: tensor for name, tensor in model.state_dict().items() if not model.is_base_tensor(name)}


def resolve_folder(name: str | Path, revision: str | None = None) -> Path:
    """Find the folder of a bundled name, a local folder, or a hub repository, which is downloaded.

    Raises:
        InputError: there is nothing of that name, it is a file, or the hub could not be reached.
    """
    path = find_source(name, argument="model", bundled=bundled_models(), revision=revision).path
    if not path.is_dir():
        raise InputError(f"model {name}: expected a folder with config.json and tensors, got a file")
    return path


def model_contents(**names: str | None) -> dict[str, str]:
    """Fingerprints of the files of models by argument, so that a model of the same name with other weights is noticed.

    Args:
        names: bundled name, folder, file or hub id per argument; None is left out.

    Returns:
        One entry `ARGUMENT_content` per model.

    Raises:
        InputError: there is no such model.
    """
    return {
        f"{argument}_content": content_digest(find_source(name, argument=argument, bundled=bundled_models()).path)
        for argument, name in names.items()
        if name is not None
    }


def read_config(folder: Path, kind: type[Config]) -> Config:
    """Read a model's `config.json`.

    Raises:
        InputError: the file is missing, is not JSON, or belongs to another kind of model.
    """
    try:
        settings = read_json(folder / "config.json", "model")
    except (OSError, ValueError) as error:
        raise InputError(f"model {folder}: expected a readable config.json, got none") from error
    if not isinstance(settings, dict):
        raise InputError(f"model {folder}: expected an object in config.json, got {type(settings).__name__}")
    found = settings.get("model_type")
    if found != kind.model_type:
        name = next((name for name, place in bundled_models().items() if place == folder), folder)
        raise InputError(f"model {name}: expected {_kind_name(kind.model_type)}, got {_kind_name(found)}")
    return kind.from_dict(settings)


def model_type_of(folder: Path) -> str | None:
    """The `model_type` in the `config.json` of a folder; None if it cannot be read."""
    try:
        return read_json(folder / "config.json", "model").get("model_type")
    except (OSError, ValueError, AttributeError):
        return None


def _kind_name(model_type: object) -> str:
    known = {"plug": "a segmenter (model_type 'plug')", "aura": "a model that answers questions (model_type 'aura')"}
    return known.get(str(model_type), f"model_type {model_type!r}")


@dataclass(frozen=True)
class SavedModel(Generic[Config]):
    """A model on disk whose tensors have not been read yet.

    Attributes:
        folder: where it is.
        config: its configuration.
        is_whole: whether it is stored with its base; otherwise it is an increment.
    """

    folder: Path
    config: Config
    is_whole: bool

    @classmethod
    def find(cls, name: str | Path, kind: type[Config], revision: str | None = None) -> SavedModel[Config]:
        """Find a model by bundled name, folder or hub id.

        Raises:
            InputError: there is no such model, its configuration is unusable, or it has no weights.
        """
        folder = resolve_folder(name, revision)
        config = read_config(folder, kind)
        for weights in (WHOLE, INCREMENT):
            if (folder / weights).is_file():
                return cls(folder, config, weights == WHOLE)
        raise InputError(f"model {name}: expected {INCREMENT} or {WHOLE} in {folder}, got neither")

    def load_into(self, model: Any, *, shared: dict[str, Tensor] | None = None) -> None:
        """Read the stored tensors into a model built for this configuration.

        Args:
            model: an `IncrementalModel` and module. If this is an increment, its base is in place already.
            shared: tensors of another model for a `model` on the meta device to use as its base.

        Raises:
            InputError: the file is unreadable, or a tensor is missing, foreign or of another shape.
        """
        tensors = read_tensors(self.folder / (WHOLE if self.is_whole else INCREMENT))
        expected = model.state_dict() if self.is_whole else increment_state(model)
        check_tensors(tensors, expected, self.folder)
        if shared is None:
            model.load_state_dict(tensors, strict=False)
        else:
            model.load_state_dict(tensors | shared, assign=True)


def save_model(
    folder: Path, tensors: dict[str, Tensor], config: PreTrainedConfig, processor: Any, *, is_whole: bool
) -> None:
    """Write a model's configuration, processor and tensors. Files appear complete or not at all.

    Args:
        folder: created if needed.
        tensors: what to store, of an increment or of the whole model.
        config: settings to write.
        processor: saved in the same folder; None for a model without one.
        is_whole: whether `tensors` are those of the whole model.
    """
    weights = WHOLE if is_whole else INCREMENT
    with replaced_files(folder, weights) as temporary:
        config.save_pretrained(temporary)
        if processor is not None:
            processor.save_pretrained(temporary)
        save_file(unshared_tensors(tensors), temporary / weights, metadata={"format": "pt"})


@contextmanager
def replaced_files(folder: Path, weights: str) -> Iterator[Path]:
    """Yield a temporary folder whose files replace those of `folder` at the end, the weights last.

    Whoever finds weights therefore finds the configuration they belong to. Weights of the other
    kind are deleted.

    Args:
        folder: created if needed.
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


def unshared_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, copied where two names share memory, which safetensors refuses."""
    seen: set[int] = set()
    unshared = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        unshared[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return unshared


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file. Raises `InputError` if it is not one."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"model {file}: expected a safetensors file, got {error}") from error


def check_tensors(tensors: dict[str, Tensor], expected: dict[str, Tensor], folder: Path) -> None:
    """Raise `InputError` unless `tensors` have exactly the names and shapes of `expected`."""
    missing = sorted(expected.keys() - tensors.keys())
    foreign = sorted(tensors.keys() - expected.keys())
    shapes = [k for k in expected.keys() & tensors.keys() if expected[k].shape != tensors[k].shape]
    if missing or foreign or shapes:
        raise InputError(
            f"model {folder}: expected {len(expected)} tensors, got {len(missing)} missing "
            f"{missing[:2]}, {len(foreign)} foreign {foreign[:2]}, {len(shapes)} of another shape "
            f"{shapes[:2]}"
        )


def upload(folder: Path, repo_id: str | None = None) -> None:
    """Upload a saved model to the hub, as it is.

    Args:
        folder: what `save_model` wrote.
        repo_id: repository, created if needed; named as the folder if None.
    """
    repo = create_repo(repo_id or folder.resolve().name, exist_ok=True)
    upload_folder(repo_id=repo.repo_id, folder_path=folder)


def count_parameters(module: nn.Module | None) -> int:
    """Number of parameters of a module; 0 for a part that a configuration leaves out."""
    return 0 if module is None else sum(p.numel() for p in module.parameters())
