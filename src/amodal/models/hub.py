"""Finding a model by name: bundled, on this machine, or on the Hugging Face hub.

A name that can only mean a local path never reaches the hub, and a hub that does not respond costs at most
`HUB_DEADLINE` seconds. Models are loaded from the folder that these functions return, so that no other code
connects to the hub on its own.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from amodal.errors import InputError

HUB_DEADLINE = 3.0
"""Seconds that the hub has for its first response. A name is resolved or refused within five seconds."""

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")

_SETTINGS = ("*.json", "*.txt", "*.model", "*.jinja")
_HUB_ID = re.compile(r"[\w][\w.-]*/[\w.-]*[\w-]")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where a model is on this machine.

    Attributes:
        path: folder or checkpoint file.
        revision: commit of the hub repository that it was downloaded from; None for other sources.
    """

    path: Path
    revision: str | None = None


def is_checkpoint_name(name: str | Path) -> bool:
    """Whether a name ends like a checkpoint file, whether or not the file exists."""
    return str(name).lower().endswith(CHECKPOINT_SUFFIXES)


def is_local_name(name: str | Path) -> bool:
    """Whether a name can only mean a path on this machine: it exists, or no hub id has its form."""
    text = str(name)
    return (
        text.startswith((".", "~", "/"))
        or "\\" in text
        or text.count("/") > 1
        or is_checkpoint_name(text)
        or (text != "" and Path(text).exists())
    )


def find_source(
    name: str | Path,
    *,
    argument: str,
    bundled: Mapping[str, Path],
    revision: str | None = None,
    weights: bool = True,
    others: str = "",
) -> Source:
    """Find the folder or checkpoint file of a model; a hub repository is downloaded unless it is in the cache.

    Args:
        name: bundled name, path or hub id.
        argument: what the error messages call it, such as `base`.
        bundled: folders of the bundled models by name.
        revision: branch, tag or commit of the hub repository.
        weights: whether to download the tensors as well; otherwise only configurations and tokenizers.
        others: what else `argument` may be, for the error messages.

    Raises:
        InputError: a local path does not exist, there is no such repository, it is not accessible, or the hub could
            not be reached and the repository is not in the cache.
    """
    if str(name) in bundled:
        return Source(bundled[str(name)])
    path = Path(name).expanduser()
    if str(name) and path.exists():
        return Source(_model_of_run(path))
    if is_local_name(name):
        raise InputError(f"{argument} {name}: expected a file or folder, got none at this path")
    if _HUB_ID.fullmatch(str(name)) is None:
        known = f"a bundled name ({', '.join(bundled)}), " if bundled else ""
        raise InputError(f"{argument}: expected {known}{others}a folder or a hub id (owner/name), got {str(name)!r}")
    return _download(str(name), argument, revision, weights)


def _model_of_run(path: Path) -> Path:
    """The folder `model` of a run or of one of its checkpoints; any other path as it is."""
    is_run = not (path / "config.json").is_file() and (path / "model" / "config.json").is_file()
    return path / "model" if is_run else path


def _download(name: str, argument: str, revision: str | None, weights: bool) -> Source:
    """Download a repository, or take the copy in the cache where the hub cannot be reached."""
    place = f"{argument} {name}: there is no folder of this name"
    patterns = [*_SETTINGS, "*.safetensors"] if weights else [*_SETTINGS]
    if constants.HF_HUB_OFFLINE:
        cached = _cached(name, revision, patterns)
        if cached is None:
            raise InputError(f"{place}, HF_HUB_OFFLINE is set, and the hub's cache has no copy")
        return cached
    try:
        info = _repository(name, revision)
        if weights and not any(file.rfilename.endswith(".safetensors") for file in info.siblings or ()):
            patterns.append("*.bin")  # an older repository; others hold copies in several formats
        return Source(Path(snapshot_download(name, revision=revision, allow_patterns=patterns)), info.sha)
    except GatedRepoError as error:
        raise InputError(
            f"{argument} {name}: access to this repository must be requested on {constants.ENDPOINT}/{name}; "
            "after that, log in with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{argument} {name}: expected a revision of this repository, got {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise InputError(f"{place}, and no repository on {constants.ENDPOINT} (or it is private)") from error
    except Exception as error:  # httpx's, socket's, JSON's: no connection, no response, or none of a hub
        cached = _cached(name, revision, patterns)
        if cached is None:
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
            reason = f"status {status}" if status else type(error).__name__
            raise InputError(
                f"{place}, the hub at {constants.ENDPOINT} could not be reached ({reason}), and its cache has no copy"
            ) from error
        _logger.warning("the hub at %s could not be reached; using the cached copy of %s", constants.ENDPOINT, name)
        return cached


def _cached(name: str, revision: str | None, patterns: list[str]) -> Source | None:
    """The copy in the hub's cache; None if there is none, or not all files of these patterns."""
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=True))
    except (OSError, ValueError):
        return None
    return Source(folder, folder.name)  # the cache names the folder of a snapshot by its commit


def _repository(name: str, revision: str | None) -> Any:
    """Ask the hub about a repository, in a thread: the timeouts of sockets do not cover looking up the host's address.

    Raises:
        TimeoutError: the hub did not respond within `HUB_DEADLINE`.
        Exception: whatever the request raised.
    """
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            results.put(HfApi().model_info(name, revision=revision, timeout=HUB_DEADLINE))
        except Exception as error:
            results.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        result = results.get(timeout=HUB_DEADLINE)
    except queue.Empty:
        raise TimeoutError(f"no response within {HUB_DEADLINE:g} seconds") from None
    if isinstance(result, Exception):
        raise result
    return result
