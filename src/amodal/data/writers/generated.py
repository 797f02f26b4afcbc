"""Canonical annotation files of pictures that were generated."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from amodal.io.json_stream import annotation_file
from amodal.ops.boxes import mask_to_box, xyxy_to_xywh
from amodal.ops.masks import occlusion_rate
from amodal.ops.rle import encode_mask
from amodal.synthetic.types import SyntheticObject


def object_record(thing: SyntheticObject, index: int, category_id: int) -> dict[str, Any]:
    """One object in canonical form; ids are positions in the picture until it is written.

    Args:
        thing: object with exact masks.
        index: its position in the picture.
        category_id: key of its category.
    """
    amodal_box = xyxy_to_xywh(mask_to_box(thing.amodal_mask))
    visible_box = xyxy_to_xywh(mask_to_box(thing.visible_mask))
    return {
        "id": index,
        "category_id": category_id,
        "segmentation": encode_mask(thing.amodal_mask),
        "visible_mask": encode_mask(thing.visible_mask),
        "bbox": amodal_box.tolist(),
        "visible_bbox": visible_box.tolist(),
        "area": int(thing.amodal_mask.sum()),
        "occlude_rate": round(occlusion_rate(thing.visible_mask, thing.amodal_mask), 6),
        "occluders": thing.occluders,
        "iscrowd": 0,
        "attributes": thing.attributes,
    }


def write_canonical(
    path: Path,
    info: dict[str, Any],
    categories: list[str],
    pictures: Iterable[tuple[dict[str, Any], list[dict[str, Any]]]],
) -> None:
    """Write a canonical annotation file, streaming; it appears complete or not at all.

    Args:
        path: file to write.
        info: what made the data (no dates: the same data give the same bytes).
        categories: names; the id of a category is its position plus one.
        pictures: image record and object records each; ids within the file are given here.
    """
    named = [{"id": i + 1, "name": name} for i, name in enumerate(categories)]
    next_id = 1
    with annotation_file(path, {"info": info, "categories": named}) as add:
        for number, (image, objects) in enumerate(pictures, start=1):
            owner = {"id": number, **image}
            records = [
                record
                | {
                    "id": next_id + record["id"],
                    "image_id": owner["id"],
                    "occluders": [next_id + i for i in record["occluders"]],
                }
                for record in objects
            ]
            add(owner, records)
            next_id += len(objects)
