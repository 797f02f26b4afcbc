"""Export of scenes: one module per tool, and the registry of formats for the command line and the web page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, get_args

from amodal.errors import InputError
from amodal.inference.exports import coco, cvat, label_studio, labelme, layers, libraries, yolo
from amodal.inference.results import ImageResult, Results
from amodal.inference.scene import Scene
from amodal.io.files import atomic_folder, require_empty_folder
from amodal.ops.polygons import MaskForm


class ExportFormat(NamedTuple):
    """A format that scenes can be written in.

    Attributes:
        description: what the format is, in a few words.
        write: writes the scenes of all images; called with them, an empty folder and the form of the masks.
        forms: forms in which it can write masks, the default one first.
        needs_images: whether the scenes need the pixels of their images.
    """

    description: str
    write: Callable[[Results, Path, str], None]
    forms: tuple[str, ...] = ()
    needs_images: bool = False


def _json_file(name: str, content: Callable[[Results, str], Any]) -> Callable[[Results, Path, str], None]:
    def write(results: Results, folder: Path, form: str) -> None:
        (folder / name).write_text(json.dumps(content(results, form), indent=1), encoding="utf-8")

    return write


def _in_own_form(write: Callable[[Results, Path], None]) -> Callable[[Results, Path, str], None]:
    """A writer whose masks have only one form."""

    def written(results: Results, folder: Path, form: str) -> None:
        write(results, folder)

    return written


_COCO_FORMS: tuple[str, ...] = get_args(MaskForm)

FORMATS = {
    "coco": ExportFormat(
        "COCO JSON in the canonical form", _json_file("annotations.json", coco.to_coco_file), _COCO_FORMS
    ),
    "coco-visible": ExportFormat(
        "COCO JSON with the visible masks only", _json_file("annotations.json", coco.to_coco_visible), _COCO_FORMS
    ),
    "cvat": ExportFormat("CVAT for images 1.1", cvat.write_cvat, ("rle", "polygon")),
    "label-studio": ExportFormat(
        "Label Studio tasks with predictions",
        _json_file("tasks.json", lambda results, _: label_studio.to_tasks(results)),
    ),
    "labelme": ExportFormat("LabelMe JSON", labelme.write_labelme, ("rle", "polygon")),
    "yolo": ExportFormat("YOLO segmentation labels of the amodal masks", _in_own_form(yolo.write_yolo)),
    "layers": ExportFormat(
        "one RGBA PNG per layer, front to back", _in_own_form(layers.write_layers), needs_images=True
    ),
    "crops": ExportFormat(
        "one RGBA PNG per object, cropped to its amodal box", _in_own_form(layers.write_crops), needs_images=True
    ),
    "csv": ExportFormat("a table with one row per object", _in_own_form(libraries.write_csv)),
}


def export_results(
    results: Results | Iterable[Scene | ImageResult],
    to: str,
    out: str | Path,
    images: str | Path | None = None,
    masks: str | None = None,
) -> Path:
    """Write the scenes of several images as one dataset in the format of another tool.

    Args:
        results: scenes to write: a list of scenes, or what `read_results` or `Results.of` returns.
        to: one of `FORMATS`.
        out: folder, created if needed; it must be empty.
        images: image file of a single scene, or folder of the images. `layers` and `crops` need them, and use the files
            that the scenes name if this is None; `labelme` embeds them if they are given.
        masks: form of the masks, `rle`, `polygon` or `counts` (uncompressed RLE); COCO has all three, and `cvat` and
            `labelme` have masks as they are (`rle`) or polygons. The other formats have only one form.

    Returns:
        The folder.

    Raises:
        InputError: unknown format or one without this form of masks, a folder that is not empty, or a scene without
            the image it needs.
    """
    if to not in FORMATS:
        raise InputError(f"to: expected one of {', '.join(FORMATS)}, got {to!r}")
    results = results if isinstance(results, Results) else Results.of(results)
    forms = FORMATS[to].forms
    if masks is not None and masks not in forms:
        raise InputError(f"masks: expected {' or '.join(forms) or 'no choice'} for {to}, got {masks!r:.40}")
    if images is not None or FORMATS[to].needs_images:
        results = results.with_images(images)
    with atomic_folder(require_empty_folder(Path(out), "out")) as writing:
        FORMATS[to].write(results, writing, masks or "rle")
    return Path(out)


def export_scene(scene: Scene, to: str, out: str | Path, image_name: str = "image.png") -> Path:
    """Write one scene in the format of another tool, see `export_results`.

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
    return export_results(Results.of([ImageResult(image_name, scene)]), to, out)
