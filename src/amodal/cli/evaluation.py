"""`amodal evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    annotations: Annotated[Path, typer.Option(help="Annotation file with amodal masks.")],
    model: Annotated[str, typer.Option(help="Bundled name, folder or hub id.")] = "plug-tiny",
    format_: Annotated[str, typer.Option("--format", help="Format of the annotations.")] = "canonical",
    images: Annotated[Path | None, typer.Option(help="Folder of the images.")] = None,
    protocol: Annotated[str, typer.Option(help="Evaluation protocol.")] = "strict",
    box_source: Annotated[str, typer.Option(help="gt_visible or gt_amodal.")] = "gt_visible",
    threshold: Annotated[
        float | None, typer.Option(help="Probability of foreground; the model's own by default.")
    ] = None,
    max_objects: Annotated[int | None, typer.Option(min=1, help="Score only the first N objects.")] = None,
    out: Annotated[Path | None, typer.Option(help="File for the JSON report.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Score a model, and baselines beside it.

    Example: amodal evaluate --model plug-tiny --annotations data/scenes-val/annotations.json
    """
    from rich.console import Console

    from amodal.data.readers import read_dataset

    dataset = read_dataset(format_, annotations, images)
    from amodal.evaluation.evaluator import evaluate as score
    from amodal.inference.segmenter import AmodalSegmenter

    report = score(
        AmodalSegmenter.from_pretrained(model),
        dataset,
        protocol=protocol,
        box_source=box_source,
        threshold=threshold,
        max_objects=max_objects,
        name=model,
        progress=not as_json,
    )
    if out is not None:
        report.save(out)
    if as_json:
        typer.echo(json.dumps(report.to_json()))
    else:
        Console().print(report.table())
