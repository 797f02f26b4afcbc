"""LabelMe files, one per image, as people draw them and as `amodal export scenes --to labelme` writes them.

`description` says which mask of an object a shape belongs to, and `group_id` which object.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from amodal.data.formats.shapes import (
    Shape,
    ShapeImage,
    Size,
    box_polygon,
    index_shapes,
    parse_shapes,
    polygon_rle,
    window_rle,
)
from amodal.data.index import FaultHandler, Index
from amodal.data.records import Format, RawAnnotation, Record
from amodal.errors import InputError
from amodal.io.files import visible_entries
from amodal.io.image_names import ImageFinder
from amodal.io.images import opened_image
from amodal.io.json_stream import read_json
from amodal.ops.rle import Rle
from amodal.ops.values import numbers, optional_integer, text


def read_index(path: Path, finder: ImageFinder, format_: Format, report: FaultHandler) -> Index:
    """Index a LabelMe file or a folder of them.

    Raises:
        InputError: no such files, or one of another form.
    """
    files = [path] if path.is_file() else [f for f in visible_entries(path) if f.suffix.lower() == ".json"]
    if not files:
        raise InputError(f"annotations: expected a folder of LabelMe's JSON files, got {str(path)!r}")
    return index_shapes(_images(files), path, finder, format_, report)


def _images(files: list[Path]) -> Iterator[ShapeImage]:
    for file in files:
        content = read_json(file, "annotations")
        try:
            if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
                raise InputError("expected LabelMe's shapes, got other content")
            H, W = (optional_integer(content.get(key), key) for key in ("imageHeight", "imageWidth"))
            name = text(content.get("imagePath"), "imagePath")
            shapes = [_shape(shape) for shape in content["shapes"]]
            yield ShapeImage(name, None if H is None or W is None else (H, W), shapes)
        except InputError as error:
            raise InputError(f"annotations {file}: {error}") from error


def _shape(shape: Any) -> Shape:
    if not isinstance(shape, dict):
        raise InputError(f"expected shapes as objects, got {shape!r:.60}")
    group = optional_integer(shape.get("group_id"), "group_id")
    content = {key: shape.get(key) for key in ("shape_type", "points", "mask")}
    return Shape(text(shape.get("label"), "the label of a shape"), str(shape.get("description")), group, content)


def _parse(record: Record) -> list[RawAnnotation]:
    return parse_shapes(record, _rle)


def _rle(shape: dict[str, Any], size: Size) -> Rle:
    kind, stated = shape["shape_type"] or "polygon", shape["points"]
    if not isinstance(stated, list) or not all(isinstance(point, list) and len(point) == 2 for point in stated):
        raise InputError(f"expected the points of a shape as x, y, got {stated!r:.60}")
    points = numbers([value for point in stated for value in point], "points")
    if kind == "polygon":
        return polygon_rle(points.tolist(), size)
    if kind not in ("rectangle", "mask") or len(points) != 4:
        raise InputError(f"expected a polygon, a rectangle or a mask, got {kind!r:.40} of {len(points) // 2} points")
    x0, y0, x1, y1 = points.tolist()
    if kind == "rectangle":
        return polygon_rle(box_polygon(x0, y0, x1, y1), size)
    try:
        content = base64.b64decode(text(shape["mask"], "the mask of a shape"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError("expected the mask of a shape as base64, got other content") from error
    with opened_image(content, size[0] * size[1]) as image:
        mask = np.asarray(image.convert("L")) != 0
    return window_rle(mask, round(x0), round(y0), size)


FORMAT = Format(
    name="labelme",
    title="LabelMe files, one per image",
    files=("IMAGE.json",),
    masks="visible; amodal where a shape is described as amodal",
    order="none: derived from the masks",
    keys=(),
    parse=_parse,
    names=lambda record: [record["category"]],
)
