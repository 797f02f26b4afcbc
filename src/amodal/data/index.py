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

from amodal.data.records import Format, RawAnnotation, Record, to_sample
from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.io.image_names import ImageFinder
from amodal.io.images import MAX_PIXELS
from amodal.io.json_stream import JsonEntry, scan
from amodal.ops.values import integer, text

MAX_CACHED_IMAGES = 256
"""Number of images whose objects are cached, because programs access the objects of an image several times in a row."""

IMAGE_KEYS = ("id", "file_name", "height", "width")

Numbers = npt.NDArray[np.int64]

ByteRange = tuple[int, int]
"""Position of the first byte of a record, and its length."""


@dataclass(frozen=True)
class DatasetFault:
    """A fault of an annotation file.

    Attributes:
        kind: short name, as `amodal data validate` reports it.
        message: what was expected and what was found.
        image_id: image that has the fault, if any.
        annotation_id: annotation that has the fault, if any.
        pixels: number of wrong pixels, if it can be counted.
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
    """An image record of the file.

    Attributes:
        id: image id.
        file_name: name in the file; where names are matched by their last part, the path below the folder instead.
        path: its file, which need not exist.
        size: (H, W).
        attributes: other fields of the record.
    """

    id: int
    file_name: str
    path: Path
    size: tuple[int, int]
    attributes: Mapping[str, Any]


class RecordSequence(Protocol):
    """Records by position: a list or `FileRecords`."""

    def __getitem__(self, position: int, /) -> Record: ...


@dataclass
class Index:
    """What is kept in memory of an annotation file.

    Attributes:
        format: format of the file.
        path: the file.
        folder: folder of the images.
        images: image records in file order.
        categories: names by id.
        extras: other top-level members of the file.
        all_records: annotation records, those of one image next to each other.
        starts: position in `all_records` of the first record of each image, and the number of all records.
        num_objects: number of objects of each image.
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
        """The dataset, whose objects are read on access."""
        images = tuple(self._image(position, entry) for position, entry in enumerate(self.images))
        return AnnotatedDataset(images, self.categories, self.format.name, self.extras)

    def records(self, position: int) -> Iterator[Record]:
        """Yield the annotation records of an image in file order."""
        for i in range(self.starts[position], self.starts[position + 1]):
            yield self.all_records[i]

    def raw_annotations(self, position: int) -> Iterator[RawAnnotation]:
        """Yield the annotations of an image, unchecked."""
        for record in self.records(position):
            try:
                found = self.format.parse(record)
            except InputError as error:
                raise InputError(f"annotation {record.get('id')!r:.40}: {error}") from error
            yield from found

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Category ids by name, for formats that have names instead of ids."""
        return {name: number for number, name in self.categories.items()} if self.format.names else {}

    def objects(self, position: int) -> tuple[ObjectSample, ...]:
        """Read the objects of an image.

        Raises:
            InputError: a record cannot be read, or the file has changed since it was indexed.
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
        if len(self._cache) > MAX_CACHED_IMAGES:
            self._cache.popitem(last=False)
        return found

    def _image(self, position: int, entry: ImageEntry) -> ImageSample:
        objects = LazyObjects(self.objects, position, int(self.num_objects[position]))
        return ImageSample(entry.id, entry.path, *entry.size, objects, entry.file_name, entry.attributes)


class RecordFile:
    """A file whose records are read by their byte range; it can be sent to other processes."""

    def __init__(self, path: Path) -> None:
        self._path, self._stamp = path, _stamp(path)
        self._map: mmap.mmap | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_map": None}

    def read(self, byte_range: ByteRange) -> Record:
        """Read the record in a byte range.

        Raises:
            InputError: the file has changed since it was indexed.
        """
        if self._map is None:
            if not self._path.is_file() or _stamp(self._path) != self._stamp:
                raise InputError(f"annotations {self._path}: expected the file as it was opened, got a changed one")
            with self._path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        record: Record = json.loads(self._map[byte_range[0] : byte_range[0] + byte_range[1]])
        return record


class FileRecords:
    """Records that are read from their file on access."""

    def __init__(self, file: RecordFile, offsets: Numbers, lengths: Numbers) -> None:
        self._file, self._offsets, self._lengths = file, offsets, lengths

    def __getitem__(self, position: int) -> Record:
        return self._file.read((int(self._offsets[position]), int(self._lengths[position])))


class LazyObjects(Sequence[ObjectSample]):
    """The objects of one image, read on access."""

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
    """The fields of an image record besides id, name and size, read on access."""

    def __init__(self, file: RecordFile, byte_range: ByteRange) -> None:
        self._file, self._byte_range = file, byte_range

    def _load(self) -> Record:
        return {k: v for k, v in self._file.read(self._byte_range).items() if k not in IMAGE_KEYS}

    def __getitem__(self, key: str) -> Any:
        return self._load()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._load())

    def __len__(self) -> int:
        return len(self._load())


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return (status.st_size, status.st_mtime_ns)


def build_index(path: Path, finder: ImageFinder, format_: Format, report: FaultHandler) -> Index:
    """Index a COCO-like file with `images`, `annotations` and, optionally, `categories`.

    Args:
        path: JSON file.
        finder: finds the images.
        format_: expected format of the annotations.
        report: called with each fault; records with a fault are left out unless it raises.

    Raises:
        InputError: the JSON is broken, or the file lacks these members.
    """
    builder = _IndexBuilder(format_, path, finder, report)
    for entry in scan(path):
        builder.add(entry)
    return builder.build()


