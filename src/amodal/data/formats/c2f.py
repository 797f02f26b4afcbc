"""The objects that C2F-Seg trains and tests on: a list, a pickle of detections with their truth, and annotation files.

The folder of the list holds the other files. Each line of the list is one object, in one of four forms:

    NAME,IMAGE_ID,INDEX          entry INDEX of NAME_IMAGE_ID in fusion_{train,test}.pkl
    IMAGE_ID_INDEX               entry INDEX of IMAGE_ID in kins_intersection.pkl
    IMAGE_ID_INDEX_CATEGORY      entry INDEX of the image's annotations in KINS's update_{train,test}_2020.json
    INDEX,PATH                   entry INDEX of all annotations in COCO_amodal_{train,val}2014_with_classes.json

INDEX is a position in file order, counted from 0, not an annotation id. The first two forms have a box that a detector
found, and their own truth; the others have the true visible mask. Source: the loaders of the published code of C2F-Seg.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from amodal.data.index import FaultHandler, ImageEntry, Index
from amodal.data.records import Format, RawAnnotation, Record
from amodal.errors import InputError
from amodal.io.image_names import ImageFinder, last_part
from amodal.io.images import MAX_PIXELS
from amodal.io.json_stream import scan
from amodal.io.plain_pickle import read_plain_pickle
from amodal.ops.values import integer, numbers, text

PROMPT_BOX = "prompt_box_xyxy"
"""Attribute of an object: the box that the released data give as its prompt, xyxy in image pixels."""
IS_DETECTED = "is_detected"
"""Attribute of an object: whether a detector found it, instead of an annotation file naming it."""
NO_CATEGORY = 0
"""Category of the objects whose entry states none."""

_LIST = re.compile(r"c2f_seg_(train|test)_list\.txt|kins_intersection_list\.txt")
_LINE = re.compile(
    r"(?P<name>[^,]+),(?P<detected>\d{1,18}),(?P<entry>\d{1,18})|(?P<position>\d{1,18}),(?P<path>[^,]+)"
    r"|(?P<image>\d{1,18})_(?P<index>\d{1,18})(?:_(?P<category>\d{1,18}))?"
)


@dataclass
class _Archive:
    """The files beside a list, each read when a line first needs it.

    Attributes:
        folder: folder of the list.
        split: `train` or `test`.
        detections: content of the pickle.
        file_names: image file by id, of KINS's 2019 annotations.
        kins: wanted annotations by (image id, position in the image).
        cocoa: wanted annotations by position in the file.
        images: image records by the file that lists them, then by id.
        categories: names by id.
    """

    folder: Path
    split: str
    detections: dict[Any, Any] = field(default_factory=dict)
    kins: dict[tuple[int, int], Record] = field(default_factory=dict)
    cocoa: dict[int, Record] = field(default_factory=dict)
    images: dict[str, dict[int, Record]] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)

    @property
    def kins_2019(self) -> str:
        """Annotation file that names the images of KINS's detections; the spelling is the published one."""
        return "instances_train.json" if self.split == "train" else "instances_val_upate.json"

    @property
    def kins_2020(self) -> str:
        """Annotation file of KINS's other objects."""
        return f"update_{self.split}_2020.json"

    @property
    def cocoa_file(self) -> str:
        """Annotation file of COCOA's objects."""
        return f"COCO_amodal_{self.coco_split}_with_classes.json"

    @property
    def coco_split(self) -> str:
        """COCO's name of the split."""
        return "train2014" if self.split == "train" else "val2014"

    def read(self, name: str, keep: Callable[[Record, int], None] | None = None) -> None:
        """Read image records and categories of an annotation file, and pass each annotation with its position."""
        self.images[name] = images = dict[int, Record]()
        position = 0
        for entry in scan(self.folder / name):
            record = entry.record
            if entry.kind != "item" or not isinstance(record, dict):
                continue
            if entry.section == "images":
                images[integer(record.get("id"), "the id of each image")] = record
            elif entry.section == "categories" and keep is not None:
                number = integer(record.get("id"), "the id of each category")
                self.categories[number] = text(record.get("name"), "the name of each category")
            elif entry.section == "annotations" and keep is not None:
                keep(record, position)
                position += 1

    def image(self, name: str, number: int) -> Record:
        """The record of an image in an annotation file."""
        if number not in self.images[name]:
            raise InputError(f"expected an image of {name}, got image {number}")
        return self.images[name][number]


