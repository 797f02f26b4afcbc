"""One reader a dataset format, all yielding `AnnotatedDataset`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from amodal.data.formats import canonical, coco, cocoa, cocoa_cls, d2sa, kins2019, kins2020, masks
from amodal.data.formats.build import build_index
from amodal.data.formats.guess import guess_format
from amodal.data.formats.source import Format
from amodal.data.index import Fault, Index, Report
from amodal.data.samples import AnnotatedDataset
from amodal.errors import InputError

FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT for module in (kins2019, kins2020, cocoa, cocoa_cls, d2sa, coco, canonical, masks)
}

_INDEXERS: dict[str, Callable[[Path, Path, Format, Report], Index]] = {
    "cocoa": cocoa.read_index,
    "masks": masks.read_index,
}

TOLERATED = frozenset({"duplicate_annotation_id", "duplicate_category_id", "unknown_image"})
"""Faults of a file that can be read all the same."""

OTHER_FORMAT = frozenset({"missing_key", "mixed_formats"})
"""Faults that all records of a file have if it is of another format than the one named."""


def read_dataset(format_name: str, annotations: str | Path, images: str | Path | None = None) -> AnnotatedDataset:
    """Read a dataset of any supported format.

    The file is gone through once; objects are read when they are asked for, so that memory does
    not grow with the dataset beyond an index, and a broken mask is reported when its image is
    looked at.

    Args:
        format_name: one of `FORMATS`.
        annotations: file, or folder for `masks` and for single COCOA records.
        images: folder of the images; `images/` beside the annotations if None, or, where there is
            none, the annotations' own folder.

    Raises:
        InputError: unknown format, or the files are not of it.
    """
    path = Path(annotations)

    def refuse(fault: Fault) -> None:
        if fault.kind not in TOLERATED:
            raise InputError(f"annotations {path}: {fault.message}{_hint(fault, path, format_name)}")

    return open_index(format_name, path, images, refuse).dataset()


def open_index(format_name: str, annotations: str | Path, images: str | Path | None, report: Report) -> Index:
    """The index of a dataset, whose faults are told to `report`.

    Raises:
        InputError: unknown format, no such file or folder, or content that is nothing like it, such as
            that of another format.
    """
    if format_name not in FORMATS:
        raise InputError(f"format: expected one of {', '.join(FORMATS)}, got {format_name!r}")
    path = Path(annotations)
    if not path.exists():
        raise InputError(f"annotations: expected a file, got {str(path)!r}, which does not exist")
    folder = _image_folder(path, None if images is None else Path(images))
    unlike: list[Fault] = []

    def told(fault: Fault) -> None:
        if fault.kind in OTHER_FORMAT and not unlike:
            unlike.append(fault)
        report(fault)

    index = _INDEXERS.get(format_name, build_index)(path, folder, FORMATS[format_name], told)
    if unlike and not sum(index.num_objects):
        hint = _hint(unlike[0], path, format_name)
        if hint:
            raise InputError(f"annotations {path}: {unlike[0].message}{hint}")
    return index


def guess(annotations: str | Path) -> str | None:
    """The format a file or folder seems to have, None if it resembles none.

    Raises:
        InputError: no such file, or broken JSON.
    """
    return guess_format(Path(annotations), FORMATS)


def _hint(fault: Fault, path: Path, format_name: str) -> str:
    if fault.kind not in OTHER_FORMAT:
        return ""
    other = guess_format(path, FORMATS)
    return "" if other in (None, format_name) else f" (the file looks like {other})"


def _image_folder(annotations: Path, images: Path | None) -> Path:
    if images is None:
        beside = annotations.parent / "images"
        if beside.is_dir():
            return beside
        return annotations if annotations.is_dir() else annotations.parent
    if not images.is_dir():
        fault = "is a file" if images.exists() else "does not exist"
        raise InputError(f"images: expected a folder, got {str(images)!r}, which {fault}")
    return images
