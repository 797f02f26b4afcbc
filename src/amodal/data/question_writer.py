"""Writing question files that appear complete or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from amodal.errors import InputError
from amodal.io.files import appearing


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
    with appearing(path) as temporary:
        separator = "[\n"
        with temporary.open("w", encoding="utf-8") as file:
            for record in records:
                file.write(separator + json.dumps(record, ensure_ascii=False))
                separator = ",\n"
            file.write("\n]\n")
        if separator == "[\n":
            raise InputError("questions: expected at least one to write, got none")
    return path
