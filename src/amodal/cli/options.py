"""Command-line options that several commands share, and how their values are parsed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from amodal.errors import InputError, NotFetchedError
from amodal.io.files import require_no_input
from amodal.models.names import DEFAULT_ASSISTANT

if TYPE_CHECKING:
    from amodal.data.samples import AnnotatedDataset
    from amodal.inference.assistant import AmodalAssistant
    from amodal.io.image_names import Match

ModelName = Annotated[str, typer.Option("--model", help="Model: bundled name, folder or hub id.")]
SegmenterName = Annotated[str, typer.Option("--model", help="Segmenter: bundled name, folder or hub id.")]
AssistantName = Annotated[
    str | None,
    typer.Option("--assistant", help="Model that answers questions, or 'none'; default: the bundled one."),
]
VisibleFrom = Annotated[
    str | None,
    typer.Option(
        "--visible-from",
        metavar="NAME",
        help="Promptable segmenter (SAM, SAM 2, ...) that makes the visible masks: hub id, folder or checkpoint file.",
    ),
]
Device = Annotated[str, typer.Option(help="Device: auto, cpu, cuda, ...")]
Dtype = Annotated[
    str, typer.Option(help="Precision of the segmenter: auto, float32, bfloat16, or int8 (large models on a CPU).")
]
Mode = Annotated[str, typer.Option(help="Encode one crop per object (crop) or the whole image once (image; faster).")]
DetectorName = Annotated[
    str | None, typer.Option("--detector", help="Detector of transformers that finds the boxes: hub id or folder.")
]
DetectorTexts = Annotated[
    list[str] | None, typer.Option("--text", help="What an open-vocabulary detector looks for; may be repeated.")
]
Confidence = Annotated[
    float | None,
    typer.Option(help="Smallest score of an object that is found without prompts; default: the detector's own."),
]
Threshold = Annotated[float | None, typer.Option(help="Smallest probability of foreground; default: the model's own.")]
Clean = Annotated[
    bool,
    typer.Option(
        "--clean/--no-clean",
        help="Remove specks, holes and thin rims from masks, and move outlines to edges of the image.",
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first image or object that fails.")]
JsonSummary = Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")]


SOME_FAILED = 3
"""Exit code of a command that skipped some of many images or objects."""


@dataclass
class Failures:
    """Images and objects that a command skips and reports at its end.

    Attributes:
        strict: stop at the first of them.
        messages: what is wrong, by the name of the image.
    """

    strict: bool = False
    messages: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, message: str) -> None:
        """Note what is wrong with an image or with one of its objects.

        Raises:
            InputError: `strict` is set.
        """
        if self.strict:
            raise InputError(f"{name}: {message}")
        self.messages.setdefault(name, []).append(message)

    def exit(self) -> None:
        """Print the failures on stderr, one per line, and exit with `SOME_FAILED`; without failures, do nothing."""
        if not self.messages:
            return
        for name, messages in self.messages.items():
            for message in messages:
                typer.echo(f"amodal: {name}: {' '.join(message.split())}", err=True)
        number = sum(map(len, self.messages.values()))
        typer.echo(f"amodal: {number} failed and left out", err=True)
        raise typer.Exit(SOME_FAILED)


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


def parse_point(text: str) -> tuple[float, float, int]:
    """Parse a point X,Y with label 1 (on the object), or X,Y,1 or X,Y,0 (not on the object).

    Raises:
        InputError: another form.
    """
    position, label = text, "1"
    if text.count(",") == 2:
        position, _, label = text.rpartition(",")
    if label.strip() not in ("0", "1"):
        raise InputError(f"point: expected the label 0 or 1 in X,Y,LABEL, got {text!r}")
    x, y = parse_numbers("point", position, "X,Y")
    return x, y, int(label)


def group_points(points: list[tuple[float, float, int]]) -> list[list[tuple[float, float, int]]]:
    """Points by object: each point with label 1 begins an object, points with label 0 belong to the one before.

    Raises:
        InputError: the first point has label 0.
    """
    groups: list[list[tuple[float, float, int]]] = []
    for point in points:
        if point[2]:
            groups.append([point])
        elif groups:
            groups[-1].append(point)
        else:
            x, y, _ = point
            raise InputError(f"point: expected a point on an object before one with label 0, got {x:g},{y:g},0 first")
    return groups


def load_assistant(name: str | None, device: str) -> AmodalAssistant | None:
    """Load the model of `--assistant`, none for `none`.

    Without a name it is the default one, or none where that needs a language model that has not been fetched; stderr
    then says how to fetch it.

    Raises:
        InputError: unknown model or device.
    """
    if name == "none":
        return None
    from amodal.inference.assistant import AmodalAssistant

    try:
        return AmodalAssistant.from_pretrained(name or DEFAULT_ASSISTANT, device=device)
    except NotFetchedError as error:
        if name is not None:
            raise
        typer.echo(f"No questions can be asked: {error}", err=True)
        return None


Annotations = Annotated[Path, typer.Option(help="Annotation file, or folder for masks and single COCOA records.")]
FormatName = Annotated[
    str | None, typer.Option("--format", help="Format of the annotations (`amodal data formats`); default: guessed.")
]
Images = Annotated[Path | None, typer.Option(help="Folder of the images; default: `images` beside the annotations.")]
MatchBy = Annotated[
    str,
    typer.Option(
        "--match",
        help="Find images by their path below the folder (path), or anywhere below it by the last part of their name "
        "(name), for names that are URLs or paths of another computer.",
    ),
]
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


def open_dataset(annotations: Path, name: str | None, images: Path | None, match: str = "path") -> AnnotatedDataset:
    """Read the dataset that a command's options name.

    Raises:
        InputError: the dataset cannot be read.
    """
    from amodal.data.datasets import read_dataset

    return read_dataset(format_of(annotations, name), annotations, images, cast("Match", match))  # checked there


def require_no_image(out: Path, dataset: AnnotatedDataset, what: str = "out", *others: Path) -> None:
    """Check that an output is none of the images of a dataset, and none of some other files.

    Raises:
        InputError: it is one of them; the message names the option `what`.
    """
    if out.exists():  # otherwise it is no image
        require_no_input(out, [*others, *(image.path for image in dataset.images)], what)


def require_no_replaced_input(folder: Path, inputs: Iterable[Path | None]) -> None:
    """Check that a scene or video that is saved in a folder replaces none of the files that a command reads.

    Raises:
        InputError: it would replace one of them.
    """
    from amodal.inference.folder import VIDEO_FILE
    from amodal.inference.scene import files_of_scene

    read = list(inputs)
    for output in (*files_of_scene(folder), folder / VIDEO_FILE):
        require_no_input(output, read)
