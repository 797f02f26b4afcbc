"""Segmentation of datasets in parallel with Ray Data, on several processes or machines.

Each worker process holds one segmenter. The driver distributes blocks of images and writes each
finished block atomically to its own Parquet file. If a worker dies, Ray restarts it and repeats its
block. An interrupted run is resumed with the images that are in no file yet.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from amodal.data.samples import AnnotatedDataset
from amodal.errors import InputError
from amodal.io.files import atomic_path, require_folder, write_atomic
from amodal.ops.rle import encode_mask

Row = dict[str, Any]
SETTINGS = "batch.json"


@dataclass(frozen=True)
class BatchPlan:
    """Model and workers for the segmentation of a dataset.

    Args:
        model: bundled name, folder or hub id.
        mode: `crop` or `image`, see `AmodalSegmenter`.
        dtype: precision, see `AmodalSegmenter.from_pretrained`.
        workers: number of segmenters that run in parallel.
        cpus: CPU cores per segmenter.
        gpus: GPUs per segmenter; below 1, segmenters share a GPU.
        images_per_block: images per block; this many are repeated if a worker dies.

    Raises:
        InputError: a number out of range.
    """

    model: str = "plug-tiny"
    mode: str = "crop"
    dtype: str = "auto"
    workers: int = 2
    cpus: int = 1
    gpus: float = 0
    images_per_block: int = 16

    def __post_init__(self) -> None:
        for name in ("workers", "cpus", "images_per_block"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if self.gpus < 0:
            raise InputError(f"gpus: expected 0 or more, got {self.gpus}")


def segment_dataset(
    dataset: AnnotatedDataset | Path, out: Path, plan: BatchPlan | None = None, *, progress: bool = True
) -> Path:
    """Segment every object of a dataset in its visible box.

    Args:
        dataset: from `read_dataset`; or a Parquet file with the columns `image_id`, `path` (absolute
            or relative to the file) and `boxes_xyxy` (lists of four numbers).
        out: folder for the results: a new one, or that of an interrupted run.
        plan: model and workers.
        progress: whether to show a progress bar.

    Returns:
        `out`, which contains `part-*.parquet` with one row per object: `image_id`, `annotation_id`
        (None without annotations), `category_id`, `segmentation` and `visible_segmentation` (RLE), `score`.

    Raises:
        InputError: the `ray` extra is not installed, nothing to segment, an unreadable Parquet file,
            or `out` contains results of other settings.
    """
    plan = plan or BatchPlan()
    ray = _extra("ray")
    rows = list(_rows_of_parquet(dataset) if isinstance(dataset, Path) else _rows_of_dataset(dataset))
    if not rows:
        raise InputError("dataset: expected images with boxes, got none")
    _check_settings(out, plan)
    done, first = _finished(out)
    rows = [row for row in rows if row["image_id"] not in done]
    if rows:
        _run(ray, rows, out, plan, first, progress)
    return out


def _run(ray: ModuleType, rows: list[Row], out: Path, plan: BatchPlan, first: int, progress: bool) -> None:
    from rich.progress import Progress

    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    try:
        with Progress(disable=not progress) as bar:
            task = bar.add_task("segment", total=len(rows))
            for number, (num_images, objects) in enumerate(_blocks(rows, plan), start=first):
                _write_part(objects, out / f"part-{number:06d}.parquet")
                bar.advance(task, num_images)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):  # an unreadable image or an unknown model
            raise InputError(str(error.cause)) from error
        raise
    finally:
        if started_here:
            ray.shutdown()


def _blocks(rows: list[Row], plan: BatchPlan) -> Iterator[tuple[int, list[Row]]]:
    """Yield finished blocks in any order: number of images and rows of objects.

    Ray Data restarts an actor that died and repeats its block, without a limit.
    """
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    blocks = -(-len(rows) // plan.images_per_block)
    source = ray.data.from_items([{"row": json.dumps(row)} for row in rows], override_num_blocks=blocks)
    finished = source.map_batches(
        SegmentBlock,
        fn_constructor_kwargs=_model_settings(plan) | {"threads": plan.cpus, "device": "cuda" if plan.gpus else "cpu"},
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=plan.workers),
        num_cpus=plan.cpus,
        num_gpus=plan.gpus or None,
    )
    for row in finished.iter_rows():
        yield row["num_images"], json.loads(row["objects"])


class SegmentBlock:
    """A worker that loads the model once and then segments blocks of images."""

    def __init__(self, model: str, mode: str, dtype: str, threads: int, device: str) -> None:
        import torch

        from amodal.inference.segmenter import AmodalSegmenter

        torch.set_num_threads(threads)
        self.segmenter = AmodalSegmenter.from_pretrained(model, mode=mode, dtype=dtype, device=device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Convert a block of images to one row with all of their objects."""
        rows = [json.loads(text) for text in batch["row"]]
        objects = [obj for row in rows for obj in self._segment(row)]
        return {"num_images": np.array([len(rows)]), "objects": np.array([json.dumps(objects)], dtype=object)}

    def _segment(self, row: Row) -> Iterator[Row]:
        objects = self.segmenter(row["path"], row["boxes_xyxy"]).objects
        for obj, annotation, category in zip(objects, row["annotation_ids"], row["category_ids"], strict=True):
            yield {
                "image_id": row["image_id"],
                "annotation_id": annotation,
                "category_id": category,
                "segmentation": encode_mask(obj.amodal_mask),
                "visible_segmentation": encode_mask(obj.visible_mask),
                "score": obj.score,
            }


