"""`amodal mcp`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from amodal.cli.options import AssistantName, Device, Dtype, SegmenterName, VisibleFrom, load_assistant
from amodal.errors import InputError
from amodal.models.names import DEFAULT_SEGMENTER


def mcp(
    root: Annotated[Path, typer.Option(help="Folder of the images; nothing outside it is read.")],
    model: SegmenterName = DEFAULT_SEGMENTER,
    visible_from: VisibleFrom = None,
    assistant: AssistantName = None,
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

    folder = ImageFolder(root)
    segmenter = AmodalSegmenter.from_pretrained(model, device=device, dtype=dtype, visible_from=visible_from)
    make_server(AmodalTools(folder, segmenter, load_assistant(assistant, device))).run("stdio")
