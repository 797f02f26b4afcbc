"""The predictions file: a list of `{image_id, annotation_id, category_id, segmentation,
visible_segmentation, score}`, read and written without holding more than its masks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amodal.data.formats.source import mask_rle
from amodal.errors import InputError
from amodal.evaluation.answers import Answer
from amodal.io.files import appearing
from amodal.io.json_stream import scan
from amodal.ops.rle import Rle, rle_union
from amodal.ops.rle_batch import all_cover

Sizes = dict[int, tuple[int, int]]
"""Image id to (H, W)."""
MASKS = ("segmentation", "visible_segmentation")


@dataclass(frozen=True, slots=True)
class Prediction:
    """One record.

    Attributes:
        image_id: of its image.
        annotation_id: of the true object whose box was asked about; None for a detection.
        category_id: None where the file does not say.
        answer: masks and score.
        scored: the file gives a score.
    """

    image_id: int
    annotation_id: int | None
    category_id: int | None
    answer: Answer
    scored: bool = True


def read_predictions(path: Path, sizes: Sizes, *, union_visible: bool = False) -> Iterator[Prediction]:
    """Read a predictions file record by record.

    Args:
        path: the file.
        sizes: of the images that may be referred to.
        union_visible: add the visible mask to the amodal one.

    Raises:
        InputError: no file, broken JSON, a record of another form, an unknown image, masks of
            another size, or no visible mask to unite with.
    """
    for index, record in read_records(path, "predictions"):
        yield _checked(path, index, record, sizes, union_visible)


Numbered = tuple[int, dict[str, Any]]
"""A record with its position in the file."""


@dataclass(frozen=True)
class Records:
    """Records that name their object, by image and annotation; their masks are not checked yet.

    Attributes:
        path: the file, for messages.
        of_image: records by image id, then by annotation id.
    """

    path: Path
    of_image: dict[int, dict[int, Numbered]]

    def __len__(self) -> int:
        """Records in all."""
        return sum(map(len, self.of_image.values()))

    @property
    def have_visible(self) -> bool:
        """Whether there are records, and each has a visible mask."""
        records = [record for image in self.of_image.values() for _, record in image.values()]
        return bool(records) and all(record.get("visible_segmentation") is not None for record in records)

    def part(self, image_ids: Iterable[int]) -> Records:
        """The records of some images."""
        return Records(self.path, {i: self.of_image[i] for i in image_ids if i in self.of_image})

    def answers(
        self, image_id: int, annotation_ids: Sequence[int], size: tuple[int, int], union_visible: bool
    ) -> list[Answer | None]:
        """What the file says about objects of one image, None where it says nothing.

        Raises:
            InputError: a bad mask or score, or no visible mask to unite with.
        """
        known = self.of_image.get(image_id, {})
        found = [known.get(i) for i in annotation_ids]
        masks = [r[k] for _, r in filter(None, found) for k in MASKS if r.get(k) is not None]
        covered = all(isinstance(m, dict) for m in masks) and all_cover(masks, size)
        return [
            None if one is None else _checked(self.path, *one, {image_id: size}, union_visible, covered).answer
            for one in found
        ]


def read_by_object(path: Path, sizes: Sizes) -> Records:
    """Read a predictions file whose records name their objects.

    Raises:
        InputError: no file, broken JSON, a record without ids or of an unknown image, or two for
            the same object.
    """
    found: dict[int, dict[int, Numbered]] = {}
    for index, record in read_records(path, "predictions"):
        try:
            image_size(record, sizes)
            if record.get("annotation_id") is None:
                raise InputError("expected an annotation_id, got none: detections are scored by the protocol amodal_ap")
            annotation_id = integer(record, "annotation_id")
            known = found.setdefault(record["image_id"], {})
            if annotation_id in known:
                raise InputError(f"expected one record an object, got a second one of annotation {annotation_id}")
        except InputError as error:
            raise InputError(f"predictions {path}: record {index}: {error}") from error
        known[annotation_id] = (index, record)
    return Records(path, found)


def read_records(path: Path, what: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Records of a JSON list with their positions, in memory that does not grow with the file.

    Args:
        path: the file.
        what: its name in messages.

    Raises:
        InputError: no file, or not a JSON list of objects.
    """
    if not path.is_file():
        fault = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{what}: expected a file, got {str(path)!r}, which {fault}")
    try:
        for index, entry in enumerate(scan(path)):
            if entry.section or entry.kind != "item" or not isinstance(entry.record, dict):
                raise InputError(f"{what} {path}: expected a list of records, got other content")
            yield index, entry.record
    except InputError as error:
        message = str(error)
        if message.startswith("annotations"):  # what `scan` takes every file for
            message = what + message.removeprefix("annotations")
        raise InputError(message) from error


