"""What `validate` found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from amodal.data.index import DatasetFault

WARNINGS = {
    "area_mismatch": "the stated area is not the mask's",
    "duplicate_category_name": "two categories have the same name",
    "duplicate_file_name": "two images have the same file",
    "duplicate_object": "an object is there twice",
    "empty_category": "a category has no object",
    "empty_visible": "nothing of the object is seen",
    "images_not_checked": "the folder of the images is not known",
    "no_categories": "objects have category ids, but no categories are listed",
    "no_objects": "there is no object",
    "occluder_hides_nothing": "an object has occluders, but nothing of it is hidden",
    "order_contradiction": "the order says otherwise than the occluders",
    "outside_image": "a polygon leaves the image",
}
"""Kinds that do not keep a file from being used as it is."""

ERRORS = {
    "bad_box": "a box is not four numbers x, y, width, height",
    "bad_image_record": "an image's id, height or width makes no sense",
    "bad_polygon": "a polygon's coordinates are not finite numbers in pairs",
    "bad_record": "a record or a field of it is of another type",
    "bad_segmentation": "a segmentation is neither polygons nor an RLE",
    "box_mismatch": "a box disagrees with its mask",
    "box_outside_image": "a box leaves the image",
    "broken_rle": "an RLE's runs do not cover the image",
    "degenerate_polygon": "a polygon has fewer than three points",
    "duplicate_annotation_id": "two annotations have the same id",
    "duplicate_category_id": "two categories have the same id",
    "duplicate_image_id": "two images have the same id",
    "empty_amodal": "the amodal mask has no pixel",
    "image_size": "the image file has another size than stated",
    "invisible_mismatch": "the hidden mask is not the amodal one without the visible one",
    "missing_image": "an image file does not exist",
    "missing_key": "a record lacks a key",
    "mixed_formats": "a record has keys of another format",
    "rate_mismatch": "the stated occlusion rate is not the measured one",
    "rle_size": "an RLE has another size than the image",
    "swapped_masks": "the visible mask covers the amodal one and more",
    "unknown_category": "a category is not listed",
    "unknown_image": "an image is not listed",
    "unknown_occluder": "an occluder is no other object of the image",
    "unreadable_image": "an image file cannot be read",
    "visible_outside_amodal": "the visible mask leaves the amodal one",
}
"""Kinds that make truth contradict itself or keep it from being read."""


def severity(kind: str) -> str:
    """`error` or `warning`."""
    return "warning" if kind in WARNINGS else "error"


@dataclass
class ValidationReport:
    """What is wrong with a dataset.

    Attributes:
        format: it was read as.
        annotations: file.
        num_images: readable image records.
        num_objects: readable objects' records.
        faults: in the order they were met.
    """

    format: str
    annotations: str
    num_images: int = 0
    num_objects: int = 0
    faults: list[DatasetFault] = field(default_factory=list)

    @property
    def num_errors(self) -> int:
        """Faults that are errors."""
        return sum(severity(fault.kind) == "error" for fault in self.faults)

    @property
    def num_warnings(self) -> int:
        """Faults that are warnings."""
        return len(self.faults) - self.num_errors

    def kinds(self) -> dict[str, int]:
        """How often each kind was met, errors first."""
        counts = Counter(fault.kind for fault in self.faults)
        return dict(sorted(counts.items(), key=lambda item: (item[0] in WARNINGS, item[0])))

    def to_json(self) -> dict[str, Any]:
        """The machine-readable form."""
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


def _to_json(fault: DatasetFault) -> dict[str, Any]:
    record = {
        "kind": fault.kind,
        "severity": severity(fault.kind),
        "image_id": fault.image_id,
        "annotation_id": fault.annotation_id,
        "message": fault.message,
    }
    return record if fault.pixels is None else record | {"pixels": fault.pixels}
