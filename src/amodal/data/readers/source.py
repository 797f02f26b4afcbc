"""What the readers of COCO-like annotations share: the file, its images, and their records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.ops.rle import Rle, segmentation_to_rle

Record = dict[str, Any]
MakeObject = Callable[[Record, tuple[int, int], Path], ObjectSample | None]


def read_coco_like(
    annotations: Path, images: Path | None, format_name: str, keys: tuple[str, ...], make_object: MakeObject
) -> AnnotatedDataset:
    """Read a file with `images`, `annotations` and `categories`.

    Args:
        annotations: JSON file.
        images: folder of the images; `images/` beside the annotations if None.
        format_name: name of the form.
        keys: what each annotation must have, besides `id`, `image_id` and `category_id`.
        make_object: from a record, the image's (H, W) and the file; None leaves the object out.

    Returns:
        The images with their objects, both in file order. Annotations of images that the file
        does not list are left out.

    Raises:
        InputError: a file or folder is missing, or the content is not of this form.
    """
    content = _read_json(annotations, format_name)
    folder = _image_folder(annotations, images)
    listed = _records(content, "images", ("id", "file_name", "height", "width"), annotations)
    groups: dict[int, list[Record]] = {_integer(r, "id", "image", annotations): [] for r in listed}
    if len(groups) < len(listed):
        raise InputError(f"annotations {annotations}: expected images of different ids, got the same twice")
    for record in _records(content, "annotations", ("id", "image_id", "category_id", *keys), annotations):
        owner = _integer(record, "image_id", "annotation", annotations)
        if owner in groups:
            groups[owner].append(record)
    samples = []
    for record in listed:
        number = _integer(record, "id", "image", annotations)
        size = (_integer(record, "height", "image", annotations), _integer(record, "width", "image", annotations))
        if min(size) < 1:
            raise InputError(f"annotations {annotations}: expected image {number} to have pixels, got {size}")
        made = (make_object(r, size, annotations) for r in groups[number])
        objects = tuple(thing for thing in made if thing is not None)
        samples.append(ImageSample(number, folder / str(record["file_name"]), *size, objects))
    named = _records(content, "categories", ("id", "name"), annotations) if "categories" in content else []
    categories = {_integer(c, "id", "category", annotations): str(c["name"]) for c in named}
    return AnnotatedDataset(tuple(samples), categories, format_name)


def identity(record: Record, path: Path) -> tuple[int, int]:
    """(id, category id) of an annotation."""
    return (_integer(record, "id", "annotation", path), _integer(record, "category_id", "annotation", path))


def mask_of(record: Record, key: str, size: tuple[int, int], path: Path) -> Rle:
    """The mask under `key` as an RLE of the image's (H, W); its errors name file and annotation."""
    try:
        return segmentation_to_rle(record[key], *size)
    except InputError as error:
        raise InputError(f"annotations {path}: annotation {record['id']}: {error}") from error


def _read_json(path: Path, format_name: str) -> dict[str, Any]:
    if not path.is_file():
        fault = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"annotations: expected a file, got {str(path)!r}, which {fault}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"annotations {path}: expected JSON, got broken text ({error})") from error
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise InputError(
            f"annotations {path}: expected {format_name} with 'images' and 'annotations', got other content"
        )
    return content


def _image_folder(annotations: Path, images: Path | None) -> Path:
    folder = images or annotations.parent / "images"
    if not folder.is_dir():
        fault = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"images: expected a folder, got {str(folder)!r}, which {fault}")
    return folder


def _records(content: dict[str, Any], name: str, keys: tuple[str, ...], path: Path) -> list[Record]:
    records = content[name]
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise InputError(f"annotations {path}: expected {name!r} to be a list of objects, got other content")
    for record in records:
        missing = [key for key in keys if key not in record]
        if missing:
            raise InputError(
                f"annotations {path}: expected each of {name!r} to have {', '.join(keys)}, "
                f"got {record.get('id', 'one without id')} without {', '.join(missing)}"
            )
    return records


def _integer(record: Record, key: str, what: str, path: Path) -> int:
    value = record[key]
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if isinstance(value, (int, float)) and value == value // 1:
        return int(value)
    raise InputError(f"annotations {path}: expected the {key} of each {what} to be an integer, got {value!r}")