def read_index(path: Path, finder: ImageFinder, format_: Format, report: FaultHandler) -> Index:
    """Index a list of C2F-Seg's objects. The id of an object is the number of its line, counted from 1.

    An image has the id of the first line that names it. If another image already has this id, which may happen because
    the two releases of KINS number their images independently, it gets the next id above all others.

    Args:
        path: the list; the other files are beside it.
        finder: its folder has the images, also in the folders that the archive names (`testing/image_2`, `val2014`).
        format_: the format.
        report: not called; every fault of the list is an error.

    Raises:
        InputError: a file is missing or broken, or a line has another form or names an entry that does not exist.
    """
    lines = _read_list(path)
    split = "train" if "train" in path.name else "test"
    archive = _Archive(path.parent, split)
    _read_files(archive, lines, path)
    by_image: dict[str, list[Record]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for number, line in enumerate(lines, 1):
        try:
            file_name, size, record = _object(archive, line)
        except InputError as error:
            raise InputError(f"annotations {path}: line {number}: {error}") from error
        if sizes.setdefault(file_name, size) != size:
            raise InputError(
                f"annotations {path}: line {number}: expected masks of {sizes[file_name]} pixels as in other lines "
                f"of {file_name}, got {size}"
            )
        by_image.setdefault(file_name, []).append(record | {"id": number})
    ids = _image_ids({name: records[0]["image_id"] for name, records in by_image.items()})
    folder = _image_folder(finder.folder, split)
    images, all_records, starts = list[ImageEntry](), list[Record](), [0]
    for name, records in by_image.items():
        images.append(ImageEntry(ids[name], name, folder / name, sizes[name], {}))
        all_records += [record | {"image_id": ids[name]} for record in records]
        starts.append(len(all_records))
    counts = [end - start for start, end in pairwise(starts)]
    categories = {NO_CATEGORY: "unstated"} | archive.categories
    return Index(format_, path, folder, images, categories, {}, all_records, starts, counts)


def _read_list(path: Path) -> list[re.Match[str]]:
    if not path.is_file() or _LIST.fullmatch(path.name) is None:
        raise InputError(
            "annotations: expected c2f_seg_train_list.txt, c2f_seg_test_list.txt or kins_intersection_list.txt, "
            f"got {str(path)!r}"
        )
    try:
        content = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"annotations {path}: expected text, got other content") from error
    found = list[re.Match[str]]()
    for number, line in enumerate(content, 1):
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise InputError(
                f"annotations {path}: expected NAME,IMAGE_ID,INDEX, IMAGE_ID_INDEX, IMAGE_ID_INDEX_CATEGORY or "
                f"INDEX,PATH, got {line[:60]!r} on line {number}"
            )
        found.append(match)
    if not found:
        raise InputError(f"annotations {path}: expected one object per line, got an empty list")
    return found


def _read_files(archive: _Archive, lines: list[re.Match[str]], path: Path) -> None:
    """Read what the lines need of the files beside the list."""
    kins = {(int(line["image"]), int(line["index"])) for line in lines if line["category"] is not None}
    cocoa = {int(line["position"]) for line in lines if line["position"] is not None}
    intersection = any(line["image"] is not None and line["category"] is None for line in lines)
    if intersection or any(line["name"] is not None for line in lines):
        name = "kins_intersection.pkl" if intersection else f"fusion_{archive.split}.pkl"
        content = read_plain_pickle(archive.folder / name)
        if not isinstance(content, dict):
            raise InputError(f"{archive.folder / name}: expected a dictionary, got {type(content).__name__}")
        archive.detections = content
    if intersection or any(_is_kins(line) for line in lines):
        archive.read(archive.kins_2019)
    if kins:
        seen = Counter[int]()

        def keep_kins(record: Record, _: int) -> None:
            image = integer(record.get("image_id"), "the image_id of each annotation")
            if (image, seen[image]) in kins:
                archive.kins[image, seen[image]] = record
            seen[image] += 1

        archive.read(archive.kins_2020, keep_kins)
    if cocoa:

        def keep_cocoa(record: Record, position: int) -> None:
            if position in cocoa:
                archive.cocoa[position] = record

        archive.read(archive.cocoa_file, keep_cocoa)


def _is_kins(line: re.Match[str]) -> bool:
    return line["name"] is not None and "aisformer" in line["name"]


def _object(archive: _Archive, line: re.Match[str]) -> tuple[str, tuple[int, int], Record]:
    """The image file, its (H, W), and the record of the object of a line."""
    if line["position"] is not None:
        return _cocoa_object(archive, int(line["position"]), line["path"])
    if line["category"] is not None:
        return _kins_object(archive, int(line["image"]), int(line["index"]), int(line["category"]))
    if line["name"] is None:
        key: Any = int(line["image"])
        return _detection(archive, key, key, int(line["index"]), True)
    image = int(line["detected"])
    return _detection(archive, f"{line['name']}_{image}", image, int(line["entry"]), _is_kins(line))


