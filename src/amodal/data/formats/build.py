"""One pass over an annotation file: its faults, and the index of what can be read."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from amodal.data.formats.source import Format, Record, integer
from amodal.data.index import (
    IMAGE_KEYS,
    Fault,
    FileRecords,
    ImageEntry,
    Index,
    LazyAttributes,
    RecordFile,
    Report,
)
from amodal.errors import InputError
from amodal.io.images import MAX_PIXELS
from amodal.io.json_stream import Entry, scan


def build_index(path: Path, folder: Path, format_: Format, report: Report) -> Index:
    """Go through a file with `images`, `annotations` and, if it has them, `categories`.

    Args:
        path: JSON file.
        folder: of the images.
        format_: what the annotations should be.
        report: told of each fault; records with one are left out unless it raises.

    Raises:
        InputError: broken JSON, or a file that has no such members.
    """
    collected = _Collected(format_, path, report)
    for entry in scan(path):
        collected.take(entry)
    return collected.index(folder)


class _Collected:
    """The index while the file is being read."""

    def __init__(self, format_: Format, path: Path, report: Report) -> None:
        self.format, self.path, self.report = format_, path, report
        self.file = RecordFile(path)
        self.images: dict[int, ImageEntry] = {}
        self.categories: dict[int, str] = {}
        self.extras: dict[str, Any] = {}
        self.sections: set[str] = set()
        self.names: set[str] = set()
        self.seen: set[int] = set()
        self.owners, self.offsets, self.lengths, self.counts = (array("q") for _ in range(4))

    def take(self, entry: Entry) -> None:
        """One entry of the file."""
        handle = _HANDLERS.get(entry.section)
        if handle is not None and entry.kind != "value":
            self.sections.add(entry.section)
            if entry.kind == "item":
                handle(self, entry)
        elif entry.kind == "list":
            self.extras[entry.section] = []
        elif entry.kind == "item":
            self.extras.setdefault(entry.section, []).append(entry.record)
        else:
            self.extras[entry.section] = entry.record

    def index(self, folder: Path) -> Index:
        """What was collected, the records of an image brought together."""
        self._check_sections()
        position = {number: i for i, number in enumerate(self.images)}
        for number, count in sorted(Counter(n for n in self.owners if n not in position).items()):
            message = f"expected a listed image, got image_id {number} in {count} annotations"
            self.report(Fault("unknown_image", message, number))
        owners = np.array([position.get(number, -1) for number in self.owners], np.int64)
        order = np.argsort(owners, kind="stable")
        order = order[np.searchsorted(owners[order], 0) :]  # -1: of no listed image
        owners = owners[order]
        offsets, lengths, counts = (np.array(a, np.int64)[order] for a in (self.offsets, self.lengths, self.counts))
        if self.format.names is not None:
            self.categories = {i + 1: name for i, name in enumerate(sorted(self.names))}
        return Index(
            self.format,
            self.path,
            folder,
            list(self.images.values()),
            self.categories,
            self.extras,
            FileRecords(self.file, offsets, lengths),
            np.searchsorted(owners, np.arange(len(position) + 1)).tolist(),
            np.bincount(owners, weights=counts, minlength=len(position)).astype(int).tolist(),
        )

    def image(self, entry: Entry) -> None:
        """A record of `images`."""
        record = entry.record
        if not self._has("images", record, IMAGE_KEYS):
            return
        try:
            number, height, width = (integer(record[k], f"{k} of each image") for k in ("id", "height", "width"))
        except InputError as error:
            self.report(Fault("bad_image_record", str(error), record["id"]))
            return
        if min(height, width) < 1 or height * width > MAX_PIXELS:
            expected = f"expected image {number} to have 1 to {MAX_PIXELS} pixels"
            self.report(Fault("bad_image_record", f"{expected}, got {(height, width)}", number))
        elif number in self.images:
            self.report(Fault("duplicate_image_id", f"expected images of different ids, got {number} twice", number))
        else:
            attributes = LazyAttributes(self.file, (entry.offset, entry.length))
            self.images[number] = ImageEntry(number, str(record["file_name"]), (height, width), attributes)

    def annotation(self, entry: Entry) -> None:
        """A record of `annotations`."""
        record, format_ = entry.record, self.format
        if not self._has("annotations", record, ("id", "image_id", *format_.keys)):
            return
        if format_.any_of and not format_.any_of & record.keys():
            expected = f"expected annotations of {format_.name} to have one of {', '.join(sorted(format_.any_of))}"
            self.report(Fault("missing_key", f"{expected}, got {record['id']!r:.20}", record["image_id"], record["id"]))
            return
        foreign = sorted(format_.foreign & record.keys())
        if foreign:
            expected = f"expected {format_.name}, got annotation {record['id']!r:.20} with {', '.join(foreign)}"
            self.report(Fault("mixed_formats", expected, record["image_id"], record["id"]))
            return
        try:
            number, owner = (integer(record[key], f"{key} of each annotation") for key in ("id", "image_id"))
            if "category_id" in format_.keys:
                integer(record["category_id"], "category_id of each annotation")
            names = None if format_.names is None else format_.names(record)
        except InputError as error:
            self.report(Fault("bad_record", str(error), record["image_id"], record["id"]))
            return
        if number in self.seen:
            message = f"expected annotations of different ids, got {number} twice"
            self.report(Fault("duplicate_annotation_id", message, owner, number))
        self.seen.add(number)
        self.names.update(names or ())
        self.owners.append(owner)
        self.offsets.append(entry.offset)
        self.lengths.append(entry.length)
        self.counts.append(1 if names is None else len(names))

    def category(self, entry: Entry) -> None:
        """A record of `categories`."""
        record = entry.record
        if not self._has("categories", record, ("id", "name")):
            return
        try:
            number = integer(record["id"], "id of each category")
        except InputError as error:
            self.report(Fault("bad_record", str(error)))
            return
        if number in self.categories:
            message = f"expected categories of different ids, got {number} twice"
            self.report(Fault("duplicate_category_id", message))
        self.categories[number] = str(record["name"])
        more = {key: value for key, value in record.items() if key not in ("id", "name")}
        if more:
            self.extras.setdefault("category_details", {})[str(number)] = more

    def _check_sections(self) -> None:
        wanted = ("images",) if self.format.may_lack_annotations else ("images", "annotations")
        missing = [f"{name!r}" for name in wanted if name not in self.sections]
        if missing:
            raise InputError(
                f"annotations {self.path}: expected {self.format.name} with lists 'images' and 'annotations', "
                f"got other content (no {' and no '.join(missing)})"
            )

    def _has(self, section: str, record: Any, keys: tuple[str, ...]) -> bool:
        if not isinstance(record, dict):
            got = type(record).__name__
            self.report(Fault("bad_record", f"expected {section!r} to be a list of objects, got one {got}"))
            return False
        missing = [key for key in keys if record.get(key) is None]
        if missing:
            self.report(Fault("missing_key", self._lacks(section, record, keys, missing), *_ids(section, record)))
        return not missing

    def _lacks(self, section: str, record: Record, keys: tuple[str, ...], missing: list[str]) -> str:
        who = repr(record["id"]) if "id" in record else "one without id"
        expected = f"expected each of {section!r} in {self.format.name} to have {', '.join(keys)}"
        return f"{expected}, got {who:.40} without {', '.join(missing)}"


_HANDLERS: dict[str, Callable[[_Collected, Entry], None]] = {
    "images": _Collected.image,
    "annotations": _Collected.annotation,
    "categories": _Collected.category,
}


def _ids(section: str, record: Record) -> tuple[Any, Any]:
    """(image id, annotation id) as far as a record has them."""
    if section == "annotations":
        return (record.get("image_id"), record.get("id"))
    return (record.get("id") if section == "images" else None, None)
