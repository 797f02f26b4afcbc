"""The families of bases: which one a configuration belongs to, and loading a base by name, folder, file or hub id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedConfig
from transformers.utils import logging

from amodal.errors import InputError
from amodal.models.bases.checkpoints import load_checkpoint
from amodal.models.bases.conv_prompt import ConvPromptFamily
from amodal.models.bases.edgetam import EdgeTamFamily
from amodal.models.bases.protocol import BaseFamily, LoadedBase
from amodal.models.bases.sam import SamFamily
from amodal.models.bases.sam2 import Sam2Family
from amodal.models.bases.sam3 import Sam3Family
from amodal.models.bases.sam_hq import SamHQFamily
from amodal.models.hub import Source, find_source
from amodal.models.increments import Origin, bundled_models

FAMILIES: dict[str, BaseFamily] = {
    family.model_type: family
    for family in (SamFamily(), SamHQFamily(), Sam2Family(), EdgeTamFamily(), Sam3Family(), ConvPromptFamily())
}
"""Families by transformers' `model_type`."""

_ALIASES = {alias: family for family in FAMILIES.values() for alias in family.aliases}


def family_of(config: PreTrainedConfig | Mapping[str, Any]) -> BaseFamily:
    """Find the family of a base's configuration, or of its dictionary; one without `model_type` is SAM's.

    Raises:
        InputError: no family has this `model_type`.
    """
    kind = config.model_type if isinstance(config, PreTrainedConfig) else config.get("model_type", "sam")
    family = FAMILIES.get(str(kind)) or _ALIASES.get(str(kind))
    if family is None:
        raise InputError(f"base: expected a model_type of {', '.join(FAMILIES)}, got {kind!r}")
    return family


def preset_names() -> list[str]:
    """Names of the published sizes that need no download to be configured."""
    return [name for family in FAMILIES.values() for name in family.presets]


def base_config(name: str | Path) -> PreTrainedConfig:
    """Read the configuration of a base without loading its weights.

    Args:
        name: preset (`vit-b`, ..., `sam2.1-tiny`, ...), hub id, bundled name, folder, or checkpoint file, which is
            read whole.

    Raises:
        InputError: there is no such base, it is of no known family, or its configuration is unreadable.
    """
    for family in FAMILIES.values():
        preset = family.presets.get(family.hub_ids.get(str(name), str(name)))
        if preset is not None:
            return family.config_class.from_dict(dict(preset))
    source = _find(name, weights=False)
    return load_checkpoint(source.path).config if source.path.is_file() else _read_config(source.path, name)


def load_base(
    name: str | Path | PreTrainedConfig | LoadedBase, revision: str | None = None, *, only: str | None = None
) -> LoadedBase:
    """Load a base with its weights.

    Args:
        name: bundled name, folder or hub id of a transformers model, or a checkpoint file; a configuration for random
            weights; a base in memory is returned as it is.
        revision: commit of the hub repository.
        only: `model_type` of the one family that the caller can use; any if None.

    Raises:
        InputError: there is no such base, it is of another family, or tensors are missing, foreign or unreadable.
    """
    loaded = _load(name, revision)
    kind = family_of(loaded.model.config).model_type
    if only is not None and kind != only:
        place = loaded.origin.name_or_path
        raise InputError(f"base {place}: expected a {FAMILIES[only].title}, got one of model_type {kind!r}")
    return loaded


def _load(name: str | Path | PreTrainedConfig | LoadedBase, revision: str | None) -> LoadedBase:
    if isinstance(name, LoadedBase):
        return name
    if isinstance(name, PreTrainedConfig):
        return LoadedBase(family_of(name).new_model(name), Origin(fingerprint=""))
    source = _find(name, revision)
    if source.path.is_file():
        model: Any = load_checkpoint(source.path)
        family = family_of(model.config)
    else:
        family = family_of(_read_config(source.path, name))
        try:
            with hidden_progress_bars():  # loading takes a second; a bar would hide the caller's output
                model, notes = family.model_class.from_pretrained(
                    source.path, output_loading_info=True, dtype=torch.float32, trust_remote_code=False
                )
        except (OSError, ValueError, SafetensorError) as error:
            raise _unknown_base(name) from error
        wrong = {k: sorted(notes.get(k, ())) for k in ("missing_keys", "unexpected_keys")}
        if any(wrong.values()):
            raise InputError(f"base {name}: expected the tensors of a {family.title}, got {wrong}")
    return LoadedBase(model, Origin(str(name), source.revision, family.fingerprint(model)))


def _find(name: str | Path, revision: str | None = None, *, weights: bool = True) -> Source:
    """Find the folder or checkpoint file of a base; the tensors of a saved folder stand for the folder."""
    sizes = "" if weights else f"a preset ({', '.join(preset_names())}), "
    others = f"{sizes}a checkpoint file, "
    source = find_source(
        name, argument="base", bundled=bundled_models(), revision=revision, weights=weights, others=others
    )
    folder = source.path.parent
    if source.path.name == "model.safetensors" and (folder / "config.json").is_file():
        return Source(folder, source.revision)
    return source


def _read_config(folder: Path, name: str | Path) -> PreTrainedConfig:
    """Read the `config.json` of a folder in the class of its family; `name` is what the caller asked for."""
    try:
        settings, _ = PreTrainedConfig.get_config_dict(folder)
    except (OSError, ValueError) as error:
        raise _unknown_base(name) from error
    family = family_of(settings)
    return family.config_class.from_dict({k: v for k, v in settings.items() if k != "model_type"})


@contextmanager
def hidden_progress_bars() -> Iterator[None]:
    """Within the context transformers shows no progress bars."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _unknown_base(name: str | Path) -> InputError:
    known = ", ".join([*bundled_models(), *preset_names()])
    kinds = " or ".join(family.title for family in FAMILIES.values())
    return InputError(
        f"base: expected a bundled name or preset ({known}), a folder, a hub id or a checkpoint "
        f"file, got {str(name)!r}, which cannot be read as a {kinds}"
    )
