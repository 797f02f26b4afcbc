"""One reader a dataset format, all yielding `AnnotatedDataset`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from amodal.data.readers.canonical import read_canonical
from amodal.data.readers.coco import read_coco
from amodal.data.samples import AnnotatedDataset
from amodal.errors import InputError

READERS: dict[str, Callable[[Path, Path | None], AnnotatedDataset]] = {
    "canonical": read_canonical,
    "coco": read_coco,
}


def read_dataset(format_name: str, annotations: str | Path, images: str | Path | None = None) -> AnnotatedDataset:
    """Read a dataset of any supported format.

    Raises:
        InputError: unknown format, or the files are not of it.
    """
    if format_name not in READERS:
        raise InputError(f"format: expected one of {', '.join(READERS)}, got {format_name!r}")
    folder = None if images is None else Path(images)
    return READERS[format_name](Path(annotations), folder)
