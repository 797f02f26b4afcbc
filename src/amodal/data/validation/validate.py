"""Everything that can be wrong with a dataset, looked for record by record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from amodal.data.datasets import open_index
from amodal.data.formats.base import RawAnnotation, integer
from amodal.data.index import DatasetFault, ImageEntry, Index
from amodal.data.validation.masks import AnnotationMasks, check_object
from amodal.data.validation.report import ValidationReport
from amodal.errors import InputError
from amodal.io.images import image_size
from amodal.io.progress import bar
from amodal.ops.rle import rle_area, rle_intersection


def validate(
    format_name: str, annotations: str | Path, images: str | Path | None = None, *, progress: bool = False
) -> ValidationReport:
    """Look for every fault `report.ERRORS` and `report.WARNINGS` list.

    Args:
        format_name: one of the readers' formats.
        annotations: file or folder.
        images: folder of the images; `images/` beside the annotations if None. Where there is no
            such folder and no image beside the annotations either, images are not checked.
        progress: show a bar.

    Raises:
        InputError: unknown format, broken JSON, or content that is nothing like the format.
    """
    report = ValidationReport(format_name, str(annotations))
    index = open_index(format_name, annotations, images, report.faults.append)
    report.num_images = len(index.images)
    report.num_objects = sum(index.num_objects)
    used = Counter[int]()
    for position in bar(range(len(index.images)), "validate", progress):
        report.faults += _image_objects(index, position, used)
    report.faults += _categories(index, used)
    own = Path(annotations).parent / "images"
    report.faults += _image_files(index, known=images is not None or index.folder == own)
    return report


def _image_objects(index: Index, position: int, used: Counter[int]) -> Iterator[DatasetFault]:
    entry = index.images[position]
    checked: list[tuple[RawAnnotation, AnnotationMasks]] = []
    for record in index.records(position):
        try:
            objects = index.format.parse(record)
        except InputError as error:
            yield DatasetFault("bad_record", str(error), entry.id, record.get("id"))
            continue
        for stated in objects:
            faults = list[DatasetFault]()
            checked.append((stated, check_object(stated, entry.size, faults)))
            faults += _fields(stated, index, used)
            for fault in faults:
                yield replace(fault, image_id=entry.id, annotation_id=stated.id)
    for fault in [*_relations(checked), *_duplicates(checked)]:
        yield replace(fault, image_id=entry.id)


def _fields(stated: RawAnnotation, index: Index, used: Counter[int]) -> Iterator[DatasetFault]:
    """Category, occluders and attributes of one object."""
    if isinstance(stated.category, str) and stated.category in index.numbers:
        used[index.numbers[stated.category]] += 1
    else:
        number = integer(stated.category, "category_id")
        used[number] += 1
        if index.categories and number not in index.categories:
            yield DatasetFault("unknown_category", f"category_id: expected a listed category, got {number}")
    if not _is_ids(stated.occluders):
        yield DatasetFault("bad_record", f"occluders: expected ids, got {stated.occluders!r:.60}")
    if not isinstance(stated.attributes, dict):
        yield DatasetFault("bad_record", f"attributes: expected them by name, got {stated.attributes!r:.60}")


def _relations(checked: Sequence[tuple[RawAnnotation, AnnotationMasks]]) -> Iterator[DatasetFault]:
    """Occluders of the objects of an image."""
    by_id = {stated.id: stated for stated, _ in checked if isinstance(stated.id, int)}
    for stated, masks in checked:
        if not stated.occluders or not _is_ids(stated.occluders):
            continue
        strangers = [i for i in stated.occluders if i not in by_id or i == stated.id]
        if strangers:
            message = f"occluders: expected other objects of the image, got {strangers}"
            yield DatasetFault("unknown_occluder", message, annotation_id=stated.id)
        if masks.amodal and masks.visible and stated.visible is not None:
            hidden = rle_area(masks.amodal) - rle_area(rle_intersection(masks.amodal, masks.visible))
            if not hidden:
                message = f"occluders: expected none where nothing is hidden, got {stated.occluders}"
                yield DatasetFault("occluder_hides_nothing", message, annotation_id=stated.id)
        behind = [i for i in stated.occluders if i in by_id and _is_behind(by_id[i], stated)]
        if behind:
            message = f"order: expected {behind} in front of {stated.id}, as stated, got a larger order"
            yield DatasetFault("order_contradiction", message, annotation_id=stated.id)


def _duplicates(checked: Sequence[tuple[RawAnnotation, AnnotationMasks]]) -> Iterator[DatasetFault]:
    first: dict[Any, Any] = {}
    for stated, masks in checked:
        whole = masks.amodal or masks.visible
        if whole is None or not rle_area(whole):
            continue
        seen = "" if masks.visible is None else masks.visible["counts"]
        key = (stated.category, stated.annotator, whole["counts"], seen)
        if key in first:
            message = f"expected different objects, got the masks and category of {first[key]}"
            yield DatasetFault("duplicate_object", message, annotation_id=stated.id)
        first.setdefault(key, stated.id)


def _categories(index: Index, used: Counter[int]) -> Iterator[DatasetFault]:
    if not used:
        yield DatasetFault("no_objects", "expected objects, got none")
    elif not index.categories:
        yield DatasetFault("no_categories", "expected a list of categories, got none")
    for number, name in index.categories.items():
        if used and not used[number]:
            yield DatasetFault("empty_category", f"expected objects of category {number} ({name}), got none")
    for name, count in Counter(index.categories.values()).items():
        if count > 1:
            yield DatasetFault(
                "duplicate_category_name", f"expected categories of different names, got {name!r} {count} times"
            )


def _image_files(index: Index, *, known: bool) -> Iterator[DatasetFault]:
    for name, count in Counter(entry.file_name for entry in index.images).items():
        if count > 1:
            numbers = [entry.id for entry in index.images if entry.file_name == name]
            yield DatasetFault("duplicate_file_name", f"expected a file an image, got {name} for {numbers}", numbers[0])
    if not known and index.images and not any((index.folder / e.file_name).is_file() for e in index.images):
        yield DatasetFault(
            "images_not_checked", f"expected images in {str(index.folder)!r}, got none (name their folder)"
        )
        return
    for entry in index.images:
        fault = _image_file(index.folder / entry.file_name, entry)
        if fault is not None:
            yield fault


def _image_file(path: Path, entry: ImageEntry) -> DatasetFault | None:
    if not path.is_file():
        return DatasetFault("missing_image", f"expected the image {entry.file_name}, which does not exist", entry.id)
    try:
        size = image_size(path)
    except InputError:
        return DatasetFault(
            "unreadable_image", f"expected the image {entry.file_name}, got a file that cannot be read", entry.id
        )
    if size != entry.size:
        return DatasetFault("image_size", f"expected {entry.file_name} of size {entry.size}, got {size}", entry.id)
    return None


def _is_behind(front: RawAnnotation, behind: RawAnnotation) -> bool:
    orders = (front.order, behind.order)
    if front.order_group != behind.order_group or not all(isinstance(order, int) for order in orders):
        return False
    return bool(front.order > behind.order)


def _is_ids(occluders: Any) -> bool:
    return occluders is None or (isinstance(occluders, (list, tuple)) and all(type(i) is int for i in occluders))
