"""From any dataset to any target, saying what the target has no place for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from amodal.data.samples import AnnotatedDataset, ImageSample
from amodal.data.writers import canonical, coco, cocoa_cls, kins2020
from amodal.data.writers.target import EVERYTHING, UNKNOWN_AMODAL, NotHeld, Placed, Target, placed_objects
from amodal.errors import InputError
from amodal.io.json_stream import annotation_file
from amodal.io.progress import bar

CocoMasks = Literal["amodal", "visible"]

TARGETS = ("canonical", "cocoa_cls", "kins2020", "coco", "parquet")
_FILES = {module.TARGET.name: module.TARGET for module in (canonical, cocoa_cls, kins2020)}


@dataclass
class Conversion:
    """What was written.

    Attributes:
        target: format.
        files: in order.
        num_images: written.
        num_objects: written.
        num_left_out: objects that the target cannot hold.
        num_derived: objects whose occluders the source did not state.
        not_held: what the target had no place for.
    """

    target: str
    files: list[Path] = field(default_factory=list)
    num_images: int = 0
    num_objects: int = 0
    num_left_out: int = 0
    num_derived: int = 0
    not_held: NotHeld = field(default_factory=NotHeld)

    def to_json(self) -> dict[str, Any]:
        """The machine-readable form."""
        return {
            "to": self.target,
            "files": [str(file) for file in self.files],
            "num_images": self.num_images,
            "num_objects": self.num_objects,
            "num_left_out": self.num_left_out,
            "num_occluders_derived": self.num_derived,
            "not_held": self.not_held.to_json(),
        }


def convert(
    dataset: AnnotatedDataset,
    target: str,
    out: str | Path,
    *,
    coco_masks: CocoMasks = "amodal",
    split: str = "train",
    shard_bytes: int = 256 << 20,
    progress: bool = False,
) -> Conversion:
    """Write a dataset in another format; nothing is left behind if it fails.

    Args:
        dataset: as a reader gives it.
        target: one of `TARGETS`.
        out: file; for `parquet`, and where it has no `.json`, a folder, which then gets
            `annotations.json` or `data/*.parquet`.
        coco_masks: which of the masks `coco` gets.
        split: name of the split in the names of the Parquet files.
        shard_bytes: size at which a Parquet file is closed and the next begun.
        progress: show a bar.

    Raises:
        InputError: unknown target, no object it can hold, a place that cannot be written, or, for
            `parquet`, an image that is missing or of another size.
    """
    if target not in TARGETS:
        raise InputError(f"to: expected one of {', '.join(TARGETS)}, got {target!r}")
    if coco_masks not in get_args(CocoMasks):
        raise InputError(f"masks: expected amodal or visible, got {coco_masks!r}")
    result = Conversion(target)
    form = coco.TARGETS[coco_masks] if target == "coco" else _FILES.get(target)
    steps = _objects(dataset, form, result, progress)
    if form is None:
        from amodal.data.writers.parquet import write_parquet

        result.files = write_parquet(steps, dataset, Path(out), split, shard_bytes)
        return result
    path = Path(out) if Path(out).suffix == ".json" else Path(out) / "annotations.json"
    with annotation_file(path, _members(dataset)) as add:
        for image, objects in steps:
            add(_image_record(image), [form.record(placed) for placed in objects])
        if dataset.num_objects and not result.num_objects:
            raise InputError(f"annotations: expected objects with amodal masks, as {target} needs them, got none")
    result.files = [path]
    return result


def _objects(
    dataset: AnnotatedDataset, form: Target | None, result: Conversion, progress: bool
) -> Iterator[tuple[ImageSample, list[Placed]]]:
    """Images with the objects the target can hold; counts as it goes."""
    holds, keeps = (EVERYTHING, frozenset[str]()) if form is None else (form.holds, form.keeps)
    modal = UNKNOWN_AMODAL in holds
    for image in bar(dataset.images, "convert", progress):
        objects = list(placed_objects(image, dataset.categories, modal=modal))
        source = tuple(image.objects)
        for thing in source:
            result.not_held.note(thing, holds, keeps)
        left_out = len(source) - len(objects)
        if left_out:
            result.not_held.counts[UNKNOWN_AMODAL] += left_out
        result.num_images += 1
        result.num_objects += len(objects)
        result.num_left_out += left_out
        result.num_derived += sum(not thing.occluders_known and thing.amodal_rle is not None for thing in source)
        yield image, objects


def _members(dataset: AnnotatedDataset) -> dict[str, Any]:
    """Top-level members of a COCO-like file, besides images and annotations."""
    extras = dict(dataset.extras)
    details = extras.pop("category_details", {})
    named = [{"id": number, "name": name} | details.get(str(number), {}) for number, name in dataset.categories.items()]
    return extras | {"categories": named}


def _image_record(image: ImageSample) -> dict[str, Any]:
    known = {"id": image.id, "file_name": image.file_name, "height": image.height, "width": image.width}
    return known | {key: value for key, value in image.attributes.items() if key not in known}
