"""Stage 1: choose images and objects from datasets, and the side of the split of each image."""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4

from amodal.data.datasets import read_dataset
from amodal.data.formats.canonical import canonical_record
from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.datagen.store.records import SplitName
from amodal.datagen.store.work_folder import WorkFolder, create_work, link_file, open_work
from amodal.errors import InputError
from amodal.io.files import atomic_folder, is_file, require_empty_folder
from amodal.io.image_names import Match
from amodal.ops.occlusion import is_occluded, occluders_of
from amodal.ops.rle import rle_area

# Paper section 4.1: 1,125 of 3,143 images are for testing.
TEST_SHARE = 0.36


@dataclass(frozen=True)
class DatasetSource:
    """An annotation file to select from.

    Attributes:
        format: one of the names that `amodal data formats` lists.
        annotations: annotation file.
        images: folder of its images; the reader's default if None.
        split: side of the split for all its images. None takes the side from the image's record or
            the file's name, and draws it per image if neither states one.
        match: how the names of images are matched with files, see `read_dataset`.
    """

    format: str
    annotations: Path
    images: Path | None = None
    split: SplitName | None = None
    match: Match = "path"


@dataclass(frozen=True)
class ImageSelection:
    """Which images and objects to select.

    Attributes:
        max_images: maximum number of images, drawn at random; None selects all.
        categories: only objects of these categories; empty selects all.
        min_area: minimum number of visible pixels per object.
        max_occlusion: maximum occlusion rate per object.
        min_occlusion: skip images in which no object has at least this occlusion rate.
        min_objects: minimum number of objects per image that pass the filters above.
        max_objects: maximum number of objects per image that pass the filters above.
        test_share: share of test images where the source has no split of its own.
        seed: seed of all draws.
        include_stuff: keep regions without a countable shape, such as sky and floor.
        allow_modal: use the visible mask as amodal mask where the source does not know the amodal mask.
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


def select(sources: Sequence[DatasetSource], selection: ImageSelection, folder: Path) -> WorkFolder:
    """Make a work folder of the selected images and objects; it appears complete or not at all.

    Where several people annotated an image, the objects of the first one are taken. Images keep
    the ids of their source. Where two sources use the same id, those of the later one are raised.

    Args:
        sources: datasets to select from.
        selection: filters.
        folder: work folder to make.

    Raises:
        InputError: a source cannot be read, no image is left, an image is on both sides of the
            split, or the folder is not empty.
    """
    if not sources:
        raise InputError("annotations: expected at least one file, got none")
    with atomic_folder(require_empty_folder(folder, "work")) as unfinished, create_work(unfinished) as work:
        with work.atomic():
            _fill(work, sources, selection)
        work.set_settings({"id": uuid4().hex, "source": source_settings(sources, selection)})
        work.write_annotations(unfinished / "annotations.json")
    return open_work(folder)


def source_settings(sources: Sequence[DatasetSource], selection: ImageSelection) -> dict[str, Any]:
    """The settings that determine the content of a work folder, as they are stored in it."""
    listed = [
        {
            "format": source.format,
            "annotations": str(source.annotations.resolve()),
            "images": None if source.images is None else str(source.images.resolve()),
            "split": source.split,
        }
        | ({} if source.match == "path" else {"match": source.match})
        for source in sources
    ]
    return {"sources": listed, "selection": asdict(selection) | {"categories": list(selection.categories)}}


def split_of(source: DatasetSource, image: ImageSample, selection: ImageSelection) -> SplitName:
    """Side of the split: as the source says, as the image's record says, by the file's name, or by a draw.

    The draw depends only on the seed and the name of the image file, so that the same image is on
    the same side in every work folder.
    """
    if source.split is not None:
        return source.split
    stated = image.attributes.get("split")
    for side in get_args(SplitName):
        if stated == side:
            return side
    name = source.annotations.name.lower()
    if "train" in name:
        return "train"
    if "val" in name or "test" in name:
        return "test"
    drawn = zlib.crc32(f"{selection.seed}/{image.path.name}".encode()) % 10_000
    return "test" if drawn < selection.test_share * 10_000 else "train"


def parse_split(text: str | None) -> SplitName | None:
    """Parse the name of a split from the command line; None stands for `auto`.

    Raises:
        InputError: the text is not the name of a split.
    """
    if text in (None, "auto"):
        return None
    for side in get_args(SplitName):
        if text == side:
            return side
    raise InputError(f"split: expected auto, {' or '.join(get_args(SplitName))}, got {text!r}")


def preview(dataset: AnnotatedDataset, image_id: int | None, selection: ImageSelection) -> ImageSample:
    """One image as a work folder would store it, without making a work folder.

    Args:
        dataset: dataset with the image.
        image_id: id of the image; None takes the first one that passes the filters.
        selection: filters.

    Raises:
        InputError: there is no such image, or it does not pass the filters.
    """
    categories = _category_ids(dataset, selection)
    for image in dataset.images:
        if image_id in (None, image.id):
            filtered = _filter(image, categories, selection, Counter())
            if filtered is not None:
                occluders = occluders_from_masks(filtered)
                objects = (replace(obj, occluders=tuple(occluders[obj.id])) for obj in filtered.objects)
                return replace(filtered, objects=tuple(objects))
    expected = "an image with objects to ask about" if image_id is None else f"image {image_id} with objects"
    raise InputError(f"image: expected {expected}, got none in the annotations")


def occluders_from_masks(image: ImageSample) -> dict[int, list[int]]:
    """Ids of the occluders of each object, by the masks alone (`ops.occlusion`).

    An object that does not count as occluded has none. What the source says about the order is
    ignored, because answers are later checked against the masks.
    """
    visible_masks = [obj.visible_mask() for obj in image.objects]
    found: dict[int, list[int]] = {}
    for index, obj in enumerate(image.objects):
        amodal_mask = obj.amodal_mask()
        assert amodal_mask is not None
        positions = []
        if is_occluded(obj.occlusion_rate()):
            positions = occluders_of(index, visible_masks, amodal_mask & ~visible_masks[index])
        found[obj.id] = [image.objects[position].id for position in positions]
    return found


def _fill(work: WorkFolder, sources: Sequence[DatasetSource], selection: ImageSelection) -> None:
    importer, skipped = _Importer(work), Counter[str]()
    for source, limit in zip(sources, _limits(sources, selection), strict=True):
        dataset = read_dataset(source.format, source.annotations, source.images, source.match)
        categories = _category_ids(dataset, selection)
        # Filters each image twice instead of holding all objects in memory.
        positions = [i for i, image in enumerate(dataset.images) if _filter(image, categories, selection, skipped)]
        if limit is not None and len(positions) > limit:
            positions = sorted(random.Random(selection.seed).sample(positions, limit))
        importer.start_source(dataset)
        for position in positions:
            image = _filter(dataset.images[position], categories, selection, Counter())
            assert image is not None
            importer.add(image, split_of(source, image, selection))
    if not importer.num_images:
        listed = ", ".join(f"{count} {reason}" for reason, count in skipped.most_common()) or "no images at all"
        raise InputError(f"select: expected images with objects to ask about, got none left ({listed})")
    work.set_settings({"skipped": dict(skipped)})


def _limits(sources: Sequence[DatasetSource], selection: ImageSelection) -> list[int | None]:
    """Maximum number of images per source: equal parts of the total."""
    if selection.max_images is None:
        return [None] * len(sources)
    whole, rest = divmod(selection.max_images, len(sources))
    return [whole + (i < rest) for i in range(len(sources))]


def _filter(
    image: ImageSample, categories: set[int] | None, selection: ImageSelection, skipped: Counter[str]
) -> ImageSample | None:
    """The image with the objects that pass the filters, or None if it is skipped; reasons are counted."""
    kept = list[ObjectSample]()
    annotator = next((obj.annotator for obj in image.objects), None)
    for obj in image.objects:
        complete = _with_amodal_mask(obj, selection)
        if obj.annotator != annotator:
            reason: str | None = "of another annotator"
        else:
            reason = _reason_against(complete, categories, selection)
        if reason:
            skipped[f"objects {reason}"] += 1
        elif complete is not None:
            kept.append(complete)
    if not selection.min_objects <= len(kept) <= selection.max_objects:
        skipped["images with too few or too many objects"] += 1
    elif max(obj.occlusion_rate() for obj in kept) < selection.min_occlusion:
        skipped["images without an object that is occluded enough"] += 1
    else:
        return replace(image, objects=tuple(kept))
    return None


def _category_ids(dataset: AnnotatedDataset, selection: ImageSelection) -> set[int] | None:
    if not selection.categories:
        return None
    unknown = set(selection.categories) - set(dataset.categories.values())
    if unknown:
        raise InputError(f"category: expected one of the dataset's, got {', '.join(sorted(unknown))}")
    return {number for number, name in dataset.categories.items() if name in selection.categories}


def _with_amodal_mask(obj: ObjectSample, selection: ImageSelection) -> ObjectSample | None:
    """The object with both masks; None if its amodal mask is unknown and required."""
    if obj.amodal_rle is not None:
        return obj
    if not selection.allow_modal:
        return None
    attributes = obj.attributes | {"amodal_unknown": True}
    return replace(obj, amodal_rle=obj.visible_rle, amodal_box_xyxy=obj.visible_box_xyxy, attributes=attributes)


def _reason_against(obj: ObjectSample | None, categories: set[int] | None, selection: ImageSelection) -> str | None:
    if obj is None:
        return "whose amodal mask is unknown (--allow-modal uses the visible mask instead)"
    if obj.iscrowd:
        return "that are crowd regions"
    if obj.is_stuff and not selection.include_stuff:
        return "that are stuff (--include-stuff keeps it)"
    if categories is not None and obj.category_id not in categories:
        return "of other categories"
    if rle_area(obj.visible_rle) < selection.min_area:
        return "with too few visible pixels"
    if obj.occlusion_rate() > selection.max_occlusion:
        return "that are occluded too much"
    return None


class _Importer:
    """Adds the images of one source after the other to a new work folder.

    Ids, file names and categories of different sources are kept apart.

    Attributes:
        num_images: number of images added so far.
    """

    def __init__(self, work: WorkFolder) -> None:
        self.num_images = 0
        self._work = work
        self._splits: dict[str, SplitName] = {}  # by path of the image file
        self._categories: dict[str, int] = {}
        self._category_ids: dict[int, int] = {}
        self._names: dict[int, str] = {}
        self._image_offset, self._object_offset = 0, 0  # added to the ids of the current source
        (work.folder / "images").mkdir()

    def start_source(self, dataset: AnnotatedDataset) -> None:
        """Read the ids and categories of the source whose images follow."""
        self._image_offset, self._object_offset = 0, 0
        if self.num_images:
            object_ids = (obj.id for image in dataset.images for obj in image.objects)
            self._image_offset = self._work.id_offset("images", (image.id for image in dataset.images))
            self._object_offset = self._work.id_offset("objects", object_ids)
        self._names = dict(dataset.categories)
        self._category_ids = {}

    def add(self, image: ImageSample, split: SplitName) -> None:
        """Add one image and its objects.

        Raises:
            InputError: the image file is missing, or is already on the other side of the split.
        """
        earlier = self._splits.setdefault(str(image.path.resolve()), split)
        if earlier != split:
            raise InputError(f"split: expected {image.path} on one side, got it in {earlier} and in {split}")
        image_id = image.id + self._image_offset
        file_name = self._link(image, image_id)
        occluders = occluders_from_masks(image)
        records = [
            canonical_record(
                obj.id + self._object_offset,
                image_id,
                self._category(obj),
                obj.visible_rle,
                obj.amodal_rle,
                occluders=[number + self._object_offset for number in occluders[obj.id]],
                attributes=obj.attributes,
            )
            for obj in image.objects
        ]
        self._work.add_image(image_id, file_name, image.size, split, records)
        self.num_images += 1

    def _link(self, image: ImageSample, image_id: int) -> str:
        """Link the image file into the work folder; returns its name there."""
        if not is_file(image.path):
            raise InputError(f"image: expected a file, got {str(image.path)!r}, which does not exist")
        folder, name = self._work.folder / "images", image.path.name
        if (folder / name).exists():
            name = f"{image_id}_{name}"
        link_file(image.path, folder / name)
        return name

    def _category(self, obj: ObjectSample) -> int:
        """Id of the category in the work folder: the source's own unless another category has it."""
        if obj.category_id in self._category_ids:
            return self._category_ids[obj.category_id]
        name = self._names.get(obj.category_id, f"object of category {obj.category_id}")
        number = self._categories.get(name)
        if number is None:
            taken = set(self._categories.values())
            number = obj.category_id if obj.category_id not in taken else max(taken) + 1
            self._categories[name] = number
            self._work.add_category(number, name)
        self._category_ids[obj.category_id] = number
        return number
