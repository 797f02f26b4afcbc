"""What LabelMe and CVAT files have in common: shapes with a label, which groups join to objects with two masks.

Shapes of one group are one object. A shape belongs to its amodal mask if the file says `amodal`, otherwise to its
visible mask; several shapes of one mask are united. Objects without an amodal shape have an unknown amodal mask, and
objects with an amodal shape alone are completely occluded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from amodal.data.index import DatasetFault, FaultHandler, ImageEntry, Index, image_path
from amodal.data.records import Format, RawAnnotation, Record
from amodal.errors import InputError
from amodal.io.image_names import ImageFinder
from amodal.io.images import MAX_PIXELS, image_size
from amodal.ops.arrays import Mask
from amodal.ops.boxes import turned
from amodal.ops.rle import Rle, encode_empty, encode_window, rle_union, segmentation_to_rle

Size = tuple[int, int]


class Shape(NamedTuple):
    """A shape as its file states it.

    Attributes:
        label: name of its category.
        part: `amodal`, or anything else for the visible part.
        group: what the shapes of one object have in common; None if it is an object of its own.
        content: what its format needs to read its mask.
    """

    label: str
    part: str
    group: Any
    content: Any


class ShapeImage(NamedTuple):
    """An image with its shapes; `size` is (H, W), or None where the file does not state it."""

    file_name: str
    size: Size | None
    shapes: list[Shape]


def index_shapes(
    images: Iterable[ShapeImage], path: Path, finder: ImageFinder, format_: Format, report: FaultHandler
) -> Index:
    """Index images with shapes; images and objects are numbered from 1 in their order."""
    entries, records, starts, used = list[ImageEntry](), list[Record](), [0], dict[Path, str]()
    for image in images:
        number = len(entries) + 1
        file = image_path(finder, number, image.file_name, used, report)
        if file is None:
            continue
        size = image_size(file) if image.size is None else image.size
        if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
            message = f"expected image {number} to have 1 to {MAX_PIXELS} pixels, got {size}"
            report(DatasetFault("bad_image_record", message, number))
            continue
        entries.append(ImageEntry(number, finder.name_of(file, image.file_name), file, size, {}))
        for group, shapes in _grouped(image.shapes):
            known = {} if group is None else {"group_id": group}
            record = {"id": len(records) + 1, "image_id": number, "category": shapes[0].label, "size": size}
            records.append(record | {"attributes": known, "shapes": [(s.part == "amodal", s.content) for s in shapes]})
        starts.append(len(records))
    names = sorted({record["category"] for record in records})
    categories = {i + 1: name for i, name in enumerate(names)}
    counts = [after - before for before, after in pairwise(starts)]
    return Index(format_, path, finder.folder, entries, categories, {}, records, starts, counts)


def parse_shapes(record: Record, rle_of: Callable[[Any, Size], Rle]) -> list[RawAnnotation]:
    """The object of a record of `index_shapes`; `rle_of` reads the mask of a shape.

    Raises:
        InputError: a shape cannot be read.
    """
    size = record["size"]
    masks: dict[bool, Rle] = {}
    for is_amodal, content in record["shapes"]:
        rle = rle_of(content, size)
        masks[is_amodal] = rle_union(masks[is_amodal], rle) if is_amodal in masks else rle
    return [
        RawAnnotation(
            id=record["id"],
            category=record["category"],
            visible=masks.get(False, encode_empty(size)),
            amodal=masks.get(True),
            attributes=record["attributes"],
        )
    ]


def box_polygon(x0: float, y0: float, x1: float, y1: float, degrees: float = 0.0) -> list[float]:
    """The polygon of a box, which is turned clockwise about its centre."""
    corners, centre = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)], ((x0 + x1) / 2, (y0 + y1) / 2)
    if degrees:
        corners = turned(corners, centre, degrees)
    return [value for corner in corners for value in corner]


def polygon_rle(points: list[float], size: Size) -> Rle:
    """The mask of one polygon [x, y, x, y, ...]; one of two points or fewer has no pixel."""
    return encode_empty(size) if len(points) < 6 else segmentation_to_rle([points], *size)


def window_rle(mask: Mask, left: int, top: int, size: Size) -> Rle:
    """The mask (h, w) at a place of the image.

    Raises:
        InputError: it leaves the image.
    """
    bottom, right = top + mask.shape[0], left + mask.shape[1]
    if min(left, top) < 0 or bottom > size[0] or right > size[1] or not mask.size:
        raise InputError(f"expected a mask inside the image {size}, got one at {(left, top, right, bottom)}")
    return encode_window(np.asarray(mask, bool), (left, top, right, bottom), size)


def _grouped(shapes: Iterable[Shape]) -> list[tuple[Any, list[Shape]]]:
    """The shapes of each object, with its group."""
    groups: dict[Any, list[Shape]] = {}
    for place, shape in enumerate(shapes):
        groups.setdefault(("alone", place) if shape.group is None else ("group", shape.group), []).append(shape)
    return [(None if kind == "alone" else group, found) for (kind, group), found in groups.items()]
