"""`amodal export`: scenes and models in the formats of other tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from amodal.cli.options import JsonSummary

export_app = typer.Typer(no_args_is_help=True)


@export_app.command("scene")
def export_scene_command(
    scene: Annotated[Path, typer.Argument(help="Folder that `amodal segment` or `amodal ask` wrote.")],
    to: Annotated[
        str, typer.Option(help="Format: coco, coco-visible, cvat, label-studio, labelme, layers, crops or csv.")
    ],
    out: Annotated[Path, typer.Option(help="New folder to write.")],
    image: Annotated[
        Path | None, typer.Option(help="Image of the scene; required for layers and crops, embedded by labelme.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the names of the written files as JSON.")] = False,
) -> None:
    """Write a scene in the format of another tool.

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


@export_app.command("onnx")
def export_onnx_command(
    model: Annotated[str, typer.Argument(help="PLUG model: bundled name, folder or hub id.")],
    out: Annotated[Path, typer.Option(help="Folder for encoder.onnx, decoder.onnx and config.json.")],
    as_json: JsonSummary = False,
) -> None:
    """Write a PLUG model as ONNX files and check them against PyTorch.

    `amodal segment --model` reads the folder.

    Example: amodal export onnx plug-tiny --out plug-tiny-onnx
    """
    from rich.console import Console

    from amodal.inference.onnx import export_onnx
    from amodal.models.plug import PlugModel

    loaded = PlugModel.from_pretrained(model)
    with Console(stderr=True).status("exporting (about a minute for a tiny model)"):
        done = export_onnx(loaded, out)
    if as_json:
        typer.echo(json.dumps(done._asdict() | {"folder": str(done.folder)}))
        return
    typer.echo(f"Written: {done.folder}/encoder.onnx, decoder.onnx, config.json")
    typer.echo(
        f"Largest difference from PyTorch: embeddings {done.encoder_difference:.2g}, "
        f"masks {done.decoder_difference:.2g}"
    )
