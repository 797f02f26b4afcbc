"""COCOA-cls, COCO's form with the amodal mask in `segmentation`, and D2SA, which has the same keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from amodal.data.records import (
    AMODAL,
    OCCLUDERS,
    ORDER,
    STUFF,
    VISIBLE,
    Format,
    ObjectInImage,
    RawAnnotation,
    Record,
    Target,
    other_keys,
)
from amodal.ops.boxes import xyxy_to_xywh
from amodal.ops.rle import rle_area, rle_difference

_USED = frozenset(
    {"id", "image_id", "category_id", "segmentation", "visible_mask", "invisible_mask", "bbox", "area"}
    | {"occlude_rate", "iscrowd", "occluders"}
)
_MARKS = frozenset({"amodal_region", "amodal_base", "occl_depth", "invisible_mask"})
_KEPT = frozenset({"amodal_base", "amodal_region", "occl_depth"})
"""Keys that the reader stores as attributes and that the writer puts back unchanged."""


def _parse(record: Record) -> list[RawAnnotation]:
    region: dict[str, Any] = record["amodal_region"] if isinstance(record.get("amodal_region"), dict) else {}
    return [
        RawAnnotation(
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
            attributes=other_keys(record, _USED),
        )
    ]


def _record(placed: ObjectInImage) -> Record:
    obj, image = placed.obj, placed.image
    assert obj.amodal_rle is not None and obj.amodal_box_xyxy is not None
    box, area = xyxy_to_xywh(obj.amodal_box_xyxy), rle_area(obj.amodal_rle)
    occluded = rle_difference(obj.amodal_rle, obj.visible_rle)
    computed = {
        "occl_depth": placed.depth,
        "amodal_base": {"id": image.id, "file_name": image.file_name, "height": image.height, "width": image.width},
        "amodal_region": {
            "name": placed.category,
            "area": area,
            "isStuff": int(obj.is_stuff),
            "bbox": box,
            "order": placed.depth + 1 if obj.order is None else obj.order,
        },
    }
    return {
        **placed.coco_keys(),
        "bbox": box,
        "segmentation": obj.amodal_rle,
        "area": area,
        "visible_mask": obj.visible_rle,
        **({"invisible_mask": occluded} if rle_area(occluded) else {}),
        "occlude_rate": placed.rate,
        **{key: obj.attributes.get(key, computed[key]) for key in computed},
        "occluders": list(obj.occluders),
    }


COCOA_CLS = Format(
    name="cocoa_cls",
    title="COCOA-cls: COCOA with COCO's categories",
    files=("COCO_amodal_train2014_with_classes.json", "COCO_amodal_val2014_with_classes.json"),
    masks="visible and amodal",
    order="occl_depth",
    keys=("category_id", "segmentation"),
    parse=_parse,
    # A record with none of these keys is plain COCO, whose mask is the visible one.
    any_of=_MARKS | {"visible_mask", "occlude_rate"},
    marks=_MARKS,
    foreign=frozenset({"inmodal_seg", "a_segm", "i_segm", "regions"}),
)
D2SA = replace(  # products on a turntable; `iscrowd` is a boolean
    COCOA_CLS,
    name="d2sa",
    title="D2SA (densely segmented supermarket, amodal)",
    files=(
        "D2S_amodal_training_rot0.json",
        "D2S_amodal_augmented.json",
        "D2S_amodal_validation.json",
        "D2S_amodal_test_info.json",
    ),
    may_lack_annotations=True,  # D2S_amodal_test_info.json
)
TARGET = Target("cocoa_cls", _record, frozenset({AMODAL, VISIBLE, OCCLUDERS, STUFF, ORDER}), _KEPT)
