"""Hugging Face `datasets`: Parquet files with the pictures in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from amodal.datagen.rules import object_ids
from amodal.datagen.store.manifest import Manifest
from amodal.datagen.store.records import Pair, SplitName, WorkImage
from amodal.errors import InputError
from amodal.ops.boxes import xywh_to_xyxy

ROWS_A_FILE = 1000
ROWS_A_GROUP = 50  # held in memory at a time, pictures included
CARD_FRONT = """\
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
  - split: test
    path: data/test-*.parquet
"""


def write_parquet(
    manifest: Manifest, sides: dict[SplitName, Iterator[tuple[WorkImage, list[Pair]]]], folder: Path
) -> None:
    """Write `train-00000.parquet`, ... ; a side without images gets no file.

    Raises:
        InputError: the package `datasets` is not installed.
    """
    try:
        import pyarrow.parquet as pq

        schema = _features().arrow_schema
    except ImportError as error:
        raise InputError("to parquet: expected the package `datasets`; pip install amodal[reasonseg]") from error
    categories = manifest.categories()
    folder.mkdir()
    for split, images in sides.items():
        writer, rows, written = None, list[dict[str, Any]](), 0
        try:
            for image, pairs in images:
                if written % ROWS_A_FILE == 0:
                    _flush(writer, rows, schema)
                    if writer is not None:
                        writer.close()
                    writer = pq.ParquetWriter(folder / f"{split}-{written // ROWS_A_FILE:05d}.parquet", schema)
                rows.append(_row(manifest, image, pairs, categories))
                written += 1
                if len(rows) == ROWS_A_GROUP:
                    _flush(writer, rows, schema)
            _flush(writer, rows, schema)
        finally:
            if writer is not None:
                writer.close()


def _flush(writer: Any, rows: list[dict[str, Any]], schema: Any) -> None:
    import pyarrow as pa

    if rows:
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        rows.clear()


def _features() -> Any:
    from datasets import Features, Image, List, Value

    box, mask = List(Value("float32"), 4), {"size": List(Value("int32"), 2), "counts": Value("string")}
    thing = {
        "id": Value("int64"),
        "category": Value("string"),
        "visible_mask": mask,
        "amodal_mask": mask,
        "visible_box_xyxy": box,
        "amodal_box_xyxy": box,
        "occlusion_rate": Value("float32"),
        "occluders": List(Value("int64")),
    }
    pair = {
        "id": Value("int64"),
        "question": Value("string"),
        "answer": Value("string"),
        "objects": List(Value("int64")),
        "state": Value("string"),
    }
    picture = {"image": Image(), "image_id": Value("int64"), "file_name": Value("string")}
    return Features({**picture, "objects": List(thing), "pairs": List(pair)})


def _row(manifest: Manifest, image: WorkImage, pairs: list[Pair], categories: dict[int, str]) -> dict[str, Any]:
    path = manifest.image_path(image)
    return {
        "image": {"bytes": path.read_bytes(), "path": image.file_name},
        "image_id": image.id,
        "file_name": image.file_name,
        "objects": [_object(record, categories) for record in manifest.object_records(image.id)],
        "pairs": [
            {
                "id": pair.id,
                "question": pair.question,
                "answer": pair.answer,
                "objects": object_ids(pair.answer),
                "state": pair.state,
            }
            for pair in pairs
        ],
    }


def _object(record: dict[str, Any], categories: dict[int, str]) -> dict[str, Any]:
    boxes = {name: xywh_to_xyxy(np.array(record[key])).tolist() for name, key in _BOXES.items()}
    return {
        "id": record["id"],
        "category": categories[record["category_id"]],
        "visible_mask": record["visible_mask"],
        "amodal_mask": record["segmentation"],
        **boxes,
        "occlusion_rate": record["occlude_rate"],
        "occluders": record["occluders"],
    }


_BOXES = {"visible_box_xyxy": "visible_bbox", "amodal_box_xyxy": "bbox"}
