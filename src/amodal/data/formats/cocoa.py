"""COCOA in its original form, which BSDS-A shares: a record holds all regions that one annotator drew in an image.

Regions have neither ids nor categories. Region k (from 1) of annotation n becomes object `n * MAX_REGIONS + k`, so that
both numbers can be recovered from the id; names in lower case, without surrounding blanks, become categories.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from amodal.data.index import DatasetFault, FaultHandler, ImageEntry, Index, build_index
from amodal.data.records import Format, RawAnnotation, Record, other_keys
from amodal.errors import InputError
from amodal.io.files import is_file, visible_entries
from amodal.io.image_names import ImageFinder, last_part
from amodal.io.images import MAX_PIXELS, image_size
from amodal.io.json_stream import read_json
from amodal.ops.values import integer, text

MAX_REGIONS = 1000

_REGION_USED = frozenset({"segmentation", "visible_mask", "invisible_mask", "area", "isStuff", "occlude_rate", "order"})
_PAIR = re.compile(r"(\d+)-(\d+)")
_RECORD_KEYS = ("id", "image_id", "regions")
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def constraint_pairs(text: Any, num_regions: int) -> list[tuple[int, int]]:
    """Parse `depth_constraint` to pairs (front, behind) of 1-based region numbers.

    Raises:
        InputError: the text is not of the form "i-j,k-l" with numbers of regions.
    """
    if not isinstance(text, str):
        raise InputError(f"expected depth_constraint as 'i-j,k-l', got {text!r:.60}")
    pairs = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _PAIR.fullmatch(part)
        if match is None:
            raise InputError(f"expected depth_constraint as 'i-j,k-l', got {part!r:.60}")
        front, behind = int(match[1]), int(match[2])
        if not (1 <= front <= num_regions and 1 <= behind <= num_regions and front != behind):
            raise InputError(f"expected depth_constraint with two of {num_regions} regions, got {part!r:.60}")
        pairs.append((front, behind))
    return pairs


def read_index(path: Path, finder: ImageFinder, format_: Format, report: FaultHandler) -> Index:
    """Index a whole COCOA file, a single record, or a folder of single records.

    Args:
        path: file or folder.
        finder: finds the images; those of single records lie in its folder.
        format_: the format.
        report: called with each fault.

    Raises:
        InputError: `path` is none of these.
    """
    if path.is_dir():
        files = [file for file in visible_entries(path) if file.suffix.lower() == ".json"]
        if not files:
            raise InputError(f"annotations: expected a folder of JSON files with COCOA records, got {str(path)!r}")
        return _index_single_records(path, files, finder.folder, format_, report)
    if _is_single_record(path):
        return _index_single_records(path, [path], finder.folder, format_, report)
    return build_index(path, finder, format_, report)


def _names(record: Record) -> list[str]:
    regions = record["regions"]
    if not isinstance(regions, list) or not all(isinstance(region, dict) for region in regions):
        raise InputError(f"expected the regions of annotation {record['id']!r:.20} as a list of objects")
    if len(regions) >= MAX_REGIONS:
        raise InputError(f"expected fewer than {MAX_REGIONS} regions per annotation, got {len(regions)}")
    return [_name(region) for region in regions]


def _name(region: Record) -> str:
    name = region.get("name")
    return " ".join(text("" if name is None else name, "the name of a region").split()).lower() or "unnamed"


def _parse(record: Record) -> list[RawAnnotation]:
    regions, number = record["regions"], integer(record["id"], "the id of each annotation")
    first = number * MAX_REGIONS
    occluders: dict[int, list[int]] | None = None
    if record.get("depth_constraint") is not None:
        occluders = {}
        for front, behind in constraint_pairs(record["depth_constraint"], len(regions)):
            occluders.setdefault(behind, []).append(first + front)
    common = {key: record[key] for key in ("author", "url", "size") if key in record}
    return [
        RawAnnotation(
            id=first + k,
            category=_name(region),
            amodal=_outline(region.get("segmentation")),
            visible=region.get("visible_mask"),
            invisible=region.get("invisible_mask"),
            area=region.get("area"),
            occlude_rate=region.get("occlude_rate"),
            occluders=None if occluders is None else occluders.get(k, []),
            is_stuff=region.get("isStuff"),
            annotator=record.get("author"),
            order=region.get("order"),
            order_group=number,
            attributes=common | other_keys(region, _REGION_USED),
        )
        for k, region in enumerate(regions, start=1)
    ]


def _outline(segmentation: Any) -> Any:
    """The segmentation of a region, with a single flat polygon as COCO's list of polygons."""
    flat = isinstance(segmentation, list) and not any(isinstance(part, list) for part in segmentation)
    return [segmentation] if flat else segmentation


