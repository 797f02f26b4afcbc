"""Command-line options that several commands share, and how their values are parsed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amodal.errors import InputError

if TYPE_CHECKING:
    from amodal.data.samples import AnnotatedDataset

ModelName = Annotated[str, typer.Option("--model", help="Model: bundled name, folder or hub id.")]
Device = Annotated[str, typer.Option(help="Device: auto, cpu, cuda, ...")]
Dtype = Annotated[str, typer.Option(help="Precision: auto, float32, bfloat16, or int8 (large models on a CPU).")]
Mode = Annotated[str, typer.Option(help="Encode one crop per object (crop) or the whole image once (image; faster).")]
DetectorName = Annotated[
    str | None, typer.Option("--detector", help="Detector of transformers that finds the boxes: hub id or folder.")
]
DetectorTexts = Annotated[
    list[str] | None, typer.Option("--text", help="What an open-vocabulary detector looks for; may be repeated.")
]
JsonSummary = Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")]


def parse_numbers(name: str, text: str, form: str) -> list[float]:
    """Parse comma-separated numbers of a form such as `X0,Y0,X1,Y1`.

    Raises:
        InputError: another number of values, or something that is not a number.
    """
    count = form.count(",") + 1
    words = {2: "two", 4: "four"}[count]
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{name}: expected {words} numbers {form}, got {text!r}") from error
    if len(values) != count:
        raise InputError(f"{name}: expected {words} numbers {form}, got {text!r}")
    return values


Annotations = Annotated[Path, typer.Option(help="Annotation file, or folder for masks and single COCOA records.")]
FormatName = Annotated[
    str | None, typer.Option("--format", help="Format of the annotations (`amodal data formats`); default: guessed.")
]
Images = Annotated[Path | None, typer.Option(help="Folder of the images; default: `images` beside the annotations.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def format_of(annotations: Path, name: str | None) -> str:
    """The named format, or the guessed format of the file if none was named.

    Raises:
        InputError: no format was named and none can be guessed.
    """
    if name is not None:
        return name
    from amodal.data.datasets import guess_format

    found = guess_format(annotations)
    if found is None:
        raise InputError(f"format: expected --format, as {str(annotations)!r} resembles no known format")
    return found


def open_dataset(annotations: Path, name: str | None, images: Path | None) -> AnnotatedDataset:
    """Read the dataset that a command's options name.

    Raises:
        InputError: the dataset cannot be read.
    """
    from amodal.data.datasets import read_dataset

    return read_dataset(format_of(annotations, name), annotations, images)
