"""Segmentation of datasets in parallel with Ray Data, on several processes or machines.

Each worker process holds one segmenter. The driver distributes blocks of images and writes each
finished block atomically to its own Parquet file. If a worker dies, Ray restarts it and repeats its
block. An interrupted run is resumed with the images that are in no file yet.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from amodal.data.samples import AnnotatedDataset
from amodal.errors import InputError
from amodal.inference.prompt_files import CocoFile, prompts_of_records
from amodal.inference.prompts import collect_prompts
from amodal.io.files import atomic_path, content_digest, is_file, one_writer, require_folder, write_atomic
from amodal.io.image_names import ImageFinder, Match
from amodal.io.images import load_image
from amodal.io.json_stream import read_json
from amodal.models.names import DEFAULT_SEGMENTER
from amodal.ops.rle import encode_mask
from amodal.ops.values import integer

Row = dict[str, Any]
FailureHandler = Callable[[str, str], None]
"""Called with the file of an image, and with what is wrong with it or with one of its objects."""

SETTINGS = "batch.json"
PARTS = "part-*.parquet"
INPUTS = "inputs"
"""Key of the settings of a run for the fingerprints of its images."""


@dataclass(frozen=True)
class BatchPlan:
    """Model and workers for the segmentation of a dataset.

    Args:
        model: bundled name, folder or hub id.
        visible_from: promptable segmenter that makes the visible masks; the model itself if None.
        mode: `crop` or `image`, see `AmodalSegmenter`.
        dtype: precision, see `AmodalSegmenter.from_pretrained`.
        workers: number of segmenters that run in parallel.
        cpus: CPU cores per segmenter.
        gpus: GPUs per segmenter; below 1, segmenters share a GPU.
        images_per_block: images per block; this many are repeated if a worker dies.
        clean: remove specks, holes and occluded rims, and move outlines to edges, see `AmodalSegmenter`.

    Raises:
        InputError: a number out of range, or an unknown mode or precision.
    """

    model: str = DEFAULT_SEGMENTER
    visible_from: str | None = None
    mode: str = "crop"
    dtype: str = "auto"
    workers: int = 2
    cpus: int = 1
    gpus: float = 0
    images_per_block: int = 16
    clean: bool = True

    def __post_init__(self) -> None:
        for name in ("workers", "cpus", "images_per_block"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if self.gpus < 0:
            raise InputError(f"gpus: expected 0 or more, got {self.gpus}")
        import torch

        from amodal.inference.devices import pick_dtype
        from amodal.inference.segmenter import MODES

        if self.mode not in MODES:
            raise InputError(f"mode: expected one of {', '.join(MODES)}, got {self.mode!r}")
        pick_dtype(self.dtype, torch.device("cpu"), int8=True)


def segment_dataset(
    dataset: AnnotatedDataset | CocoFile | Path,
    out: Path,
    plan: BatchPlan | None = None,
    *,
    images: Path | None = None,
    match: Match = "path",
    on_failure: FailureHandler | None = None,
    progress: bool = True,
) -> Path:
    """Segment every object of a dataset.

    Args:
        dataset: from `read_dataset`, whose visible boxes are the prompts; a COCO file from `read_coco_file`, whose
            masks are the prompts, and its boxes where it has no masks; or a Parquet file with the columns `image_id`,
            `path` (absolute or relative to the file) and `boxes_xyxy` (lists of four numbers), whose rows of one image
            are merged.
        out: folder for the results: a new one, or that of an interrupted run.
        plan: model and workers.
        images: folder of the images of a COCO file.
        match: how the names in a COCO file find their images, see `Match`.
        on_failure: called for each image that cannot be read and each object that cannot be a prompt, which are left
            out; if None, the first of them ends the run.
        progress: whether to show a progress bar.

    Returns:
        `out`, which contains `part-*.parquet` with one row per object: `image_id`, `annotation_id`
        (None without annotations), `category_id`, `segmentation` and `visible_segmentation` (RLE), `score`.
        `read_parts` reads it.

    Raises:
        InputError: the `ray` extra is not installed, nothing to segment, a Parquet file that is unreadable or has a
            wrong entry, or `out` contains results of other settings or of another dataset; without `on_failure` also
            an unreadable image or object.
    """
    plan = plan or BatchPlan()
    ray = _extra("ray")
    if isinstance(dataset, Path):
        rows = list(_rows_of_parquet(dataset))
    elif isinstance(dataset, CocoFile):
        rows = list(_rows_of_coco(dataset, ImageFinder(images or dataset.path.parent, match)))
    else:
        rows = list(_rows_of_dataset(dataset))
    if not rows:
        raise InputError("dataset: expected images with objects, got none")
    with one_writer(require_folder(out)):
        done, first = _finished(out)
        _check_settings(out, plan, rows, done)
        rows = [row for row in rows if row["image_id"] not in done]
        if rows:
            _run(ray, rows, out, plan, first, on_failure, progress)
    return out


def read_parts(folder: Path) -> Iterator[Row]:
    """Read the rows that `segment_dataset` wrote, with the keys of a predictions file.

    Raises:
        InputError: the folder has no such files, one of them is broken, or pyarrow is not installed.
    """
    parquet, parts = _extra("pyarrow.parquet"), sorted(folder.glob(PARTS))
    if not parts:
        raise InputError(f"predictions: expected a folder with {PARTS}, got none in {str(folder)!r}")
    for part in parts:
        try:
            yield from parquet.read_table(part).to_pylist()
        except (OSError, ValueError) as error:
            raise InputError(f"predictions {part}: expected a Parquet file, got {error!r:.120}") from error


def _run(
    ray: ModuleType,
    rows: list[Row],
    out: Path,
    plan: BatchPlan,
    first: int,
    on_failure: FailureHandler | None,
    progress: bool,
) -> None:
    from rich.progress import Progress

    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    try:
        with Progress(disable=not progress) as bar:
            task = bar.add_task("segment", total=len(rows))
            for number, (num_images, objects, failures) in enumerate(_blocks(rows, plan), start=first):
                for name, message in failures:
                    if on_failure is None:
                        raise InputError(f"{name}: {message}")
                    on_failure(name, message)
                if objects:
                    _write_part(objects, out / f"part-{number:06d}.parquet")
                bar.advance(task, num_images)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):  # an unknown model
            raise InputError(str(error.cause)) from error
        raise
    finally:
        if started_here:
            ray.shutdown()


def _blocks(rows: list[Row], plan: BatchPlan) -> Iterator[tuple[int, list[Row], list[list[str]]]]:
    """Yield finished blocks in any order: number of images, rows of objects, and failures (file and message).

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
        yield row["num_images"], json.loads(row["objects"]), json.loads(row["failures"])


