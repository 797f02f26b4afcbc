"""KINS as released in 2019: COCO's keys hold the whole object, the visible one has keys of its own."""

from __future__ import annotations

from amodal.data.formats.source import Format, Record, Stated, rest

_USED = frozenset(
    {"id", "image_id", "category_id", "segmentation", "bbox", "inmodal_seg", "inmodal_bbox", "area", "iscrowd"}
)


def _state(record: Record) -> list[Stated]:
    return [
        Stated(
            id=record["id"],
            category=record["category_id"],
            amodal=record["segmentation"],
            visible=record["inmodal_seg"],
            amodal_bbox=record.get("bbox"),
            visible_bbox=record.get("inmodal_bbox"),
            area=record.get("area"),
            iscrowd=record.get("iscrowd"),
            attributes=rest(record, _USED),
        )
    ]


FORMAT = Format(
    name="kins2019",
    title="KINS, release of 2019",
    files=("instances_train.json", "instances_val.json"),
    masks="visible and amodal",
    order="none: derived from the masks",
    keys=("category_id", "segmentation", "inmodal_seg"),
    state=_state,
    marks=frozenset({"inmodal_seg", "inmodal_bbox"}),
    foreign=frozenset({"a_segm", "i_segm", "visible_mask", "regions"}),
)
