"""The project's own annotation file: COCO JSON with both masks of every object."""

from __future__ import annotations

from pathlib import Path

from amodal.data.formats.source import Format, Record, Stated, rest
from amodal.data.samples import AnnotatedDataset

_USED = frozenset(
    {"id", "image_id", "category_id", "segmentation", "visible_mask", "bbox", "visible_bbox", "area", "occlude_rate"}
    | {"occluders", "iscrowd", "is_stuff", "annotator", "order", "order_group", "amodal_unknown", "attributes"}
)


def read_canonical(annotations: Path, images: Path | None = None) -> AnnotatedDataset:
    """Read a canonical annotation file.

    Args:
        annotations: JSON as `write_canonical` writes it.
        images: folder of the images; `images/` beside the annotations if None.

    Raises:
        InputError: a file is missing or not of this form.
    """
    from amodal.data.readers import read_dataset

    return read_dataset("canonical", annotations, images)


def _state(record: Record) -> list[Stated]:
    modal = bool(record.get("amodal_unknown"))
    own = record.get("attributes") or {}
    return [
        Stated(
            id=record["id"],
            category=record["category_id"],
            amodal=None if modal else record["segmentation"],
            visible=record["visible_mask"],
            amodal_bbox=None if modal else record.get("bbox"),
            visible_bbox=record.get("visible_bbox"),
            area=record.get("area"),
            occlude_rate=None if modal else record.get("occlude_rate"),
            occluders=record.get("occluders"),
            iscrowd=record.get("iscrowd"),
            is_stuff=record.get("is_stuff"),
            annotator=record.get("annotator"),
            order=record.get("order"),
            order_group=record.get("order_group"),
            attributes=rest(record, _USED) | own if isinstance(own, dict) else own,
        )
    ]


FORMAT = Format(
    name="canonical",
    title="amodal's own file, a superset of COCOA-cls",
    files=("annotations.json",),
    masks="visible and amodal",
    order="occluders",
    keys=("category_id", "segmentation", "visible_mask"),
    state=_state,
    marks=frozenset({"visible_bbox", "occluders", "attributes"}),
    foreign=frozenset({"inmodal_seg", "a_segm", "i_segm", "regions"}),
)
