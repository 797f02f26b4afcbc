"""Which objects of a dataset are scored, and a digest that identifies exactly that set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.io.progress import progress_bar

ObjectKey = tuple[int, int]
"""(image id, annotation id)."""


@dataclass(frozen=True)
class ObjectSelection:
    """The objects of a dataset that are scored: those with an amodal mask, without crowd regions.

    Attributes:
        listed: select these objects only; all if None.
        max_objects: select the first objects in file order only; all if None.

    Raises:
        InputError: `max_objects` is below 1.
    """

    listed: frozenset[ObjectKey] | None = None
    max_objects: int | None = None

    def __post_init__(self) -> None:
        if self.max_objects is not None and self.max_objects < 1:
            raise InputError(f"max_objects: expected 1 or more, got {self.max_objects}")

    @property
    def description(self) -> str:
        """The selection in words, for the report."""
        text = "all annotated objects" if self.listed is None else f"an explicit list of {len(self.listed)}"
        return text if self.max_objects is None else f"the first {self.max_objects} of {text}"

    def iterate(
        self, dataset: AnnotatedDataset, progress: bool = False
    ) -> Iterator[tuple[ImageSample, list[ObjectSample]]]:
        """Yield each image with its selected objects; images without any are skipped.

        Raises:
            InputError: as `check_complete`, after the last image.
        """
        keys, num_left = list[ObjectKey](), self.max_objects
        for image in progress_bar(dataset.images, "evaluate", progress):
            objects = self.objects_of(image)[:num_left]
            num_left = None if num_left is None else num_left - len(objects)
            keys += [(image.id, obj.id) for obj in objects]
            if objects:
                yield image, objects
            if num_left == 0:
                break
        self.check_complete(keys)

    def objects_of(self, image: ImageSample) -> list[ObjectSample]:
        """Return the selected objects of an image, without regard to `max_objects`."""
        objects = [obj for obj in image.objects if obj.amodal_rle is not None and not obj.iscrowd]
        return objects if self.listed is None else [obj for obj in objects if (image.id, obj.id) in self.listed]

    def check_complete(self, keys: Iterable[ObjectKey]) -> None:
        """Check that the selected objects are all that were listed.

        Raises:
            InputError: a listed object is not in the dataset or has no amodal mask, or no object is selected.
        """
        selected = set(keys)
        missing = set() if self.listed is None or self.max_objects is not None else self.listed - selected
        if missing:
            first = "_".join(map(str, min(missing)))
            raise InputError(
                f"objects: expected a list of annotated objects with amodal masks, got {len(missing)} others, "
                f"the first {first}"
            )
        if not selected:
            raise InputError("annotations: expected objects with amodal masks, got none")

    def check_list(self, dataset: AnnotatedDataset) -> None:
        """Check the list before any time is spent on predictions; does nothing without a list.

        Raises:
            InputError: as `check_complete`.
        """
        if self.listed is not None:
            for _ in self.iterate(dataset):
                pass


def read_object_list(path: Path) -> frozenset[ObjectKey]:
    """Read a text file with one `imageid_annoid` per line; blank lines are skipped.

    Raises:
        InputError: the file cannot be read, a line has another form or is repeated, or there is no line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"objects: expected a text file, got {str(path)!r}, which cannot be read as one") from error
    keys: set[ObjectKey] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        key = parse_object_key(line.strip())
        if key is None:
            raise InputError(
                f"objects {path}: expected imageid_annoid on each line, got {line[:60]!r} on line {number}"
            )
        if key in keys:
            raise InputError(f"objects {path}: expected each object once, got {line.strip()} again on line {number}")
        keys.add(key)
    if not keys:
        raise InputError(f"objects {path}: expected imageid_annoid lines, got none")
    return frozenset(keys)


def parse_object_key(text: str) -> ObjectKey | None:
    """Read `imageid_annoid`; None for text of another form."""
    parts = text.split("_")
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 and all(p.isdecimal() for p in parts) else None


def objects_digest(keys: Iterable[ObjectKey]) -> str:
    """Return the SHA-256 of the sorted `imageid_annoid` lines; equal sets of objects have equal digests."""
    lines = "".join(f"{image}_{annotation}\n" for image, annotation in sorted(keys))
    return hashlib.sha256(lines.encode()).hexdigest()
