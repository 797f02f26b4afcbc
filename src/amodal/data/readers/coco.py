"""Plain COCO: modal masks, the amodal shape unknown."""

from __future__ import annotations

from pathlib import Path

from amodal.data.readers.source import Record, identity, mask_of, read_coco_like
from amodal.data.samples import AnnotatedDataset, ObjectSample
from amodal.ops.rle import rle_area, rle_box_xyxy


def read_coco(annotations: Path, images: Path | None = None) -> AnnotatedDataset:
    """Read a COCO instance file.

    Objects without a pixel are left out. Regions marked `iscrowd` keep their flag.

    Args:
        annotations: COCO JSON.
        images: folder of the images; `images/` beside the annotations if None.

    Raises:
        InputError: a file is missing or not what COCO prescribes.
    """
    return read_coco_like(annotations, images, "coco", ("segmentation",), _object)


def _object(record: Record, size: tuple[int, int], path: Path) -> ObjectSample | None:
    number, category = identity(record, path)
    visible = mask_of(record, "segmentation", size, path)
    if rle_area(visible) == 0:
        return None
    return ObjectSample(
        id=number,
        category_id=category,
        visible_rle=visible,
        amodal_rle=None,
        visible_box_xyxy=rle_box_xyxy(visible),
        iscrowd=bool(record.get("iscrowd", 0)),
    )