def prediction_record(one: Prediction) -> dict[str, Any]:
    """A record of the file; what is not known is left out."""
    record = {
        "image_id": one.image_id,
        "annotation_id": one.annotation_id,
        "category_id": one.category_id,
        "segmentation": one.answer.amodal,
        "visible_segmentation": one.answer.visible,
        "score": round(one.answer.score, 6),
    }
    return {name: value for name, value in record.items() if value is not None}


@contextmanager
def predictions_file(path: Path) -> Iterator[Callable[[Prediction], None]]:
    """What adds a record to a predictions file, which appears complete or not at all.

    Raises:
        InputError: the place cannot be written to.
    """
    if path.is_dir():
        raise InputError(f"save-predictions: expected a file, got the folder {str(path)!r}")
    with appearing(path, "save-predictions") as temporary, temporary.open("w", encoding="utf-8") as file:
        start = "[\n"

        def add(one: Prediction) -> None:
            nonlocal start
            file.write(start + json.dumps(prediction_record(one)))
            start = ",\n"

        yield add
        file.write("[]\n" if start == "[\n" else "\n]\n")


def integer(record: dict[str, Any], key: str) -> int:
    """An id of a record. Raises `InputError` unless it is an integer."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"expected {key} to be an integer, got {value!r:.60}")
    return value


def number(record: dict[str, Any], key: str) -> float:
    """A score of a record. Raises `InputError` unless it is a finite number."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"expected {key} to be a finite number, got {value!r:.60}")
    return float(value)


def image_size(record: dict[str, Any], sizes: Sizes) -> tuple[int, int]:
    """(H, W) of a record's image. Raises `InputError` for an image that is not annotated."""
    image_id = integer(record, "image_id")
    if image_id not in sizes:
        raise InputError(f"expected the image_id of an annotated image, got {image_id}")
    return sizes[image_id]


def mask_of(record: dict[str, Any], key: str, size: tuple[int, int]) -> Rle:
    """The mask under `key`. Raises `InputError` unless it is a COCO segmentation of this size."""
    if not isinstance(record.get(key), (dict, list)):
        raise InputError(f"{key}: expected polygons or an RLE, got {record.get(key)!r:.60}")
    try:
        return mask_rle(record[key], size)
    except InputError as error:
        raise InputError(f"{key}: {str(error).removeprefix('segmentation: ')}") from error


def _checked(
    path: Path, index: int, record: dict[str, Any], sizes: Sizes, union_visible: bool, covered: bool = False
) -> Prediction:
    """A record as a prediction; `covered` says that its masks are known to be good."""
    try:
        return _prediction(record, sizes, union_visible, covered)
    except InputError as error:
        raise InputError(f"predictions {path}: record {index}: {error}") from error


def _prediction(record: dict[str, Any], sizes: Sizes, union_visible: bool, covered: bool) -> Prediction:
    size = image_size(record, sizes)
    masks: dict[str, Rle | None] = dict.fromkeys(MASKS)
    for key in MASKS:
        if key == "segmentation" or record.get(key) is not None:
            masks[key] = record[key] if covered and record.get(key) is not None else mask_of(record, key, size)
    amodal, visible = masks.values()
    assert amodal is not None
    if union_visible:
        if visible is None:
            raise InputError("expected a visible_segmentation to unite with, got none")
        amodal = rle_union(amodal, visible)
    scored = record.get("score") is not None
    return Prediction(
        image_id=record["image_id"],
        annotation_id=None if record.get("annotation_id") is None else integer(record, "annotation_id"),
        category_id=None if record.get("category_id") is None else integer(record, "category_id"),
        answer=Answer(amodal, visible, number(record, "score") if scored else 1.0),
        scored=scored,
    )
