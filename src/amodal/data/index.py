"""An index of an annotation file: where each record is stored, so that objects are read only on access."""

from __future__ import annotations

import json
import mmap
from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
import numpy.typing as npt

from amodal.data.formats.base import Format, RawAnnotation, Record, integer, to_sample
from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.io.images import MAX_PIXELS
from amodal.io.json_stream import Entry, scan

CACHED_IMAGES = 256
"""Images whose objects are kept: programs look at the objects of one image several times in a row."""

IMAGE_KEYS = ("id", "file_name", "height", "width")

Numbers = npt.NDArray[np.int64]

ByteRange = tuple[int, int]
"""First byte of a record and its length."""


@dataclass(frozen=True)
class DatasetFault:
    """Something wrong with a file.

    Attributes:
        kind: short name, as `amodal data validate` reports it.
        message: what was expected and what came.
        image_id: image it concerns, if any.
        annotation_id: annotation it concerns, if any.
        pixels: how many pixels are wrong, where that can be said.
    """

    kind: str
    message: str
    image_id: Any = None
    annotation_id: Any = None
    pixels: int | None = None


FaultHandler = Callable[[DatasetFault], None]
"""Receives each fault as it is found."""


@dataclass(frozen=True)
class ImageEntry:
    """An image as the file lists it.

    Attributes:
        id: image id.
        file_name: relative to the folder of the images.
        size: (H, W).
        attributes: what else is said about it.
    """

    id: int
    file_name: str
    size: tuple[int, int]
    attributes: Mapping[str, Any]


class RecordSequence(Protocol):
    """Records by position: a list, or `FileRecords`."""

    def __getitem__(self, position: int, /) -> Record: ...


