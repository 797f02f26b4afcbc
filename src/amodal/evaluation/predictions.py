"""The predictions file: a JSON list of records with the predicted masks of one object each.

A record is `{image_id, annotation_id, category_id, segmentation, visible_segmentation, score}`; only `image_id` and
`segmentation` are required here. Files are read and written record by record, so memory does not grow with them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amodal.data.records import mask_rle
from amodal.data.samples import AnnotatedDataset
from amodal.errors import InputError
from amodal.io.files import atomic_path
from amodal.io.json_stream import scan
from amodal.ops.rle import Rle, are_complete, rle_union

ImageSizes = dict[int, tuple[int, int]]
"""(H, W) by image id."""
MASK_KEYS = ("segmentation", "visible_segmentation")


@dataclass(frozen=True, slots=True)
class MaskPrediction:
    """Predicted masks of one object.

    Attributes:
        amodal: amodal mask.
        visible: visible mask; None if it was not predicted.
        score: confidence in [0, 1], used by `amodal_ap`.
    """

    amodal: Rle
    visible: Rle | None
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class PredictionRecord:
    """One record of a predictions file.

    Attributes:
        image_id: image of the object.
        annotation_id: annotation that the prediction belongs to; None for a detection.
        category_id: category; None if the file does not state it.
        masks: masks and score.
        has_score: whether the file states a score.
    """

    image_id: int
    annotation_id: int | None
    category_id: int | None
    masks: MaskPrediction
    has_score: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the record as written to the file; unknown values are left out."""
        record = {
            "image_id": self.image_id,
            "annotation_id": self.annotation_id,
            "category_id": self.category_id,
            "segmentation": self.masks.amodal,
            "visible_segmentation": self.masks.visible,
            "score": round(self.masks.score, 6),
        }
        return {name: value for name, value in record.items() if value is not None}


NumberedRecord = tuple[int, dict[str, Any]]
"""Position of a record in its file, and the record as parsed from JSON."""


@dataclass(frozen=True)
class ObjectRecords:
    """Records of a predictions file by image and annotation. Masks are validated when they are looked up.

    Attributes:
        path: the file, for error messages.
        by_image: records by image id, then by annotation id.
    """

    path: Path
    by_image: dict[int, dict[int, NumberedRecord]]

    def __len__(self) -> int:
        """Number of records."""
        return sum(map(len, self.by_image.values()))

    @property
    def have_visible(self) -> bool:
        """Whether there are records and each of them has a visible mask."""
        records = [record for image in self.by_image.values() for _, record in image.values()]
        return bool(records) and all(record.get("visible_segmentation") is not None for record in records)

    def subset(self, image_ids: Iterable[int]) -> ObjectRecords:
        """Return the records of some images."""
        return ObjectRecords(self.path, {i: self.by_image[i] for i in image_ids if i in self.by_image})

    def predictions(
        self, image_id: int, annotation_ids: Sequence[int], size: tuple[int, int], union_visible: bool
    ) -> list[MaskPrediction | None]:
        """Return the predictions for objects of one image, None for an object that is not in the file.

        Raises:
            InputError: an invalid mask or score, or no visible mask to unite with the amodal mask.
        """
        by_object = self.by_image.get(image_id, {})
        records = [by_object.get(i) for i in annotation_ids]
        masks = [r[k] for _, r in filter(None, records) for k in MASK_KEYS if r.get(k) is not None]
        masks_valid = all(isinstance(m, dict) for m in masks) and are_complete(masks, size)
        return [
            None if one is None else _parse(self.path, *one, {image_id: size}, union_visible, masks_valid).masks
            for one in records
        ]


def image_sizes(dataset: AnnotatedDataset) -> ImageSizes:
    """Return (H, W) of every image by its id."""
    return {image.id: image.size for image in dataset.images}


def read_predictions(path: Path, sizes: ImageSizes, *, union_visible: bool = False) -> Iterator[PredictionRecord]:
    """Read a predictions file record by record.

    Args:
        path: the file.
        sizes: sizes of the annotated images.
        union_visible: unite each amodal mask with the visible mask.

    Raises:
        InputError: the file does not exist, is not valid JSON or has a record of another form; a record refers to an
            unknown image, has a mask of another size, or has no visible mask to unite with.
    """
    for index, record in read_records(path, "predictions"):
        yield _parse(path, index, record, sizes, union_visible)


