"""The canonical annotation file: COCO JSON with the visible and the amodal mask of every object.

It can store everything that a reader of another format finds, and it is the only form in which the library writes
masks of its own: synthetic scenes, predictions and datagen's work folders all use `canonical_record`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from amodal.data.records import (
    ALL_INFORMATION,
    Format,
    ObjectInImage,
    RawAnnotation,
    Record,
    Target,
    measured_rate,
    other_keys,
)
from amodal.io.json_stream import annotation_file
from amodal.ops.boxes import xyxy_to_xywh
from amodal.ops.rle import Rle, rle_area, rle_box_xyxy
from amodal.ops.values import flag

_USED = frozenset(
    {"id", "image_id", "category_id", "segmentation", "visible_mask", "bbox", "visible_bbox", "area", "occlude_rate"}
    | {"occluders", "iscrowd", "is_stuff", "annotator", "order", "order_group", "amodal_unknown", "attributes"}
)


def canonical_record(
    annotation_id: int,
    image_id: int,
    category_id: int,
    visible_rle: Rle,
    amodal_rle: Rle | None,
    *,
    occluders: Sequence[int] | None = None,
    iscrowd: bool = False,
    is_stuff: bool = False,
    annotator: str | None = None,
    order: int | None = None,
    order_group: int | None = None,
    score: float | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> Record:
    """Build the canonical annotation record of one object; boxes, area and occlusion rate follow from the masks.

    Args:
        annotation_id: id of the annotation.
        image_id: id of its image.
        category_id: key of its category.
        visible_rle: visible mask.
        amodal_rle: amodal mask, or None if it is unknown; `segmentation` then repeats the visible mask, and
            `amodal_unknown` says so.
        occluders: annotation ids of its occluders, None if they are unknown.
        iscrowd: it is a region of many objects.
        is_stuff: it is a region without a countable shape, such as sky.
        annotator: who drew it.
        order: the source's own order from front to back.
        order_group: group within which `order` can be compared.
        score: confidence of a prediction.
        attributes: what else is known about it.
    """
    whole = visible_rle if amodal_rle is None else amodal_rle
    optional = {
        "amodal_unknown": True if amodal_rle is None else None,
        "occlude_rate": measured_rate(visible_rle, amodal_rle),
        "occluders": None if occluders is None else list(occluders),
        "is_stuff": 1 if is_stuff else None,
        "annotator": annotator,
        "order": order,
        "order_group": order_group,
        "score": score,
        "attributes": None if attributes is None else dict(attributes),
    }
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": whole,
        "visible_mask": visible_rle,
        "bbox": xyxy_to_xywh(rle_box_xyxy(whole)),
        "visible_bbox": xyxy_to_xywh(rle_box_xyxy(visible_rle)),
        "area": rle_area(whole),
        "iscrowd": int(iscrowd),
        **{key: value for key, value in optional.items() if value is not None},
    }


def write_canonical(
    path: Path, info: dict[str, Any], categories: Sequence[str], images: Iterable[tuple[Record, list[Record]]]
) -> None:
    """Write a canonical annotation file image by image; it appears complete or not at all.

    Args:
        path: file to write.
        info: what made the data, without dates, so that the same data give the same bytes.
        categories: names; the id of a category is its position plus one.
        images: image record and annotation records of each image. The ids of the annotations and their occluders
            are positions in the image; they are renumbered here.
    """
    named = [{"id": i + 1, "name": name} for i, name in enumerate(categories)]
    next_id = 1
    with annotation_file(path, {"info": info, "categories": named}) as add:
        for image_id, (image, records) in enumerate(images, start=1):
            renumbered = [
                record
                | {
                    "id": next_id + record["id"],
                    "image_id": image_id,
                    "occluders": [next_id + i for i in record["occluders"]],
                }
                for record in records
            ]
            add({"id": image_id, **image}, renumbered)
            next_id += len(records)


def _parse(record: Record) -> list[RawAnnotation]:
    modal = flag(record.get("amodal_unknown"), "amodal_unknown")
    own = {} if record.get("attributes") is None else record["attributes"]
    return [
        RawAnnotation(
            id=record["id"],
            category=record["category_id"],
            amodal=None if modal else record["segmentation"],
            visible=record["visible_mask"],
            amodal_bbox=None if modal else record.get("bbox"),
            visible_bbox=record.get("visible_bbox"),
            area=record.get("area"),
            occlude_rate=None if modal else record.get("occlude_rate"),
            occluders=record.get("occluders"),
            iscrowd=record.get("iscrowd"),
            is_stuff=record.get("is_stuff"),
            annotator=record.get("annotator"),
            order=record.get("order"),
            order_group=record.get("order_group"),
            attributes=other_keys(record, _USED) | own if isinstance(own, dict) else own,
        )
    ]


def _record(placed: ObjectInImage) -> Record:
    obj = placed.obj
    return canonical_record(
        obj.id,
        placed.image.id,
        obj.category_id,
        obj.visible_rle,
        obj.amodal_rle,
        occluders=obj.occluders if obj.occluders_known else None,
        iscrowd=obj.iscrowd,
        is_stuff=obj.is_stuff,
        annotator=obj.annotator,
        order=obj.order,
        order_group=obj.order_group,
        attributes=obj.attributes or None,
    )


FORMAT = Format(
    name="canonical",
    title="amodal's own file, a superset of COCOA-cls",
    files=("annotations.json",),
    masks="visible and amodal",
    order="occluders",
    keys=("category_id", "segmentation", "visible_mask"),
    parse=_parse,
    marks=frozenset({"visible_bbox", "occluders", "attributes"}),
    foreign=frozenset({"inmodal_seg", "a_segm", "i_segm", "regions"}),
)
TARGET = Target("canonical", _record, ALL_INFORMATION)
