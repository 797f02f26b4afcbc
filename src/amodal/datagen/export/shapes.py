"""ReasonSeg's form: a picture and a JSON file of polygons for each question."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from amodal.data.samples import ObjectSample
from amodal.datagen.intake import link_file
from amodal.datagen.rules import object_ids
from amodal.datagen.store.manifest import Manifest
from amodal.datagen.store.records import Pair, WorkImage

Mask = npt.NDArray[np.bool_]
Polygon = list[list[int]]


def write_shapes(manifest: Manifest, image: WorkImage, pairs: Sequence[Pair], out: Path) -> None:
    """Write the pairs of one image below `amodal/` and `visible/`, under its side of the split.

    Args:
        manifest: the work folder.
        image: the picture.
        pairs: its questions.
        out: folder of the export.
    """
    objects = {thing.id: thing for thing in manifest.sample(image).objects}
    source = manifest.image_path(image)
    for kind in ("amodal", "visible"):
        folder = out / kind / image.split
        folder.mkdir(parents=True, exist_ok=True)
        shapes = {number: mask_to_polygons(_mask(thing, kind)) for number, thing in objects.items()}
        for pair in pairs:
            name = f"{source.stem}_{pair.id}"
            link_file(source, folder / f"{name}{source.suffix}")
            targets = [polygon for number in object_ids(pair.answer) for polygon in shapes[number]]
            record = {
                "text": [pair.question],
                "is_sentence": True,
                "shapes": [{"label": "target", "points": polygon} for polygon in targets],
            }
            (folder / f"{name}.json").write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")


def mask_to_polygons(mask: Mask) -> list[Polygon]:
    """Polygons whose filled pixels, border included, are the mask exactly.

    The form knows no holes: a region with one is cut in two along a column through the hole until
    no part has any.

    Args:
        mask: (H, W) bool.

    Returns:
        Lists of [x, y], largest region first.
    """
    return sorted(_pieces(mask.astype(np.uint8), 0), key=_area, reverse=True)


def _pieces(mask: npt.NDArray[np.uint8], x: int) -> Iterator[Polygon]:
    """Polygons of a part of the picture whose first column is `x`."""
    count, labels = cv2.connectedComponents(mask, connectivity=8)
    for label in range(1, count):
        region = (labels == label).astype(np.uint8)
        contours, hierarchy = cv2.findContours(region, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        holes = [contour for contour, links in zip(contours, hierarchy[0], strict=True) if links[3] >= 0]
        if not holes:
            yield [[int(px) + x, int(py)] for px, py in contours[0][:, 0]]
            continue
        left, _, width, _ = cv2.boundingRect(holes[0])
        cut = left + max(width // 2, 1)
        yield from _pieces(np.ascontiguousarray(region[:, :cut]), x)
        yield from _pieces(np.ascontiguousarray(region[:, cut:]), x + cut)


def _area(polygon: Polygon) -> float:
    return cv2.contourArea(np.array(polygon, np.int32))


def _mask(thing: ObjectSample, kind: str) -> Mask:
    amodal = thing.amodal_mask()
    return amodal if kind == "amodal" and amodal is not None else thing.visible_mask()
