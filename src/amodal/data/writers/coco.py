"""Plain COCO with one of the two masks."""

from __future__ import annotations

from typing import Any

from amodal.data.writers.target import AMODAL, UNKNOWN_AMODAL, VISIBLE, Placed, Target, xywh
from amodal.ops.rle import rle_area


def _amodal(placed: Placed) -> dict[str, Any]:
    thing = placed.thing
    assert thing.amodal_rle is not None and thing.amodal_box_xyxy is not None
    return _common(placed) | {
        "segmentation": thing.amodal_rle,
        "bbox": xywh(thing.amodal_box_xyxy),
        "area": rle_area(thing.amodal_rle),
    }


def _visible(placed: Placed) -> dict[str, Any]:
    thing = placed.thing
    return _common(placed) | {
        "segmentation": thing.visible_rle,
        "bbox": xywh(thing.visible_box_xyxy),
        "area": rle_area(thing.visible_rle),
    }


def _common(placed: Placed) -> dict[str, Any]:
    thing = placed.thing
    return {
        "id": thing.id,
        "image_id": placed.image.id,
        "category_id": thing.category_id,
        "iscrowd": int(thing.iscrowd),
    }


TARGETS = {
    "amodal": Target("coco", _amodal, frozenset({AMODAL})),
    "visible": Target("coco", _visible, frozenset({VISIBLE, UNKNOWN_AMODAL})),
}
