"""COCOA-cls: what its files hold, and the occluders beside it."""

from __future__ import annotations

from typing import Any

from amodal.data.writers.target import AMODAL, OCCLUDERS, ORDER, STUFF, VISIBLE, Placed, Target, xywh
from amodal.ops.rle import rle_area, rle_difference

KEPT = frozenset({"amodal_base", "amodal_region", "occl_depth"})
"""Attributes that the format's own reader found and that go back to where they were."""


def _record(placed: Placed) -> dict[str, Any]:
    thing, image = placed.thing, placed.image
    assert thing.amodal_rle is not None and thing.amodal_box_xyxy is not None
    box, area = xywh(thing.amodal_box_xyxy), rle_area(thing.amodal_rle)
    hidden = rle_difference(thing.amodal_rle, thing.visible_rle)
    computed = {
        "occl_depth": placed.depth,
        "amodal_base": {"id": image.id, "file_name": image.file_name, "height": image.height, "width": image.width},
        "amodal_region": {
            "name": placed.category,
            "area": area,
            "isStuff": int(thing.is_stuff),
            "bbox": box,
            "order": placed.depth + 1 if thing.order is None else thing.order,
        },
    }
    return {
        "id": thing.id,
        "image_id": image.id,
        "category_id": thing.category_id,
        "iscrowd": int(thing.iscrowd),
        "bbox": box,
        "segmentation": thing.amodal_rle,
        "area": area,
        "visible_mask": thing.visible_rle,
        **({"invisible_mask": hidden} if rle_area(hidden) else {}),
        "occlude_rate": placed.rate,
        **{key: thing.attributes.get(key, computed[key]) for key in computed},
        "occluders": list(thing.occluders),
    }


TARGET = Target("cocoa_cls", _record, frozenset({AMODAL, VISIBLE, OCCLUDERS, STUFF, ORDER}), KEPT)
