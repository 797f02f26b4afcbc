"""CVAT for images 1.1, as CVAT exports it and as `amodal export scenes --to cvat` writes it.

The attribute `part` says which mask of an object a shape belongs to, and `group_id` which object. Without this
attribute, the labels `visible` and `amodal` of `amodal.integrations.cvat` say it, and the category is `object`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

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
from amodal.io.image_names import ImageFinder
from amodal.ops.rle import Rle
from amodal.ops.values import integer, number, numbers, optional_integer

_NO_SHAPES = frozenset({"tag"})
"""Elements of an image that are no objects."""

_PARTS = ("visible", "amodal")


def read_index(path: Path, finder: ImageFinder, format_: Format, report: FaultHandler) -> Index:
    """Index a file of CVAT for images.

    Raises:
        InputError: no such file, or one of another form.
    """
    if not path.is_file():
        raise InputError(f"annotations: expected CVAT's XML file, got the folder {str(path)!r}")
    try:
        return index_shapes(_images(_root(path)), path, finder, format_, report)
    except InputError as error:
        raise InputError(f"annotations {path}: {error}") from error


def _root(path: Path) -> ElementTree.Element:
    """The root element of a file without entities, which expand without end."""
    try:
        content = path.read_bytes().decode("utf-8-sig")
        if "<!DOCTYPE" in content or "<!ENTITY" in content:
            raise InputError("expected XML without a document type, got one")
        root = ElementTree.fromstring(content)
    except UnicodeDecodeError as error:
        raise InputError("expected XML in UTF-8, got another encoding") from error
    except (ElementTree.ParseError, RecursionError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"expected XML, got broken text ({error})") from error
    if root.tag != "annotations" or root.find("track") is not None:
        what = "tracks of a video" if root.tag == "annotations" else f"<{root.tag:.40}>"
        raise InputError(f"expected CVAT for images, got {what}")
    return root


def _images(root: ElementTree.Element) -> Iterator[ShapeImage]:
    for image in root.iter("image"):
        size = (integer(image.get("height"), "the height of each image"), integer(image.get("width"), "the width"))
        name = image.get("name")
        if not name:
            raise InputError("expected the name of each image, got none")
        yield ShapeImage(name, size, [_shape(element) for element in image if element.tag not in _NO_SHAPES])


def _shape(element: ElementTree.Element) -> Shape:
    part = next((a.text or "" for a in element.iter("attribute") if a.get("name") == "part"), None)
    group = optional_integer(element.get("group_id"), "group_id")
    label = element.get("label")
    if label is None:
        raise InputError(f"expected the label of each shape, got <{element.tag:.40}> without one")
    if part is None and label in _PARTS:
        label, part = "object", label
    return Shape(label, part or "", group, {"kind": element.tag} | dict(element.attrib))


def _parse(record: Record) -> list[RawAnnotation]:
    return parse_shapes(record, _rle)


def _rle(shape: dict[str, Any], size: Size) -> Rle:
    kind = shape["kind"]
    if kind == "polygon":
        pairs = [point.split(",") for point in shape.get("points", "").split(";")]
        if not all(len(pair) == 2 for pair in pairs):
            raise InputError(f"expected points as x,y;x,y, got {shape.get('points')!r:.60}")
        return polygon_rle(numbers([value for pair in pairs for value in pair], "points").tolist(), size)
    if kind == "box":
        x0, y0, x1, y1 = (number(shape.get(key), key) for key in ("xtl", "ytl", "xbr", "ybr"))
        return polygon_rle(box_polygon(x0, y0, x1, y1, number(shape.get("rotation", 0), "rotation")), size)
    if kind != "mask":
        raise InputError(f"expected a mask, a polygon or a box, got <{kind:.40}>")
    left, top, width, height = (integer(shape.get(key), key) for key in ("left", "top", "width", "height"))
    runs = [integer(run, "each run of a mask") for run in shape.get("rle", "").split(",")]
    if min(width, height) < 1 or width * height > size[0] * size[1] or min(runs) < 0 or sum(runs) != width * height:
        raise InputError(f"expected runs over a mask of {width} x {height} in the image {size}, got {sum(runs)} pixels")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return window_rle(flat.reshape(height, width), left, top, size)


FORMAT = Format(
    name="cvat",
    title="CVAT for images 1.1",
    files=("annotations.xml",),
    masks="visible; amodal where the attribute part is amodal",
    order="none: derived from the masks",
    keys=(),
    parse=_parse,
    names=lambda record: [record["category"]],
)
