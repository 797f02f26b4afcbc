"""The forms of an exported dataset: canonical, Parquet (Hugging Face `datasets`), MUSE and ReasonSeg."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from amodal.data.reason_seg import PLACEHOLDER
from amodal.data.samples import ObjectSample
from amodal.datagen.rules import object_ids
from amodal.datagen.store.records import Pair, PairState, SplitName, WorkImage
from amodal.datagen.store.work_folder import WorkFolder, link_file
from amodal.errors import InputError
from amodal.io.json_stream import write_json_list
from amodal.ops.arrays import Mask
from amodal.ops.boxes import xywh_to_xyxy

ExportForm = Literal["canonical", "parquet", "muse", "reasonseg"]
Polygon = list[list[int]]

ROWS_PER_FILE = 1000
ROWS_PER_GROUP = 50  # rows held in memory at a time, with their images
PARQUET_CARD_HEADER = """\
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
  - split: test
    path: data/test-*.parquet
"""


@dataclass(frozen=True)
class ExportSource:
    """The part of a work folder that is exported.

    Attributes:
        work: work folder.
        states: states of the pairs to export.
    """

    work: WorkFolder
    states: tuple[PairState, ...]

    def images(self, split: SplitName | None = None) -> Iterator[tuple[WorkImage, list[Pair]]]:
        """Images that have pairs in these states, with these pairs; only one side of the split if given."""
        for image in self.work.images():
            if split in (None, image.split):
                pairs = list(self.work.pairs.find(self.states, image_id=image.id))
                if pairs:
                    yield image, pairs


def _link_images(source: ExportSource, folder: Path) -> None:
    folder.mkdir()
    for image, _ in source.images():
        link_file(source.work.image_path(image), folder / image.file_name)


def _write_canonical(source: ExportSource, out: Path) -> None:
    image_ids = {image.id for image, _ in source.images()}
    source.work.write_annotations(out / "annotations.json", keep=image_ids.__contains__)
    _link_images(source, out / "images")
    write_json_list(out / "questions.json", _questions(source, None))
    for split in get_args(SplitName):
        write_json_list(out / f"questions-{split}.json", _questions(source, split))


def _questions(source: ExportSource, split: SplitName | None) -> Iterator[dict[str, Any]]:
    for image, pairs in source.images(split):
        for pair in pairs:
            texts = {"question": pair.question, "answer": pair.answer}
            yield {"id": pair.id, "image_id": image.id, **texts, "split": image.split}


def _write_muse(source: ExportSource, out: Path) -> None:
    _link_images(source, out / "images")
    for split in get_args(SplitName):
        write_json_list(out / f"{split}.json", _muse_records(source, split))


def _muse_records(source: ExportSource, split: SplitName) -> Iterator[dict[str, Any]]:
    categories = source.work.categories()
    for image, pairs in source.images(split):
        objects = {record["id"]: record for record in source.work.object_records(image.id)}
        for record in objects.values():
            record["category_name"] = categories[record["category_id"]]
        yield {
            "image_id": image.id,
            "file_name": image.file_name,
            "height": image.height,
            "width": image.width,
            "ann_list": list(objects.values()),
            "questions": [pair.question for pair in pairs],
            "answers": [[objects[number] for number in object_ids(pair.answer)] for pair in pairs],
            "text_answers": [_muse_text(pair.answer) for pair in pairs],
        }


def _muse_text(answer: str) -> str:
    """The words of an answer with `{seg}` after each object, without the markup of phrases."""
    return PLACEHOLDER.sub("{seg}", answer).replace("<p>", "").replace("</p>", "")


def _write_parquet(source: ExportSource, out: Path) -> None:
    """Write `data/train-00000.parquet` and so on; a side of the split without images gets no file.

    Raises:
        InputError: the package `datasets` is not installed.
    """
    try:
        import pyarrow.parquet as pq

        schema = _features().arrow_schema
    except ImportError as error:
        raise InputError("to parquet: expected the package `datasets`; pip install amodal[reasonseg]") from error
    categories, folder = source.work.categories(), out / "data"
    folder.mkdir()
    for split in get_args(SplitName):
        writer, rows = None, list[dict[str, Any]]()
        try:
            for index, (image, pairs) in enumerate(source.images(split)):
                if index % ROWS_PER_FILE == 0:
                    _flush(writer, rows, schema)
                    if writer is not None:
                        writer.close()
                    writer = pq.ParquetWriter(folder / f"{split}-{index // ROWS_PER_FILE:05d}.parquet", schema)
                rows.append(_parquet_row(source.work, image, pairs, categories))
                if len(rows) == ROWS_PER_GROUP:
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
    obj = {
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
    image = {"image": Image(), "image_id": Value("int64"), "file_name": Value("string")}
    return Features({**image, "objects": List(obj), "pairs": List(pair)})


def _parquet_row(work: WorkFolder, image: WorkImage, pairs: list[Pair], categories: dict[int, str]) -> dict[str, Any]:
    return {
        "image": {"bytes": work.image_path(image).read_bytes(), "path": image.file_name},
        "image_id": image.id,
        "file_name": image.file_name,
        "objects": [_parquet_object(record, categories) for record in work.object_records(image.id)],
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


def _parquet_object(record: dict[str, Any], categories: dict[int, str]) -> dict[str, Any]:
    return {
        "id": record["id"],
        "category": categories[record["category_id"]],
        "visible_mask": record["visible_mask"],
        "amodal_mask": record["segmentation"],
        "visible_box_xyxy": list(xywh_to_xyxy(record["visible_bbox"])),
        "amodal_box_xyxy": list(xywh_to_xyxy(record["bbox"])),
        "occlusion_rate": record["occlude_rate"],
        "occluders": record["occluders"],
    }


def _write_reasonseg(source: ExportSource, out: Path) -> None:
    for image, pairs in source.images():
        _write_polygons(source.work, image, pairs, out)


def _write_polygons(work: WorkFolder, image: WorkImage, pairs: Sequence[Pair], out: Path) -> None:
    """Write the pairs of one image below `amodal/` and `visible/`, under its side of the split."""
    objects = {obj.id: obj for obj in work.sample(image).objects}
    image_path = work.image_path(image)
    for kind in ("amodal", "visible"):
        folder = out / kind / image.split
        folder.mkdir(parents=True, exist_ok=True)
        polygons = {number: mask_to_polygons(_mask(obj, kind)) for number, obj in objects.items()}
        for pair in pairs:
            name = f"{image_path.stem}_{pair.id}"
            link_file(image_path, folder / f"{name}{image_path.suffix}")
            targets = [polygon for number in object_ids(pair.answer) for polygon in polygons[number]]
            record = {
                "text": [pair.question],
                "is_sentence": True,
                "shapes": [{"label": "target", "points": polygon} for polygon in targets],
            }
            (folder / f"{name}.json").write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")


def mask_to_polygons(mask: Mask) -> list[Polygon]:
    """Polygons whose filled pixels, including the border, are exactly the mask.

    The form has no holes: a region with a hole is cut in two along a column through the hole, until
    no part has one.

    Args:
        mask: (H, W) bool.

    Returns:
        Lists of [x, y], largest region first.
    """
    return sorted(_regions(mask.astype(np.uint8), 0), key=_polygon_area, reverse=True)


def _regions(mask: npt.NDArray[np.uint8], x: int) -> Iterator[Polygon]:
    """Polygons of a part of the image whose first column is `x`."""
    count, labels = cv2.connectedComponents(mask, connectivity=8)
    for label in range(1, count):
        region = (labels == label).astype(np.uint8)
        contours, hierarchy = cv2.findContours(region, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        holes = [contour for contour, links in zip(contours, hierarchy[0], strict=True) if links[3] >= 0]
        if not holes:
            yield [[int(px) + x, int(py)] for px, py in contours[0][:, 0]]
            continue
        left, _, width, _ = cv2.boundingRect(holes[0])
        cut = left + max(width // 2, 1)
        yield from _regions(np.ascontiguousarray(region[:, :cut]), x)
        yield from _regions(np.ascontiguousarray(region[:, cut:]), x + cut)


def _polygon_area(polygon: Polygon) -> float:
    return cv2.contourArea(np.array(polygon, np.int32))


def _mask(obj: ObjectSample, kind: str) -> Mask:
    amodal = obj.amodal_mask()
    return amodal if kind == "amodal" and amodal is not None else obj.visible_mask()


WRITERS: dict[ExportForm, Callable[[ExportSource, Path], None]] = {
    "canonical": _write_canonical,
    "parquet": _write_parquet,
    "muse": _write_muse,
    "reasonseg": _write_reasonseg,
}
