"""`amodal segment` for an image, a folder or a video, and `amodal batch` for a dataset."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amodal.cli.options import (
    DetectorName,
    DetectorTexts,
    Device,
    Dtype,
    JsonSummary,
    Mode,
    ModelName,
    parse_numbers,
)
from amodal.errors import InputError
from amodal.io.files import require_folder

if TYPE_CHECKING:
    from amodal.inference.scene import Scene
    from amodal.inference.segmenter import AmodalSegmenter


def segment(
    image: Annotated[Path, typer.Argument(help="Image, folder of images, or video.")],
    box: Annotated[
        list[str] | None, typer.Option(help="Box of a visible part in pixels, X0,Y0,X1,Y1; may be repeated.")
    ] = None,
    point: Annotated[list[str] | None, typer.Option(help="Point on an object in pixels, X,Y; may be repeated.")] = None,
    detector: DetectorName = None,
    text: DetectorTexts = None,
    model: ModelName = "plug-tiny",
    out: Annotated[Path | None, typer.Option(help="Folder for masks, overlay and scene.json.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Smallest probability of foreground; default: the model's own.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    mode: Mode = "crop",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print scene.json; for a folder or video, the number of frames.")
    ] = False,
) -> None:
    """Segment objects, including the parts that other objects hide.

    Boxes, points or a detector select the objects; without them, a grid of points finds objects.

    Example: amodal segment street.jpg --box 30,40,210,380 --out street
    """
    boxes = [parse_numbers("box", value, "X0,Y0,X1,Y1") for value in box or []]
    points = [parse_numbers("point", value, "X,Y") for value in point or []]
    if detector and (boxes or points):
        raise InputError("detector: expected no box or point together with a detector, got both")
    if text and not detector:
        raise InputError("text: expected --detector together with --text, got no detector")
    from amodal.io.frames import is_frame_source

    def load() -> AmodalSegmenter:
        from amodal.inference.segmenter import AmodalSegmenter

        return AmodalSegmenter.from_pretrained(model, device=device, dtype=dtype, mode=mode)

    if out is not None:
        require_folder(out)
    if is_frame_source(image):
        if boxes or points:
            raise InputError("box, point: expected none for several frames (objects are not tracked), got some")
        folder = out or Path(f"{image.stem}-amodal")
        num_frames = _segment_frames(image, folder, load, detector, text, threshold, not as_json)
        line = f"Written: {num_frames} frames and overlay.mp4 in {folder} (objects are not tracked between frames)"
        typer.echo(json.dumps({"folder": str(folder), "frames": num_frames}) if as_json else line)
        return
    scene = _segment_image(image, boxes, points, load, detector, text, threshold)
    folder = scene.save(out or Path(f"{image.stem}-amodal"))
    if as_json:
        typer.echo(json.dumps(scene.to_json()))
    else:
        _print_table(scene, folder)


def batch(
    dataset: Annotated[Path, typer.Argument(help="Annotation file, or a Parquet file of image paths and boxes.")],
    out: Annotated[Path, typer.Option(help="Folder for the Parquet files; an interrupted run is resumed.")],
    format_: Annotated[str, typer.Option("--format", help="Format of the annotation file.")] = "canonical",
    images: Annotated[Path | None, typer.Option(help="Folder of the images.")] = None,
    model: ModelName = "plug-tiny",
    mode: Mode = "crop",
    dtype: Dtype = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Number of segmenters that run in parallel.")] = 2,
    cpus: Annotated[int, typer.Option(min=1, help="CPU cores per segmenter.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs per segmenter; may be a fraction.")] = 0,
    as_json: JsonSummary = False,
) -> None:
    """Segment the objects of a dataset in parallel.

    The workers run in Ray; the masks are written as Parquet files.

    Example: amodal batch data/scenes-test/annotations.json --out predictions --workers 2
    """
    from amodal.data.datasets import read_dataset
    from amodal.inference.batch import BatchPlan, segment_dataset

    plan = BatchPlan(model=model, mode=mode, dtype=dtype, workers=workers, cpus=cpus, gpus=gpus)
    source = dataset if dataset.suffix == ".parquet" else read_dataset(format_, dataset, images)
    folder = segment_dataset(source, out, plan, progress=not as_json)
    parts = len(list(folder.glob("part-*.parquet")))
    typer.echo(json.dumps({"folder": str(folder), "parts": parts}) if as_json else f"Written: {folder} ({parts} files)")


def _segment_image(
    image: Path,
    boxes: list[list[float]],
    points: list[list[float]],
    load: Callable[[], AmodalSegmenter],
    detector: str | None,
    text: list[str] | None,
    threshold: float | None,
) -> Scene:
    from amodal.inference.find import ObjectFinder, check_points, scene_finder
    from amodal.inference.segmenter import check_boxes
    from amodal.io.images import load_image

    pixels = load_image(image)  # check all inputs before the model is loaded, which takes a second
    if boxes:
        check_boxes(boxes, pixels.shape[:2])
    if points:
        check_points(points, pixels.shape[:2])
    segmenter = load()
    if not boxes and not points:
        return scene_finder(segmenter, detector, text, threshold)(pixels)
    if points:
        finder = ObjectFinder.from_pretrained(segmenter.base_name, segmenter.device)
        boxes = boxes + finder.boxes_at(pixels, points).tolist()
    return segmenter(pixels, boxes, threshold=threshold)


def _segment_frames(
    source: Path,
    out: Path,
    load: Callable[[], AmodalSegmenter],
    detector: str | None,
    text: list[str] | None,
    threshold: float | None,
    progress: bool,
) -> int:
    """Write one scene per frame and a video of the overlays; scenes of an earlier run are reused.

    Returns:
        The number of frames.
    """
    from amodal.inference.find import load_or_find, scene_finder
    from amodal.io.frames import VideoWriter, open_frames
    from amodal.io.progress import progress_bar

    frames = open_frames(source)
    find = scene_finder(load(), detector, text, threshold)
    num_frames = 0
    with VideoWriter(out / "overlay.mp4", frames.rate) as video:
        for name, pixels in progress_bar(frames, "frames", progress, frames.total):
            video.add(load_or_find(out / name, pixels, find).draw())
            num_frames += 1
    return num_frames


def _print_table(scene: Scene, folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in ("object", "hidden", "visible box", "amodal box", "score"):
        table.add_column(name, justify="right")
    for index, obj in enumerate(scene.objects):
        table.add_row(
            str(index) if obj.phrase is None else f"{index} {obj.phrase}",
            f"{obj.occlusion_rate:.0%}",
            _format_box(obj.visible_box_xyxy),
            _format_box(obj.amodal_box_xyxy),
            f"{obj.score:.2f}",
        )
    console = Console()
    console.print(table)
    if not scene.objects:
        console.print("No object found: give a box (--box X0,Y0,X1,Y1) or a point (--point X,Y)", soft_wrap=True)
    console.print(f"Written: {folder}/overlay.png, scene.json and three masks per object", soft_wrap=True)


def _format_box(box: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in box)
