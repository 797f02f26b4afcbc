"""`amodal segment`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amodal.errors import InputError

if TYPE_CHECKING:
    from amodal.inference.scene import Scene


def segment(
    image: Annotated[Path, typer.Argument(help="Photograph.")],
    box: Annotated[list[str], typer.Option(help="Box of a visible part in pixels, X0,Y0,X1,Y1; repeat for more.")],
    model: Annotated[str, typer.Option(help="Bundled name, folder or hub id.")] = "plug-tiny",
    out: Annotated[Path | None, typer.Option(help="Folder for masks, overlay and scene.json.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Probability of foreground; the model's own by default.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print scene.json instead of a table.")] = False,
) -> None:
    """Segment the objects in given boxes, hidden parts included.

    Example: amodal segment street.jpg --box 30,40,210,380 --out street
    """
    boxes = [parse_box(text) for text in box]
    from amodal.data.images import load_image
    from amodal.inference.segmenter import AmodalSegmenter, check_boxes

    pixels = load_image(image)  # the user's mistakes first: models take a second to load
    check_boxes(boxes, pixels.shape[:2])
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"out: expected a folder, got the file {str(out)!r}")
    scene = AmodalSegmenter.from_pretrained(model, device=device)(pixels, boxes, threshold=threshold)
    folder = scene.save(out or Path(f"{image.stem}-amodal"))
    if as_json:
        typer.echo(json.dumps(scene.to_json()))
    else:
        _print_table(scene, folder)


def parse_box(text: str) -> list[float]:
    """`X0,Y0,X1,Y1` to four numbers. Raises `InputError` for anything else."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"box: expected four numbers X0,Y0,X1,Y1, got {text!r}") from error
    if len(values) != 4:
        raise InputError(f"box: expected four numbers X0,Y0,X1,Y1, got {text!r}")
    return values


def _print_table(scene: Scene, folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in ("object", "hidden", "visible box", "amodal box", "score"):
        table.add_column(name, justify="right")
    for index, thing in enumerate(scene.objects):
        table.add_row(
            str(index),
            f"{thing.occlusion_rate:.0%}",
            _numbers(thing.visible_box_xyxy),
            _numbers(thing.amodal_box_xyxy),
            f"{thing.score:.2f}",
        )
    console = Console()
    console.print(table)
    console.print(f"Written: {folder}/overlay.png, scene.json and three masks an object", soft_wrap=True)


def _numbers(box: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in box)
