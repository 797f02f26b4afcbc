"""All dataset formats by name: reading a dataset and guessing its format."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

from amodal.data.formats import c2f, cocoa, cvat, labelme, masks
from amodal.data.formats.canonical import FORMAT as CANONICAL
from amodal.data.formats.coco import FORMAT as COCO
from amodal.data.formats.cocoa_cls import COCOA_CLS, D2SA
from amodal.data.formats.kins import KINS2019, KINS2020
from amodal.data.index import DatasetFault, FaultHandler, Index, build_index
from amodal.data.records import Format, Record
from amodal.data.samples import AnnotatedDataset
from amodal.errors import InputError
from amodal.io.files import visible_entries
from amodal.io.image_names import ImageFinder, Match
from amodal.io.json_stream import scan

FORMATS: dict[str, Format] = {
    format_.name: format_
    for format_ in (
        KINS2019,
        KINS2020,
        cocoa.FORMAT,
        COCOA_CLS,
        D2SA,
        COCO,
        CANONICAL,
        masks.FORMAT,
        labelme.FORMAT,
        cvat.FORMAT,
        c2f.FORMAT,
    )
}

_INDEXERS: dict[str, Callable[[Path, ImageFinder, Format, FaultHandler], Index]] = {
    "cocoa": cocoa.read_index,
    "masks": masks.read_index,
    "labelme": labelme.read_index,
    "cvat": cvat.read_index,
    "c2f": c2f.read_index,
}

TOLERATED_FAULTS = frozenset({"duplicate_annotation_id", "duplicate_category_id", "unknown_image"})
"""Kinds of faults with which a file can still be read."""

WRONG_FORMAT_FAULTS = frozenset({"missing_key", "mixed_formats"})
"""Kinds of faults that every record has if the file is of another format than the one named."""

NUM_GUESS_RECORDS = 50
"""Annotations that are read to guess a format; keys such as `invisible_mask` are missing for unoccluded objects."""


def read_dataset(
    format_name: str, annotations: str | Path, images: str | Path | None = None, match: Match = "path"
) -> AnnotatedDataset:
    """Read a dataset of any supported format.

    The file is scanned once; objects are read on access, so that memory does not grow with the dataset beyond an
    index, and an invalid mask is reported when the objects of its image are read.

    Example:
        >>> from amodal import read_dataset
        >>> dataset = read_dataset("canonical", "data/scenes-val/annotations.json")
        >>> for image in dataset.images:
        ...     for obj in image.objects:
        ...         obj.visible_mask(), obj.amodal_mask(), obj.occlusion_rate()

    Args:
        format_name: one of `FORMATS`, see `amodal data formats`; `guess_format` guesses it.
        annotations: file, or folder for `masks`, `labelme` and single COCOA records.
        images: folder of the images; if None, `images/` beside the annotations, or the annotations' own folder if
            there is no such folder.
        match: how the names of images are matched with files: as paths below the folder (`path`), or by their last part
            anywhere below it (`name`), for names that are URLs or paths of another computer.

    Returns:
        The dataset; `dataset.images` has its images, and `image.objects` the objects of an image.

    Raises:
        InputError: the format is unknown, a name leaves the folder, or the files are not of that format.
    """
    path = Path(annotations)

    def refuse(fault: DatasetFault) -> None:
        if fault.kind not in TOLERATED_FAULTS:
            raise InputError(f"annotations {path}: {fault.message}{_hint(fault, path, format_name)}")

    return open_index(format_name, path, images, refuse, match).dataset()


def open_index(
    format_name: str,
    annotations: str | Path,
    images: str | Path | None,
    report: FaultHandler,
    match: Match = "path",
) -> Index:
    """Build the index of a dataset and pass its faults to `report`.

    Args:
        format_name: one of `FORMATS`.
        annotations: as for `read_dataset`.
        images: as for `read_dataset`.
        report: called with each fault; records with a fault are left out unless it raises.
        match: as for `read_dataset`.

    Raises:
        InputError: the format is unknown, the file or folder does not exist, or its content is of another kind,
            such as another format.
    """
    if format_name not in FORMATS:
        raise InputError(f"format: expected one of {', '.join(FORMATS)}, got {format_name!r}")
    path = Path(annotations)
    if not path.exists():
        raise InputError(f"annotations: expected a file, got {str(path)!r}, which does not exist")
    finder = ImageFinder(image_folder(path, None if images is None else Path(images)), match)
    wrong_format: list[DatasetFault] = []

    def collect(fault: DatasetFault) -> None:
        if fault.kind in WRONG_FORMAT_FAULTS and not wrong_format:
            wrong_format.append(fault)
        report(fault)

    try:
        index = _INDEXERS.get(format_name, build_index)(path, finder, FORMATS[format_name], collect)
    except InputError as error:
        if format_name not in ("labelme", "cvat", "c2f"):  # the others have a fault for each record of another format
            raise
        raise InputError(f"{error}{_other_format(path, format_name)}") from error
    if wrong_format and not sum(index.num_objects):
        hint = _hint(wrong_format[0], path, format_name)
        if hint:
            raise InputError(f"annotations {path}: {wrong_format[0].message}{hint}")
    return index


def guess_format(annotations: str | Path) -> str | None:
    """Guess the format of a file or folder from the keys of its first annotations; None if it fits no format.

    Raises:
        InputError: the file does not exist, or is broken JSON.
    """
    path = Path(annotations)
    if path.is_dir():
        entries = visible_entries(path)
        first = next((entry for entry in entries if entry.suffix.lower() == ".json"), None)
        if first is not None:
            guessed = guess_format(first)
            return guessed if guessed in ("cocoa", "labelme") else None
        inside = (file for folder in entries if folder.is_dir() for file in visible_entries(folder))
        return "masks" if any(file.suffix.lower() == ".png" for file in inside) else None
    if path.suffix.lower() == ".xml":
        return "cvat"
    if path.suffix.lower() == ".txt":
        return "c2f"
    listed = (e for e in scan(path) if e.section in ("annotations", "regions", "shapes"))
    first_entries = list(islice(listed, NUM_GUESS_RECORDS))
    if first_entries and all(e.section == "shapes" and e.kind != "value" for e in first_entries):
        return "labelme"
    records = [e.record for e in first_entries if e.kind == "item" and e.section != "shapes"]
    return _guess([record for record in records if isinstance(record, dict)])


def _guess(records: list[Record]) -> str | None:
    keys = frozenset[str]().union(*records)
    if not keys:
        return None
    if "isStuff" in keys and "segmentation" in keys:  # regions of a single COCOA record
        return "cocoa"
    if COCOA_CLS.marks & keys and any(isinstance(record.get("iscrowd"), bool) for record in records):
        return "d2sa"
    scores = {name: len(format_.marks & keys) for name, format_ in FORMATS.items() if not format_.foreign & keys}
    best = max(scores, key=lambda name: scores[name], default=None)
    if best is not None and scores[best]:
        return best
    if "visible_mask" in keys:
        return "cocoa_cls"
    return "coco" if "segmentation" in keys else None


def _hint(fault: DatasetFault, path: Path, format_name: str) -> str:
    if fault.kind not in WRONG_FORMAT_FAULTS:
        return ""
    return _other_format(path, format_name)


def _other_format(path: Path, format_name: str) -> str:
    """A note for people if a file has another format than the named one, otherwise nothing."""
    try:
        other = guess_format(path)
    except InputError:
        return ""
    return "" if other in (None, format_name) else f" (the file looks like {other})"


def image_folder(annotations: Path, images: Path | None) -> Path:
    """The folder of a dataset's images: the given one, or `images/` beside the annotations, or their own folder.

    Raises:
        InputError: the given folder does not exist.
    """
    if images is None:
        beside = annotations.parent / "images"
        if beside.is_dir():
            return beside
        return annotations if annotations.is_dir() else annotations.parent
    if not images.is_dir():
        state = "is a file" if images.exists() else "does not exist"
        raise InputError(f"images: expected a folder, got {str(images)!r}, which {state}")
    return images
