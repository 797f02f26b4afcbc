"""A folder of masks with one PNG file per object and part, which any tool can write.

    annotations/
      street/                     the image's name without its suffix
        car_1_visible.png         CATEGORY_NUMBER_visible
        car_1_amodal.png          without it, the amodal mask is unknown
        car_2_visible.png
        wine glass_3_amodal.png
        wine glass_3_occluded.png occluded part, instead of the visible mask

`io.mask_images` says which pixels belong to a mask. `Scene.save` writes masks with the same parts.
"""

from __future__ import annotations

import re
from pathlib import Path

from amodal.data.index import DatasetFault, FaultHandler, ImageEntry, Index
from amodal.data.records import Format, RawAnnotation, Record
from amodal.errors import InputError
from amodal.io.files import visible_entries
from amodal.io.frames import IMAGE_ENDINGS
from amodal.io.image_names import ImageFinder, folded
from amodal.io.images import image_size
from amodal.io.mask_images import read_mask_image
from amodal.ops.rle import encode_mask

PARTS = ("visible", "amodal", "occluded")

_MASK = re.compile(r"(?P<category>.+)_(?P<number>\d{1,9})_(?P<part>visible|amodal|occluded)\.png", re.IGNORECASE)


def read_index(path: Path, finder: ImageFinder, format_: Format, report: FaultHandler) -> Index:
    """Index a folder of folders of masks.

    Objects are numbered from 1 in the order of image names, categories and numbers.

    Args:
        path: folder with one folder of masks per image.
        finder: its folder has the images; their names follow from the names of the folders.
        format_: the format.
        report: called with each fault.

    Raises:
        InputError: `path` is not a folder, or has no masks.
    """
    if not path.is_dir():
        raise InputError(f"annotations: expected a folder of folders of masks, got {str(path)!r}")
    folder, folders = finder.folder, [p for p in visible_entries(path) if p.is_dir()]
    files_of = _image_files(folder, {inner.name for inner in folders})
    images, records, starts, counts = list[ImageEntry](), list[Record](), [0], list[int]()
    for inner in folders:
        objects = _objects(inner, report)
        if not objects:
            continue
        number = len(images) + 1
        names = files_of.get(folded(inner.name), [f"{inner.name}.jpg"])
        if len(names) > 1:
            message = f"expected one image for the masks {inner.name}, got {' and '.join(names)}"
            report(DatasetFault("ambiguous_image", message, number))
        size = image_size(next(iter(next(iter(objects.values())).values())))
        images.append(ImageEntry(number, names[0], folder / names[0], size, {}))
        for (category, number_in_name), parts in objects.items():
            complete = {"id": len(records) + 1, "image_id": number, "category": category, "number": number_in_name}
            records.append(complete | {part: str(file) for part, file in parts.items()})
        starts.append(len(records))
        counts.append(len(objects))
    if not records:
        raise InputError(f"annotations {path}: expected masks NAME/CATEGORY_NUMBER_visible.png, got none")
    names = sorted({record["category"] for record in records})
    categories = {i + 1: name for i, name in enumerate(names)}
    return Index(format_, path, folder, images, categories, {}, records, starts, counts)


def _image_files(folder: Path, with_suffix: set[str]) -> dict[str, list[str]]:
    """Names of the image files by name without suffix, and also by whole name for folders `with_suffix`."""
    found: dict[str, list[str]] = {}
    for file in visible_entries(folder):
        if file.suffix.lower() in IMAGE_ENDINGS:
            key = file.name if file.name in with_suffix else file.stem
            found.setdefault(folded(key), []).append(file.name)
    return found


def _objects(inner: Path, report: FaultHandler) -> dict[tuple[str, int], dict[str, Path]]:
    """The mask files of each object of an image by part."""
    found: dict[tuple[str, int], dict[str, Path]] = {}
    for file in visible_entries(inner):
        match = _MASK.fullmatch(file.name)
        if match is not None:
            found.setdefault((match["category"], int(match["number"])), {})[match["part"].lower()] = file
    objects: dict[tuple[str, int], dict[str, Path]] = {}
    for key in sorted(found):
        if "visible" in found[key] or {"amodal", "occluded"} <= found[key].keys():
            objects[key] = found[key]
        else:
            label = f"{key[0]}_{key[1]}"
            expected = f"expected {inner.name}/{label}_visible.png, or _amodal.png with _occluded.png"
            report(DatasetFault("missing_key", f"{expected}, got {', '.join(sorted(found[key]))} alone"))
    return objects


def _parse(record: Record) -> list[RawAnnotation]:
    masks = {part: encode_mask(read_mask_image(Path(record[part]))) for part in PARTS if part in record}
    return [
        RawAnnotation(
            id=record["id"],
            category=record["category"],
            amodal=masks.get("amodal"),
            visible=masks.get("visible"),
            invisible=masks.get("occluded"),
            attributes={"number": record["number"]},
        )
    ]


FORMAT = Format(
    name="masks",
    title="a folder of masks with one PNG file per object and part",
    files=("IMAGE/CATEGORY_NUMBER_{visible,amodal,occluded}.png",),
    masks="visible; amodal where given",
    order="none: derived from the masks",
    keys=(),
    parse=_parse,
    names=lambda record: [record["category"]],
)
