"""`amodal serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from amodal.errors import InputError


def serve(
    host: Annotated[
        str, typer.Option(help="Address to bind to; others than this machine need the token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8764,
    model: Annotated[str, typer.Option(help="Segmenter: bundled name, folder or hub id.")] = "plug-tiny",
    assistant: Annotated[
        str | None, typer.Option(help="Model that answers questions; the bundled one if there is one, 'none' for none.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="Of the segmenter: auto, float32, bfloat16, or int8 (large models on a processor).")
    ] = "auto",
    token: Annotated[
        str | None, typer.Option(help="Token of the link; random where other machines can reach it.")
    ] = None,
) -> None:
    """Serve the web demo and the HTTP API (its description is at /openapi.json).

    Example: amodal serve --port 8764
    """
    try:
        from amodal.app.demo import make_app
    except ImportError as error:
        raise InputError(
            f"serve: expected FastAPI and uvicorn, got none of {error.name!r} (pip install 'amodal[serve]')"
        ) from error
    from amodal.app.listen import access_token, run
    from amodal.app.studio import Studio
    from amodal.inference.find import ObjectFinder
    from amodal.inference.segmenter import AmodalSegmenter
    from amodal.models.bundled import bundled_models

    secret = access_token(host, token)
    segmenter = AmodalSegmenter.from_pretrained(model, device=device, dtype=dtype)
    finder = ObjectFinder.from_pretrained(segmenter.base_name, segmenter.device)
    name = assistant or ("aura-tiny" if "aura-tiny" in bundled_models() else "none")
    answerer = None
    if name != "none":
        from amodal.inference.assistant import AmodalAssistant

        answerer = AmodalAssistant.from_pretrained(name, device=device)
    app = make_app(Studio(segmenter, finder, answerer), token=secret, hosts=frozenset({host.lower()}))
    try:
        run(app, host, port, secret, typer.echo)
    except KeyboardInterrupt as error:
        raise typer.Exit from error
