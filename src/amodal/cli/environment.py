"""Names of options: an environment variable for each, such as `AMODAL_SEGMENT_MODEL`, and how messages name them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
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


def with_option_names(message: str, command: Any, arguments: Sequence[str]) -> str:
    """Name the options in a message as the command line does: `retry_wait: ...` becomes `retry-wait: ...`.

    Args:
        message: it begins with the names of what is wrong, as Python has them, separated by commas.
        command: the whole program.
        arguments: command and options; only options of this command are renamed.
    """
    for argument in arguments:
        command = getattr(command, "commands", {}).get(argument, command)
    names = {option.name: option.opts[0].strip("-") for option in command.params if option.param_type_name == "option"}
    start = re.match(r"[\w-]+(, [\w-]+)*(?=[: ])", message)
    if start is None:
        return message
    told = ", ".join(names.get(name, name) for name in start.group().split(", "))
    return told + message[start.end() :]


def _upper(name: str) -> str:
    return name.strip("-").replace("-", "_").upper()


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(
            f"environment: expected words as a shell separates them, got {text!r:.80} ({error})"
        ) from error
