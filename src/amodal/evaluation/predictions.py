"""The predictions file: records with the predicted masks of one object each.

A record is `{image_id, annotation_id, category_id, segmentation, visible_segmentation, score}`; only `image_id` and
`segmentation` are required here. One reader, `iterate_records`, takes all forms of the file: a JSON list of records,
Parquet as `amodal batch` writes it, and the canonical annotation file. Files are read and written record by record, so
memory does not grow with them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from amodal.data.records import mask_rle
from amodal.data.samples import AnnotatedDataset
from amodal.errors import InputError
from amodal.io.files import atomic_path
from amodal.io.json_stream import JsonEntry, scan
from amodal.ops import values
from amodal.ops.rle import Rle, are_complete, rle_union

ImageSizes = dict[int, tuple[int, int]]
"""(H, W) by image id."""
MASK_KEYS = ("segmentation", "visible_segmentation")
ROWS_PER_READ = 1024
"""Rows of a Parquet file that are in memory at a time."""


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


def image_sizes(dataset: AnnotatedDataset) -> ImageSizes:
    """Return (H, W) of every image by its id."""
    return {image.id: image.size for image in dataset.images}


def read_predictions(
    path: Path, dataset: AnnotatedDataset, *, union_visible: bool = False
) -> Iterator[PredictionRecord]:
    """Read a predictions file of any form record by record.

    Args:
        path: as for `iterate_records`.
        dataset: the annotated images.
        union_visible: unite each amodal mask with the visible mask.

    Raises:
        InputError: as `iterate_records`; or a record refers to an unknown image, has a mask of another size, or has no
            visible mask to unite with.
    """
    sizes = image_sizes(dataset)
    for index, record in iterate_records(path, dataset):
        yield _parse(path, index, record, sizes, union_visible)


def parse_records(
    path: Path, records: Sequence[NumberedRecord], image_id: int, size: tuple[int, int], union_visible: bool
) -> list[PredictionRecord]:
    """Parse the records of one image; valid masks are checked together, which is faster.

    Args:
        path: the predictions file, for error messages.
        records: records of the image.
        image_id: id of the image.
        size: (H, W) of the image.
        union_visible: unite each amodal mask with the visible mask.

    Raises:
        InputError: an invalid mask or score, or no visible mask to unite with the amodal mask.
    """
    masks = [record[key] for _, record in records for key in MASK_KEYS if record.get(key) is not None]
    masks_valid = all(isinstance(m, dict) for m in masks) and are_complete(masks, size)
    return [_parse(path, *record, {image_id: size}, union_visible, masks_valid) for record in records]


def iterate_records(
    path: Path, dataset: AnnotatedDataset, *, skip_other_images: bool = False
) -> Iterator[NumberedRecord]:
    """Read the records of a predictions file of any form, in the form of the JSON list.

    Args:
        path: a JSON list of records; a Parquet file or a folder of them, as `amodal batch` writes; or a canonical
            annotation file. That file has ids of its own: an image is found in the dataset by its file name, or by the
            last part of it, and a category by its name. A category that the dataset does not have counts as not
            stated, and so do the ids of the annotations.
        dataset: the annotated images.
        skip_other_images: leave out the images of a canonical file that are not in the dataset.

    Raises:
        InputError: the file does not exist, is broken or has another form; pyarrow is not installed; or an image of a
            canonical file is not in the dataset, or could be several of it.
    """
    if path.is_dir() or (path.suffix == ".parquet" and path.is_file()):
        return _read_parquet(path)
    if _is_json_object(path):
        return _read_canonical(path, dataset, skip_other_images)
    return read_records(path, "predictions")


def is_predictions(path: Path) -> bool:
    """Whether a path looks like predictions of any form, without reading them; False for a path that is missing."""
    if path.is_dir():
        return bool(_parquet_files(path))
    if path.suffix == ".parquet" or not _is_json_object(path):
        return path.is_file()
    with suppress(InputError):
        return any(entry.section in ("images", "annotations") for entry in scan(path))
    return False


def read_records(path: Path, name: str) -> Iterator[NumberedRecord]:
    """Read the records of a JSON list one by one.

    Args:
        path: the file.
        name: name of the file's content in error messages.

    Raises:
        InputError: the file does not exist or is not a JSON list of objects.
    """
    for index, entry in enumerate(_scan(path, name)):
        if entry.section or entry.kind != "item" or not isinstance(entry.record, dict):
            raise InputError(f"{name} {path}: expected a list of records, got other content")
        yield index, entry.record


def _scan(path: Path, name: str) -> Iterator[JsonEntry]:
    """Scan a JSON file whose content has another name than annotations in error messages."""
    if not path.is_file():
        fault = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{name}: expected a file, got {str(path)!r}, which {fault}")
    try:
        yield from scan(path)
    except InputError as error:
        message = str(error)
        if message.startswith("annotations"):  # `scan` calls every file "annotations"
            message = name + message.removeprefix("annotations")
        raise InputError(message) from error


def _is_json_object(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")


def _parquet_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))


def _read_parquet(path: Path) -> Iterator[NumberedRecord]:
    """Read the rows of a Parquet file, or of all files in a folder; positions count through the whole folder."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            "predictions: expected pyarrow to be installed (pip install 'amodal[ray]'), got none"
        ) from error
    files = _parquet_files(path) if path.is_dir() else [path]
    if not files:
        raise InputError(f"predictions: expected a file or a folder of Parquet files, got {str(path)!r}, without any")
    index = 0
    for file in files:
        try:
            for rows in parquet.ParquetFile(file).iter_batches(batch_size=ROWS_PER_READ):
                for record in rows.to_pylist():
                    yield index, record
                    index += 1
        except (OSError, ValueError) as error:
            raise InputError(f"predictions {file}: expected a Parquet file, got {str(error)!r:.120}") from error


