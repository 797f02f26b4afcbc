"""`amodal label`: predictions for correction in Label Studio, and corrected tasks as a dataset."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amodal.cli.export import Dataset, Source
from amodal.cli.options import (
    Clean,
    DetectorName,
    DetectorTexts,
    Device,
    Failures,
    FormatName,
    JsonSummary,
    ModelName,
    Strict,
)
from amodal.errors import InputError
from amodal.models.names import DEFAULT_SEGMENTER

if TYPE_CHECKING:
    from amodal.inference.segmenter import AmodalSegmenter

label_app = typer.Typer(no_args_is_help=True)

TaskFile = Annotated[Path, typer.Option(help="JSON file of tasks to import into Label Studio.")]
Prefix = Annotated[
    str, typer.Option(help="Prefix of the image names in the tasks: where Label Studio finds the images.")
]
LOCAL_FILES = "/data/local-files/?d="


@label_app.command("predict")
def predict(
    folder: Annotated[Path, typer.Argument(help="Folder of images.")],
    out: TaskFile,
    url: Prefix = LOCAL_FILES,
    annotations: Annotated[
        Path | None,
        typer.Option(
            "--annotations",
            "--boxes",
            help="COCO file with masks or boxes of visible parts; without it, find the objects.",
        ),
    ] = None,
    detector: DetectorName = None,
    text: DetectorTexts = None,
    model: ModelName = DEFAULT_SEGMENTER,
    clean: Clean = True,
    device: Device = "auto",
    strict: Strict = False,
    as_json: JsonSummary = False,
) -> None:
    """Predict visible and amodal masks for a folder of images, as Label Studio tasks to correct.

    Also writes the labelling interface as OUT.xml.

    Example: amodal label predict photos --out tasks.json
    """
    if annotations is not None and detector is not None:
        raise InputError("annotations: expected either --annotations or --detector, got both")
    from amodal.inference.exports.label_studio import to_task
    from amodal.inference.folder import ImageSegmenter, images_of_folder
    from amodal.inference.prompt_files import read_coco_file
    from amodal.io.images import load_image
    from amodal.io.progress import progress_bar

    def load() -> AmodalSegmenter:
        from amodal.inference.segmenter import AmodalSegmenter

        return AmodalSegmenter.from_pretrained(model, device=device)

    failures, segment = Failures(strict), ImageSegmenter(load, detector, text, clean=clean)
    coco = None if annotations is None else read_coco_file(annotations)
    images = images_of_folder(folder, coco, failures.add)
    tasks: list[dict[str, Any]] = []
    num_objects = 0
    for index in progress_bar(range(len(images)), "images", not as_json):
        path = images.paths[index]
        try:
            prompts = images.prompts(index, failures.add)
            pixels = load_image(path)
        except InputError as error:
            failures.add(path.name, str(error))
            continue
        result = images.result(index, segment(pixels, prompts))
        num_objects += len(result.scene)
        full, root = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
        name = full.relative_to(root).as_posix() if full.is_relative_to(root) else path.name
        tasks.append(to_task(result, f"{url}{name}"))
    if images.num_other and annotations is not None and not as_json:
        typer.echo(f"Left out: {images.num_other} images of the folder that {annotations.name} does not have")
    _write_tasks(tasks, num_objects, out, as_json, failures)


@label_app.command("tasks")
def tasks_of_results(
    source: Source,
    out: TaskFile,
    url: Prefix = LOCAL_FILES,
    annotations: Dataset = None,
    format_: FormatName = None,
    as_json: JsonSummary = False,
) -> None:
    """Write results that exist already as Label Studio tasks to correct.

    Also writes the labelling interface as OUT.xml.

    Example: amodal label tasks predictions --annotations instances.json --out tasks.json
    """
    from amodal.inference.exports.label_studio import to_tasks
    from amodal.inference.results import read_results

    results = read_results(source, annotations, format_)
    tasks = to_tasks(results, url)
    _write_tasks(tasks, sum(len(task["data"]["objects"]) for task in tasks), out, as_json, Failures())


@label_app.command("collect")
def collect_corrections(
    export: Annotated[Path, typer.Argument(help="JSON export of the corrected tasks from Label Studio.")],
    out: Annotated[Path, typer.Option(help="Canonical annotation file to write.")],
    strict: Strict = False,
    as_json: JsonSummary = False,
) -> None:
    """Convert corrected tasks into an annotation file for fine-tuning and evaluation.

    Tasks without an annotation are skipped and counted. Tasks that cannot be read are listed at the end, with exit
    code 3.

    Example: amodal label collect export.json --out corrected/annotations.json
    """
    from amodal.inference.exports.coco import to_coco_file
    from amodal.inference.exports.label_studio import from_task
    from amodal.inference.results import ImageResult, Results
    from amodal.io.files import write_atomic
    from amodal.io.json_stream import read_json

    tasks = read_json(export, "export")
    if not isinstance(tasks, list) or not all(isinstance(t, dict) and isinstance(t.get("data"), dict) for t in tasks):
        raise InputError(f"export: expected a list of tasks, got other content in {str(export)!r}")
    done = [t for t in tasks if any(not a.get("was_cancelled") for a in t.get("annotations") or [])]
    if not done:
        raise InputError(f"export: expected annotated tasks, got none among {len(tasks)}")
    failures, results = Failures(strict), list[ImageResult]()
    for task in done:
        try:
            results.append(from_task(task))
        except InputError as error:
            name, _, message = str(error).partition(": ")
            failures.add(name, message)
    if not results:
        name, messages = next(iter(failures.messages.items()))
        raise InputError(f"export: expected tasks that can be read, got none: {name}: {messages[0]}")
    content = to_coco_file(Results.of(results))
    write_atomic(out, json.dumps(content))
    num_skipped, num_objects = len(tasks) - len(done), len(content["annotations"])
    num_empty = sum(not len(result.scene) for result in results)
    if as_json:
        summary = {
            "images": len(results),
            "objects": num_objects,
            "left_out": num_skipped,
            "without_objects": num_empty,
        }
        typer.echo(json.dumps(summary | {"failed": failures.messages}))
    else:
        notes = [f"{num_skipped} tasks without an annotation skipped"] if num_skipped else []
        notes += [f"{num_empty} without objects"] if num_empty else []
        note = f" ({', '.join(notes)})" if notes else ""
        typer.echo(f"Written: {out}: {num_objects} objects in {len(results)} images{note}")
    failures.exit()


def _write_tasks(tasks: list[dict[str, Any]], num_objects: int, out: Path, as_json: bool, failures: Failures) -> None:
    """Write the tasks and their labelling interface, print a summary, and exit with the code of the failures."""
    from amodal.inference.exports.label_studio import LABEL_CONFIG
    from amodal.io.files import write_atomic

    config = out.with_suffix(".xml")
    write_atomic(out, json.dumps(tasks))
    write_atomic(config, LABEL_CONFIG)
    if as_json:
        summary = {"images": len(tasks), "objects": num_objects, "tasks": str(out), "config": str(config)}
        typer.echo(json.dumps(summary | {"failed": failures.messages}))
    else:
        typer.echo(f"{num_objects} objects in {len(tasks)} images. Import {out} with the interface {config}")
    failures.exit()