def _rows_of_dataset(dataset: AnnotatedDataset) -> Iterator[Row]:
    for image in dataset.images:
        objects = [o for o in image.objects if not o.iscrowd and _has_area(o.visible_box_xyxy)]
        if objects:
            yield {
                "image_id": image.id,
                "path": str(Path(image.path).resolve()),
                "boxes_xyxy": [[float(v) for v in o.visible_box_xyxy] for o in objects],
                "annotation_ids": [o.id for o in objects],
                "category_ids": [o.category_id for o in objects],
            }


def _rows_of_parquet(file: Path) -> Iterator[Row]:
    parquet = _extra("pyarrow.parquet")
    try:
        rows = parquet.read_table(file, columns=["image_id", "path", "boxes_xyxy"]).to_pylist()
    except (OSError, ValueError) as error:
        columns = "image_id, path and boxes_xyxy"
        raise InputError(f"dataset {file}: expected a Parquet file with {columns}, got {error!r:.120}") from error
    for row in rows:
        if row["boxes_xyxy"]:
            count = len(row["boxes_xyxy"])
            no_ids: Row = {"annotation_ids": [None] * count, "category_ids": [None] * count}
            yield row | no_ids | {"path": str((file.parent / row["path"]).resolve())}


def _has_area(box: Any) -> bool:
    return bool(box[2] > box[0] and box[3] > box[1])


def _model_settings(plan: BatchPlan) -> dict[str, str]:
    """The settings that the masks depend on."""
    return {"model": plan.model, "mode": plan.mode, "dtype": plan.dtype}


def _check_settings(out: Path, plan: BatchPlan) -> None:
    """Ensure that all results in a folder come from one model in one mode and precision."""
    settings = _model_settings(plan)
    file = require_folder(out) / SETTINGS
    if file.is_file():
        found = json.loads(file.read_text())
        if found != settings:
            raise InputError(f"out {out}: expected a new folder or results of {settings}, got results of {found}")
        return
    write_atomic(file, json.dumps(settings))


def _finished(out: Path) -> tuple[set[Any], int]:
    """Ids of the images that are in a file already, and the number of the next file."""
    parquet, parts = _extra("pyarrow.parquet"), sorted(out.glob("part-*.parquet"))
    done = {i for part in parts for i in parquet.read_table(part, columns=["image_id"])["image_id"].to_pylist()}
    return done, 1 + int(parts[-1].stem.split("-")[1]) if parts else 0


def _write_part(objects: list[Row], file: Path) -> None:
    arrow, parquet = _extra("pyarrow"), _extra("pyarrow.parquet")
    with atomic_path(file) as temporary:
        parquet.write_table(arrow.Table.from_pylist(objects), temporary)


def _extra(name: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(f"batch: expected {name} to be installed (pip install 'amodal[ray]'), got none") from error
