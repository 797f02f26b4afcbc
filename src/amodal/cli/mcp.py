"""`amodal mcp`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from amodal.cli.options import Device, Dtype, VisibleFrom
from amodal.errors import InputError
from amodal.models.names import DEFAULT_ASSISTANT, DEFAULT_SEGMENTER


def mcp(
    root: Annotated[Path, typer.Option(help="Folder of the images; nothing outside it is read.")],
    model: Annotated[str, typer.Option(help="Segmenter: bundled name, folder or hub id.")] = DEFAULT_SEGMENTER,
    visible_from: VisibleFrom = None,
    assistant: Annotated[
        str | None, typer.Option(help="Model that answers questions, or 'none'; default: the bundled one.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Serve segmentation to language models as a server of the Model Context Protocol (MCP).

    MCP clients start this command and talk to it through standard input and output. It writes no files.

    Example: amodal mcp --root photos
    """
    try:
        from amodal.integrations.mcp import AmodalTools, ImageFolder, make_server
    except ImportError as error:
        raise InputError(f"mcp: expected the MCP SDK, got no {error.name!r} (pip install 'amodal[mcp]')") from error
    from amodal.inference.segmenter import AmodalSegmenter
    from amodal.models.increments import bundled_models

    folder = ImageFolder(root)
    segmenter = AmodalSegmenter.from_pretrained(model, device=device, dtype=dtype, visible_from=visible_from)
    name = assistant or (DEFAULT_ASSISTANT if DEFAULT_ASSISTANT in bundled_models() else "none")
    answering = None
    if name != "none":
        from amodal.inference.assistant import AmodalAssistant

        answering = AmodalAssistant.from_pretrained(name, device=device)
    make_server(AmodalTools(folder, segmenter, answering)).run("stdio")
