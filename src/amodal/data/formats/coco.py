"""Plain COCO: modal masks, the amodal shape unknown."""

from __future__ import annotations

from amodal.data.formats.source import Format, Record, Stated, rest

_USED = frozenset({"id", "image_id", "category_id", "segmentation", "bbox", "area", "iscrowd"})


def _state(record: Record) -> list[Stated]:
    return [
        Stated(
            id=record["id"],
            category=record["category_id"],
            visible=record["segmentation"],
            visible_bbox=record.get("bbox"),
            area=record.get("area"),
            iscrowd=record.get("iscrowd"),
            attributes=rest(record, _USED),
        )
    ]


FORMAT = Format(
    name="coco",
    title="COCO instances (modal)",
    files=("instances_train2017.json", "instances_val2017.json"),
    masks="visible; amodal unknown",
    order="none",
    keys=("category_id", "segmentation"),
    state=_state,
    # in all of these `segmentation`, where it exists, is the whole object
    foreign=frozenset({"inmodal_seg", "a_segm", "i_segm", "visible_mask", "invisible_mask", "regions"}),
)
