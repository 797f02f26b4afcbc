"""An environment variable for every option of every command, such as `AMODAL_SEGMENT_MODEL`."""

from __future__ import annotations

import shlex
from typing import Any

from amodal.errors import InputError


def add_variables(command: Any, prefix: str = "AMODAL") -> Any:
    """Name an environment variable for each option of a command and of the commands below it, and return it.

    The name consists of the names of the commands and of the option: `AMODAL_EVALUATE_MASKS_BOX_SOURCE` is
    `--box-source` of `amodal evaluate masks`. An option on the command line counts before its variable, and an empty
    variable is none. Flags are 1, true, yes or on, or 0, false, no or off. Options that may be repeated take words as a
    shell separates them, and paths as `PATH` does.

    Args:
        command: a command or group that typer made.
        prefix: the first part of the names.
    """
    for option in command.params:
        names = [name for name in option.opts if name.startswith("--")]
        if option.param_type_name != "option" or not names or option.is_eager:  # --help and --version
            continue
        if option.envvar is None:
            option.envvar, option.show_envvar = f"{prefix}_{_upper(names[0])}", False
        option.split_envvar_value = _words
    for name, inner in getattr(command, "commands", {}).items():
        add_variables(inner, f"{prefix}_{_upper(name)}")
    return command


def _upper(name: str) -> str:
    return name.strip("-").replace("-", "_").upper()


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(
            f"environment: expected words as a shell separates them, got {text!r:.80} ({error})"
        ) from error
