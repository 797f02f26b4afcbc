"""COCOA-cls: COCO's form with an object a record, whole object first."""

from __future__ import annotations

from typing import Any

from amodal.data.formats.source import Format, Record, Stated, rest

_USED = frozenset(
    {"id", "image_id", "category_id", "segmentation", "visible_mask", "invisible_mask", "bbox", "area"}
    | {"occlude_rate", "iscrowd", "occluders"}
)


def state(record: Record) -> list[Stated]:
    """The object of a record; D2SA has the same keys."""
    region: dict[str, Any] = record["amodal_region"] if isinstance(record.get("amodal_region"), dict) else {}
    return [
        Stated(
            id=record["id"],
            category=record["category_id"],
            amodal=record["segmentation"],
            visible=record.get("visible_mask"),
            invisible=record.get("invisible_mask"),
            amodal_bbox=record.get("bbox"),
            area=record.get("area"),
            occlude_rate=record.get("occlude_rate"),
            occluders=record.get("occluders"),
            iscrowd=record.get("iscrowd"),
            is_stuff=region.get("isStuff"),
            order=record.get("occl_depth"),
            order_group=None if record.get("occl_depth") is None else 0,
            attributes=rest(record, _USED),
        )
    ]


MARKS = frozenset({"amodal_region", "amodal_base", "occl_depth", "invisible_mask"})
TELLING = MARKS | {"visible_mask", "occlude_rate"}
"""A record with none of them is plain COCO, whose mask is the visible one."""

FORMAT = Format(
    name="cocoa_cls",
    title="COCOA-cls: COCOA with COCO's categories",
    files=("COCO_amodal_train2014_with_classes.json", "COCO_amodal_val2014_with_classes.json"),
    masks="visible and amodal",
    order="occl_depth",
    keys=("category_id", "segmentation"),
    state=state,
    any_of=TELLING,
    marks=MARKS,
    foreign=frozenset({"inmodal_seg", "a_segm", "i_segm", "regions"}),
)