class SegmentBlock:
    """A worker that loads the model once and then segments blocks of images."""

    def __init__(
        self, model: str, visible_from: str | None, mode: str, dtype: str, clean: bool, threads: int, device: str
    ) -> None:
        import torch

        from amodal.inference.segmenter import AmodalSegmenter

        torch.set_num_threads(threads)
        self.clean = clean
        self.segmenter = AmodalSegmenter.from_pretrained(
            model, visible_from=visible_from, mode=mode, dtype=dtype, device=device
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Convert a block of images to one row with all of their objects and failures."""
        rows = [json.loads(text) for text in batch["row"]]
        failures: list[list[str]] = []
        objects = [obj for row in rows for obj in self._segment(row, failures)]
        return {
            "num_images": np.array([len(rows)]),
            "objects": np.array([json.dumps(objects)], dtype=object),
            "failures": np.array([json.dumps(failures)], dtype=object),
        }

    def _segment(self, row: Row, failures: list[list[str]]) -> list[Row]:
        """The objects of one image; none if the image cannot be read."""

        def report(error: InputError) -> None:
            failures.append([row["path"], str(error)])

        try:
            pixels = load_image(row["path"])
            size = (pixels.shape[0], pixels.shape[1])
            if row.get("size") and list(size) != row["size"]:
                raise InputError(f"image: expected {row['size']} as annotated, got {list(size)}")
            if "annotations" in row:
                prompts = prompts_of_records(row["annotations"], size, {}, report)
            else:
                prompts = collect_prompts(size, boxes_xyxy=row["boxes_xyxy"])
            scenes = self.segmenter.segment_batch([pixels], [prompts], clean=self.clean) if prompts else []
        except InputError as error:
            report(error)
            return []
        if "annotations" in row:
            ids = [(prompt.source_id, prompt.class_id) for prompt in prompts]
        else:
            ids = list(zip(row["annotation_ids"], row["category_ids"], strict=True))
        return [
            {
                "image_id": row["image_id"],
                "annotation_id": annotation,
                "category_id": category,
                "segmentation": encode_mask(obj.amodal_mask),
                "visible_segmentation": encode_mask(obj.visible_mask),
                "score": obj.score,
            }
            for scene in scenes
            for obj, (annotation, category) in zip(scene.objects, ids, strict=True)
        ]


def _rows_of_coco(coco: CocoFile, finder: ImageFinder) -> Iterator[Row]:
    for image in coco.images:
        annotations = coco.annotations(image)
        if annotations:
            by_name = finder.match == "name"
            path = finder.find(image.file_name) if by_name else coco.path_of(image, finder.folder)
            yield {
                "image_id": image.id,
                "path": str(path.resolve()),
                "size": None if image.size is None else list(image.size),
                "annotations": annotations,
            }


def _rows_of_dataset(dataset: AnnotatedDataset) -> Iterator[Row]:
    for image in dataset.images:
        objects = [o for o in image.objects if not o.iscrowd and _has_area(o.visible_box_xyxy)]
        if objects:
            yield {
                "image_id": image.id,
                "path": str(Path(image.path).resolve()),
                "size": list(image.size),
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
    images: dict[int | str, Row] = {}
    for number, entry in enumerate(rows):
        try:
            image_id, path, boxes = _checked_entry(entry)
            path = str((file.parent / path).resolve())
            image = images.setdefault(image_id, {"image_id": image_id, "path": path, "boxes_xyxy": []})
            if path != image["path"]:
                raise InputError(f"expected one path per image_id, got {path!r} and {image['path']!r} for {image_id}")
        except InputError as error:
            raise InputError(f"dataset {file}: row {number}: {error}") from error
        image["boxes_xyxy"] += boxes
    for image in images.values():
        if image["boxes_xyxy"]:
            none = [None] * len(image["boxes_xyxy"])
            yield image | {"annotation_ids": none, "category_ids": none}


def _checked_entry(row: Row) -> tuple[int | str, str, list[list[float]]]:
    """The image id, the path and the boxes of a row of a Parquet file, whose columns may have any type.

    Whether a box fits its image is checked with the image.

    Raises:
        InputError: one of them is missing or has another type.
    """
    image_id, path, boxes = (row[name] for name in ("image_id", "path", "boxes_xyxy"))
    if not isinstance(image_id, str):
        image_id = integer(image_id, "image_id")
    if not isinstance(path, str) or not path or "\0" in path:
        raise InputError(f"expected path to be the name of an image file, got {path!r:.60}")
    if not isinstance(boxes, list) or not all(_is_four_numbers(box) for box in boxes):
        raise InputError(f"expected boxes_xyxy to be a list of boxes of four numbers, got {boxes!r:.60}")
    return image_id, path, boxes


def _is_four_numbers(box: Any) -> bool:
    values = box if isinstance(box, list) else []
    return len(values) == 4 and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def _has_area(box: Any) -> bool:
    return bool(box[2] > box[0] and box[3] > box[1])


def _model_settings(plan: BatchPlan) -> dict[str, Any]:
    """The settings that the masks depend on."""
    names = ("model", "visible_from", "mode", "dtype", "clean")
    return {name: getattr(plan, name) for name in names}


def _check_settings(out: Path, plan: BatchPlan, rows: list[Row], done: set[Any]) -> None:
    """Ensure that all results in a folder come from one dataset and one model in one mode and precision.

    An image may appear, or be replaced, as long as it has no results. Without any results, nothing is compared.
    """
    from amodal.models.increments import model_contents

    settings = _model_settings(plan) | model_contents(model=plan.model, visible_from=plan.visible_from)
    settings |= {"dataset": _digest([{key: row[key] for key in row if key != "path"} for row in rows])}
    paths = {str(row["image_id"]): row["path"] for row in rows}
    inputs = {key: image_digest(Path(path)) for key, path in paths.items()}
    file = out / SETTINGS
    if done and file.is_file():
        try:
            found = read_json(file, "out")
            earlier = {key: str(digest) for key, digest in found.pop(INPUTS, {}).items()}
            other = [key for key in sorted(settings | found) if found.get(key) != settings.get(key)]
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"out {out}: expected settings in {SETTINGS}, got others; choose a new folder") from error
        if other:
            changes = ", ".join(f"{key} {found.get(key)!s:.40} -> {settings.get(key)!s:.40}" for key in other)
            raise InputError(f"out {out}: expected a new folder or the settings of its results, got others ({changes})")
        finished = set(map(str, done))
        replaced = [
            path for key, path in paths.items() if key in finished and inputs[key] not in ("", earlier.get(key))
        ]
        if replaced:
            raise InputError(
                f"out {out}: expected a new folder or the images of its results, got others for {listed(replaced)}"
            )
        inputs |= {key: digest for key, digest in earlier.items() if key in finished}
    write_atomic(file, json.dumps(settings | {INPUTS: inputs}))


def image_digest(path: Path) -> str:
    """The fingerprint of an image file; empty if it is missing or cannot be read, which is reported when it is used."""
    try:
        return content_digest(path) if is_file(path) else ""
    except InputError:
        return ""


def listed(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _finished(out: Path) -> tuple[set[Any], int]:
    """Ids of the images that are in a file already, and the number of the next file."""
    parquet, parts = _extra("pyarrow.parquet"), sorted(out.glob(PARTS))
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
