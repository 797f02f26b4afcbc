"""`amodal data`: look at datasets, check them, bring them into another form, make them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from amodal.cli.data_convert import convert
from amodal.cli.data_draw import draw
from amodal.cli.data_look import formats, inspect, stats
from amodal.cli.data_validate import validate
from amodal.errors import InputError

if TYPE_CHECKING:
    from amodal.questions.scene_lists import Lists
    from amodal.questions.scene_wording import Words

data_app = typer.Typer(no_args_is_help=True)
for command in (formats, inspect, validate, stats, draw, convert):
    data_app.command()(command)


@data_app.callback()
def _group() -> None:
    """Datasets."""


@data_app.command()
def synthesize(
    kind: Annotated[str, typer.Option(help="scenes (procedural), paste (photographs) or questions (about scenes).")],
    out: Annotated[
        Path, typer.Option(help="New folder, or one of an interrupted run; the file to write for questions.")
    ],
    count: Annotated[int | None, typer.Option(help="Pictures to make, or to ask about (all by default).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    annotations: Annotated[
        list[Path] | None,
        typer.Option(help="COCO file to paste from; repeat for more (paste). Scenes to ask about (questions)."),
    ] = None,
    images: Annotated[list[Path] | None, typer.Option(help="Folder of its images, in the same order.")] = None,
    split: Annotated[str, typer.Option(help="all, train or validation photographs.")] = "all",
    exclude_category: Annotated[
        list[str] | None, typer.Option(help="Kind to leave out; repeat for more (paste).")
    ] = None,
    words: Annotated[str, typer.Option(help="train or held_out wording (questions).")] = "train",
    present: Annotated[
        float | None,
        typer.Option(help="Share of questions for a thing or a purpose that the scene can answer (questions). [0.85]"),
    ] = None,
    lists: Annotated[
        str | None, typer.Option(help="Lists to go through, as drill for a model: kinds or all (questions).")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make pictures whose visible and amodal masks are known exactly, or questions about them.

    Example: amodal data synthesize --kind scenes --count 100 --seed 1 --out data/scenes
    """
    if kind == "questions":
        if split != "all" or exclude_category:
            raise InputError("split, exclude_category: expected with --kind paste only")
        path = _questions(annotations or [], images or [], out, seed, words, present, lists, count, not as_json)
        typer.echo(json.dumps({"questions": str(path)}) if as_json else f"Written: {path}")
        return
    if count is None:
        raise InputError("count: expected a number of pictures to make, got none")
    if words != "train" or present is not None or lists is not None:
        raise InputError("words, present, lists: expected with --kind questions only")
    from amodal.data.splits import Split
    from amodal.synthetic.generate import Kind
    from amodal.synthetic.generate import synthesize as make

    kinds: tuple[Kind, ...] = get_args(Kind)
    splits: tuple[Split, ...] = get_args(Split)
    if kind not in kinds:
        raise InputError(f"kind: expected one of {', '.join(kinds)}, questions, got {kind!r}")
    if split not in splits:
        raise InputError(f"split: expected one of {', '.join(splits)}, got {split!r}")
    files, folders = annotations or [], images or []
    if folders and len(folders) != len(files):
        raise InputError(f"images: expected one folder for each of {len(files)} annotation files, got {len(folders)}")
    sources = [(f, folders[i] if folders else None) for i, f in enumerate(files)]
    path = make(
        kind, count, seed, out, sources=sources, split=split, exclude_categories=exclude_category or (),
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
        raise InputError(f"annotations: expected the one file to ask about, got {len(annotations)}{beside}")
    return synthesize_questions(
        annotations[0],
        out,
        seed=seed,
        words=cast("Words", words),  # checked there
        present=present,
        lists=cast("Lists | None", lists),  # likewise
        images=images[0] if images else None,
        count=count,
        progress=progress,
    )
