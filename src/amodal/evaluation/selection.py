"""Which objects are scored, and a name for exactly that set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.io.progress import bar

Key = tuple[int, int]
"""(image id, annotation id)."""


@dataclass(frozen=True)
class Selection:
    """Objects with an amodal mask, crowds left out, of a dataset.

    Attributes:
        listed: only these, all if None.
        max_objects: only the first so many in file order, all if None.

    Raises:
        InputError: a number below 1.
    """

    listed: frozenset[Key] | None = None
    max_objects: int | None = None

    def __post_init__(self) -> None:
        if self.max_objects is not None and self.max_objects < 1:
            raise InputError(f"max_objects: expected 1 or more, got {self.max_objects}")

    @property
    def description(self) -> str:
        """For the report."""
        text = "all annotated objects" if self.listed is None else f"an explicit list of {len(self.listed)}"
        return text if self.max_objects is None else f"the first {self.max_objects} of {text}"

    def of(self, dataset: AnnotatedDataset, progress: bool = False) -> Iterator[tuple[ImageSample, list[ObjectSample]]]:
        """Images with their chosen objects, images without any left out; with a bar if asked for.

        Raises:
            InputError: as `check_found`, once all images are gone through.
        """
        found, left = list[Key](), self.max_objects
        for image in bar(dataset.images, "evaluate", progress):
            things = self.things(image)[:left]
            left = None if left is None else left - len(things)
            found += [(image.id, thing.id) for thing in things]
            if things:
                yield image, things
            if left == 0:
                break
        self.check_found(found)

    def things(self, image: ImageSample) -> list[ObjectSample]:
        """The chosen objects of an image, whatever their number."""
        known = [t for t in image.objects if t.amodal_rle is not None and not t.iscrowd]
        return known if self.listed is None else [t for t in known if (image.id, t.id) in self.listed]

    def check_found(self, found: Iterable[Key]) -> None:
        """Whether the chosen objects are all that were asked for.

        Raises:
            InputError: an object of the list is not in the dataset or has no amodal mask; no
                object at all.
        """
        keys = set(found)
        missing = set() if self.listed is None or self.max_objects is not None else self.listed - keys
        if missing:
            first = "_".join(map(str, min(missing)))
            raise InputError(
                f"objects: expected a list of annotated objects with amodal masks, got {len(missing)} others, "
                f"the first {first}"
            )
        if not keys:
            raise InputError("annotations: expected objects with amodal masks, got none")

    def check(self, dataset: AnnotatedDataset) -> None:
        """Find a bad list before hours of work; without a list there is nothing to find.

        Raises:
            InputError: as `check_found`.
        """
        if self.listed is not None:
            for _ in self.of(dataset):
                pass


def read_object_list(path: Path) -> frozenset[Key]:
    """Read `imageid_annoid` lines, the form of C2F-Seg's lists; blank lines are skipped.

    Raises:
        InputError: no file, a line of another form, a repeated line, or no line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"objects: expected a text file, got {str(path)!r}, which cannot be read as one") from error
    keys: set[Key] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        parts = line.strip().split("_")
        if len(parts) != 2 or not all(p.isdecimal() for p in parts):
            raise InputError(
                f"objects {path}: expected imageid_annoid on each line, got {line[:60]!r} on line {number}"
            )
        key = (int(parts[0]), int(parts[1]))
        if key in keys:
            raise InputError(f"objects {path}: expected each object once, got {line.strip()} again on line {number}")
        keys.add(key)
    if not keys:
        raise InputError(f"objects {path}: expected imageid_annoid lines, got none")
    return frozenset(keys)


def digest(keys: Iterable[Key]) -> str:
    """SHA-256 over the sorted `imageid_annoid` lines: equal for equal sets of objects."""
    lines = "".join(f"{image}_{annotation}\n" for image, annotation in sorted(keys))
    return hashlib.sha256(lines.encode()).hexdigest()
