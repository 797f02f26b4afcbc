"""Results in the forms of other tools: one file a tool, one registry for the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from amodal.errors import InputError
from amodal.inference.exports import coco, cvat, fiftyone, label_studio, labelme, layers, supervision, table
from amodal.inference.scene import Scene
from amodal.io.files import appearing_folder, empty_folder

Writer = Callable[[Scene, str, Path], None]


def _json_file(name: str, content: Callable[[Scene, str], Any]) -> Writer:
    def write(scene: Scene, image_name: str, folder: Path) -> None:
        (folder / name).write_text(json.dumps(content(scene, image_name), indent=1), encoding="utf-8")

    return write


# name: what it is, how it is written (scene, name of the image file, empty folder)
FORMATS: dict[str, tuple[str, Writer]] = {
    "coco": ("COCO JSON in the canonical form", _json_file("annotations.json", coco.to_coco_file)),
    "coco-visible": ("COCO JSON, visible masks alone", _json_file("annotations.json", coco.to_coco_visible)),
    "cvat": ("CVAT for images 1.1", cvat.write),
    "label-studio": ("Label Studio tasks with predictions", _json_file("tasks.json", label_studio.to_tasks)),
    "labelme": ("LabelMe JSON", labelme.write),
    "layers": ("one RGBA PNG a layer, front to back", layers.write_layers),
    "crops": ("one RGBA PNG an object, cut to its amodal box", layers.write_crops),
    "csv": ("a table of objects", table.write_csv),
}


def export_scene(scene: Scene, to: str, out: str | Path, image_name: str = "image.png") -> Path:
    """Write a scene in another tool's form.

    Args:
        scene: what to write; `layers` and `crops` need its image.
        to: one of `FORMATS`.
        out: folder, created; it must not hold anything yet.
        image_name: file name of the photograph, as the other tool will know it.

    Returns:
        The folder.

    Raises:
        InputError: unknown form, a folder with content, or a scene without the image it needs.
    """
    if to not in FORMATS:
        raise InputError(f"to: expected one of {', '.join(FORMATS)}, got {to!r}")
    with appearing_folder(empty_folder(Path(out), "out")) as writing:
        FORMATS[to][1](scene, image_name, writing)
    return Path(out)


__all__ = ["FORMATS", "coco", "export_scene", "fiftyone", "layers", "supervision", "table"]
