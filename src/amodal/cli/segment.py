"""`amodal segment`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amodal.errors import InputError
from amodal.io.files import no_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from amodal.inference.scene import Scene
    from amodal.inference.segmenter import AmodalSegmenter


def segment(
    image: Annotated[Path, typer.Argument(help="Photograph; or a folder of them, or a video, frame by frame.")],
    box: Annotated[
        list[str] | None, typer.Option(help="Box of a visible part in pixels, X0,Y0,X1,Y1; repeat for more.")
    ] = None,
    point: Annotated[list[str] | None, typer.Option(help="Pixel X,Y of an object; repeat for more.")] = None,
    detector: Annotated[
        str | None, typer.Option(help="Detector of transformers that gives the boxes: hub id or folder.")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="What an open-vocabulary detector looks for; repeat for more.")
    ] = None,
    model: Annotated[str, typer.Option(help="Bundled name, folder or hub id.")] = "plug-tiny",
    out: Annotated[Path | None, typer.Option(help="Folder for masks, overlay and scene.json.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Probability of foreground; the model's own by default.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="auto, float32, bfloat16, or int8 (large models on a processor).")
    ] = "auto",
    mode: Annotated[
        str, typer.Option(help="crop: a look at each object (exact); image: one look at the whole picture (fast).")
    ] = "crop",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print scene.json instead of a table; of frames their number.")
    ] = False,
) -> None:
    """Segment objects, hidden parts included.

    Boxes or points say which; a detector can find them; without any of these, a grid of points does.

    Example: amodal segment street.jpg --box 30,40,210,380 --out street
    """
    boxes = [parse_numbers("box", value, "X0,Y0,X1,Y1") for value in box or []]
    points = [parse_numbers("point", value, "X,Y") for value in point or []]
    if detector and (boxes or points):
        raise InputError("detector: expected no box or point beside a detector, got both")
    if text and not detector:
        raise InputError("text: expected --detector beside it, got none")
    from amodal.io.frames import is_many

    def load() -> AmodalSegmenter:
        from amodal.inference.segmenter import AmodalSegmenter

        return AmodalSegmenter.from_pretrained(model, device=device, dtype=dtype, mode=mode)

    if out is not None:
        no_file(out)
    if is_many(image):
        if boxes or points:
            raise InputError("box, point: expected none for several frames (objects are not tracked), got some")
        folder = out or Path(f"{image.stem}-amodal")
        count = _segment_frames(image, folder, load, detector, text, threshold, not as_json)
        note = "each frame by itself; objects are not tracked"
        line = f"Written: {count} frames and overlay.mp4 in {folder} ({note})"
        typer.echo(json.dumps({"folder": str(folder), "frames": count}) if as_json else line)
        return
    scene = _segment_image(image, boxes, points, load, detector, text, threshold)
    folder = scene.save(out or Path(f"{image.stem}-amodal"))
    if as_json:
        typer.echo(json.dumps(scene.to_json()))
    else:
        _print_table(scene, folder)


def parse_numbers(name: str, text: str, form: str) -> list[float]:
    """Comma-separated numbers in a form such as `X0,Y0,X1,Y1`. Raises `InputError` for anything else."""
    count = form.count(",") + 1
    words = {2: "two", 4: "four"}[count]
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{name}: expected {words} numbers {form}, got {text!r}") from error
    if len(values) != count:
        raise InputError(f"{name}: expected {words} numbers {form}, got {text!r}")
    return values


def _segment_image(
    image: Path,
    boxes: list[list[float]],
    points: list[list[float]],
    load: Callable[[], AmodalSegmenter],
    detector: str | None,
    text: list[str] | None,
    threshold: float | None,
) -> Scene:
    from amodal.inference.find import check_points
    from amodal.inference.segmenter import check_boxes
    from amodal.io.images import load_image

    pixels = load_image(image)  # the user's mistakes first: models take a second to load
    if boxes:
        check_boxes(boxes, pixels.shape[:2])
    if points:
        check_points(points, pixels.shape[:2])
    segmenter = load()
    if not boxes and not points:
        return finder_for(segmenter, detector, text, threshold)(pixels)
    if points:
        from amodal.inference.find import ObjectFinder

        finder = ObjectFinder.from_pretrained(segmenter.base_name, segmenter.device)
        boxes = boxes + finder.boxes_at(pixels, points).tolist()
    return segmenter(pixels, boxes, threshold=threshold)


def finder_for(
    segmenter: AmodalSegmenter, detector: str | None, text: list[str] | None, threshold: float | None
) -> Callable[[npt.NDArray[np.uint8]], Scene]:
    """What finds and segments the objects of a picture."""
    from amodal.inference.everything import segment_everything
    from amodal.inference.find import Detector, ObjectFinder

    source: Detector | ObjectFinder
    if detector:
        source = Detector(detector, text, segmenter.device)
    else:
        source = ObjectFinder.from_pretrained(segmenter.base_name, segmenter.device)
    return lambda pixels: segment_everything(segmenter, source, pixels, threshold=threshold)


def _segment_frames(
    source: Path,
    out: Path,
    load: Callable[[], AmodalSegmenter],
    detector: str | None,
    text: list[str] | None,
    threshold: float | None,
    progress: bool,
) -> int:
    """A folder of scenes, one a frame, and a video of the overlays; frames done before are kept.

    Returns:
        How many frames there are.
    """
    from amodal.inference.everything import scene_of_frame
    from amodal.io.frames import VideoWriter, open_frames
    from amodal.io.progress import bar

    frames = open_frames(source)
    find = finder_for(load(), detector, text, threshold)
    count = 0
    with VideoWriter(out / "overlay.mp4", frames.rate) as video:
        for name, pixels in bar(frames, "frames", progress, frames.total):
            video.add(scene_of_frame(out / name, pixels, find).draw())
            count += 1
    return count


def _print_table(scene: Scene, folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in ("object", "hidden", "visible box", "amodal box", "score"):
        table.add_column(name, justify="right")
    for index, thing in enumerate(scene.objects):
        table.add_row(
            str(index) if thing.phrase is None else f"{index} {thing.phrase}",
            f"{thing.occlusion_rate:.0%}",
            _numbers(thing.visible_box_xyxy),
            _numbers(thing.amodal_box_xyxy),
            f"{thing.score:.2f}",
        )
    console = Console()
    console.print(table)
    if not scene.objects:
        console.print("No object found: give a box (--box X0,Y0,X1,Y1) or a point (--point X,Y)", soft_wrap=True)
    console.print(f"Written: {folder}/overlay.png, scene.json and three masks an object", soft_wrap=True)


def _numbers(box: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in box)
