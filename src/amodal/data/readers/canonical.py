"""The project's own annotation file: COCO JSON with both masks of every object."""

from __future__ import annotations

from pathlib import Path

from amodal.data.readers.source import Record, identity, mask_of, read_coco_like
from amodal.data.samples import AnnotatedDataset, ObjectSample
from amodal.errors import InputError
from amodal.ops.rle import rle_box_xyxy


def read_canonical(annotations: Path, images: Path | None = None) -> AnnotatedDataset:
    """Read a canonical annotation file.

    Args:
        annotations: JSON as `write_canonical` writes it.
        images: folder of the images; `images/` beside the annotations if None.

    Raises:
        InputError: a file is missing or not of this form.
    """
    return read_coco_like(annotations, images, "canonical", ("segmentation", "visible_mask"), _object)


def _object(record: Record, size: tuple[int, int], path: Path) -> ObjectSample:
    number, category = identity(record, path)
    amodal = mask_of(record, "segmentation", size, path)
    visible = mask_of(record, "visible_mask", size, path)
    occluders, attributes = record.get("occluders") or [], record.get("attributes") or {}
    if not isinstance(occluders, list) or not all(isinstance(i, int) for i in occluders):
        raise InputError(f"annotations {path}: annotation {number}: expected occluders as ids, got {occluders!r}")
    if not isinstance(attributes, dict):
        raise InputError(f"annotations {path}: annotation {number}: expected attributes by name, got {attributes!r}")
    return ObjectSample(
        id=number,
        category_id=category,
        visible_rle=visible,
        amodal_rle=amodal,
        visible_box_xyxy=rle_box_xyxy(visible),
        amodal_box_xyxy=rle_box_xyxy(amodal),
        occluders=tuple(occluders),
        iscrowd=bool(record.get("iscrowd", 0)),
        attributes=attributes,
    )
