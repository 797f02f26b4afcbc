"""`amodal export scene`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def export_scene_command(
    scene: Annotated[Path, typer.Argument(help="Folder that `amodal segment` or `amodal ask` wrote.")],
    to: Annotated[str, typer.Option(help="coco, coco-visible, cvat, label-studio, labelme, layers, crops or csv.")],
    out: Annotated[Path, typer.Option(help="New folder.")],
    image: Annotated[
        Path | None, typer.Option(help="The photograph; layers, crops and labelme use its pixels.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the files written as JSON.")] = False,
) -> None:
    """Write a scene in another tool's form.

    Example: amodal export scene street-amodal --to layers --image street.jpg --out layers
    """
    from amodal.inference.exports import export_scene
    from amodal.inference.scene import Scene
    from amodal.io.images import load_image

    loaded = Scene.load(scene)
    if image is not None:
        loaded = Scene(loaded.objects, loaded.size, load_image(image), loaded.question, loaded.answer)
    folder = export_scene(loaded, to, out, image.name if image is not None else "image.png")
    files = sorted(str(path) for path in folder.iterdir())
    typer.echo(json.dumps(files) if as_json else "Written: " + ", ".join(files))