@dataclass
class Index:
    """What a pass over a file leaves in memory.

    Attributes:
        format: of the file.
        path: the file.
        folder: of the images.
        images: in file order.
        categories: names by id.
        extras: other members of the top level.
        all_records: of all images, those of an image next to each other.
        starts: position in `all_records` of each image's first record, and the end of the last.
        num_objects: objects of each image.
    """

    format: Format
    path: Path
    folder: Path
    images: list[ImageEntry]
    categories: dict[int, str]
    extras: dict[str, Any]
    all_records: RecordSequence
    starts: Sequence[int]
    num_objects: Sequence[int]
    _cache: OrderedDict[int, tuple[ObjectSample, ...]] = field(default_factory=OrderedDict)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": OrderedDict()}

    def dataset(self) -> AnnotatedDataset:
        """The images, whose objects are read when asked for."""
        images = tuple(self._image(position, entry) for position, entry in enumerate(self.images))
        return AnnotatedDataset(images, self.categories, self.format.name, self.extras)

    def records(self, position: int) -> Iterator[Record]:
        """The records of an image, in file order."""
        for i in range(self.starts[position], self.starts[position + 1]):
            yield self.all_records[i]

    def raw_annotations(self, position: int) -> Iterator[RawAnnotation]:
        """What the records of an image state, unchecked."""
        for record in self.records(position):
            yield from self.format.parse(record)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Category ids by name, for formats that write names."""
        return {name: number for number, name in self.categories.items()} if self.format.names else {}

    def objects(self, position: int) -> tuple[ObjectSample, ...]:
        """The objects of an image.

        Raises:
            InputError: a record that cannot be read, or the file is not the one that was opened.
        """
        if position in self._cache:
            self._cache.move_to_end(position)
            return self._cache[position]
        size = self.images[position].size
        try:
            found = tuple(to_sample(raw, size, self.numbers) for raw in self.raw_annotations(position))
        except InputError as error:
            raise InputError(f"annotations {self.path}: {error}") from error
        self._cache[position] = found
        if len(self._cache) > CACHED_IMAGES:
            self._cache.popitem(last=False)
        return found

    def _image(self, position: int, entry: ImageEntry) -> ImageSample:
        objects = LazyObjects(self.objects, position, int(self.num_objects[position]))
        path = self.folder / entry.file_name
        return ImageSample(entry.id, path, *entry.size, objects, entry.file_name, entry.attributes)


class RecordFile:
    """A file whose records are read by their place; can be sent to other processes."""

    def __init__(self, path: Path) -> None:
        self._path, self._stamp = path, _stamp(path)
        self._map: mmap.mmap | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_map": None}

    def at(self, place: ByteRange) -> Record:
        """The record at a place.

        Raises:
            InputError: the file has changed since it was opened.
        """
        if self._map is None:
            if not self._path.is_file() or _stamp(self._path) != self._stamp:
                raise InputError(f"annotations {self._path}: expected the file as it was opened, got a changed one")
            with self._path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        record: Record = json.loads(self._map[place[0] : place[0] + place[1]])
        return record


class FileRecords:
    """Records that stay in their file until they are asked for."""

    def __init__(self, file: RecordFile, offsets: Numbers, lengths: Numbers) -> None:
        self._file, self._offsets, self._lengths = file, offsets, lengths

    def __getitem__(self, position: int) -> Record:
        return self._file.at((int(self._offsets[position]), int(self._lengths[position])))


class LazyObjects(Sequence[ObjectSample]):
    """The objects of one image, read when asked for."""

    def __init__(self, read: Callable[[int], tuple[ObjectSample, ...]], position: int, count: int) -> None:
        self._read, self._position, self._count = read, position, count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> ObjectSample: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[ObjectSample, ...]: ...

    def __getitem__(self, index: int | slice) -> ObjectSample | tuple[ObjectSample, ...]:
        return self._read(self._position)[index]

    def __iter__(self) -> Iterator[ObjectSample]:
        return iter(self._read(self._position))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)


class LazyAttributes(Mapping[str, Any]):
    """What an image record says beyond id, name and size, read when asked for."""

    def __init__(self, file: RecordFile, place: ByteRange) -> None:
        self._file, self._place = file, place

    def _load(self) -> Record:
        return {k: v for k, v in self._file.at(self._place).items() if k not in IMAGE_KEYS}

    def __getitem__(self, key: str) -> Any:
        return self._load()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._load())

    def __len__(self) -> int:
        return len(self._load())


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return (status.st_size, status.st_mtime_ns)


def build_index(path: Path, folder: Path, format_: Format, report: FaultHandler) -> Index:
    """Go through a file with `images`, `annotations` and, if it has them, `categories`.

    Args:
        path: JSON file.
        folder: of the images.
        format_: what the annotations should be.
        report: told of each fault; records with one are left out unless it raises.

    Raises:
        InputError: broken JSON, or a file that has no such members.
    """
    collected = _IndexBuilder(format_, path, report)
    for entry in scan(path):
        collected.take(entry)
    return collected.index(folder)


class _IndexBuilder:
    """The index while the file is being read."""

    def __init__(self, format_: Format, path: Path, report: FaultHandler) -> None:
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
            self.report(DatasetFault("unknown_image", message, number))
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
            self.report(DatasetFault("bad_image_record", str(error), record["id"]))
            return
        if min(height, width) < 1 or height * width > MAX_PIXELS:
            expected = f"expected image {number} to have 1 to {MAX_PIXELS} pixels"
            self.report(DatasetFault("bad_image_record", f"{expected}, got {(height, width)}", number))
        elif number in self.images:
            self.report(
                DatasetFault("duplicate_image_id", f"expected images of different ids, got {number} twice", number)
            )
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
            self.report(
                DatasetFault("missing_key", f"{expected}, got {record['id']!r:.20}", record["image_id"], record["id"])
            )
            return
        foreign = sorted(format_.foreign & record.keys())
        if foreign:
            expected = f"expected {format_.name}, got annotation {record['id']!r:.20} with {', '.join(foreign)}"
            self.report(DatasetFault("mixed_formats", expected, record["image_id"], record["id"]))
            return
        try:
            number, owner = (integer(record[key], f"{key} of each annotation") for key in ("id", "image_id"))
            if "category_id" in format_.keys:
                integer(record["category_id"], "category_id of each annotation")
            names = None if format_.names is None else format_.names(record)
        except InputError as error:
            self.report(DatasetFault("bad_record", str(error), record["image_id"], record["id"]))
            return
        if number in self.seen:
            message = f"expected annotations of different ids, got {number} twice"
            self.report(DatasetFault("duplicate_annotation_id", message, owner, number))
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
            self.report(DatasetFault("bad_record", str(error)))
            return
        if number in self.categories:
            message = f"expected categories of different ids, got {number} twice"
            self.report(DatasetFault("duplicate_category_id", message))
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
            self.report(DatasetFault("bad_record", f"expected {section!r} to be a list of objects, got one {got}"))
            return False
        missing = [key for key in keys if record.get(key) is None]
        if missing:
            self.report(
                DatasetFault("missing_key", self._lacks(section, record, keys, missing), *_ids(section, record))
            )
        return not missing

    def _lacks(self, section: str, record: Record, keys: tuple[str, ...], missing: list[str]) -> str:
        who = repr(record["id"]) if "id" in record else "one without id"
        expected = f"expected each of {section!r} in {self.format.name} to have {', '.join(keys)}"
        return f"{expected}, got {who:.40} without {', '.join(missing)}"


_HANDLERS: dict[str, Callable[[_IndexBuilder, Entry], None]] = {
    "images": _IndexBuilder.image,
    "annotations": _IndexBuilder.annotation,
    "categories": _IndexBuilder.category,
}


def _ids(section: str, record: Record) -> tuple[Any, Any]:
    """(image id, annotation id) as far as a record has them."""
    if section == "annotations":
        return (record.get("image_id"), record.get("id"))
    return (record.get("id") if section == "images" else None, None)
