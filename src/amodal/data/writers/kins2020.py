"""KINS in its form of 2020, masks as RLEs (polygons do not keep every pixel), occluders beside it."""

from __future__ import annotations

from typing import Any

from amodal.data.writers.target import AMODAL, OCCLUDERS, ORDER, VISIBLE, Placed, Target, xywh
from amodal.ops.rle import rle_area

KEPT = frozenset({"ico_id", "oco_id", "i_area"})
"""Attributes that the format's own reader found and that go back to where they were."""


def _record(placed: Placed) -> dict[str, Any]:
    thing = placed.thing
    assert thing.amodal_rle is not None and thing.amodal_box_xyxy is not None
    # 0 overlaps nothing; in a cluster the numbers start at 1 and grow from front to back
    order = {"oco_id": placed.cluster, "ico_id": 0 if placed.alone else placed.depth + 1}
    return {
        "id": thing.id,
        "image_id": placed.image.id,
        "category_id": thing.category_id,
        "iscrowd": int(thing.iscrowd),
        "a_segm": thing.amodal_rle,
        "i_segm": thing.visible_rle,
        "a_bbox": xywh(thing.amodal_box_xyxy),
        "i_bbox": xywh(thing.visible_box_xyxy),
        "a_area": rle_area(thing.amodal_rle),
        "i_area": rle_area(thing.visible_rle),
        **{key: thing.attributes.get(key, order[key]) for key in order},
        "occluders": list(thing.occluders),
    }


TARGET = Target("kins2020", _record, frozenset({AMODAL, VISIBLE, OCCLUDERS, ORDER}), KEPT)