def read_by_object(path: Path, sizes: ImageSizes) -> ObjectRecords:
    """Read a predictions file whose records name their annotations.

    Raises:
        InputError: the file does not exist or is not valid JSON; a record has no ids or an unknown image; or two
            records belong to the same object.
    """
    by_image: dict[int, dict[int, NumberedRecord]] = {}
    for index, record in read_records(path, "predictions"):
        try:
            image_size(record, sizes)
            if record.get("annotation_id") is None:
                raise InputError("expected an annotation_id, got none: detections are scored by the protocol amodal_ap")
            annotation_id = integer(record, "annotation_id")
            by_object = by_image.setdefault(record["image_id"], {})
            if annotation_id in by_object:
                raise InputError(f"expected one record per object, got a second one of annotation {annotation_id}")
        except InputError as error:
            raise InputError(f"predictions {path}: record {index}: {error}") from error
        by_object[annotation_id] = (index, record)
    return ObjectRecords(path, by_image)


def read_records(path: Path, name: str) -> Iterator[NumberedRecord]:
    """Read the records of a JSON list one by one.

    Args:
        path: the file.
        name: name of the file's content in error messages.

    Raises:
        InputError: the file does not exist or is not a JSON list of objects.
    """
    if not path.is_file():
        fault = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{name}: expected a file, got {str(path)!r}, which {fault}")
    try:
        for index, entry in enumerate(scan(path)):
            if entry.section or entry.kind != "item" or not isinstance(entry.record, dict):
                raise InputError(f"{name} {path}: expected a list of records, got other content")
            yield index, entry.record
    except InputError as error:
        message = str(error)
        if message.startswith("annotations"):  # `scan` calls every file "annotations"
            message = name + message.removeprefix("annotations")
        raise InputError(message) from error


@contextmanager
def predictions_file(path: Path) -> Iterator[Callable[[PredictionRecord], None]]:
    """Open a predictions file for writing; it appears complete when the context ends without an error.

    Yields:
        A function that adds a record.

    Raises:
        InputError: the file cannot be written.
    """
    if path.is_dir():
        raise InputError(f"save-predictions: expected a file, got the folder {str(path)!r}")
    with atomic_path(path, "save-predictions") as temporary, temporary.open("w", encoding="utf-8") as file:
        separator = "[\n"

        def add(record: PredictionRecord) -> None:
            nonlocal separator
            file.write(separator + json.dumps(record.to_json()))
            separator = ",\n"

        yield add
        file.write("[]\n" if separator == "[\n" else "\n]\n")


def integer(record: dict[str, Any], key: str) -> int:
    """Return an id of a record. Raises `InputError` unless it is an integer."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"expected {key} to be an integer, got {value!r:.60}")
    return value


def number(record: dict[str, Any], key: str) -> float:
    """Return a score of a record. Raises `InputError` unless it is a finite number."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"expected {key} to be a finite number, got {value!r:.60}")
    return float(value)


def image_size(record: dict[str, Any], sizes: ImageSizes) -> tuple[int, int]:
    """Return (H, W) of the image of a record. Raises `InputError` for an image that is not annotated."""
    image_id = integer(record, "image_id")
    if image_id not in sizes:
        raise InputError(f"expected the image_id of an annotated image, got {image_id}")
    return sizes[image_id]


def mask_of(record: dict[str, Any], key: str, size: tuple[int, int]) -> Rle:
    """Return the mask under `key`. Raises `InputError` unless it is a COCO segmentation of this size."""
    if not isinstance(record.get(key), (dict, list)):
        raise InputError(f"{key}: expected polygons or an RLE, got {record.get(key)!r:.60}")
    try:
        return mask_rle(record[key], size)
    except InputError as error:
        raise InputError(f"{key}: {str(error).removeprefix('segmentation: ')}") from error


def _parse(
    path: Path,
    index: int,
    record: dict[str, Any],
    sizes: ImageSizes,
    union_visible: bool,
    masks_valid: bool = False,
) -> PredictionRecord:
    """Parse one record; with `masks_valid` its masks are known to be valid RLEs and are not checked again."""
    try:
        size = image_size(record, sizes)
        masks: dict[str, Rle | None] = dict.fromkeys(MASK_KEYS)
        for key in MASK_KEYS:
            if key == "segmentation" or record.get(key) is not None:
                trusted = masks_valid and record.get(key) is not None
                masks[key] = record[key] if trusted else mask_of(record, key, size)
        amodal, visible = masks.values()
        assert amodal is not None
        if union_visible:
            if visible is None:
                raise InputError("expected a visible_segmentation to unite with, got none")
            amodal = rle_union(amodal, visible)
        has_score = record.get("score") is not None
        return PredictionRecord(
            image_id=record["image_id"],
            annotation_id=None if record.get("annotation_id") is None else integer(record, "annotation_id"),
            category_id=None if record.get("category_id") is None else integer(record, "category_id"),
            masks=MaskPrediction(amodal, visible, number(record, "score") if has_score else 1.0),
            has_score=has_score,
        )
    except InputError as error:
        raise InputError(f"predictions {path}: record {index}: {error}") from error
