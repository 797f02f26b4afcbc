"""Writing Parquet shards with the images inside, which Hugging Face `datasets` reads and streams.

There is one row per image. Masks are COCO's compressed RLEs; fields without a column of their own are JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from amodal.data.records import ObjectInImage
from amodal.data.samples import AnnotatedDataset, ImageSample
from amodal.errors import InputError
from amodal.io.files import atomic_folder, require_empty_folder
from amodal.io.images import image_size
from amodal.ops.boxes import xyxy_to_xywh

ROW_GROUP_BYTES = 16 << 20
"""Size of the images in a row group, which a streaming reader keeps in memory at a time."""

CARD = """---
configs:
- config_name: default
  data_files:
  - split: {split}
    path: data/{split}-*.parquet
---

# {title}

{num_images} images, {num_objects} objects with visible and amodal masks. Written by `amodal data convert`.

    from datasets import load_dataset
    rows = load_dataset("parquet", data_files="data/{split}-*.parquet", streaming=True)["{split}"]

A mask is COCO's compressed RLE: `pycocotools.mask.decode(row["objects"][0]["amodal_mask"])`. Boxes are x, y,
width, height. `occluders` are ids of the objects in front. `occluders` and `amodal_mask` are null where they are
unknown. `attributes` are JSON text. `dataset.json` lists the categories and other fields of the source.
"""


def write_parquet(
    images: Iterable[tuple[ImageSample, list[ObjectInImage]]],
    dataset: AnnotatedDataset,
    out: Path,
    split: str,
    shard_bytes: int,
) -> list[Path]:
    """Write `data/SPLIT-NNNNN-of-NNNNN.parquet`, `dataset.json` and `README.md`.

    Args:
        images: images with their objects.
        dataset: dataset that they come from.
        out: new or empty folder. It appears complete or not at all.
        split: name of the split.
        shard_bytes: size of the images at which a file is closed and the next one is started.

    Returns:
        The Parquet files.

    Raises:
        InputError: `datasets` is not installed, the folder is not empty or cannot be written, or an image is
            missing or of another size.
    """
    if not split.isalnum():
        raise InputError(f"split: expected letters and digits, got {split!r}")
    with atomic_folder(require_empty_folder(out, "out")) as folder:
        (folder / "data").mkdir()
        shards = _ShardWriter(folder / "data", shard_bytes)
        num_images = num_objects = 0
        for image, objects in images:
            shards.add(_row(image, objects))
            num_images, num_objects = num_images + 1, num_objects + len(objects)
        files = shards.close()
        names = [f"{split}-{i:05d}-of-{len(files):05d}.parquet" for i in range(len(files))]
        for file, name in zip(files, names, strict=True):
            file.rename(file.with_name(name))
        _write_description(folder, dataset, split, num_images, num_objects)
    return [out / "data" / name for name in names]


def features() -> Any:
    """The columns as `datasets.Features`.

    Raises:
        InputError: `datasets` is not installed.
    """
    try:
        from datasets import Features, Value
        from datasets import Image as ImageColumn
    except ImportError as error:
        raise InputError("to: expected `pip install amodal[parquet]` for parquet, got no `datasets`") from error
    mask = {"size": [Value("int32")], "counts": Value("string")}
    object_columns = {
        "id": Value("int64"),
        "category_id": Value("int64"),
        "category": Value("string"),
        "visible_mask": mask,
        "amodal_mask": mask,
        "visible_bbox": [Value("float32")],
        "amodal_bbox": [Value("float32")],
        "occlude_rate": Value("float32"),
        "occluders": [Value("int64")],
        "iscrowd": Value("bool"),
        "is_stuff": Value("bool"),
        "annotator": Value("string"),
        "order": Value("int64"),
        "order_group": Value("int64"),
        "attributes": Value("string"),
    }
    return Features(
        {
            "image": ImageColumn(),
            "image_id": Value("int64"),
            "file_name": Value("string"),
            "height": Value("int32"),
            "width": Value("int32"),
            "objects": [object_columns],
            "attributes": Value("string"),
        }
    )


class _ShardWriter:
    """Writes rows in row groups to files of a limited size."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self.schema = features().arrow_schema
        self.files: list[Path] = []
        self.rows: list[dict[str, Any]] = []
        self.writer: Any = None
        self.num_waiting = self.num_written = 0

    def add(self, row: dict[str, Any]) -> None:
        """Add one row."""
        self.rows.append(row)
        self.num_waiting += len(row["image"]["bytes"])
        if self.num_waiting >= min(ROW_GROUP_BYTES, self.shard_bytes):
            self._flush()

    def close(self) -> list[Path]:
        """Write the remaining rows and return the files."""
        if self.rows or not self.files:
            self._flush()
        self._end()
        return self.files

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self.writer is None:
            self.files.append(self.folder / f"{len(self.files):05d}.parquet")
            self.writer = pq.ParquetWriter(self.files[-1], self.schema, compression="zstd")
        self.writer.write_table(pa.Table.from_pylist(self.rows, schema=self.schema))
        self.num_written, self.num_waiting, self.rows = self.num_written + self.num_waiting, 0, []
        if self.num_written >= self.shard_bytes:
            self._end()

    def _end(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.writer, self.num_written = None, 0


def _row(image: ImageSample, objects: list[ObjectInImage]) -> dict[str, Any]:
    return {
        "image": {"bytes": _image_bytes(image), "path": Path(image.file_name).name},
        "image_id": image.id,
        "file_name": image.file_name,
        "height": image.height,
        "width": image.width,
        "objects": [_object(placed) for placed in objects],
        "attributes": json.dumps(dict(image.attributes)),
    }


def _object(placed: ObjectInImage) -> dict[str, Any]:
    obj = placed.obj
    return {
        "id": obj.id,
        "category_id": obj.category_id,
        "category": placed.category,
        "visible_mask": obj.visible_rle,
        "amodal_mask": obj.amodal_rle,
        "visible_bbox": xyxy_to_xywh(obj.visible_box_xyxy),
        "amodal_bbox": None if obj.amodal_box_xyxy is None else xyxy_to_xywh(obj.amodal_box_xyxy),
        "occlude_rate": placed.rate,
        "occluders": list(obj.occluders) if obj.occluders_known else None,
        "iscrowd": obj.iscrowd,
        "is_stuff": obj.is_stuff,
        "annotator": obj.annotator,
        "order": obj.order,
        "order_group": obj.order_group,
        "attributes": json.dumps(obj.attributes),
    }


def _image_bytes(image: ImageSample) -> bytes:
    """The bytes of the image file, after a check that the image has the annotated size."""
    size = image_size(image.path)
    if size != image.size:
        raise InputError(f"image {image.path}: expected size {image.size} as annotated, got {size}")
    return image.path.read_bytes()


def _write_description(folder: Path, dataset: AnnotatedDataset, split: str, num_images: int, num_objects: int) -> None:
    whole = {
        "format": dataset.format,
        "categories": [{"id": number, "name": name} for number, name in dataset.categories.items()],
        "extras": dataset.extras,
    }
    (folder / "dataset.json").write_text(json.dumps(whole, indent=1), encoding="utf-8")
    title = f"Amodal segmentation ({dataset.format})"
    card = CARD.format(split=split, title=title, num_images=num_images, num_objects=num_objects)
    (folder / "README.md").write_text(card, encoding="utf-8")
