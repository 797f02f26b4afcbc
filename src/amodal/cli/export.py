"""`amodal export`: results and models in the formats of other tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from amodal.cli.options import FormatName, JsonSummary

export_app = typer.Typer(no_args_is_help=True)

Source = Annotated[
    Path,
    typer.Argument(
        help="Folder of one scene, folder of scenes, predictions file, or folder that `amodal batch` wrote."
    ),
]
Dataset = Annotated[
    Path | None, typer.Option(help="Annotation file that predictions belong to; scenes do not need it.")
]


@export_app.command("scenes")
@export_app.command("scene", hidden=True)
def export_scenes_command(
    source: Source,
    to: Annotated[
        str, typer.Option(help="Format: coco, coco-visible, cvat, label-studio, labelme, yolo, layers, crops or csv.")
    ],
    out: Annotated[Path, typer.Option(help="New folder to write.")],
    annotations: Dataset = None,
    format_: FormatName = None,
    image: Annotated[
        Path | None,
        typer.Option(
            help="Image of the scene, or folder of the images; layers and crops need them (default: the files that "
            "were segmented), labelme embeds them if given."
        ),
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(help="How masks are written: rle, polygon or counts (COCO), rle or polygon (cvat, labelme)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the names of the written files as JSON.")] = False,
) -> None:
    """Write scenes or predictions as one dataset in the format of another tool.

    File names, names and ids of the objects are kept.

    Example: amodal export scenes amodal --to yolo --out amodal-yolo
    """
    from amodal.inference.exports import export_results
    from amodal.inference.results import read_results

    folder = export_results(read_results(source, annotations, format_), to, out, image, masks)
    files = sorted(str(path) for path in folder.rglob("*") if path.is_file())
    if as_json:
        typer.echo(json.dumps(files))
    else:
        typer.echo("Written: " + (", ".join(files) if len(files) <= 8 else f"{len(files)} files in {folder}"))


@export_app.command("onnx")
def export_onnx_command(
    model: Annotated[str, typer.Argument(help="PLUG model: bundled name, folder or hub id.")],
    out: Annotated[Path, typer.Option(help="Folder for encoder.onnx, decoder.onnx and config.json.")],
    as_json: JsonSummary = False,
) -> None:
    """Write a PLUG model as ONNX files and check them against PyTorch.

    `amodal segment --model` reads the folder.

    Example: amodal export onnx plug-small --out plug-small-onnx
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
