"""Where each record of an annotation file stands, so that objects are read when they are asked for."""

from __future__ import annotations

import json
import mmap
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
import numpy.typing as npt

from amodal.data.formats.source import Format, Record, Stated, to_sample
from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.errors import InputError

CACHED_IMAGES = 256
"""Images whose objects are kept: programs look at the objects of one image several times in a row."""

IMAGE_KEYS = ("id", "file_name", "height", "width")

Numbers = npt.NDArray[np.int64]

Place = tuple[int, int]
"""First byte of a record and its length."""


@dataclass(frozen=True)
class Fault:
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


Report = Callable[[Fault], None]


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


class Records(Protocol):
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
    all_records: Records
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

    def stated(self, position: int) -> Iterator[Stated]:
        """What the records of an image state, unchecked."""
        for record in self.records(position):
            yield from self.format.state(record)

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
            found = tuple(to_sample(stated, size, self.numbers) for stated in self.stated(position))
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

    def at(self, place: Place) -> Record:
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

    def __init__(self, file: RecordFile, place: Place) -> None:
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