def _is_single_record(path: Path) -> bool:
    """Whether a file is a single record: it starts with other keys than a whole dataset."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(1 << 16)
    return b'"regions"' in head and b'"images"' not in head and b'"annotations"' not in head


def _index_single_records(path: Path, files: list[Path], folder: Path, format_: Format, report: FaultHandler) -> Index:
    """Index single records; those of several annotators of one image are joined."""
    groups: dict[int, list[Record]] = {}
    images: dict[int, ImageEntry] = {}
    names: set[str] = set()
    for file in files:
        record = _read_record(file, report)
        if record is None:
            continue
        number = integer(record["image_id"], "the image_id of each annotation")
        if number not in images:
            images[number] = _image(file, folder, number, record)
        groups.setdefault(number, []).append(record)
        names.update(_names(record))
    records = [record for number in images for record in groups[number]]
    starts = [0]
    for number in images:
        starts.append(starts[-1] + len(groups[number]))
    return Index(
        format_,
        path,
        folder,
        list(images.values()),
        {i + 1: name for i, name in enumerate(sorted(names))},
        {},
        records,
        starts,
        [sum(len(record["regions"]) for record in groups[number]) for number in images],
    )


def _read_record(file: Path, report: FaultHandler) -> Record | None:
    record = read_json(file, "annotations")
    missing = [key for key in _RECORD_KEYS if not isinstance(record, dict) or key not in record]
    if missing:
        report(DatasetFault("missing_key", f"expected a COCOA record, got {file.name} without {', '.join(missing)}"))
        return None
    _names(record)
    return record


def _image(file: Path, folder: Path, number: int, record: Record) -> ImageEntry:
    """The image of a single record: the file beside the record, or the file that its address names."""
    listed = last_part(str(record["url"])) if record.get("url") else ""
    beside = [file.with_suffix(suffix).name for suffix in _IMAGE_SUFFIXES]
    found = next((name for name in [*beside, listed] if name and is_file(folder / name)), None)
    size = None if found is None else _size_of(folder / found)
    if size is None:
        masks = [region["visible_mask"] for region in record["regions"] if isinstance(region.get("visible_mask"), dict)]
        sizes = [mask["size"] for mask in masks if isinstance(mask.get("size"), list) and len(mask["size"]) == 2]
        if not sizes:
            raise InputError(
                f"images: expected {listed or beside[0]} in {str(folder)!r}: record {file.name} does not say its size"
            )
        size = (integer(sizes[0][0], "the height of a mask"), integer(sizes[0][1], "the width of a mask"))
        if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
            raise InputError(f"annotations {file}: expected 1 to {MAX_PIXELS} pixels, got {size}")
    extras = {key: record[key] for key in ("url",) if key in record}
    name = found or listed or beside[0]
    return ImageEntry(number, name, folder / name, size, extras)


def _size_of(path: Path) -> tuple[int, int] | None:
    try:
        return image_size(path)
    except InputError:
        return None


FORMAT = Format(
    name="cocoa",
    title="COCOA in its original form, and BSDS-A",
    files=(
        "COCO_amodal_train2014.json",
        "COCO_amodal_val2014.json",
        "COCO_amodal_test2014.json",
        "BSDS_amodal_train.json",
        "BSDS_amodal_test.json",
    ),
    masks="visible and amodal",
    order="depth_constraint, order",
    keys=("regions",),
    parse=_parse,
    names=_names,
    marks=frozenset({"regions", "depth_constraint"}),
    foreign=frozenset({"a_segm", "inmodal_seg"}),
)
