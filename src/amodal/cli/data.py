"""`amodal data`: list formats, inspect, validate, convert, draw and synthesize datasets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from amodal.cli.data_draw import draw
from amodal.cli.data_inspect import inspect, stats, validate
from amodal.cli.options import Annotations, AsJson, FormatName, Images, MatchBy, open_dataset
from amodal.errors import InputError
from amodal.io.files import require_no_input
from amodal.io.words import counted

if TYPE_CHECKING:
    from amodal.data.convert import CocoMasks
    from amodal.ops.polygons import MaskForm
    from amodal.questions.list_forms import Lists
    from amodal.questions.wording import Words

data_app = typer.Typer(no_args_is_help=True)


@data_app.callback()
def _group() -> None:
    """Inspect, validate, convert, draw and synthesize datasets."""


@data_app.command()
def formats(as_json: AsJson = False) -> None:
    """List the formats that can be read and written.

    Example: amodal data formats
    """
    from rich.console import Console

    from amodal.data.convert import TARGETS
    from amodal.data.datasets import FORMATS

    listed: list[dict[str, Any]] = [
        {
            "name": name,
            "title": format_.title,
            "files": list(format_.files),
            "masks": format_.masks,
            "order": format_.order,
            "read": True,
            "write": name in TARGETS,
        }
        for name, format_ in FORMATS.items()
    ]
    parquet = {"name": "parquet", "title": "Parquet shards with the images inside", "files": ["data/*.parquet"]}
    more = {"masks": "visible and amodal", "order": "occluders", "read": False, "write": True}
    listed.append(parquet | more)
    if as_json:
        typer.echo(json.dumps(listed))
        return
    console = Console(highlight=False, soft_wrap=True)
    for row in listed:
        ways = " and ".join(way for way in ("read", "write") if row[way])
        console.print(f"[bold]{row['name']}[/bold]: {row['title']} ({ways})")
        console.print(f"  masks {row['masks']}; order {row['order']}")
        console.print(f"  files {', '.join(row['files'])}", markup=False)


for _command in (inspect, validate, stats, draw):
    data_app.command()(_command)


@data_app.command()
def convert(
    annotations: Annotations,
    to: Annotated[str, typer.Option("--to", help="Target format: canonical, cocoa_cls, kins2020, coco or parquet.")],
    out: Annotated[Path, typer.Option(help="File (.json) or folder to write; a folder for parquet.")],
    format_: FormatName = None,
    images: Images = None,
    match: MatchBy = "path",
    masks: Annotated[
        list[str] | None,
        typer.Option(
            help="How masks are written: rle (default), polygon or counts (uncompressed RLE); and the mask of each "
            "object that coco gets: amodal (default) or visible. May be repeated."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Name of the split in the names of the Parquet files.")] = "train",
    shard_mb: Annotated[int, typer.Option(min=1, help="Size of a Parquet file in MiB.")] = 256,
    as_json: AsJson = False,
) -> None:
    """Convert a dataset to another format, and list what that format cannot store.

    Example: amodal data convert --format cocoa --annotations COCO_amodal_val2014.json --to canonical --out cocoa.json
    """
    from amodal.data.convert import convert as convert_dataset

    require_no_input(out if out.suffix == ".json" or to == "parquet" else out / "annotations.json", [annotations])
    if annotations.is_dir() and out.resolve().is_relative_to(annotations.resolve()):
        raise InputError(f"out: expected a place outside of the input {str(annotations)!r}, got {str(out)!r}")
    which, form = _mask_choices(masks or [], to)
    done = convert_dataset(
        open_dataset(annotations, format_, images, match), to, out,
        coco_masks=which, mask_form=form,
        split=split, shard_bytes=shard_mb << 20, progress=not as_json,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(done.to_json()))
        return
    for file in done.files:
        typer.echo(f"Written: {file}")
    counts = f"{counted(done.num_images, 'image')}, {counted(done.num_objects, 'object')}"
    typer.echo(f"{counts}; occluders derived for {done.num_derived}")
    for kind, lost in done.lost.to_json().items():
        names = f" ({', '.join(lost['names'])})" if lost.get("names") else ""
        typer.echo(f"Cannot be stored in {to}: {kind}{names}, {counted(lost['objects'], 'object')}")


def _mask_choices(masks: list[str], to: str) -> tuple[CocoMasks, MaskForm]:
    """The mask that `coco` gets, and how masks are written, from the values of `--masks` for the target `to`."""
    from amodal.data.convert import CocoMasks
    from amodal.ops.polygons import MaskForm

    kinds, forms = get_args(CocoMasks), get_args(MaskForm)
    for value in masks:
        if value not in (*kinds, *forms):
            raise InputError(f"masks: expected amodal or visible, and rle, polygon or counts, got {value!r:.40}")
    which, form = [m for m in masks if m in kinds], [m for m in masks if m in forms]
    if len(which) > 1 or len(form) > 1:
        raise InputError(f"masks: expected one kind and one form of masks, got {', '.join(masks)}")
    if which and to != "coco":
        raise InputError(f"masks: expected amodal or visible with --to coco only, got {which[0]} with {to}")
    return cast("CocoMasks", which[0] if which else kinds[0]), cast("MaskForm", form[0] if form else forms[0])


def _check_kind(kind: str, given: dict[str, object], kinds: tuple[str, ...]) -> None:
    """Raise `InputError` if an option is given (true) that belongs to other kinds than `kind`."""
    wrong = [name for name, value in given.items() if value]
    if wrong and kind not in kinds:
        raise InputError(f"{wrong[0]}: expected with --kind {' or '.join(kinds)} only, got it with {kind}")


@data_app.command()
def synthesize(
    kind: Annotated[
        str,
        typer.Option(help="What to make: scenes (procedural), paste (onto photographs) or questions (about scenes)."),
    ],
    out: Annotated[
        Path, typer.Option(help="New folder, or folder of an interrupted run to resume; for questions, the file.")
    ],
    count: Annotated[
        int | None, typer.Option(help="Number of images to make, or to ask about (questions; default: all).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    annotations: Annotated[
        list[Path] | None,
        typer.Option(help="COCO file to paste from, may be repeated (paste); scenes to ask about (questions)."),
    ] = None,
    images: Annotated[list[Path] | None, typer.Option(help="Folder of the images, once per annotation file.")] = None,
    split: Annotated[str, typer.Option(help="Photographs to use: all, train or validation (paste).")] = "all",
    exclude_category: Annotated[
        list[str] | None, typer.Option(help="Category to leave out, may be repeated (paste).")
    ] = None,
    words: Annotated[
        str, typer.Option(help="Wording to use: train, held_out, free or free_held_out (questions).")
    ] = "train",
    present: Annotated[
        float | None,
        typer.Option(help="Share of questions whose answer is in the scene; default: 0.85 (questions)."),
    ] = None,
    lists: Annotated[
        str | None, typer.Option(help="Write these instead: kinds, all, talk or decisions (questions).")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Make images whose visible and amodal masks are known exactly, or questions about such images.

    Example: amodal data synthesize --kind scenes --count 100 --seed 1 --out data/scenes
    """
    from amodal.data.splits import Split
    from amodal.synthetic.generate import Kind
    from amodal.synthetic.generate import synthesize as synthesize_images

    kinds: tuple[Kind, ...] = get_args(Kind)
    splits: tuple[Split, ...] = get_args(Split)
    if kind not in (*kinds, "questions"):
        raise InputError(f"kind: expected one of {', '.join(kinds)}, questions, got {kind!r}")
    _check_kind(kind, {"split": split != "all", "exclude-category": exclude_category}, ("paste",))
    _check_kind(kind, {"annotations": annotations}, ("paste", "questions"))
    _check_kind(kind, {"words": words != "train", "present": present is not None, "lists": lists}, ("questions",))
    if kind == "questions":
        path = _questions(annotations or [], images or [], out, seed, words, present, lists, count, not as_json)
        typer.echo(json.dumps({"questions": str(path)}) if as_json else f"Written: {path}")
        return
    if count is None:
        raise InputError("count: expected the number of images to make, got none")
    if split not in splits:
        raise InputError(f"split: expected one of {', '.join(splits)}, got {split!r}")
    files, folders = annotations or [], images or []
    if folders and len(folders) != len(files):
        raise InputError(f"images: expected one folder for each of {len(files)} annotation files, got {len(folders)}")
    sources = [(f, folders[i] if folders else None) for i, f in enumerate(files)]
    path = synthesize_images(
        cast("Kind", kind), count, seed, out, sources=sources, split=split, exclude_categories=exclude_category or (),
        workers=workers, progress=not as_json,
    )  # fmt: skip
    typer.echo(json.dumps({"annotations": str(path)}) if as_json else f"Written: {path}")


def _questions(
    annotations: list[Path],
    images: list[Path],
    out: Path,
    seed: int,
    words: str,
    present: float | None,
    lists: str | None,
    count: int | None,
    progress: bool,
) -> Path:
    from amodal.synthetic.questions import synthesize_questions

    if len(annotations) != 1 or len(images) > 1:
        beside = f" and {len(images)} folders of images" if len(images) > 1 else ""
        raise InputError(f"annotations: expected one file to ask about, got {len(annotations)}{beside}")
    return synthesize_questions(
        annotations[0],
        out,
        seed=seed,
        words=cast("Words", words),  # checked in synthesize_questions
        present=present,
        lists=cast("Lists | None", lists),  # checked there too
        images=images[0] if images else None,
        count=count,
        progress=progress,
    )
