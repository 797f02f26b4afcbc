"""Plain COCO instances: reading takes each mask as visible with the amodal mask unknown, writing keeps one mask."""

from __future__ import annotations

from amodal.data.records import (
    AMODAL,
    UNKNOWN_AMODAL,
    VISIBLE,
    Format,
    ObjectInImage,
    RawAnnotation,
    Record,
    Target,
    other_keys,
)
from amodal.ops.arrays import Box
from amodal.ops.boxes import xyxy_to_xywh
from amodal.ops.rle import Rle, rle_area

_USED = frozenset({"id", "image_id", "category_id", "segmentation", "bbox", "area", "iscrowd"})


def _parse(record: Record) -> list[RawAnnotation]:
    return [
        RawAnnotation(
            id=record["id"],
            category=record["category_id"],
            visible=record["segmentation"],
            visible_bbox=record.get("bbox"),
            area=record.get("area"),
            iscrowd=record.get("iscrowd"),
            attributes=other_keys(record, _USED),
        )
    ]


def _amodal_record(placed: ObjectInImage) -> Record:
    obj = placed.obj
    assert obj.amodal_rle is not None and obj.amodal_box_xyxy is not None
    return _record(placed, obj.amodal_rle, obj.amodal_box_xyxy)


def _visible_record(placed: ObjectInImage) -> Record:
    return _record(placed, placed.obj.visible_rle, placed.obj.visible_box_xyxy)


def _record(placed: ObjectInImage, rle: Rle, box_xyxy: Box) -> Record:
    return {
        **placed.coco_keys(),
        "segmentation": rle,
        "bbox": xyxy_to_xywh(box_xyxy),
        "area": rle_area(rle),
    }


FORMAT = Format(
    name="coco",
    title="COCO instances (modal)",
    files=("instances_train2017.json", "instances_val2017.json"),
    masks="visible; amodal unknown",
    order="none",
    keys=("category_id", "segmentation"),
    parse=_parse,
    # In each of these formats `segmentation`, where it exists, is the amodal mask.
    foreign=frozenset({"inmodal_seg", "a_segm", "i_segm", "visible_mask", "invisible_mask", "regions"}),
)
TARGETS = {
    "amodal": Target("coco", _amodal_record, frozenset({AMODAL})),
    "visible": Target("coco", _visible_record, frozenset({VISIBLE, UNKNOWN_AMODAL})),
}
