"""Writing annotation files that appear complete or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from amodal.data.synthetic.types import SyntheticObject
from amodal.ops.boxes import mask_to_box, xyxy_to_xywh
from amodal.ops.masks import occlusion_rate
from amodal.ops.rle import encode_mask


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
    """Write a canonical annotation file, streaming, under a temporary name first.

    Args:
        path: file to write.
        info: what made the data (no dates: the same data give the same bytes).
        categories: names; the id of a category is its position plus one.
        pictures: image record and object records each; ids within the file are given here.
    """
    temporary = path.with_suffix(".writing")
    images: list[dict[str, Any]] = []
    next_id = 1
    with temporary.open("w", encoding="utf-8") as file:
        named = [{"id": i + 1, "name": name} for i, name in enumerate(categories)]
        file.write(f'{{"info": {json.dumps(info)},\n"categories": {json.dumps(named)},\n"annotations": [')
        separator = "\n"
        for image, objects in pictures:
            image = {"id": len(images) + 1, **image}
            images.append(image)
            for record in objects:
                full = record | {
                    "id": next_id + record["id"],
                    "image_id": image["id"],
                    "occluders": [next_id + i for i in record["occluders"]],
                }
                file.write(separator + json.dumps(full))
                separator = ",\n"
            next_id += len(objects)
        file.write(f'\n],\n"images": {json.dumps(images)}}}\n')
    os.replace(temporary, path)
