"""`amodal data convert`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from amodal.cli.data_source import Annotations, AsJson, Images, open_dataset
from amodal.errors import InputError

if TYPE_CHECKING:
    from amodal.data.writers.convert import CocoMasks


def convert(
    annotations: Annotations,
    to: Annotated[str, typer.Option("--to", help="canonical, cocoa_cls, kins2020, coco or parquet.")],
    out: Annotated[Path, typer.Option(help="File (.json) or folder; a folder for parquet.")],
    source: Annotated[str | None, typer.Option("--from", help="Format; guessed if left out.")] = None,
    images: Images = None,
    masks: Annotated[str, typer.Option(help="Which masks coco gets: amodal or visible.")] = "amodal",
    split: Annotated[str, typer.Option(help="Split in the names of the Parquet files.")] = "train",
    shard_mb: Annotated[int, typer.Option(min=1, help="Size of a Parquet file.")] = 256,
    as_json: AsJson = False,
) -> None:
    """Bring a dataset into another form, mask for mask, and say what that form cannot hold.

    Example: amodal data convert --from cocoa --annotations COCO_amodal_val2014.json --to canonical --out cocoa.json
    """
    from amodal.data.writers import convert as write

    if annotations.exists() and out.exists() and out.samefile(annotations):
        raise InputError(f"out: expected another file than the annotations, got {str(out)!r}")
    done = write(
        open_dataset(annotations, source, images), to, out,
        coco_masks=cast("CocoMasks", masks),  # checked there
        split=split, shard_bytes=shard_mb << 20, progress=not as_json,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(done.to_json()))
        return
    for file in done.files:
        typer.echo(f"Written: {file}")
    typer.echo(f"{done.num_images} images, {done.num_objects} objects; occluders derived for {done.num_derived}")
    for kind, lost in done.not_held.to_json().items():
        names = f" ({', '.join(lost['names'])})" if lost.get("names") else ""
        typer.echo(f"Not held by {to}: {kind}{names}, {lost['objects']} objects")
