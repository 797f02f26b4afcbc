"""The predictions file: a list of `{image_id, annotation_id, category_id, segmentation,
visible_segmentation, score}`, read and written without holding more than its masks."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amodal.data.readers.jsonfile import scan
from amodal.data.readers.source import mask_rle
from amodal.errors import InputError
from amodal.evaluation.answers import Answer
from amodal.evaluation.selection import Key
from amodal.ops.rle import Rle, rle_union

Sizes = dict[int, tuple[int, int]]
"""Image id to (H, W)."""


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
        try:
            yield _prediction(record, sizes, union_visible)
        except InputError as error:
            raise InputError(f"predictions {path}: record {index}: {error}") from error


def by_object(predictions: Iterable[Prediction]) -> dict[Key, Prediction]:
    """Predictions by (image id, annotation id).

    Raises:
        InputError: a record without annotation id, or two for the same object.
    """
    found: dict[Key, Prediction] = {}
    for one in predictions:
        if one.annotation_id is None:
            raise InputError(
                "predictions: expected an annotation_id in each record, got one without: "
                "detections are scored by the protocol amodal_ap"
            )
        key = (one.image_id, one.annotation_id)
        if key in found:
            raise InputError(f"predictions: expected one record an object, got two for annotation {one.annotation_id}")
        found[key] = one
    return found


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


class PredictionsWriter:
    """Writes a predictions file record by record; it appears complete or not at all.

    Use it as a context manager.

    Raises:
        InputError: the place cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._temporary, self._count = path, path.with_name(path.name + ".writing"), 0
        if path.is_dir():
            raise InputError(f"save-predictions: expected a file, got the folder {str(path)!r}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._temporary.open("w", encoding="utf-8")
        except OSError as error:
            raise InputError(f"save-predictions: expected a file to write, got {str(path)!r} ({error})") from error

    def add(self, one: Prediction) -> None:
        """Write one record."""
        self._file.write((",\n" if self._count else "[\n") + json.dumps(prediction_record(one)))
        self._count += 1

    def __enter__(self) -> PredictionsWriter:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Give the file its name, or take it away after an error."""
        with self._file:
            self._file.write("\n]\n" if self._count else "[]\n")
        if kind is None:
            os.replace(self._temporary, self._path)
        else:
            self._temporary.unlink()


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


def _prediction(record: dict[str, Any], sizes: Sizes, union_visible: bool) -> Prediction:
    size = image_size(record, sizes)
    amodal = mask_of(record, "segmentation", size)
    visible = None if record.get("visible_segmentation") is None else mask_of(record, "visible_segmentation", size)
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
