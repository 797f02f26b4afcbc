"""Prompts from files: COCO annotation files, and visible masks as JSON, PNG or a folder of PNG files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from amodal.data.formats.coco import FORMAT as COCO
from amodal.errors import InputError
from amodal.inference.prompts import ObjectPrompt, coco_prompt, mask_prompt
from amodal.io.files import is_file, visible_entries
from amodal.io.image_names import ImageFinder, folded, last_part
from amodal.io.json_stream import read_json, scan
from amodal.io.mask_images import read_label_image
from amodal.io.words import counted
from amodal.ops.values import flag, integer, optional_integer

MASK_ENDINGS = frozenset({".png", ".bmp", ".tif", ".tiff"})
OTHER_FORMATS = COCO.foreign - {"visible_mask", "invisible_mask"}
"""Keys of formats in which the visible mask has another name than in COCO and COCOA-cls."""

FaultHandler = Callable[[InputError], None]


@dataclass(frozen=True)
class CocoImage:
    """One image of a COCO file.

    Attributes:
        id: image id.
        file_name: name in the file, possibly with folders.
        size: (H, W), or None if the file does not state it.
        record: the record itself.
    """

    id: int
    file_name: str
    size: tuple[int, int] | None
    record: dict[str, Any]

    @property
    def last_part(self) -> str:
        """The last part of its name, in composed Unicode."""
        return folded(last_part(self.file_name))


@dataclass(frozen=True)
class CocoFile:
    """A COCO file whose objects are prompts; the annotations are read on access.

    Attributes:
        path: the file.
        images: in file order.
        categories: category records in file order.
        places: offset and length in the file of the annotations, by image id.
    """

    path: Path
    images: tuple[CocoImage, ...]
    categories: tuple[dict[str, Any], ...]
    places: dict[int, list[tuple[int, int]]]

    @cached_property
    def names(self) -> dict[int, str]:
        """Names of the categories by id."""
        return {category["id"]: str(category["name"]) for category in self.categories}

    @cached_property
    def _by_name(self) -> dict[str, list[CocoImage]]:
        found: dict[str, list[CocoImage]] = {}
        for image in self.images:
            found.setdefault(image.last_part, []).append(image)
        return found

    def path_of(self, image: CocoImage, folder: Path) -> Path:
        """The file of an image below `folder`: with the folders of its name, or else by the last part of it alone.

        The last part counts where no other image of the file has the same one. No name leads out of the folder.
        """
        with suppress(InputError):
            whole = ImageFinder(folder).find(image.file_name)
            if is_file(whole) or len(self._by_name[image.last_part]) > 1:
                return whole
        return ImageFinder(folder).find(image.last_part)

    def image_of(self, file: Path) -> CocoImage:
        """The image with the file name of an image file; folders decide between images of the same name.

        Raises:
            InputError: no image or several images of this name.
        """
        images = self._by_name.get(folded(file.name), [])
        if len(images) > 1:
            whole = "/" + file.as_posix()
            images = [
                image for image in images if whole.endswith("/" + image.file_name.replace("\\", "/").lstrip("./"))
            ] or images
        if len(images) != 1:
            found = f"{len(images)} of them" if images else f"{counted(len(self.images), 'image')} of other names"
            raise InputError(f"annotations {self.path}: expected one image of the name {file.name!r}, got {found}")
        return images[0]

    def annotations(self, image: CocoImage) -> list[dict[str, Any]]:
        """The annotation records of an image, without regions of many objects (`iscrowd`)."""
        records = []
        with self.path.open("rb") as file:
            for offset, length in self.places.get(image.id, ()):
                file.seek(offset)
                records.append(json.loads(file.read(length)))
        return [_with_ids(record) for record in records if not flag(record.get("iscrowd"), "iscrowd")]

    def prompts(
        self, image: CocoImage, size: tuple[int, int], on_fault: FaultHandler | None = None
    ) -> list[ObjectPrompt]:
        """One prompt per object of an image: its mask where it has one, otherwise its box.

        Args:
            image: one of `images`.
            size: (H, W) of the image file.
            on_fault: called with the error of an object that cannot be a prompt, which is then left out; if None, the
                error is raised.

        Raises:
            InputError: the image has another size than the file states, or an object cannot be a prompt.
        """
        if image.size not in (None, size):
            raise InputError(
                f"annotations {self.path}: expected {_told(size)} for {image.file_name}, like the image, "
                f"got {_told(image.size or size)}"
            )
        return prompts_of_records(self.annotations(image), size, self.names, on_fault)


def prompts_of_records(
    records: Iterable[dict[str, Any]], size: tuple[int, int], names: dict[int, str], on_fault: FaultHandler | None
) -> list[ObjectPrompt]:
    """One prompt per annotation record of an image (H, W); the arguments are those of `CocoFile.prompts`.

    Raises:
        InputError: an object cannot be a prompt.
    """
    found = []
    for record in records:
        try:
            found.append(coco_prompt(record, size, names.get(record["category_id"])))
        except InputError as error:
            if on_fault is None:
                raise
            on_fault(error)
    return found


def read_coco_file(path: Path) -> CocoFile:
    """Read a COCO file with boxes or masks of visible parts, or a canonical or COCOA-cls file.

    Raises:
        InputError: the file is missing or is broken JSON; it lacks images, annotations, categories or one of their
            ids; an annotation has an image or a category that the file lacks; or the file is of another format.
    """
    images: dict[int, CocoImage] = {}
    categories: dict[int, dict[str, Any]] = {}
    places: dict[int, list[tuple[int, int]]] = {}
    used: set[int] = set()
    lists: set[str] = set()
    for entry in scan(path):
        if entry.kind == "list":
            lists.add(entry.section)
        if entry.kind != "item" or entry.section not in ("images", "annotations", "categories"):
            continue
        if not isinstance(entry.record, dict):
            raise InputError(f"annotations {path}: expected records in {entry.section}, got {entry.record!r:.60}")
        where = f"annotations {path}: {entry.section}"
        if entry.section == "annotations":
            _id(entry.record, "id", where)
            _flag(entry.record, where)
            used.add(_id(entry.record, "category_id", where))
            places.setdefault(_id(entry.record, "image_id", where), []).append((entry.offset, entry.length))
            other = OTHER_FORMATS & entry.record.keys()
            if other:
                raise InputError(
                    f"{where}: expected a COCO file, got the key {min(other)!r} of another format "
                    "(`amodal data convert` converts it)"
                )
        elif entry.section == "images":
            image = _image(entry.record, where)
            if image.id in images:
                raise InputError(f"{where}: expected one image per id, got a second one of id {image.id}")
            images[image.id] = image
        else:
            number = _id(entry.record, "id", where)
            categories[number] = _named(entry.record, where) | {"id": number}
    missing = [name for name in ("images", "annotations", "categories") if name not in lists]
    if missing:
        raise InputError(f"annotations {path}: expected a COCO file, got a file without {' and '.join(missing)}")
    for name, unknown in (("image", places.keys() - images.keys()), ("category", used - categories.keys())):
        if unknown:
            raise InputError(
                f"annotations {path}: expected the {name} of each annotation, got none of id {min(unknown)}"
            )
    return CocoFile(path, tuple(images.values()), tuple(categories.values()), places)


def read_masks(path: Path, image: Path, size: tuple[int, int]) -> list[ObjectPrompt]:
    """Read the visible masks of one image.

    Args:
        path: JSON file: COCO file, or list of RLEs, polygons or annotations; image file: one mask (one value beside 0),
            or a label map (one value per object, 0 is background, the value becomes the source id); or a folder with
            one image file per mask, in the order of the names.
        image: file of the image, which names it in a COCO file.
        size: (H, W) of the image.

    Returns:
        One prompt per object.

    Raises:
        InputError: no masks, or one that cannot be read, is empty or has another size.
    """
    if path.is_dir():
        files = [p for p in visible_entries(path) if p.suffix.lower() in MASK_ENDINGS]
        if not files:
            raise InputError(f"masks: expected a folder with PNG files, got none in {str(path)!r}")
        return [_single_mask(file, size) for file in files]
    if not path.is_file():
        raise InputError(f"masks: expected a file or folder, got {str(path)!r}, which does not exist")
    if path.suffix.lower() in MASK_ENDINGS:
        return _label_map(path, size)
    if path.suffix.lower() != ".json":
        raise InputError(f"masks: expected a JSON file, a PNG file or a folder, got {str(path)!r}")
    content = read_json(path, "masks")
    if isinstance(content, dict) and "annotations" in content:
        coco = read_coco_file(path)
        prompts = coco.prompts(coco.image_of(image), size)
        if not prompts:
            raise InputError(f"masks {path}: expected objects in {image.name}, got none")
        return prompts
    entries = [content] if isinstance(content, dict) and "counts" in content else content
    if not isinstance(entries, list) or not entries:
        raise InputError(f"masks {path}: expected a COCO file or a list of RLEs, got {content!r:.60}")
    return [_listed_mask(entry, f"masks {path}: mask {index}", size) for index, entry in enumerate(entries)]


def _listed_mask(entry: Any, where: str, size: tuple[int, int]) -> ObjectPrompt:
    try:
        if isinstance(entry, dict) and "counts" not in entry:
            return coco_prompt(entry, size)
        if not isinstance(entry, (dict, list)):
            raise InputError(f"expected an RLE, polygons or an annotation, got {entry!r:.60}")
        return ObjectPrompt(visible=mask_prompt(entry, size))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _single_mask(file: Path, size: tuple[int, int]) -> ObjectPrompt:
    prompts = _label_map(file, size)
    if len(prompts) > 1:
        raise InputError(f"masks {file}: expected one mask per file of a folder, got {len(prompts)} values beside 0")
    return prompts[0]


def _label_map(file: Path, size: tuple[int, int]) -> list[ObjectPrompt]:
    """One prompt per value of an image file beside 0."""
    labels = read_label_image(file)
    if labels.shape != size:
        raise InputError(f"masks {file}: expected {_told(size)}, like the image, got {_told(labels.shape)}")
    values, counts = np.unique(labels[labels != 0], return_counts=True)
    if not len(values):
        raise InputError(f"masks {file}: expected at least one pixel, got an empty mask")
    if len(values) > 1 and values[-1] == 255 and 2 * counts[-1] > counts.sum():
        raise InputError(
            f"masks {file}: expected 0 and 255, or one value per object, got shades of grey; compare the mask with a "
            "threshold first"
        )
    is_map = len(values) > 1
    return [
        ObjectPrompt(visible=mask_prompt(labels == value, size), source_id=int(value) if is_map else None)
        for value in values
    ]


def _with_ids(record: dict[str, Any]) -> dict[str, Any]:
    """The annotation record with its ids as integers; `read_coco_file` has checked them."""
    return record | {key: integer(record[key], key) for key in ("id", "image_id", "category_id")}


def _image(record: dict[str, Any], where: str) -> CocoImage:
    name = record.get("file_name")
    if not isinstance(name, str) or not name:
        raise InputError(f"{where}: expected a file_name, got {name!r:.60}")
    try:
        height, width = (optional_integer(record.get(key), f"the {key} of each image") for key in ("height", "width"))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    size = None if height is None or width is None else (height, width)
    image = CocoImage(_id(record, "id", where), name, size, record)
    try:
        _ = image.last_part
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return image


def _named(record: dict[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(record.get("name"), str):
        raise InputError(f"{where}: expected a name, got {record.get('name')!r:.60}")
    return record


def _flag(record: dict[str, Any], where: str) -> None:
    try:
        flag(record.get("iscrowd"), "iscrowd")
    except InputError as error:
        raise InputError(f"{where}: annotation {record['id']!r:.40}: {error}") from error


def _id(record: dict[str, Any], key: str, where: str) -> int:
    try:
        return integer(record.get(key), f"the {key} of each record")
    except InputError as error:
        raise InputError(f"{where}: {error} in {json.dumps(record):.80}") from error


def _told(size: tuple[int, ...]) -> str:
    return f"{size[1]} x {size[0]} pixels"
