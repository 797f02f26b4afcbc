"""Scenes as XML files in the format "CVAT for images 1.1"."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from amodal.inference.exports.coco import class_name, object_numbers
from amodal.inference.results import Results
from amodal.inference.scene_object import SceneObject
from amodal.ops.boxes import mask_to_box
from amodal.ops.occlusion import is_occluded
from amodal.ops.polygons import rle_polygons
from amodal.ops.rle import encode_window


def write_cvat(results: Results, folder: Path, form: str = "rle") -> None:
    """Write `annotations.xml` with one visible and one amodal mask per object, grouped by object.

    With the form `polygon`, each mask is one polygon per part instead (`ops.polygons`).

    The group is the source id of the object, or its number in the image, from 1, where one of them has no source id.
    The attribute `part` is `visible` or `amodal`. The occluded area lies behind other objects, so
    `z_order` puts all amodal masks below all visible masks.
    """
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    for number, (name, scene, _) in enumerate(results):
        H, W = scene.size
        image = ElementTree.SubElement(root, "image", id=str(number), name=name, width=str(W), height=str(H))
        for group, obj in zip(object_numbers(scene, 1), scene, strict=True):
            for z_order, part in enumerate(("amodal", "visible")):
                add = _add_polygons if form == "polygon" else _add_mask
                add(image, obj, group, part, z_order)
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(folder / "annotations.xml", encoding="utf-8", xml_declaration=True)


def _add_mask(image: ElementTree.Element, obj: SceneObject, group: int, part: str, z_order: int) -> None:
    mask: npt.NDArray[np.bool_] = getattr(obj, f"{part}_in_window")
    if not mask.any():
        return
    left, top, right, bottom = (int(v) for v in mask_to_box(mask))
    element = ElementTree.SubElement(
        image,
        "mask",
        _common(obj, group, z_order),
        rle=", ".join(str(run) for run in row_runs(mask[top:bottom, left:right])),
        left=str(obj.window[0] + left),
        top=str(obj.window[1] + top),
        width=str(right - left),
        height=str(bottom - top),
    )
    ElementTree.SubElement(element, "attribute", name="part").text = part


def _add_polygons(image: ElementTree.Element, obj: SceneObject, group: int, part: str, z_order: int) -> None:
    mask: npt.NDArray[np.bool_] = getattr(obj, f"{part}_in_window")
    for polygon in rle_polygons(encode_window(mask, obj.window, obj.size)):
        points = ";".join(f"{x:g},{y:g}" for x, y in zip(polygon[::2], polygon[1::2], strict=True))
        element = ElementTree.SubElement(image, "polygon", _common(obj, group, z_order), points=points)
        ElementTree.SubElement(element, "attribute", name="part").text = part


def _common(obj: SceneObject, group: int, z_order: int) -> dict[str, str]:
    """Attributes that masks and polygons share."""
    return {
        "label": class_name(obj),
        "source": "auto",
        "occluded": str(int(is_occluded(obj.occlusion_rate))),
        "z_order": str(z_order),
        "group_id": str(group),
    }


def row_runs(mask: npt.NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs along the rows of an (h, w) mask; the first run is background, possibly of length 0."""
    flat = mask.ravel().astype(np.int8)
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(changes, prepend=0, append=flat.size).tolist()
    return [0, *runs] if flat[0] else runs
