"""`amodal export onnx`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def export_onnx_command(
    model: Annotated[str, typer.Argument(help="Bundled name, folder or hub id.")],
    out: Annotated[Path, typer.Option(help="Folder for encoder.onnx, decoder.onnx and config.json.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write PLUG's encoder and decoders as ONNX, checked against torch through onnxruntime.

    `amodal segment` takes the folder as its model.

    Example: amodal export onnx plug-tiny --out plug-tiny-onnx
    """
    from rich.console import Console

    from amodal.inference.onnx import export_onnx
    from amodal.models.plug import PlugModel

    loaded = PlugModel.from_pretrained(model)
    with Console(stderr=True).status("exporting, about a minute for a tiny model"):
        done = export_onnx(loaded, out)
    if as_json:
        typer.echo(json.dumps(done._asdict() | {"folder": str(done.folder)}))
        return
    typer.echo(f"Written: {done.folder}/encoder.onnx, decoder.onnx, config.json")
    typer.echo(f"Furthest from torch: embeddings {done.encoder_difference:.2g}, masks {done.decoder_difference:.2g}")
