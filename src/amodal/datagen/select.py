"""Stage 1: which images and objects of which datasets, and on which side of the split."""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4

from amodal.data.readers import read_dataset
from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.datagen.annotation_file import write_annotations
from amodal.datagen.describe import hidden_share
from amodal.datagen.intake import WorkWriter, in_front
from amodal.datagen.store.manifest import Manifest, create_work, open_work
from amodal.datagen.store.records import SplitName
from amodal.errors import InputError
from amodal.io.files import appearing_folder, empty_folder
from amodal.ops.rle import rle_area

# Paper section 4.1: 1,125 of 3,143 images are for testing.
TEST_SHARE = 0.36


@dataclass(frozen=True)
class Source:
    """An annotation file to draw from.

    Attributes:
        format: of `amodal data formats`.
        annotations: the file.
        images: folder of its pictures; the reader's default if None.
        split: side all its images are on; None takes it from the file's name, and draws it by
            image where neither its record nor the name says.
    """

    format: str
    annotations: Path
    images: Path | None = None
    split: SplitName | None = None


@dataclass(frozen=True)
class Selection:
    """What to take, and how.

    Attributes:
        max_images: at most so many, drawn at random; None takes all.
        categories: only objects of these; empty takes all.
        min_area: pixels of an object that must be visible.
        max_occlusion: leave out objects of which a larger share is hidden.
        min_occlusion: leave out images in which no object is hidden by at least this share.
        min_objects: leave out images with fewer objects, after the filters above.
        max_objects: leave out images with more.
        test_share: share of the images for testing, where the source has no split of its own.
        seed: of the draws.
        include_stuff: keep regions without a countable shape, such as sky and floor.
        allow_modal: take the visible mask for the whole object where the source knows no other.
    """

    max_images: int | None = None
    categories: tuple[str, ...] = ()
    min_area: int = 64
    max_occlusion: float = 0.95
    min_occlusion: float = 0.0
    min_objects: int = 1
    max_objects: int = 40
    test_share: float = TEST_SHARE
    seed: int = 0
    include_stuff: bool = False
    allow_modal: bool = False

    def __post_init__(self) -> None:
        for name in ("max_occlusion", "min_occlusion", "test_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise InputError(f"{name}: expected a share in [0, 1], got {value}")
        for name, least in (("min_area", 1), ("min_objects", 1), ("max_objects", self.min_objects), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: expected {least} or more, got {getattr(self, name)}")
        if self.max_images is not None and self.max_images < 1:
            raise InputError(f"max_images: expected 1 or more, got {self.max_images}")


def select(sources: Sequence[Source], selection: Selection, work: Path) -> Manifest:
    """Make a work folder of the selected images and objects; all of it or nothing.

    Where several people annotated an image, the first one's objects are taken.

    Images get the ids of their source; where two sources use the same id, those of the later one
    are moved up.

    Raises:
        InputError: unreadable sources, nothing left to select, an image on both sides of the
            split, or a folder that holds something else.
    """
    if not sources:
        raise InputError("annotations: expected at least one file, got none")
    with appearing_folder(empty_folder(work, "work")) as unfinished, create_work(unfinished) as manifest:
        with manifest.transaction():
            _fill(manifest, sources, selection)
        manifest.set_settings({"id": uuid4().hex, "source": source_settings(sources, selection)})
        write_annotations(manifest, unfinished / "annotations.json")
    return open_work(work)


def source_settings(sources: Sequence[Source], selection: Selection) -> dict[str, Any]:
    """What decides on the content of a work folder, as it is stored in it."""
    listed = [
        {
            "format": source.format,
            "annotations": str(source.annotations.resolve()),
            "images": None if source.images is None else str(source.images.resolve()),
            "split": source.split,
        }
        for source in sources
    ]
    return {"sources": listed, "selection": asdict(selection) | {"categories": list(selection.categories)}}


def split_of(source: Source, image: ImageSample, selection: Selection) -> SplitName:
    """Side of an image: as told, as the image's record says, by the file's name, or a draw.

    The draw depends on the seed and the picture's base name alone: the same picture is on the
    same side in every work folder.
    """
    if source.split is not None:
        return source.split
    own = image.attributes.get("split")
    for side in get_args(SplitName):
        if own == side:
            return side
    name = source.annotations.name.lower()
    if "train" in name:
        return "train"
    if "val" in name or "test" in name:
        return "test"
    drawn = zlib.crc32(f"{selection.seed}/{image.path.name}".encode()) % 10_000
    return "test" if drawn < selection.test_share * 10_000 else "train"


def _fill(manifest: Manifest, sources: Sequence[Source], selection: Selection) -> None:
    writer, skipped = WorkWriter(manifest), Counter[str]()
    shares = _shares(sources, selection)
    for source, share in zip(sources, shares, strict=True):
        dataset = read_dataset(source.format, source.annotations, source.images)
        wanted = _wanted_categories(dataset, selection)
        # Twice over the objects instead of all of them in memory.
        fit = [i for i, image in enumerate(dataset.images) if _kept(image, wanted, selection, skipped)]
        if share is not None and len(fit) > share:
            fit = sorted(random.Random(selection.seed).sample(fit, share))
        writer.start_source(dataset)
        for position in fit:
            image = _kept(dataset.images[position], wanted, selection, Counter())
            assert image is not None
            writer.add(image, split_of(source, image, selection))
    if not writer.num_images:
        listed = ", ".join(f"{count} {reason}" for reason, count in skipped.most_common()) or "no images at all"
        raise InputError(f"select: expected images with objects to ask about, got none left ({listed})")
    manifest.set_settings({"skipped": dict(skipped)})


def _shares(sources: Sequence[Source], selection: Selection) -> list[int | None]:
    """How many images each source may give: equal parts of the limit."""
    if selection.max_images is None:
        return [None] * len(sources)
    whole, rest = divmod(selection.max_images, len(sources))
    return [whole + (i < rest) for i in range(len(sources))]


def _kept(
    image: ImageSample, wanted: set[int] | None, selection: Selection, skipped: Counter[str]
) -> ImageSample | None:
    """The image with the objects that fit; None if it is left out. Reasons are counted."""
    kept = list[ObjectSample]()
    annotator = next((thing.annotator for thing in image.objects), None)
    for thing in image.objects:
        whole = _with_amodal(thing, selection)
        reason = "of another annotator" if thing.annotator != annotator else _reason_against(whole, wanted, selection)
        if reason:
            skipped[f"objects {reason}"] += 1
        elif whole is not None:
            kept.append(whole)
    if not selection.min_objects <= len(kept) <= selection.max_objects:
        skipped["images with too few or too many objects"] += 1
    elif max(map(hidden_share, kept)) < selection.min_occlusion:
        skipped["images with nothing hidden enough"] += 1
    else:
        return replace(image, objects=tuple(kept))
    return None


def _wanted_categories(dataset: AnnotatedDataset, selection: Selection) -> set[int] | None:
    if not selection.categories:
        return None
    unknown = set(selection.categories) - set(dataset.categories.values())
    if unknown:
        raise InputError(f"category: expected one of the dataset's, got {', '.join(sorted(unknown))}")
    return {number for number, name in dataset.categories.items() if name in selection.categories}


def _with_amodal(thing: ObjectSample, selection: Selection) -> ObjectSample | None:
    """The object with both masks; None where the whole is unknown."""
    if thing.amodal_rle is not None:
        return thing
    if not selection.allow_modal:
        return None
    attributes = thing.attributes | {"amodal_unknown": True}
    box = thing.visible_box_xyxy
    return replace(thing, amodal_rle=thing.visible_rle, amodal_box_xyxy=box, attributes=attributes)


def _reason_against(thing: ObjectSample | None, wanted: set[int] | None, selection: Selection) -> str | None:
    if thing is None:
        return "whose whole shape is unknown (--allow-modal takes the visible one for it)"
    if thing.iscrowd:
        return "that are regions of many"
    if thing.is_stuff and not selection.include_stuff:
        return "that are stuff (--include-stuff keeps it)"
    if wanted is not None and thing.category_id not in wanted:
        return "of other categories"
    if rle_area(thing.visible_rle) < selection.min_area:
        return "of which too little is visible"
    if hidden_share(thing) > selection.max_occlusion:
        return "of which too much is hidden"
    return None


def preview(dataset: AnnotatedDataset, image_id: int | None, selection: Selection) -> ImageSample:
    """One image as a work folder would hold it, without making one.

    Args:
        dataset: as read.
        image_id: of the image; None takes the first that fits.
        selection: what objects to take.

    Raises:
        InputError: no such image, or none that fits.
    """
    wanted = _wanted_categories(dataset, selection)
    for image in dataset.images:
        if image_id in (None, image.id):
            kept = _kept(image, wanted, selection, Counter())
            if kept is not None:
                front = in_front(kept)
                return replace(kept, objects=tuple(replace(t, occluders=tuple(front[t.id])) for t in kept.objects))
    expected = "an image with objects to ask about" if image_id is None else f"image {image_id} with objects"
    raise InputError(f"image: expected {expected}, got none in the annotations")


def parse_split(text: str | None) -> SplitName | None:
    """A split's name from the command line; `auto` is None.

    Raises:
        InputError: another word.
    """
    if text in (None, "auto"):
        return None
    for side in get_args(SplitName):
        if text == side:
            return side
    raise InputError(f"split: expected auto, {' or '.join(get_args(SplitName))}, got {text!r}")
