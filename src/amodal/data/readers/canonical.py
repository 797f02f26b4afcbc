"""The project's own annotation file: COCO JSON with both masks of every object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from amodal.data.readers.source import by_image, image_folder, read_json, require
from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.ops.rle import rle_box_xyxy, segmentation_to_rle


def read_canonical(annotations: Path, images: Path | None = None) -> AnnotatedDataset:
    """Read a canonical annotation file.

    Args:
        annotations: JSON as `write_canonical` writes it.
        images: folder of the images; `images/` beside the annotations if None.

    Raises:
        InputError: a file is missing or not of this form.
    """
    content = read_json(annotations, "the canonical form")
    folder = image_folder(annotations, images)
    groups = by_image(content["annotations"])
    samples = []
    for image in content["images"]:
        size = int(image["height"]), int(image["width"])
        objects = tuple(_object(r, size, annotations) for r in groups.get(image["id"], []))
        samples.append(ImageSample(int(image["id"]), folder / image["file_name"], *size, objects))
    categories = {int(c["id"]): str(c["name"]) for c in content.get("categories", [])}
    return AnnotatedDataset(tuple(samples), categories, "canonical")


def _object(record: dict[str, Any], size: tuple[int, int], path: Path) -> ObjectSample:
    require(record, ("id", "category_id", "segmentation", "visible_mask"), path)
    try:
        amodal = segmentation_to_rle(record["segmentation"], *size)
        visible = segmentation_to_rle(record["visible_mask"], *size)
    except InputError as error:
        raise InputError(f"annotations {path}: annotation {record['id']}: {error}") from error
    return ObjectSample(
        id=int(record["id"]),
        category_id=int(record["category_id"]),
        visible_rle=visible,
        amodal_rle=amodal,
        visible_box_xyxy=rle_box_xyxy(visible),
        amodal_box_xyxy=rle_box_xyxy(amodal),
        occluders=tuple(record.get("occluders", ())),
        iscrowd=bool(record.get("iscrowd", 0)),
        attributes=dict(record.get("attributes", {})),
    )
