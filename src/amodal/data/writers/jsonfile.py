"""Writing large JSON files, annotation by annotation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amodal.data.files import appearing


@contextmanager
def annotation_file(path: Path, members: dict[str, Any]) -> Iterator[Callable[[dict[str, Any], list[Any]], None]]:
    """A COCO-like file, written annotation by annotation.

    Args:
        path: file.
        members: top-level members besides `annotations` and `images`.

    Yields:
        A function that takes an image record and its annotation records.

    Raises:
        InputError: the file cannot be written.
    """
    images: list[dict[str, Any]] = []
    with appearing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
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
