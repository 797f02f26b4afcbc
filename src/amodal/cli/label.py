"""`amodal label`: predictions to correct in Label Studio, and the corrected ones as a dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amodal.cli.segment import finder_for
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
    out: Annotated[Path, typer.Option(help="Tasks to import into Label Studio (JSON).")],
    url: Annotated[
        str, typer.Option(help="What stands before an image's name in a task: where Label Studio finds the images.")
    ] = "/data/local-files/?d=",
    boxes: Annotated[
        Path | None, typer.Option(help="COCO file whose boxes are taken; otherwise objects are looked for.")
    ] = None,
    detector: Annotated[str | None, typer.Option(help="Detector of transformers: hub id or folder.")] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="What an open-vocabulary detector looks for; repeat for more.")
    ] = None,
    model: Annotated[str, typer.Option(help="Bundled name, folder or hub id.")] = "plug-tiny",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Predict visible and amodal masks for a folder, as tasks to correct.

    The labelling interface is written beside the tasks, as OUT.xml.

    Example: amodal label predict photos --out tasks.json
    """
    from amodal.inference.exports.label_studio import LABEL_CONFIG, to_tasks
    from amodal.inference.segmenter import AmodalSegmenter
    from amodal.io.files import write_whole
    from amodal.io.frames import open_frames
    from amodal.io.progress import bar

    if not folder.is_dir():
        raise InputError(f"folder: expected a folder of images, got {str(folder)!r}")
    if boxes is not None and detector is not None:
        raise InputError("boxes: expected either --boxes or --detector, got both")
    frames = open_frames(folder)
    known = {} if boxes is None else _boxes_by_image(boxes)
    segmenter = AmodalSegmenter.from_pretrained(model, device=device)
    find = finder_for(segmenter, detector, text, None) if boxes is None else None
    tasks: list[dict[str, Any]] = []
    objects = 0
    shown = bar(frames, "images", not as_json, frames.total)
    for name, (_, pixels) in zip(frames.names or (), shown, strict=True):
        scene = find(pixels) if find is not None else _in_boxes(segmenter, pixels, known.get(name, []))
        objects += len(scene.objects)
        tasks += to_tasks(scene, f"{url}{name}")
    write_whole(out, json.dumps(tasks))
    write_whole(out.with_suffix(".xml"), LABEL_CONFIG)
    summary = {"images": len(tasks), "objects": objects, "tasks": str(out), "config": str(out.with_suffix(".xml"))}
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        typer.echo(f"{objects} objects in {len(tasks)} images: import {out}; interface: {out.with_suffix('.xml')}")


@label_app.command("collect")
def collect_corrections(
    export: Annotated[Path, typer.Argument(help="Label Studio's JSON export of the corrected tasks.")],
    out: Annotated[Path, typer.Option(help="Canonical annotation file to write.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Turn corrected tasks into an annotation file, for fine-tuning and evaluation.

    Tasks nobody annotated are left out and counted.

    Example: amodal label collect export.json --out corrected/annotations.json
    """
    from amodal.inference.exports.coco import collect
    from amodal.inference.exports.label_studio import from_task
    from amodal.io.files import write_whole

    try:
        tasks = json.loads(export.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"export: expected Label Studio's JSON, got {str(export)!r} ({error})") from error
    if not isinstance(tasks, list) or not all(isinstance(t, dict) and isinstance(t.get("data"), dict) for t in tasks):
        raise InputError(f"export: expected a list of tasks, got other content in {str(export)!r}")
    done = [t for t in tasks if any(not a.get("was_cancelled") for a in t.get("annotations") or [])]
    if not done:
        raise InputError(f"export: expected tasks that someone annotated, got none among {len(tasks)}")
    content = collect((_image_name(task), from_task(task)) for task in done)
    write_whole(out, json.dumps(content))
    left_out, objects = len(tasks) - len(done), len(content["annotations"])
    if as_json:
        typer.echo(json.dumps({"images": len(done), "objects": objects, "left_out": left_out}))
    else:
        note = f" ({left_out} tasks without an annotation left out)" if left_out else ""
        typer.echo(f"Written: {out}: {objects} objects in {len(done)} images{note}")


def _in_boxes(segmenter: AmodalSegmenter, pixels: npt.NDArray[np.uint8], boxes: list[list[float]]) -> Scene:
    from amodal.inference.scene import Scene

    return segmenter(pixels, boxes) if boxes else Scene([], (pixels.shape[0], pixels.shape[1]), pixels)


def _boxes_by_image(path: Path) -> dict[str, list[list[float]]]:
    """xyxy boxes by the image's file name, visible ones where the file has them."""
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
    """File name at the end of a task's URL."""
    url = str(task["data"].get("image", ""))
    return url.split("?d=")[-1].rsplit("/", 1)[-1] or f"task_{task.get('id')}"