def image_path(
    finder: ImageFinder, number: int, file_name: str, used: dict[Path, str], report: FaultHandler
) -> Path | None:
    """The file of an image; None, with a fault, if it is outside the folder or not the file of one image.

    Args:
        finder: finds the images.
        number: id of the image.
        file_name: name in the file.
        used: names of the images so far by their files; the new one is added.
        report: called with the fault.
    """
    try:
        path = finder.find(file_name)
    except InputError as error:
        kind = "ambiguous_image" if finder.match == "name" else "outside_folder"
        report(DatasetFault(kind, f"image {number}: {error}", number))
        return None
    other = used.setdefault(path, file_name)
    if finder.match == "name" and other != file_name:
        expected = "expected names with different last parts"
        message = f"image {number}: {expected}, got {other!r:.80} and {file_name!r:.80}"
        report(DatasetFault("ambiguous_image", message, number))
        return None
    return path


class _IndexBuilder:
    """Collects the index while the file is read."""

    def __init__(self, format_: Format, path: Path, finder: ImageFinder, report: FaultHandler) -> None:
        self.format, self.path, self.finder, self.report = format_, path, finder, report
        self.used: dict[Path, str] = {}
        self.file = RecordFile(path)
        self.images: dict[int, ImageEntry] = {}
        self.categories: dict[int, str] = {}
        self.extras: dict[str, Any] = {}
        self.category_details: dict[str, Record] = {}
        self.sections: set[str] = set()
        self.names: set[str] = set()
        self.seen: set[int] = set()
        self.owners, self.offsets, self.lengths, self.counts = (array("q") for _ in range(4))

    def add(self, entry: JsonEntry) -> None:
        """Add one entry of the file."""
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

    def build(self) -> Index:
        """Build the index, with the records of each image next to each other."""
        self._check_sections()
        position = {number: i for i, number in enumerate(self.images)}
        for number, count in sorted(Counter(n for n in self.owners if n not in position).items()):
            message = f"expected a listed image, got image_id {number} in {count} annotations"
            self.report(DatasetFault("unknown_image", message, number))
        owners = np.array([position.get(number, -1) for number in self.owners], np.int64)
        order = np.argsort(owners, kind="stable")
        order = order[np.searchsorted(owners[order], 0) :]  # -1: the image is not listed
        owners = owners[order]
        offsets, lengths, counts = (np.array(a, np.int64)[order] for a in (self.offsets, self.lengths, self.counts))
        self.extras.pop("category_details", None)  # a member of the file of this name would be taken for ours
        if self.category_details:
            self.extras["category_details"] = self.category_details
        if self.format.names is not None:
            self.categories = {i + 1: name for i, name in enumerate(sorted(self.names))}
        return Index(
            self.format,
            self.path,
            self.finder.folder,
            list(self.images.values()),
            self.categories,
            self.extras,
            FileRecords(self.file, offsets, lengths),
            np.searchsorted(owners, np.arange(len(position) + 1)).tolist(),
            np.bincount(owners, weights=counts, minlength=len(position)).astype(int).tolist(),
        )

    def add_image(self, entry: JsonEntry) -> None:
        """Add a record of `images`."""
        record = entry.record
        if not self._has("images", record, IMAGE_KEYS):
            return
        try:
            number, height, width = (integer(record[k], f"the {k} of each image") for k in ("id", "height", "width"))
            file_name = text(record["file_name"], "the file_name of each image")
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
            path = image_path(self.finder, number, file_name, self.used, self.report)
            if path is not None:
                attributes = LazyAttributes(self.file, (entry.offset, entry.length))
                name = self.finder.name_of(path, file_name)
                self.images[number] = ImageEntry(number, name, path, (height, width), attributes)

    def add_annotation(self, entry: JsonEntry) -> None:
        """Add a record of `annotations`."""
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
            number, owner = (integer(record[key], f"the {key} of each annotation") for key in ("id", "image_id"))
            if "category_id" in format_.keys:
                integer(record["category_id"], "the category_id of each annotation")
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

    def add_category(self, entry: JsonEntry) -> None:
        """Add a record of `categories`."""
        record = entry.record
        if not self._has("categories", record, ("id", "name")):
            return
        try:
            number = integer(record["id"], "the id of each category")
            name = text(record["name"], "the name of each category")
        except InputError as error:
            self.report(DatasetFault("bad_record", str(error)))
            return
        if number in self.categories:
            message = f"expected categories of different ids, got {number} twice"
            self.report(DatasetFault("duplicate_category_id", message))
        self.categories[number] = name
        more = {key: value for key, value in record.items() if key not in ("id", "name")}
        if more:
            self.category_details[str(number)] = more

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


_HANDLERS: dict[str, Callable[[_IndexBuilder, JsonEntry], None]] = {
    "images": _IndexBuilder.add_image,
    "annotations": _IndexBuilder.add_annotation,
    "categories": _IndexBuilder.add_category,
}


def _ids(section: str, record: Record) -> tuple[Any, Any]:
    """(image id, annotation id) of a record, None for an id that it lacks."""
    if section == "annotations":
        return (record.get("image_id"), record.get("id"))
    return (record.get("id") if section == "images" else None, None)
