"""The project's own form, which holds everything a reader knows."""

from __future__ import annotations

from typing import Any

from amodal.data.writers.target import EVERYTHING, Placed, Target, xywh
from amodal.ops.rle import rle_area


def _record(placed: Placed) -> dict[str, Any]:
    thing = placed.thing
    modal = thing.amodal_rle is None
    whole = thing.visible_rle if thing.amodal_rle is None else thing.amodal_rle
    record: dict[str, Any] = {
        "id": thing.id,
        "image_id": placed.image.id,
        "category_id": thing.category_id,
        "segmentation": whole,
        "visible_mask": thing.visible_rle,
        "bbox": xywh(thing.visible_box_xyxy if thing.amodal_box_xyxy is None else thing.amodal_box_xyxy),
        "visible_bbox": xywh(thing.visible_box_xyxy),
        "area": rle_area(whole),
        "iscrowd": int(thing.iscrowd),
    }
    optional = {
        "amodal_unknown": True if modal else None,
        "occlude_rate": placed.rate,
        "occluders": list(thing.occluders) if thing.occluders_known else None,
        "is_stuff": 1 if thing.is_stuff else None,
        "annotator": thing.annotator,
        "order": thing.order,
        "order_group": thing.order_group,
        "attributes": thing.attributes or None,
    }
    return record | {key: value for key, value in optional.items() if value is not None}


TARGET = Target("canonical", _record, EVERYTHING)
