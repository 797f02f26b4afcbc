"""Writing question files that appear complete or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from amodal.errors import InputError


def write_questions(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    """Write a question file (see `readers.reason_seg`), one record a line, under a temporary name first.

    Args:
        path: file to write; its folder is created.
        records: conversations.

    Returns:
        `path`.

    Raises:
        InputError: a path that cannot be written, or no record.
    """
    if path.is_dir():
        raise InputError(f"out: expected a file for the questions, got the folder {str(path)!r}")
    temporary = path.with_name(path.name + ".writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = temporary.open("w", encoding="utf-8")
    except OSError as error:
        raise InputError(f"out: expected a file that can be written, got {str(path)!r} ({error.strerror})") from error
    try:
        with file:
            separator = "[\n"
            for record in records:
                file.write(separator + json.dumps(record, ensure_ascii=False))
                separator = ",\n"
            file.write("\n]\n")
        if separator == "[\n":
            raise InputError("questions: expected at least one to write, got none")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
