"""`amodal data inspect`, `validate` and `stats`: what an annotation file contains and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from amodal.cli.options import (
    Annotations,
    AsJson,
    FormatName,
    Images,
    MatchBy,
    format_of,
    open_dataset,
    require_no_image,
)
from amodal.errors import InputError
from amodal.io.words import counted

if TYPE_CHECKING:
    from rich.console import Console

    from amodal.data.index import Index
    from amodal.data.samples import ObjectSample
    from amodal.data.statistics import DatasetStatistics
    from amodal.data.validation.validate import ValidationReport
    from amodal.io.image_names import Match

MAX_CHARACTERS = 60
MAX_ITEMS = 6
MAX_CATEGORIES = 15


def inspect(
    annotations: Annotations,
    format_: FormatName = None,
    images: Images = None,
    match: MatchBy = "path",
    object_id: Annotated[
        int | None, typer.Option("--object", help="Annotation id of the object to show; default: the first one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the content of a file, and one object as the file stores it and as it is read.

    Example: amodal data inspect --annotations update_test_2020.json
    """
    from rich.console import Console

    from amodal.data.datasets import open_index
    from amodal.data.index import DatasetFault

    name, faults = format_of(annotations, format_), list[DatasetFault]()
    index = open_index(name, annotations, images, faults.append, cast("Match", match))  # checked there
    record, obj = _find_object(index, object_id)
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
        "record": _shorten(record),
        "object": obj,
    }
    if as_json:
        typer.echo(json.dumps(result))
        return
    console = Console()
    for key in ("annotations", "format", "images", "num_images", "num_objects", "num_categories", "num_faults"):
        console.print(f"{key:15}{result[key]}{' (guessed)' if key == 'format' and format_ is None else ''}")
    for title, content in (("In the file", result["record"]), ("As read", obj)):
        console.print(f"\n[bold]{title}[/bold]")
        console.print_json(json.dumps(content))


