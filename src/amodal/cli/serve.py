"""`amodal serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from amodal.cli.options import AssistantName, Device, Dtype, SegmenterName, VisibleFrom, load_assistant
from amodal.errors import InputError
from amodal.models.names import DEFAULT_SEGMENTER


def serve(
    host: Annotated[
        str, typer.Option(help="Address to bind to; where other machines can reach it, a token is required.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 chooses a free one.", min=0, max=65535)] = 8764,
    model: SegmenterName = DEFAULT_SEGMENTER,
    visible_from: VisibleFrom = None,
    assistant: AssistantName = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    token: Annotated[
        str | None, typer.Option(help="Access token; default: a random one where a token is required.")
    ] = None,
    root_path: Annotated[
        str, typer.Option(metavar="PATH", help="Path under which a proxy serves the page, such as /amodal.")
    ] = "",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Name by which a proxy is reached, without port; may be repeated."),
    ] = None,
    forwarded_from: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS", help="Proxy whose X-Forwarded-For and X-Forwarded-Proto are believed; may be repeated."
        ),
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
    from amodal.app.server import access_token, proxy_options, run
    from amodal.inference.segmenter import AmodalSegmenter

    secret = access_token(host, token)
    place, names, proxies = proxy_options(root_path, allow_host or [], forwarded_from or [])
    segmenter = AmodalSegmenter.from_pretrained(model, device=device, dtype=dtype, visible_from=visible_from)
    answering = load_assistant(assistant, device)
    options = ["--model", model]
    options += ["--visible-from", visible_from] if visible_from else []
    models = DemoModels(segmenter, segmenter.finder, answering, options)
    app = make_app(models, token=secret, hosts=names | {host.lower()}, root_path=place)
    try:
        run(app, host, port, secret, typer.echo, proxies)
    except KeyboardInterrupt as error:
        raise typer.Exit from error
