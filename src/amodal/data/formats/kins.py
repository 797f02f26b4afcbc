"""KINS in its two releases: 2019 (`inmodal_seg`) and 2020 (`a_segm`, `i_segm` and an order within clusters)."""

from __future__ import annotations

from amodal.data.records import (
    AMODAL,
    OCCLUDERS,
    ORDER,
    VISIBLE,
    Format,
    ObjectInImage,
    RawAnnotation,
    Record,
    Target,
    other_keys,
)
from amodal.ops.boxes import xyxy_to_xywh
from amodal.ops.rle import rle_area

_USED_2019 = frozenset(
    {"id", "image_id", "category_id", "segmentation", "bbox", "inmodal_seg", "inmodal_bbox", "area", "iscrowd"}
)
_USED_2020 = frozenset(
    {"id", "image_id", "category_id", "a_segm", "i_segm", "a_bbox", "i_bbox", "a_area", "iscrowd", "occluders"}
)
_KEPT = frozenset({"ico_id", "oco_id", "i_area"})
"""Keys that the reader stores as attributes and that the writer writes too: the order unchanged, the area measured."""


def _parse_2019(record: Record) -> list[RawAnnotation]:
    return [
        RawAnnotation(
            id=record["id"],
            category=record["category_id"],
            amodal=record["segmentation"],
            visible=record["inmodal_seg"],
            amodal_bbox=record.get("bbox"),
            visible_bbox=record.get("inmodal_bbox"),
            area=record.get("area"),
            iscrowd=record.get("iscrowd"),
            attributes=other_keys(record, _USED_2019),
        )
    ]


def _parse_2020(record: Record) -> list[RawAnnotation]:
    return [
        RawAnnotation(
            id=record["id"],
            category=record["category_id"],
            amodal=record["a_segm"],
            visible=record["i_segm"],
            amodal_bbox=record.get("a_bbox"),
            visible_bbox=record.get("i_bbox"),
            area=record.get("a_area"),
            occluders=record.get("occluders"),
            iscrowd=record.get("iscrowd"),
            order=record.get("ico_id"),
            order_group=record.get("oco_id"),
            attributes=other_keys(record, _USED_2020),
        )
    ]


def _record(placed: ObjectInImage) -> Record:
    """A record of the 2020 release with masks as RLEs, because polygons do not keep every pixel, and occluders."""
    obj = placed.obj
    assert obj.amodal_rle is not None and obj.amodal_box_xyxy is not None
    # Order 0 marks an object that overlaps no other; within a cluster numbers start at 1 and grow from front to back.
    order = {"oco_id": placed.group, "ico_id": 0 if placed.alone else placed.depth + 1}
    return {
        **placed.coco_keys(),
        "a_segm": obj.amodal_rle,
        "i_segm": obj.visible_rle,
        "a_bbox": xyxy_to_xywh(obj.amodal_box_xyxy),
        "i_bbox": xyxy_to_xywh(obj.visible_box_xyxy),
        "a_area": rle_area(obj.amodal_rle),
        "i_area": rle_area(obj.visible_rle),
        **{key: obj.attributes.get(key, order[key]) for key in order},
        "occluders": list(obj.occluders),
    }


KINS2019 = Format(
    name="kins2019",
    title="KINS, release of 2019",
    files=("instances_train.json", "instances_val.json"),
    masks="visible and amodal",
    order="none: derived from the masks",
    keys=("category_id", "segmentation", "inmodal_seg"),
    parse=_parse_2019,
    marks=frozenset({"inmodal_seg", "inmodal_bbox"}),
    foreign=frozenset({"a_segm", "i_segm", "visible_mask", "regions"}),
)
KINS2020 = Format(
    name="kins2020",
    title="KINS, release of 2020",
    files=("update_train_2020.json", "update_test_2020.json"),
    masks="visible and amodal",
    order="oco_id (cluster), ico_id (place in it)",
    keys=("category_id", "a_segm", "i_segm"),
    parse=_parse_2020,
    marks=frozenset({"a_segm", "i_segm", "a_bbox", "i_bbox"}),
    foreign=frozenset({"inmodal_seg", "visible_mask", "regions"}),
)
TARGET = Target("kins2020", _record, frozenset({AMODAL, VISIBLE, OCCLUDERS, ORDER}), _KEPT)
