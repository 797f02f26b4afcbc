"""`amodal batch`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def batch(
    dataset: Annotated[Path, typer.Argument(help="Annotation file, or a Parquet file of paths and boxes.")],
    out: Annotated[Path, typer.Option(help="Folder for the Parquet files; one of a stopped run goes on.")],
    format_: Annotated[str, typer.Option("--format", help="Format of the annotations.")] = "canonical",
    images: Annotated[Path | None, typer.Option(help="Folder of the images.")] = None,
    model: Annotated[str, typer.Option(help="Bundled name, folder or hub id.")] = "plug-tiny",
    mode: Annotated[str, typer.Option(help="crop or image.")] = "crop",
    dtype: Annotated[
        str, typer.Option(help="auto, float32, bfloat16, or int8 (large models on a processor).")
    ] = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Segmenters at work at the same time.")] = 2,
    cpus: Annotated[int, typer.Option(min=1, help="Cores of each.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs of each, or a share of one.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Segment a whole dataset on many processes or machines (Ray), results as Parquet.

    Example: amodal batch data/scenes-test/annotations.json --out predictions --workers 2
    """
    from amodal.data.readers import read_dataset
    from amodal.inference.batch import BatchPlan, segment_dataset

    plan = BatchPlan(model=model, mode=mode, dtype=dtype, workers=workers, cpus=cpus, gpus=gpus)
    source = dataset if dataset.suffix == ".parquet" else read_dataset(format_, dataset, images)
    folder = segment_dataset(source, out, plan, progress=not as_json)
    parts = len(list(folder.glob("part-*.parquet")))
    typer.echo(json.dumps({"folder": str(folder), "parts": parts}) if as_json else f"Written: {folder} ({parts} files)")
