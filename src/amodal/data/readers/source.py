"""What the readers of JSON annotations share: opening the file and finding the images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from amodal.errors import InputError


def read_json(path: Path, format_name: str) -> dict[str, Any]:
    """Read a COCO-like file with `images` and `annotations`.

    Raises:
        InputError: no file, not JSON, or other content.
    """
    if not path.is_file():
        raise InputError(f"annotations: expected a file, got {str(path)!r}, which does not exist")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"annotations {path}: expected JSON, got broken text ({error})") from error
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise InputError(
            f"annotations {path}: expected {format_name} with 'images' and 'annotations', got other content"
        )
    return content


def image_folder(annotations: Path, images: Path | None) -> Path:
    """The given folder, or `images/` beside the annotations."""
    folder = images or annotations.parent / "images"
    if not folder.is_dir():
        raise InputError(f"images: expected a folder, got {str(folder)!r}, which does not exist")
    return folder


def by_image(annotations: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """Annotations grouped by image id, in file order."""
    groups: dict[int, list[dict[str, Any]]] = {}
    for annotation in annotations:
        groups.setdefault(annotation["image_id"], []).append(annotation)
    return groups


def require(record: dict[str, Any], keys: tuple[str, ...], path: Path) -> None:
    """Raise an `InputError` that names the keys an annotation lacks."""
    missing = [key for key in keys if key not in record]
    if missing:
        raise InputError(
            f"annotations {path}: expected annotation {record.get('id')} to have {list(keys)}, got none of {missing}"
        )
