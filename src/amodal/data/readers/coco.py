"""Plain COCO: modal masks, the amodal shape unknown."""

from __future__ import annotations

from pathlib import Path

from amodal.data.readers.source import by_image, image_folder, read_json, require
from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.ops.rle import rle_area, rle_box_xyxy, segmentation_to_rle


def read_coco(annotations: Path, images: Path | None = None) -> AnnotatedDataset:
    """Read a COCO instance file.

    Objects without a pixel are left out. Regions marked `iscrowd` keep their flag.

    Args:
        annotations: COCO JSON.
        images: folder of the images; `images/` beside the annotations if None.

    Raises:
        InputError: a file is missing or not what COCO prescribes.
    """
    content = read_json(annotations, "COCO")
    folder = image_folder(annotations, images)
    groups = by_image(content["annotations"])
    samples = []
    for image in content["images"]:
        height, width = int(image["height"]), int(image["width"])
        objects = []
        for record in groups.get(image["id"], []):
            require(record, ("id", "category_id", "segmentation"), annotations)
            try:
                rle = segmentation_to_rle(record["segmentation"], height, width)
            except InputError as error:
                raise InputError(f"annotations {annotations}: annotation {record['id']}: {error}") from error
            if rle_area(rle) == 0:
                continue
            objects.append(
                ObjectSample(
                    id=int(record["id"]),
                    category_id=int(record["category_id"]),
                    visible_rle=rle,
                    amodal_rle=None,
                    visible_box_xyxy=rle_box_xyxy(rle),
                    iscrowd=bool(record.get("iscrowd", 0)),
                )
            )
        samples.append(ImageSample(int(image["id"]), folder / image["file_name"], height, width, tuple(objects)))
    categories = {int(c["id"]): str(c["name"]) for c in content.get("categories", [])}
    return AnnotatedDataset(tuple(samples), categories, "coco")