def _read_canonical(path: Path, dataset: AnnotatedDataset, skip_other_images: bool) -> Iterator[NumberedRecord]:
    """Read the annotations of a canonical file in the form of the JSON list.

    The file is scanned twice, because its images may come after its annotations.
    """
    names: dict[str, dict[int, str]] = {"images": {}, "categories": {}}
    sections = set()
    for entry in _scan(path, "predictions"):
        sections.add(entry.section)
        if entry.section in names and entry.kind == "item":
            key = "file_name" if entry.section == "images" else "name"
            try:
                names[entry.section][integer(entry.record, "id")] = str(entry.record[key])
            except (InputError, KeyError, AttributeError, TypeError) as error:
                raise InputError(
                    f"predictions {path}: expected {entry.section} with id and {key}, got {entry.record!r:.60}"
                ) from error
    if not {"images", "annotations"} <= sections:
        raise InputError(
            f"predictions {path}: expected a list of records, or a COCO file with images and annotations, "
            "got other content"
        )
    images, categories = _ImageNames(dataset), {name: number for number, name in dataset.categories.items()}
    items = (e for e in _scan(path, "predictions") if e.section == "annotations" and e.kind == "item")
    for index, entry in enumerate(items):
        record = entry.record
        try:
            if not isinstance(record, dict):
                raise InputError(f"expected an annotation, got {record!r:.60}")
            image_id, category = integer(record, "image_id"), record.get("category_id")
            if image_id not in names["images"]:
                raise InputError(f"expected the image_id of a listed image, got {image_id}")
            found = images.find(names["images"][image_id], required=not skip_other_images)
            if found is None:
                continue
            name = None if category is None else names["categories"].get(integer(record, "category_id"))
            translated = {
                "image_id": found,
                "category_id": None if name is None else categories.get(name),
                "segmentation": record.get("segmentation"),
                "visible_segmentation": record.get("visible_mask"),
                "score": record.get("score"),
            }
        except InputError as error:
            raise InputError(f"predictions {path}: record {index}: {error}") from error
        yield index, translated


class _ImageNames:
    """Finds the images of a dataset by their file names."""

    def __init__(self, dataset: AnnotatedDataset) -> None:
        self._by_name: dict[str, int] = {}
        self._by_last_part: dict[str, list[int]] = {}
        for image in dataset.images:
            self._by_name[image.file_name] = image.id
            self._by_last_part.setdefault(PurePath(image.file_name).name, []).append(image.id)

    def find(self, file_name: str, *, required: bool) -> int | None:
        """Return the id of an image, None for one that is not in the dataset and not required.

        Raises:
            InputError: the name belongs to several images, or to none though it is required.
        """
        if file_name in self._by_name:
            return self._by_name[file_name]
        found = self._by_last_part.get(PurePath(file_name).name, [])
        if not found and not required:
            return None
        if len(found) != 1:
            fault = f"which names {len(found)} of them" if found else "which names none"
            raise InputError(f"expected the file name of an annotated image, got {file_name!r}, {fault}")
        return found[0]


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
    return values.integer(record.get(key), key)


def number(record: dict[str, Any], key: str) -> float:
    """Return a score of a record. Raises `InputError` unless it is a finite number."""
    return values.number(record.get(key), key)


def optional_integer(record: dict[str, Any], key: str) -> int | None:
    """Return an id of a record, None if it is not stated. Raises `InputError` unless it is an integer."""
    return None if record.get(key) is None else integer(record, key)


def image_of(record: dict[str, Any], sizes: ImageSizes) -> tuple[int, tuple[int, int]]:
    """Return the id and (H, W) of the image of a record. Raises `InputError` for an image that is not annotated."""
    image_id = integer(record, "image_id")
    if image_id not in sizes:
        raise InputError(f"expected the image_id of an annotated image, got {image_id}")
    return image_id, sizes[image_id]


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
        image_id, size = image_of(record, sizes)
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
            image_id=image_id,
            annotation_id=optional_integer(record, "annotation_id"),
            category_id=optional_integer(record, "category_id"),
            masks=MaskPrediction(amodal, visible, number(record, "score") if has_score else 1.0),
            has_score=has_score,
        )
    except InputError as error:
        raise InputError(f"predictions {path}: record {index}: {error}") from error
