"""Scenes as LabelMe files."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from amodal.inference.exports.coco import class_name, object_numbers
from amodal.inference.results import ImageResult, Results
from amodal.inference.scene_object import SceneObject
from amodal.io.frames import unique_stems
from amodal.ops.polygons import rle_polygons
from amodal.ops.rle import encode_window

VERSION = "5.5.0"  # version of the LabelMe format; masks need 5.2 or later


def write_labelme(results: Results, folder: Path, form: str = "rle") -> None:
    """Write `<image>.json` per image, with one shape of type `mask` per visible and per amodal mask.

    With the form `polygon`, each mask is one shape of type `polygon` per part instead (`ops.polygons`).

    The two masks of an object share a `group_id`: the source id of the object, or its number in the image, from 0,
    where one of them has no source id. `description` is `visible` or `amodal`.
    """
    stems = unique_stems(result.name for result in results)
    for stem, result in zip(stems, results, strict=True):
        (folder / f"{stem}.json").write_text(json.dumps(_content(result, form), indent=1), encoding="utf-8")


def _content(result: ImageResult, form: str) -> dict[str, Any]:
    name, scene, _ = result
    shapes = [
        shape
        for number, obj in zip(object_numbers(scene, 0), scene, strict=True)
        for part in ("visible", "amodal")
        if getattr(obj, f"{part}_in_window").any()
        for shape in (_polygons if form == "polygon" else _masks)(obj, number, part)
    ]
    return {
        "version": VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": name,
        "imageData": None if scene.image is None else _png(scene.image),
        "imageHeight": scene.size[0],
        "imageWidth": scene.size[1],
    }


def _masks(obj: SceneObject, number: int, part: str) -> list[dict[str, Any]]:
    x0, y0, x1, y1 = obj.window
    corners = [[x0, y0], [x1 - 1, y1 - 1]]  # both belong to the mask
    mask = _png(getattr(obj, f"{part}_in_window").astype(np.uint8))
    return [_common(obj, number, part) | {"shape_type": "mask", "points": corners, "mask": mask}]


def _polygons(obj: SceneObject, number: int, part: str) -> list[dict[str, Any]]:
    polygons = rle_polygons(encode_window(getattr(obj, f"{part}_in_window"), obj.window, obj.size))
    pairs = ([list(point) for point in zip(p[::2], p[1::2], strict=True)] for p in polygons)
    return [_common(obj, number, part) | {"shape_type": "polygon", "points": points} for points in pairs]


def _common(obj: SceneObject, number: int, part: str) -> dict[str, Any]:
    return {"label": class_name(obj), "description": part, "group_id": number, "flags": {}}


def _png(array: np.ndarray[Any, Any]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
