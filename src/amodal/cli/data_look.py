"""`amodal data formats`, `inspect` and `stats`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amodal.cli.data_source import Annotations, AsJson, FormatName, Images, format_of, open_dataset
from amodal.errors import InputError

if TYPE_CHECKING:
    from amodal.data.index import Index
    from amodal.data.samples import ObjectSample
    from amodal.data.statistics import Statistics

SHOWN_CHARACTERS = 60
SHOWN_ITEMS = 6
SHOWN_CATEGORIES = 15


def formats(as_json: AsJson = False) -> None:
    """List what can be read and written.

    Example: amodal data formats
    """
    from rich.console import Console

    from amodal.data.readers import FORMATS
    from amodal.data.writers import TARGETS

    listed: list[dict[str, Any]] = [
        {
            "name": name,
            "title": f.title,
            "files": list(f.files),
            "masks": f.masks,
            "order": f.order,
            "read": True,
            "write": name in TARGETS,
        }
        for name, f in FORMATS.items()
    ]
    parquet = {"name": "parquet", "title": "Parquet shards, images inside", "files": ["data/*.parquet"]}
    more = {"masks": "visible and amodal", "order": "occluders", "read": False, "write": True}
    listed.append(parquet | more)
    if as_json:
        typer.echo(json.dumps(listed))
        return
    console = Console(highlight=False, soft_wrap=True)
    for form in listed:
        ways = " and ".join(way for way in ("read", "write") if form[way])
        console.print(f"[bold]{form['name']}[/bold]: {form['title']} ({ways})")
        console.print(f"  masks {form['masks']}; order {form['order']}")
        console.print(f"  files {', '.join(form['files'])}", markup=False)


def inspect(
    annotations: Annotations,
    format_: FormatName = None,
    images: Images = None,
    object_id: Annotated[int | None, typer.Option("--object", help="Annotation id; the first by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a file is, and show a record as it is written and as it is understood.

    Example: amodal data inspect --annotations update_test_2020.json
    """
    from rich.console import Console

    from amodal.data.index import Fault
    from amodal.data.readers import open_index

    name, faults = format_of(annotations, format_), list[Fault]()
    index = open_index(name, annotations, images, faults.append)
    written, understood = _record(index, object_id)
    result = {
        "annotations": str(annotations),
        "format": name,
        "guessed": format_ is None,
        "images": str(index.folder),
        "num_images": len(index.images),
        "num_objects": sum(index.num_objects),
        "num_categories": len(index.categories),
        "other_members": sorted(index.extras),
        "num_faults": len(faults),
        "record": _shortened(written),
        "object": understood,
    }
    if as_json:
        typer.echo(json.dumps(result))
        return
    console = Console()
    for key in ("annotations", "format", "images", "num_images", "num_objects", "num_categories", "num_faults"):
        console.print(f"{key:15}{result[key]}{' (guessed)' if key == 'format' and format_ is None else ''}")
    for title, content in (("As written", result["record"]), ("As understood", understood)):
        console.print(f"\n[bold]{title}[/bold]")
        console.print_json(json.dumps(content))


def stats(
    annotations: Annotations,
    format_: FormatName = None,
    images: Images = None,
    plot: Annotated[Path | None, typer.Option(help="Picture to write: .png, .pdf or .svg.")] = None,
    as_json: AsJson = False,
) -> None:
    """Count images, objects and categories, and how much of the objects is hidden.

    Example: amodal data stats --annotations data/scenes/annotations.json --plot stats.png
    """
    from amodal.data.statistics import gather
    from amodal.data.statistics import plot as draw_plot

    figures = gather(open_dataset(annotations, format_, images), progress=not as_json)
    if plot is not None:
        draw_plot(figures, plot)
    if as_json:
        typer.echo(json.dumps(figures.to_json() | ({} if plot is None else {"plot": str(plot)})))
    else:
        _print_statistics(figures)
        if plot is not None:
            typer.echo(f"Written: {plot}")


def _record(index: Index, object_id: int | None) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """A record that states the wanted object, and the object as a reader understands it."""
    from amodal.data.formats.source import to_sample

    for position, entry in enumerate(index.images):
        for record in index.records(position):
            for stated in index.format.state(record):
                if object_id in (None, stated.id):
                    return record, _summary(to_sample(stated, entry.size, index.numbers), index, position)
    if object_id is not None:
        raise InputError(f"object: expected an annotation id of the file, got {object_id}")
    return None, None


def _summary(thing: ObjectSample, index: Index, position: int) -> dict[str, Any]:
    from amodal.ops.rle import rle_area, rle_occlusion_rate

    amodal = thing.amodal_rle
    return {
        "id": thing.id,
        "image": index.images[position].file_name,
        "category": index.categories.get(thing.category_id, str(thing.category_id)),
        "visible_box_xyxy": list(thing.visible_box_xyxy),
        "amodal_box_xyxy": None if thing.amodal_box_xyxy is None else list(thing.amodal_box_xyxy),
        "visible_pixels": rle_area(thing.visible_rle),
        "amodal_pixels": None if amodal is None else rle_area(amodal),
        "occlusion_rate": None if amodal is None else rle_occlusion_rate(thing.visible_rle, amodal),
        "occluders": list(thing.occluders) if thing.occluders_known else None,
        "order": thing.order,
        "order_group": thing.order_group,
        "annotator": thing.annotator,
        "is_stuff": thing.is_stuff,
        "iscrowd": thing.iscrowd,
        "attributes": _shortened(thing.attributes),
    }


def _shortened(value: Any) -> Any:
    """A record that fits on a screen: long texts and lists are cut and say so."""
    if isinstance(value, str) and len(value) > SHOWN_CHARACTERS:
        return f"{value[:SHOWN_CHARACTERS]}... ({len(value)} characters)"
    if isinstance(value, dict):
        return {key: _shortened(inner) for key, inner in value.items()}
    if isinstance(value, list):
        shown = [_shortened(inner) for inner in value[:SHOWN_ITEMS]]
        return shown if len(value) <= SHOWN_ITEMS else [*shown, f"... ({len(value)} in all)"]
    return value


def _print_statistics(figures: Statistics) -> None:
    from rich.console import Console
    from rich.table import Table

    console, content = Console(), figures.to_json()
    for key in (
        "format",
        "num_images",
        "num_objects",
        "num_with_amodal_mask",
        "num_occluded",
        "num_stuff",
        "num_crowd",
        "num_occlusion_relations",
    ):
        console.print(f"{key:26}{content[key]}")
    if figures.annotators:
        console.print(f"{'annotators':26}{len(figures.annotators)}")
    if figures.num_amodal:
        console.print(f"{'mean_occlusion_rate':26}{content['mean_occlusion_rate']:.1%}")
        _print_ranges(console, figures)
    table = Table("category", "objects", "partly hidden", "mean rate")
    for name, row in list(figures.categories.items())[:SHOWN_CATEGORIES]:
        mean = row.to_json()["mean_occlusion_rate"]
        table.add_row(name, f"{row.objects}", f"{row.occluded}", "" if mean is None else f"{mean:.1%}")
    console.print(table)
    if len(figures.categories) > SHOWN_CATEGORIES:
        console.print(f"and {len(figures.categories) - SHOWN_CATEGORIES} more categories (--json lists all)")


def _print_ranges(console: Any, figures: Statistics) -> None:
    most = max(count for _, count in figures.ranges())
    for label, count in figures.ranges():
        console.print(f"  {label:>9}  {'█' * round(40 * count / most):40}  {count}", highlight=False)
