"""`amodal data`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from amodal.errors import InputError

data_app = typer.Typer(no_args_is_help=True)


@data_app.callback()
def _group() -> None:
    """Datasets."""


@data_app.command()
def synthesize(
    kind: Annotated[str, typer.Option(help="scenes (procedural) or paste (photographs).")],
    count: Annotated[int, typer.Option(help="Pictures to make.")],
    out: Annotated[Path, typer.Option(help="New folder, or one of an interrupted run.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    annotations: Annotated[
        list[Path] | None, typer.Option(help="COCO file to paste from; repeat for more (paste).")
    ] = None,
    images: Annotated[list[Path] | None, typer.Option(help="Folder of its images, in the same order.")] = None,
    split: Annotated[str, typer.Option(help="all, train or validation photographs.")] = "all",
    exclude_category: Annotated[
        list[str] | None, typer.Option(help="Kind to leave out; repeat for more (paste).")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make pictures whose visible and amodal masks are known exactly.

    Example: amodal data synthesize --kind scenes --count 100 --seed 1 --out data/scenes
    """
    from amodal.data.synthetic.generate import synthesize as make

    if split not in ("all", "train", "validation"):
        raise InputError(f"split: expected all, train or validation, got {split!r}")
    files, folders = annotations or [], images or []
    if folders and len(folders) != len(files):
        raise InputError(f"images: expected one folder for each of {len(files)} annotation files, got {len(folders)}")
    sources = [(f, folders[i] if folders else None) for i, f in enumerate(files)]
    path = make(
        kind,  # type: ignore[arg-type]
        count, seed, out, sources=sources, split=split,  # type: ignore[arg-type]
        exclude_categories=exclude_category or (), workers=workers, progress=not as_json,
    )  # fmt: skip
    typer.echo(json.dumps({"annotations": str(path)}) if as_json else f"Written: {path}")
