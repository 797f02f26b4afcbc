"""Export of scenes: one module per tool, and the registry of formats for the command line and the web page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from amodal.errors import InputError
from amodal.inference.exports import coco, cvat, label_studio, labelme, layers, libraries
from amodal.inference.scene import Scene
from amodal.io.files import atomic_folder, require_empty_folder


class ExportFormat(NamedTuple):
    """A format that a scene can be written in.

    Attributes:
        description: what the format is, in a few words.
        write: writes a scene; called with the scene, the file name of the image and an empty folder.
    """

    description: str
    write: Callable[[Scene, str, Path], None]


def _json_file(name: str, content: Callable[[Scene, str], Any]) -> Callable[[Scene, str, Path], None]:
    def write(scene: Scene, image_name: str, folder: Path) -> None:
        (folder / name).write_text(json.dumps(content(scene, image_name), indent=1), encoding="utf-8")

    return write


FORMATS = {
    "coco": ExportFormat("COCO JSON in the canonical form", _json_file("annotations.json", coco.to_coco_file)),
    "coco-visible": ExportFormat(
        "COCO JSON with the visible masks only", _json_file("annotations.json", coco.to_coco_visible)
    ),
    "cvat": ExportFormat("CVAT for images 1.1", cvat.write_cvat),
    "label-studio": ExportFormat(
        "Label Studio tasks with predictions", _json_file("tasks.json", label_studio.to_tasks)
    ),
    "labelme": ExportFormat("LabelMe JSON", labelme.write_labelme),
    "layers": ExportFormat("one RGBA PNG per layer, front to back", layers.write_layers),
    "crops": ExportFormat("one RGBA PNG per object, cropped to its amodal box", layers.write_crops),
    "csv": ExportFormat("a table with one row per object", libraries.write_csv),
}


def export_scene(scene: Scene, to: str, out: str | Path, image_name: str = "image.png") -> Path:
    """Write a scene in the format of another tool.

    Args:
        scene: scene to write; `layers` and `crops` need its image.
        to: one of `FORMATS`.
        out: folder, created if needed; it must be empty.
        image_name: file name of the image, as the other tool will know it.

    Returns:
        The folder.

    Raises:
        InputError: unknown format, a folder that is not empty, or a scene without the image it needs.
    """
    if to not in FORMATS:
        raise InputError(f"to: expected one of {', '.join(FORMATS)}, got {to!r}")
    with atomic_folder(require_empty_folder(Path(out), "out")) as writing:
        FORMATS[to].write(scene, image_name, writing)
    return Path(out)
