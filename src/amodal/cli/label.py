"""`amodal label`: predictions for correction in Label Studio, and corrected tasks as a dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amodal.cli.options import DetectorName, DetectorTexts, Device, JsonSummary, ModelName
from amodal.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from amodal.inference.scene import Scene
    from amodal.inference.segmenter import AmodalSegmenter

label_app = typer.Typer(no_args_is_help=True)


@label_app.command("predict")
def predict(
    folder: Annotated[Path, typer.Argument(help="Folder of images.")],
    out: Annotated[Path, typer.Option(help="JSON file of tasks to import into Label Studio.")],
    url: Annotated[
        str, typer.Option(help="Prefix of the image names in the tasks: where Label Studio finds the images.")
    ] = "/data/local-files/?d=",
    boxes: Annotated[Path | None, typer.Option(help="COCO file with boxes; without it, find the objects.")] = None,
    detector: DetectorName = None,
    text: DetectorTexts = None,
    model: ModelName = "plug-tiny",
    device: Device = "auto",
    as_json: JsonSummary = False,
) -> None:
    """Predict visible and amodal masks for a folder of images, as Label Studio tasks to correct.

    Also writes the labelling interface as OUT.xml.

    Example: amodal label predict photos --out tasks.json
    """
    from amodal.inference.exports.label_studio import LABEL_CONFIG, to_tasks
    from amodal.inference.find import scene_finder
    from amodal.inference.segmenter import AmodalSegmenter
    from amodal.io.files import write_atomic
    from amodal.io.frames import open_frames
    from amodal.io.progress import progress_bar

    if not folder.is_dir():
        raise InputError(f"folder: expected a folder of images, got {str(folder)!r}")
    if boxes is not None and detector is not None:
        raise InputError("boxes: expected either --boxes or --detector, got both")
    frames = open_frames(folder)
    given = {} if boxes is None else _boxes_by_image(boxes)
    segmenter = AmodalSegmenter.from_pretrained(model, device=device)
    find = scene_finder(segmenter, detector, text, None) if boxes is None else None
    tasks: list[dict[str, Any]] = []
    num_objects = 0
    images = progress_bar(frames, "images", not as_json, frames.total)
    for name, (_, pixels) in zip(frames.names or (), images, strict=True):
        scene = find(pixels) if find is not None else _segment_boxes(segmenter, pixels, given.get(name, []))
        num_objects += len(scene.objects)
        tasks += to_tasks(scene, f"{url}{name}")
    write_atomic(out, json.dumps(tasks))
    write_atomic(out.with_suffix(".xml"), LABEL_CONFIG)
    summary = {"images": len(tasks), "objects": num_objects, "tasks": str(out), "config": str(out.with_suffix(".xml"))}
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        typer.echo(
            f"{num_objects} objects in {len(tasks)} images. Import {out} with the interface {out.with_suffix('.xml')}"
        )


@label_app.command("collect")
def collect_corrections(
    export: Annotated[Path, typer.Argument(help="JSON export of the corrected tasks from Label Studio.")],
    out: Annotated[Path, typer.Option(help="Canonical annotation file to write.")],
    as_json: JsonSummary = False,
) -> None:
    """Convert corrected tasks into an annotation file for fine-tuning and evaluation.

    Tasks without an annotation are skipped and counted.

    Example: amodal label collect export.json --out corrected/annotations.json
    """
    from amodal.inference.exports.coco import scenes_to_coco_file
    from amodal.inference.exports.label_studio import from_task
    from amodal.io.files import write_atomic

    try:
        tasks = json.loads(export.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"export: expected a JSON file of Label Studio, got {str(export)!r} ({error})") from error
    if not isinstance(tasks, list) or not all(isinstance(t, dict) and isinstance(t.get("data"), dict) for t in tasks):
        raise InputError(f"export: expected a list of tasks, got other content in {str(export)!r}")
    done = [t for t in tasks if any(not a.get("was_cancelled") for a in t.get("annotations") or [])]
    if not done:
        raise InputError(f"export: expected annotated tasks, got none among {len(tasks)}")
    content = scenes_to_coco_file((_image_name(task), from_task(task)) for task in done)
    write_atomic(out, json.dumps(content))
    num_skipped, num_objects = len(tasks) - len(done), len(content["annotations"])
    if as_json:
        typer.echo(json.dumps({"images": len(done), "objects": num_objects, "left_out": num_skipped}))
    else:
        note = f" ({num_skipped} tasks without an annotation skipped)" if num_skipped else ""
        typer.echo(f"Written: {out}: {num_objects} objects in {len(done)} images{note}")


def _segment_boxes(segmenter: AmodalSegmenter, pixels: npt.NDArray[np.uint8], boxes: list[list[float]]) -> Scene:
    from amodal.inference.scene import Scene

    return segmenter(pixels, boxes) if boxes else Scene([], (pixels.shape[0], pixels.shape[1]), pixels)


def _boxes_by_image(path: Path) -> dict[str, list[list[float]]]:
    """Boxes (xyxy) by file name of the image; the visible boxes where the file has them."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = {image["id"]: Path(image["file_name"]).name for image in content["images"]}
        found: dict[str, list[list[float]]] = {}
        for annotation in content["annotations"]:
            x, y, w, h = annotation.get("visible_bbox") or annotation["bbox"]
            found.setdefault(names[annotation["image_id"]], []).append([x, y, x + w, y + h])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"boxes: expected a COCO file, got {str(path)!r} ({error!r:.80})") from error
    return found


def _image_name(task: dict[str, Any]) -> str:
    """The file name at the end of the image URL of a task."""
    url = str(task["data"].get("image", ""))
    return url.split("?d=")[-1].rsplit("/", 1)[-1] or f"task_{task.get('id')}"
