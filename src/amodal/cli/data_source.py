"""The options by which a command is told which dataset it works on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amodal.errors import InputError

if TYPE_CHECKING:
    from amodal.data.samples import AnnotatedDataset

Annotations = Annotated[Path, typer.Option(help="Annotation file (a folder for masks and bare COCOA records).")]
FormatName = Annotated[
    str | None, typer.Option("--format", help="Format; guessed if left out. `amodal data formats` lists them.")
]
Images = Annotated[Path | None, typer.Option(help="Folder of the images; `images` beside the annotations by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def format_of(annotations: Path, name: str | None) -> str:
    """The format that was named, or the one the file seems to have.

    Raises:
        InputError: none was named and none recognised.
    """
    if name is not None:
        return name
    from amodal.data.formats import guess

    found = guess(annotations)
    if found is None:
        raise InputError(f"format: expected --format, as {str(annotations)!r} resembles no known one")
    return found


def open_dataset(annotations: Path, name: str | None, images: Path | None) -> AnnotatedDataset:
    """Read the dataset a command was given.

    Raises:
        InputError: it cannot be read.
    """
    from amodal.data.readers import read_dataset

    return read_dataset(format_of(annotations, name), annotations, images)
