"""`amodal label backend`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amodal.cli.options import DetectorName, DetectorTexts, Device, ModelName, VisibleFrom
from amodal.errors import InputError
from amodal.io.files import write_atomic
from amodal.models.names import DEFAULT_SEGMENTER

if TYPE_CHECKING:
    from amodal.inference.segmenter import AmodalSegmenter


def backend(
    images: Annotated[
        Path | None,
        typer.Option(help="Folder in which images are found by name; default: download them from Label Studio."),
    ] = None,
    model: ModelName = DEFAULT_SEGMENTER,
    visible_from: VisibleFrom = None,
    detector: DetectorName = None,
    text: DetectorTexts = None,
    device: Device = "auto",
    host: Annotated[str, typer.Option(help="Address to bind to.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port.", min=1, max=65535)] = 9090,
    interface: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the labelling interface to this file and exit.")
    ] = None,
) -> None:
    """Serve masks to Label Studio as its machine learning backend.

    Boxes, points and brush strokes that a person draws become a visible and an amodal mask. Tasks without annotations
    get the masks of all objects. Where other machines can reach the address, the environment variables BASIC_AUTH_USER
    and BASIC_AUTH_PASS must be set.

    Example: amodal label backend --images photos
    """
    from amodal.app.server import is_loopback

    user, password = os.environ.get("BASIC_AUTH_USER"), os.environ.get("BASIC_AUTH_PASS")
    if not is_loopback(host) and not (user and password):
        raise InputError(
            f"host: expected BASIC_AUTH_USER and BASIC_AUTH_PASS in the environment, because other machines can reach "
            f"{host}, got none"
        )
    from amodal.inference.folder import ImageSegmenter

    def load() -> AmodalSegmenter:
        from amodal.inference.segmenter import AmodalSegmenter

        return AmodalSegmenter.from_pretrained(model, device=device, visible_from=visible_from)

    segment = ImageSegmenter(load, detector, text)
    with tempfile.TemporaryDirectory(prefix="amodal-label-studio-") as cache:
        os.environ.setdefault("MODEL_DIR", cache)  # where Label Studio's package keeps the interfaces of projects
        from amodal.integrations.label_studio import INTERFACE, make_app

        if interface is not None:
            write_atomic(interface, INTERFACE)
            typer.echo(f"Written: {interface}. Paste it as the labelling interface of a project.")
            return
        app = make_app(segment.segmenter, segment.find, images, user=user, password=password)
        typer.echo(f"Connect http://{host}:{port} in Label Studio under Settings, Model. Stop with Ctrl-C.")
        app.run(host=host, port=port, threaded=True)