def validate(
    annotations: Annotations,
    format_: FormatName = None,
    images: Images = None,
    match: MatchBy = "path",
    report: Annotated[Path | None, typer.Option(help="File for the JSON report.")] = None,
    show: Annotated[int, typer.Option(min=0, help="Number of findings of each kind to print.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Check a dataset for every known fault; exit with 1 if there are errors, with 0 if there are only warnings.

    Example: amodal data validate --format kins2020 --annotations update_test_2020.json --images testing/image_2
    """
    from amodal.data.validation.validate import validate as validate_dataset
    from amodal.io.files import require_file, require_no_input, write_atomic

    if report is not None:
        if report.suffix.lower() != ".json":
            raise InputError(f"report: expected a .json file, got {str(report)!r}")
        require_file(require_no_input(report, [annotations], "report"), "report")
    found = validate_dataset(
        format_of(annotations, format_), annotations, images, match=cast("Match", match), progress=not as_json
    )
    if report is not None:
        write_atomic(report, json.dumps(found.to_json()), "report")
    if as_json:
        typer.echo(json.dumps(found.to_json()))
    else:
        _print_report(found, show)
        if report is not None:
            typer.echo(f"Written: {report}")
    if found.num_errors:
        raise typer.Exit(1)


def stats(
    annotations: Annotations,
    format_: FormatName = None,
    images: Images = None,
    match: MatchBy = "path",
    plot: Annotated[Path | None, typer.Option(help="Plot to write: .png, .pdf or .svg.")] = None,
    as_json: AsJson = False,
) -> None:
    """Count images, objects and categories, and summarise the occlusion rates.

    Example: amodal data stats --annotations data/scenes/annotations.json --plot stats.png
    """
    from amodal.data.statistics import check_plot, compute_statistics, plot_statistics

    dataset = open_dataset(annotations, format_, images, match)
    if plot is not None:
        require_no_image(check_plot(plot), dataset, "plot", annotations)
    statistics = compute_statistics(dataset, progress=not as_json)
    if plot is not None:
        plot_statistics(statistics, plot)
    if as_json:
        typer.echo(json.dumps(statistics.to_json() | ({} if plot is None else {"plot": str(plot)})))
    else:
        _print_statistics(statistics)
        if plot is not None:
            typer.echo(f"Written: {plot}")


def _find_object(index: Index, object_id: int | None) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The record that contains the object, and the object as it is read; the first object if no id is given."""
    from amodal.data.records import to_sample

    for position, entry in enumerate(index.images):
        for record in index.records(position):
            for raw in index.format.parse(record):
                if object_id in (None, raw.id):
                    return record, _describe(to_sample(raw, entry.size, index.numbers), index, position)
    if object_id is not None:
        raise InputError(f"object: expected an annotation id of the file, got {object_id}")
    return None, None


def _describe(obj: ObjectSample, index: Index, position: int) -> dict[str, Any]:
    from amodal.ops.occlusion import rle_occlusion_rate
    from amodal.ops.rle import rle_area

    amodal = obj.amodal_rle
    return {
        "id": obj.id,
        "image": index.images[position].file_name,
        "category": index.categories.get(obj.category_id, str(obj.category_id)),
        "visible_box_xyxy": list(obj.visible_box_xyxy),
        "amodal_box_xyxy": None if obj.amodal_box_xyxy is None else list(obj.amodal_box_xyxy),
        "visible_pixels": rle_area(obj.visible_rle),
        "amodal_pixels": None if amodal is None else rle_area(amodal),
        "occlusion_rate": None if amodal is None else rle_occlusion_rate(obj.visible_rle, amodal),
        "occluders": list(obj.occluders) if obj.occluders_known else None,
        "order": obj.order,
        "order_group": obj.order_group,
        "annotator": obj.annotator,
        "is_stuff": obj.is_stuff,
        "iscrowd": obj.iscrowd,
        "attributes": _shorten(obj.attributes),
    }


def _shorten(value: Any) -> Any:
    """Shorten long texts and lists, with a note of their length, so that a record fits on a screen."""
    if isinstance(value, str) and len(value) > MAX_CHARACTERS:
        return f"{value[:MAX_CHARACTERS]}... ({len(value)} characters)"
    if isinstance(value, dict):
        return {key: _shorten(inner) for key, inner in value.items()}
    if isinstance(value, list):
        shown = [_shorten(inner) for inner in value[:MAX_ITEMS]]
        return shown if len(value) <= MAX_ITEMS else [*shown, f"... ({len(value)} in all)"]
    return value


def _print_report(found: ValidationReport, show: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from amodal.data.validation.validate import ERRORS, WARNINGS, severity

    console = Console()
    table = Table("", "kind", "count", "meaning")
    for kind, count in found.kinds().items():
        colour = {"error": "red", "warning": "yellow"}[severity(kind)]
        table.add_row(f"[{colour}]{severity(kind)}[/{colour}]", kind, f"{count}", (ERRORS | WARNINGS)[kind])
    if found.faults:
        console.print(table)
    for kind in found.kinds():
        for fault in [f for f in found.faults if f.kind == kind][:show]:
            where = [f"image {fault.image_id}"] if fault.image_id is not None else []
            where += [f"annotation {fault.annotation_id}"] if fault.annotation_id is not None else []
            line = ": ".join(filter(None, [kind, ", ".join(where), fault.message]))
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    counts = f"{counted(found.num_images, 'image')}, {counted(found.num_objects, 'object')} as {found.format}"
    faults = f"{counted(found.num_errors, 'error')}, {counted(found.num_warnings, 'warning')}"
    console.print(f"{found.annotations}: {counts}: {faults}", markup=False, highlight=False, soft_wrap=True)


def _print_statistics(statistics: DatasetStatistics) -> None:
    from rich.console import Console
    from rich.table import Table

    console, content = Console(), statistics.to_json()
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
    if statistics.annotators:
        console.print(f"{'annotators':26}{len(statistics.annotators)}")
    if statistics.num_amodal:
        console.print(f"{'mean_occlusion_rate':26}{content['mean_occlusion_rate']:.1%}")
        _print_histogram(console, statistics.ranges())
    table = Table("category", "objects", "occluded", "mean occlusion rate")
    for name, row in list(statistics.categories.items())[:MAX_CATEGORIES]:
        mean = row.to_json()["mean_occlusion_rate"]
        table.add_row(name, f"{row.objects}", f"{row.occluded}", "" if mean is None else f"{mean:.1%}")
    console.print(table)
    if len(statistics.categories) > MAX_CATEGORIES:
        console.print(f"and {len(statistics.categories) - MAX_CATEGORIES} more categories (--json lists all)")


def _print_histogram(console: Console, ranges: list[tuple[str, int]]) -> None:
    largest = max(count for _, count in ranges)
    for label, count in ranges:
        console.print(f"  {label:>9}  {'█' * round(40 * count / largest):40}  {count}", highlight=False)
