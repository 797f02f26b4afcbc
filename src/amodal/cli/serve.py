"""`amodal serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from amodal.cli.options import Device, Dtype
from amodal.errors import InputError


def serve(
    host: Annotated[
        str, typer.Option(help="Address to bind to; where other machines can reach it, a token is required.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 chooses a free one.", min=0, max=65535)] = 8764,
    model: Annotated[str, typer.Option(help="Segmenter: bundled name, folder or hub id.")] = "plug-tiny",
    assistant: Annotated[
        str | None, typer.Option(help="Model that answers questions, or 'none'; default: the bundled one.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    token: Annotated[
        str | None, typer.Option(help="Access token; default: a random one where a token is required.")
    ] = None,
) -> None:
    """Serve the web demo and the HTTP API.

    /openapi.json describes the API.

    Example: amodal serve --port 8764
    """
    try:
        from amodal.app.demo import make_app
    except ImportError as error:
        raise InputError(
            f"serve: expected FastAPI and uvicorn, got no {error.name!r} (pip install 'amodal[serve]')"
        ) from error
    from amodal.app.images import DemoModels
    from amodal.app.server import access_token, run
    from amodal.inference.find import ObjectFinder
    from amodal.inference.segmenter import AmodalSegmenter
    from amodal.models.increments import bundled_models

    secret = access_token(host, token)
    segmenter = AmodalSegmenter.from_pretrained(model, device=device, dtype=dtype)
    finder = ObjectFinder.from_pretrained(segmenter.base_name, segmenter.device)
    name = assistant or ("aura-tiny" if "aura-tiny" in bundled_models() else "none")
    answering = None
    if name != "none":
        from amodal.inference.assistant import AmodalAssistant

        answering = AmodalAssistant.from_pretrained(name, device=device)
    app = make_app(DemoModels(segmenter, finder, answering), token=secret, hosts=frozenset({host.lower()}))
    try:
        run(app, host, port, secret, typer.echo)
    except KeyboardInterrupt as error:
        raise typer.Exit from error