def _detection(archive: _Archive, key: Any, image: int, index: int, kins: bool) -> tuple[str, tuple[int, int], Record]:
    entries = archive.detections.get(key)
    try:
        entry = entries[index]  # type: ignore[index]  # a list, or a dictionary by position
    except (LookupError, TypeError) as error:
        raise InputError(f"expected an entry of the pickle, got {key!r:.60} at {index}, which it lacks") from error
    wanted = ("pred_visible_mask", "pred_visible_mask_bbox", "gt_visible_mask", "gt_full_mask")
    missing = wanted if not isinstance(entry, dict) else [name for name in wanted if name not in entry]
    if missing:
        raise InputError(f"expected an entry with {', '.join(wanted)}, got one without {', '.join(missing)}")
    mask = entry["pred_visible_mask"]
    size = _size(mask.get("size") if isinstance(mask, dict) else None)
    if kins:
        name = text(archive.image(archive.kins_2019, image).get("file_name"), "the file_name of each image")
    else:
        name = f"COCO_{archive.coco_split}_{image:012d}.jpg"
    record = {
        "image_id": image,
        "category_id": NO_CATEGORY,
        "amodal": entry["gt_full_mask"],
        "visible": entry["gt_visible_mask"],
        "box": _xyxy(entry["pred_visible_mask_bbox"]),
        "is_detected": True,
    }
    return last_part(name), size, record


def _kins_object(archive: _Archive, image: int, index: int, category: int) -> tuple[str, tuple[int, int], Record]:
    if (image, index) not in archive.kins:
        raise InputError(f"expected an annotation of {archive.kins_2020}, got number {index} of image {image}")
    annotation, about = archive.kins[image, index], archive.image(archive.kins_2020, image)
    record = {
        "image_id": image,
        "category_id": category,
        "amodal": annotation.get("a_segm"),
        "visible": annotation.get("i_segm"),
        "box": _xyxy(annotation.get("i_bbox")),
    }
    name = text(about.get("file_name"), "the file_name of each image")
    return last_part(name), _size([about.get("height"), about.get("width")]), record


def _cocoa_object(archive: _Archive, position: int, path: str) -> tuple[str, tuple[int, int], Record]:
    if position not in archive.cocoa:
        raise InputError(f"expected an annotation of {archive.cocoa_file}, got number {position}")
    annotation = archive.cocoa[position]
    amodal = annotation.get("segmentation")
    record = {
        "image_id": integer(annotation.get("image_id"), "the image_id of each annotation"),
        "category_id": integer(annotation.get("category_id", NO_CATEGORY), "the category_id of each annotation"),
        "amodal": amodal,
        "visible": annotation.get("visible_mask", amodal),
        "box": _xyxy(annotation.get("bbox"), whole=True),
    }
    return last_part(path), _size(amodal.get("size") if isinstance(amodal, dict) else None), record


def _size(value: Any) -> tuple[int, int]:
    """(H, W) of a mask or an image."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise InputError(f"expected a size as height and width, got {value!r:.40}")
    height, width = (integer(number, "size") for number in value)
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise InputError(f"expected a size of 1 to {MAX_PIXELS} pixels, got {(height, width)}")
    return height, width


def _xyxy(box: Any, whole: bool = False) -> list[float]:
    """A box of xywh as xyxy; `whole` cuts its corners to whole numbers, as C2F-Seg does on COCOA."""
    if not isinstance(box, (list, tuple, np.ndarray)) or len(box) != 4:
        raise InputError(f"bbox: expected x, y, w, h, got {box!r:.60}")
    x, y, w, h = numbers(list(box), "bbox").tolist()
    corners = [x, y, x + w, y + h]
    return [float(int(corner)) for corner in corners] if whole else corners


def _image_ids(stated: dict[str, int]) -> dict[str, int]:
    """Different ids for different image files: the stated ones where they are free."""
    ids, used, following = dict[str, int](), set[int](), max(stated.values()) + 1
    for name, number in stated.items():
        if number in used:
            number, following = following, following + 1
        ids[name] = number
        used.add(number)
    return ids


def _image_folder(folder: Path, split: str) -> Path:
    """The folder of the images: where the archive has them, below the named folder, or this folder itself."""
    inside = (f"{split}ing/image_2", "train2014" if split == "train" else "val2014")
    return next((folder / name for name in inside if (folder / name).is_dir()), folder)


def _parse(record: Record) -> list[RawAnnotation]:
    return [
        RawAnnotation(
            id=record["id"],
            category=record["category_id"],
            amodal=record["amodal"],
            visible=record["visible"],
            attributes={PROMPT_BOX: record["box"], IS_DETECTED: record.get("is_detected", False)},
        )
    ]


FORMAT = Format(
    name="c2f",
    title="objects of C2F-Seg's training and test lists, on KINS or COCOA",
    files=("c2f_seg_train_list.txt", "c2f_seg_test_list.txt", "kins_intersection_list.txt"),
    masks="visible and amodal",
    order="none: derived from the masks",
    keys=(),
    parse=_parse,
)
