"""`amodal label`: predictions for correction in Label Studio, and corrected tasks as a dataset."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
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
from amodal.io.words import counted
from amodal.models.names import DEFAULT_SEGMENTER

if TYPE_CHECKING:
    from amodal.inference.segmenter import AmodalSegmenter

label_app = typer.Typer(no_args_is_help=True)

TaskFile = Annotated[Path, typer.Option(help="JSON file of tasks to import into Label Studio.")]
LOCAL_FILES = "/data/local-files/?d="
"""Label Studio's address of a file below its document root, without the path.

The images must be in a folder below that root, because Label Studio refuses the root itself as a storage.
"""


@label_app.command("predict")
def predict(
    folder: Annotated[Path, typer.Argument(help="Folder of images.")],
    out: TaskFile,
    url: Annotated[
        str | None,
        typer.Option(
            help="What precedes the image names in the tasks: where Label Studio finds the images; default: "
            f"{LOCAL_FILES}FOLDER/, with the name of the folder.",
            show_default=False,
        ),
    ] = None,
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

    Also writes the labelling interface beside it: `tasks.xml` for `--out tasks.json`.

    Example: amodal label predict photos --out tasks.json
    """
    if annotations is not None and detector is not None:
        raise InputError("annotations: expected either --annotations or --detector, got both")
    from amodal.inference.exports.label_studio import to_task
    from amodal.inference.folder import ImageSegmenter, images_of_folder, segment_image
    from amodal.inference.prompt_files import read_coco_file
    from amodal.io.files import require_no_input
    from amodal.io.frames import list_images
    from amodal.io.progress import progress_bar

    _check_tasks_file(out, [annotations])

    def load() -> AmodalSegmenter:
        from amodal.inference.segmenter import AmodalSegmenter

        return AmodalSegmenter.from_pretrained(model, device=device)

    failures, segment = Failures(strict), ImageSegmenter(load, detector, text, clean=clean)
    coco = None if annotations is None else read_coco_file(annotations)
    images = images_of_folder(folder, coco, failures.add)
    if out.exists():  # otherwise it is no image
        require_no_input(out, [*images.paths, *list_images(folder, required=False)])
    root = Path(os.path.abspath(folder))
    prefix = f"{LOCAL_FILES}{root.name}/" if url is None else url
    tasks: list[dict[str, Any]] = []
    num_objects = 0
    for index in progress_bar(range(len(images)), "images", not as_json):
        scene = segment_image(images, index, segment, failures.add)
        if scene is None:
            continue
        result = images.result(index, scene)
        num_objects += len(scene)
        full = Path(os.path.abspath(images.paths[index]))
        name = full.relative_to(root).as_posix() if full.is_relative_to(root) else full.name
        tasks.append(to_task(result, f"{prefix}{name}"))
    if not tasks:
        name, messages = next(iter(failures.messages.items()))
        raise InputError(f"folder: expected images that can be segmented, got none: {name}: {messages[0]}")
    if images.num_other and annotations is not None and not as_json:
        other = counted(images.num_other, "image")
        typer.echo(f"Left out: {other} of the folder that {annotations.name} does not have")
    _write_tasks(tasks, num_objects, out, as_json, failures)


@label_app.command("tasks")
def tasks_of_results(
    source: Source,
    out: TaskFile,
    url: Annotated[
        str, typer.Option(help="What precedes the image names in the tasks: where Label Studio finds the images.")
    ] = f"{LOCAL_FILES}images/",
    annotations: Dataset = None,
    format_: FormatName = None,
    as_json: JsonSummary = False,
) -> None:
    """Write results that exist already as Label Studio tasks to correct.

    Also writes the labelling interface beside it: `tasks.xml` for `--out tasks.json`.

    Example: amodal label tasks predictions --annotations instances.json --out tasks.json
    """
    from amodal.inference.batch import PARTS
    from amodal.inference.exports.label_studio import to_tasks
    from amodal.inference.results import ANNOTATION_FILE, RUN_FILE, read_results

    _check_tasks_file(out, [source, annotations])
    if out.exists():  # otherwise it is none of the files that are read from a folder
        names = ("scene.json", "*/scene.json", RUN_FILE, ANNOTATION_FILE, PARTS)
        _check_tasks_file(out, [file for name in names for file in source.glob(name)])
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
    from amodal.io.files import require_no_input, write_atomic
    from amodal.io.json_stream import read_json

    require_no_input(out, [export])
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
        notes = [f"{counted(num_skipped, 'task')} without an annotation skipped"] if num_skipped else []
        notes += [f"{num_empty} without objects"] if num_empty else []
        note = f" ({', '.join(notes)})" if notes else ""
        typer.echo(f"Written: {out}: {counted(num_objects, 'object')} in {counted(len(results), 'image')}{note}")
    failures.exit()


def _check_tasks_file(out: Path, inputs: Iterable[Path | None]) -> None:
    """Check that the file of tasks and that of its interface can be written, and replace no file of another kind.

    Raises:
        InputError: one is an input or a folder, the tasks have the ending of the interface, or the interface would
            replace another XML file.
    """
    from amodal.inference.exports.label_studio import is_interface
    from amodal.io.files import require_file, require_no_input

    if out.suffix.lower() == ".xml":
        raise InputError(f"out: expected a JSON file, got {str(out)!r}")
    config = out.with_suffix(".xml")
    for file in (out, config):
        require_file(require_no_input(file, inputs))
    if config.exists() and not is_interface(config):
        raise InputError(
            f"out: expected a name beside which {str(config)!r} is free for the interface, got another file there"
        )


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
        found = f"{counted(num_objects, 'object')} in {counted(len(tasks), 'image')}"
        typer.echo(f"{found}. Import {out} with the interface {config}")
    failures.exit()
