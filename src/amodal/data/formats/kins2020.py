"""KINS as released in 2020: masks under `a_segm` and `i_segm`, order within clusters."""

from __future__ import annotations

from amodal.data.formats.source import Format, Record, Stated, rest

_USED = frozenset(
    {"id", "image_id", "category_id", "a_segm", "i_segm", "a_bbox", "i_bbox", "a_area", "iscrowd", "occluders"}
)


def _state(record: Record) -> list[Stated]:
    return [
        Stated(
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
            attributes=rest(record, _USED),
        )
    ]


FORMAT = Format(
    name="kins2020",
    title="KINS, release of 2020",
    files=("update_train_2020.json", "update_test_2020.json"),
    masks="visible and amodal",
    order="oco_id (cluster), ico_id (place in it)",
    keys=("category_id", "a_segm", "i_segm"),
    state=_state,
    marks=frozenset({"a_segm", "i_segm", "a_bbox", "i_bbox"}),
    foreign=frozenset({"inmodal_seg", "visible_mask", "regions"}),
)
