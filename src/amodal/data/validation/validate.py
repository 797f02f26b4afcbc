"""Checking a dataset record by record for every known fault, and the report of the faults found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from amodal.data.datasets import open_index
from amodal.data.index import DatasetFault, ImageEntry, Index
from amodal.data.records import RawAnnotation, category_number, typed
from amodal.data.validation.objects import AnnotationMasks, check_object
from amodal.errors import InputError
from amodal.io.files import is_file
from amodal.io.image_names import Match
from amodal.io.images import image_size
from amodal.io.progress import progress_bar
from amodal.ops.rle import rle_area, rle_intersection

WARNINGS = {
    "area_mismatch": "the stated area differs from that of the mask",
    "duplicate_category_name": "two categories have the same name",
    "duplicate_file_name": "two images have the same file",
    "duplicate_object": "two objects of an image have the same masks and category",
    "empty_category": "a category has no object",
    "empty_visible": "the visible mask has no pixel",
    "images_not_checked": "the folder of the images is unknown",
    "no_categories": "objects have category ids, but the file lists no categories",
    "no_objects": "the file has no objects",
    "occluder_hides_nothing": "an object has occluders but is not occluded",
    "order_contradiction": "the order contradicts the occluders",
    "outside_image": "a polygon leaves the image",
}
"""Kinds of faults with which a file can be used as it is, with their meaning."""

ERRORS = {
    "ambiguous_image": "two image files fit the same name or masks, or two names the same file",
    "bad_box": "a box is not four numbers x, y, width, height",
    "bad_image_record": "the id, height or width of an image is invalid",
    "bad_polygon": "a polygon's coordinates are not finite numbers in pairs",
    "bad_record": "a record or a field of it is of another type",
    "bad_segmentation": "a segmentation is neither polygons nor an RLE",
    "box_mismatch": "a box does not fit its mask",
    "box_outside_image": "a box leaves the image",
    "broken_rle": "the runs of an RLE do not cover the image",
    "degenerate_polygon": "a polygon has fewer than three points",
    "duplicate_annotation_id": "two annotations have the same id",
    "duplicate_category_id": "two categories have the same id",
    "duplicate_image_id": "two images have the same id",
    "empty_amodal": "the amodal mask has no pixel",
    "image_size": "an image file has another size than stated",
    "invisible_mismatch": "the invisible mask is not the amodal mask without the visible mask",
    "missing_image": "an image file does not exist",
    "missing_key": "a record lacks a key",
    "mixed_formats": "a record has keys of another format",
    "outside_folder": "the name of an image is a URL, or a path that leaves the folder of the images",
    "rate_mismatch": "the stated occlusion rate differs from the measured one",
    "rle_size": "an RLE has another size than the image",
    "swapped_masks": "the visible mask covers the amodal mask and more",
    "unknown_category": "an object has a category that the file does not list",
    "unknown_image": "an annotation has an image that the file does not list",
    "unknown_occluder": "an occluder is not another object of the image",
    "unreadable_image": "an image file cannot be read",
    "visible_outside_amodal": "the visible mask leaves the amodal mask",
}
"""Kinds of faults that make annotations contradictory or unreadable, with their meaning."""


def severity(kind: str) -> str:
    """Return `error` or `warning` for a kind of fault."""
    return "warning" if kind in WARNINGS else "error"


@dataclass
class ValidationReport:
    """The faults of a dataset.

    Attributes:
        format: name of the format that it was read as.
        annotations: annotation file.
        num_images: number of readable image records.
        num_objects: number of objects in readable records.
        faults: in the order in which they were found.
    """

    format: str
    annotations: str
    num_images: int = 0
    num_objects: int = 0
    faults: list[DatasetFault] = field(default_factory=list)

    @property
    def num_errors(self) -> int:
        """Number of faults that are errors."""
        return sum(severity(fault.kind) == "error" for fault in self.faults)

    @property
    def num_warnings(self) -> int:
        """Number of faults that are warnings."""
        return len(self.faults) - self.num_errors

    def kinds(self) -> dict[str, int]:
        """Number of faults of each kind, errors first."""
        counts = Counter(fault.kind for fault in self.faults)
        return dict(sorted(counts.items(), key=lambda item: (item[0] in WARNINGS, item[0])))

    def to_json(self) -> dict[str, Any]:
        """Machine-readable form."""
        return {
            "format": self.format,
            "annotations": self.annotations,
            "num_images": self.num_images,
            "num_objects": self.num_objects,
            "num_errors": self.num_errors,
            "num_warnings": self.num_warnings,
            "kinds": {kind: {"severity": severity(kind), "count": n} for kind, n in self.kinds().items()},
            "findings": [_to_json(fault) for fault in self.faults],
        }


def validate(
    format_name: str,
    annotations: str | Path,
    images: str | Path | None = None,
    *,
    match: Match = "path",
    progress: bool = False,
) -> ValidationReport:
    """Check a dataset for every fault that `ERRORS` and `WARNINGS` list.

    Args:
        format_name: one of `datasets.FORMATS`.
        annotations: file or folder.
        images: folder of the images; `images/` beside the annotations if None. If there is neither such a folder nor
            an image beside the annotations, images are not checked.
        match: as for `datasets.read_dataset`.
        progress: show a progress bar.

    Raises:
        InputError: the format is unknown, the JSON is broken, or the content is of another kind than the format.
    """
    report = ValidationReport(format_name, str(annotations))
    index = open_index(format_name, annotations, images, report.faults.append, match)
    report.num_images = len(index.images)
    report.num_objects = sum(index.num_objects)
    used = Counter[int]()
    for position in progress_bar(range(len(index.images)), "validate", progress):
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
            raw = typed(stated, lambda message, faults=faults: faults.append(DatasetFault("bad_record", message)))  # type: ignore[misc]
            checked.append((raw, check_object(raw, entry.size, faults)))
            faults += _fields(raw, index, used)
            for fault in faults:
                yield replace(fault, image_id=entry.id, annotation_id=raw.id)
    for fault in [*_relations(checked), *_duplicates(checked)]:
        yield replace(fault, image_id=entry.id)


def _fields(raw: RawAnnotation, index: Index, used: Counter[int]) -> Iterator[DatasetFault]:
    """Check the category of one object."""
    try:
        number = category_number(raw.category, index.numbers)
    except InputError as error:
        yield DatasetFault("bad_record", str(error))
        return
    used[number] += 1
    if index.categories and number not in index.categories:
        yield DatasetFault("unknown_category", f"category_id: expected a listed category, got {number}")


def _relations(checked: Sequence[tuple[RawAnnotation, AnnotationMasks]]) -> Iterator[DatasetFault]:
    """Check the occluders of the objects of an image."""
    by_id = {raw.id: raw for raw, _ in checked}
    for raw, masks in checked:
        if not raw.occluders:
            continue
        unknown = [i for i in raw.occluders if i not in by_id or i == raw.id]
        if unknown:
            message = f"occluders: expected other objects of the image, got {unknown}"
            yield DatasetFault("unknown_occluder", message, annotation_id=raw.id)
        if masks.amodal and masks.visible and raw.visible is not None:
            num_occluded = rle_area(masks.amodal) - rle_area(rle_intersection(masks.amodal, masks.visible))
            if not num_occluded:
                message = f"occluders: expected none for an object that is not occluded, got {list(raw.occluders)}"
                yield DatasetFault("occluder_hides_nothing", message, annotation_id=raw.id)
        behind = [i for i in raw.occluders if i in by_id and _is_behind(by_id[i], raw)]
        if behind:
            message = f"order: expected {behind} in front of {raw.id}, as the occluders say, got a larger order"
            yield DatasetFault("order_contradiction", message, annotation_id=raw.id)


def _duplicates(checked: Sequence[tuple[RawAnnotation, AnnotationMasks]]) -> Iterator[DatasetFault]:
    first: dict[Any, Any] = {}
    for raw, masks in checked:
        whole = masks.amodal or masks.visible
        if whole is None or not rle_area(whole):
            continue
        visible_counts = "" if masks.visible is None else masks.visible["counts"]
        key = (raw.category, raw.annotator, whole["counts"], visible_counts)
        if key in first:
            message = f"expected different objects, got the masks and category of {first[key]}"
            yield DatasetFault("duplicate_object", message, annotation_id=raw.id)
        first.setdefault(key, raw.id)


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
            yield DatasetFault(
                "duplicate_file_name", f"expected one file per image, got {name} for {numbers}", numbers[0]
            )
    if not known and index.images and not any(is_file(e.path) for e in index.images):
        yield DatasetFault(
            "images_not_checked", f"expected images in {str(index.folder)!r}, got none (name their folder)"
        )
        return
    for entry in index.images:
        fault = _image_file(entry.path, entry)
        if fault is not None:
            yield fault


def _image_file(path: Path, entry: ImageEntry) -> DatasetFault | None:
    if not is_file(path):
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


def _to_json(fault: DatasetFault) -> dict[str, Any]:
    record = {
        "kind": fault.kind,
        "severity": severity(fault.kind),
        "image_id": fault.image_id,
        "annotation_id": fault.annotation_id,
        "message": fault.message,
    }
    return record if fault.pixels is None else record | {"pixels": fault.pixels}
