"""Converting any dataset into a target format, with a report of what the target cannot store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from amodal.data.formats import canonical, coco, cocoa_cls, kins
from amodal.data.formats.parquet import write_parquet
from amodal.data.records import (
    ALL_INFORMATION,
    AMODAL,
    ANNOTATOR,
    ATTRIBUTES,
    OCCLUDERS,
    ORDER,
    STUFF,
    UNKNOWN_AMODAL,
    VISIBLE,
    ObjectInImage,
    Record,
    Target,
)
from amodal.data.relations import derive_occluders, occluder_positions
from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.io.json_stream import annotation_file
from amodal.io.progress import progress_bar
from amodal.ops.occlusion import depth_levels, occlusion_groups
from amodal.ops.polygons import MaskForm, segmentation_as
from amodal.ops.rle import rle_area, rle_intersection

CocoMasks = Literal["amodal", "visible"]

_MASK_KEYS = ("segmentation", "visible_mask", "invisible_mask", "a_segm", "i_segm")
"""Keys of the targets that hold masks."""

TARGETS = ("canonical", "cocoa_cls", "kins2020", "coco", "parquet")
_FILE_TARGETS = {module.TARGET.name: module.TARGET for module in (canonical, cocoa_cls, kins)}


@dataclass
class LostInformation:
    """What a target format cannot store.

    Attributes:
        counts: number of objects that lose each kind of information.
        names: names of the lost attributes.
    """

    counts: Counter[str] = field(default_factory=Counter)
    names: set[str] = field(default_factory=set)

    def add(self, obj: ObjectSample, holds: frozenset[str], keeps: frozenset[str]) -> None:
        """Count what an object loses in a target that stores the kinds `holds` and the attributes `keeps`."""
        attributes = set(obj.attributes) - keeps
        two_masks = not holds >= {AMODAL, VISIBLE} and obj.amodal_rle is not None and _masks_differ(obj)
        present = {
            AMODAL: two_masks,
            VISIBLE: two_masks,
            OCCLUDERS: bool(obj.occluders),
            STUFF: obj.is_stuff,
            ANNOTATOR: obj.annotator is not None,
            ORDER: obj.order is not None,
            ATTRIBUTES: bool(attributes),
        }
        for kind, is_present in present.items():
            if is_present and kind not in holds:
                self.counts[kind] += 1
        if ATTRIBUTES not in holds:
            self.names |= attributes

    def to_json(self) -> dict[str, Any]:
        """Number of objects per kind, with the names of lost attributes."""
        return {
            kind: {"objects": count} | ({"names": sorted(self.names)} if kind == ATTRIBUTES else {})
            for kind, count in sorted(self.counts.items())
        }


@dataclass
class Conversion:
    """Result of a conversion.

    Attributes:
        target: name of the target format.
        files: files written, in order.
        num_images: images written.
        num_objects: objects written.
        num_left_out: objects that the target cannot store.
        num_derived: objects whose occluders the source does not state.
        lost: information that the target cannot store.
    """

    target: str
    files: list[Path] = field(default_factory=list)
    num_images: int = 0
    num_objects: int = 0
    num_left_out: int = 0
    num_derived: int = 0
    lost: LostInformation = field(default_factory=LostInformation)

    def to_json(self) -> dict[str, Any]:
        """Machine-readable form."""
        return {
            "to": self.target,
            "files": [str(file) for file in self.files],
            "num_images": self.num_images,
            "num_objects": self.num_objects,
            "num_left_out": self.num_left_out,
            "num_occluders_derived": self.num_derived,
            "not_held": self.lost.to_json(),
        }


def convert(
    dataset: AnnotatedDataset,
    target: str,
    out: str | Path,
    *,
    coco_masks: CocoMasks = "amodal",
    mask_form: MaskForm = "rle",
    split: str = "train",
    shard_bytes: int = 256 << 20,
    progress: bool = False,
) -> Conversion:
    """Write a dataset in another format; nothing is left behind if it fails.

    Args:
        dataset: any dataset that was read.
        target: one of `TARGETS`.
        out: file to write. For `parquet`, and if the name does not end in `.json`, a folder, which then gets
            `annotations.json` or `data/*.parquet`.
        coco_masks: which mask of each object `coco` gets.
        mask_form: how masks are written: compressed RLE, polygons or uncompressed RLE (`counts`). Parquet files always
            have compressed RLEs.
        split: name of the split in the names of the Parquet files.
        shard_bytes: size at which a Parquet file is closed and the next one is started.
        progress: show a progress bar.

    Raises:
        InputError: the target is unknown, it can store no object, `out` cannot be written, or, for `parquet`, an
            image is missing or of another size.
    """
    if target not in TARGETS:
        raise InputError(f"to: expected one of {', '.join(TARGETS)}, got {target!r}")
    if coco_masks not in get_args(CocoMasks):
        raise InputError(f"masks: expected amodal or visible, got {coco_masks!r}")
    if mask_form not in get_args(MaskForm):
        raise InputError(f"masks: expected rle, polygon or counts, got {mask_form!r}")
    if target == "parquet" and mask_form != "rle":
        raise InputError(f"masks: expected rle for parquet, got {mask_form}")
    result = Conversion(target)
    file_target = coco.TARGETS[coco_masks] if target == "coco" else _FILE_TARGETS.get(target)
    images = _images(dataset, file_target, result, progress)
    if file_target is None:
        result.files = write_parquet(images, dataset, Path(out), split, shard_bytes)
        return result
    path = Path(out) if Path(out).suffix == ".json" else Path(out) / "annotations.json"
    with annotation_file(path, _members(dataset)) as add:
        for image, objects in images:
            add(_image_record(image), [_with_form(file_target.record(placed), mask_form) for placed in objects])
        if dataset.num_objects and not result.num_objects:
            raise InputError(f"annotations: expected objects with amodal masks, as {target} needs them, got none")
    result.files = [path]
    return result


def _images(
    dataset: AnnotatedDataset, target: Target | None, result: Conversion, progress: bool
) -> Iterator[tuple[ImageSample, list[ObjectInImage]]]:
    """Yield each image with the objects that the target can store, and count them in `result`."""
    holds, keeps = (ALL_INFORMATION, frozenset[str]()) if target is None else (target.holds, target.keeps)
    for image in progress_bar(dataset.images, "convert", progress):
        source = tuple(image.objects)
        objects = list(_place_objects(image, dataset.categories, with_modal=UNKNOWN_AMODAL in holds))
        for obj in source:
            result.lost.add(obj, holds, keeps)
        num_left_out = len(source) - len(objects)
        if num_left_out:
            result.lost.counts[UNKNOWN_AMODAL] += num_left_out
        result.num_images += 1
        result.num_objects += len(objects)
        result.num_left_out += num_left_out
        result.num_derived += sum(not obj.occluders_known and obj.amodal_rle is not None for obj in source)
        yield image, objects


def _place_objects(image: ImageSample, categories: dict[int, str], *, with_modal: bool) -> Iterator[ObjectInImage]:
    """Yield the objects of an image with their relations, derived where the source does not state them.

    Args:
        image: the image with its objects.
        categories: names by id.
        with_modal: include objects whose amodal mask is unknown.
    """
    image = derive_occluders(image)
    objects = [obj for obj in image.objects if with_modal or obj.amodal_rle is not None]
    fronts = {number for obj in objects for number in obj.occluders}
    positions = occluder_positions(objects)
    for obj, depth, group in zip(objects, depth_levels(positions), occlusion_groups(positions), strict=True):
        name = categories.get(obj.category_id, str(obj.category_id))
        yield ObjectInImage(obj, image, name, depth, group, not obj.occluders and obj.id not in fronts)


def _masks_differ(obj: ObjectSample) -> bool:
    assert obj.amodal_rle is not None
    areas = (rle_area(obj.visible_rle), rle_area(obj.amodal_rle))
    return areas[0] != areas[1] or rle_area(rle_intersection(obj.visible_rle, obj.amodal_rle)) != areas[0]


def _members(dataset: AnnotatedDataset) -> dict[str, Any]:
    """Top-level members of a COCO-like file besides images and annotations."""
    extras = dict(dataset.extras)
    details = extras.pop("category_details", {})
    named = [{"id": number, "name": name} | details.get(str(number), {}) for number, name in dataset.categories.items()]
    return extras | {"categories": named}


def _with_form(record: Record, form: MaskForm) -> Record:
    """The record with its masks in this form."""
    return record | {key: segmentation_as(record[key], form) for key in _MASK_KEYS if key in record}


def _image_record(image: ImageSample) -> Record:
    known = {"id": image.id, "file_name": image.file_name, "height": image.height, "width": image.width}
    return known | {key: value for key, value in image.attributes.items() if key not in known}
