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


def write_cvat(results: Results, folder: Path) -> None:
    """Write `annotations.xml` with one visible and one amodal mask per object, grouped by object.

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
                _add_mask(image, obj, group, part, z_order)
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
        label=class_name(obj),
        source="auto",
        occluded=str(int(obj.occlusion_rate > 0)),
        rle=", ".join(str(run) for run in row_runs(mask[top:bottom, left:right])),
        left=str(obj.window[0] + left),
        top=str(obj.window[1] + top),
        width=str(right - left),
        height=str(bottom - top),
        z_order=str(z_order),
        group_id=str(group),
    )
    ElementTree.SubElement(element, "attribute", name="part").text = part


def row_runs(mask: npt.NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs along the rows of an (h, w) mask; the first run is background, possibly of length 0."""
    flat = mask.ravel().astype(np.int8)
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(changes, prepend=0, append=flat.size).tolist()
    return [0, *runs] if flat[0] else runs
