"""Writing large JSON files that appear complete or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from amodal.errors import InputError


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A text file that takes its name once it is complete, and is gone if something fails.

    Raises:
        InputError: its folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = temporary.open("w", encoding="utf-8")
    except OSError as error:
        raise InputError(f"out: expected a file to write, got {str(path)!r} ({error.strerror})") from error
    try:
        with file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def annotation_file(path: Path, members: dict[str, Any]) -> Iterator[Callable[[dict[str, Any], list[Any]], None]]:
    """A COCO-like file, written annotation by annotation.

    Args:
        path: file.
        members: top-level members besides `annotations` and `images`.

    Yields:
        A function that takes an image record and its annotation records.
    """
    images: list[dict[str, Any]] = []
    with whole_file(path) as file:
        first = "".join(f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in members.items())
        file.write("{" + first + '"annotations": [')
        separator = "\n"

        def add(image: dict[str, Any], annotations: list[Any]) -> None:
            nonlocal separator
            images.append(image)
            for record in annotations:
                file.write(separator + json.dumps(record))
                separator = ",\n"

        yield add
        file.write(f'\n],\n"images": {json.dumps(images)}}}\n')
