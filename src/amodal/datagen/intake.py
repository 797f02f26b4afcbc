"""Putting images and objects of any reader into a new work folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.datagen.describe import hidden_share, is_hidden
from amodal.datagen.store.manifest import Manifest
from amodal.datagen.store.records import SplitName
from amodal.errors import InputError
from amodal.inference.scene import Scene, SceneObject
from amodal.ops.boxes import xyxy_to_xywh
from amodal.ops.rle import rle_area


class WorkWriter:
    """Copies images of one source after the other, and keeps ids, names and categories apart.

    Attributes:
        num_images: written so far.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.num_images = 0
        self._manifest = manifest
        self._splits: dict[str, SplitName] = {}  # of each picture on disk
        self._categories: dict[str, int] = {}
        self._category_ids: dict[int, int] = {}
        self._names: dict[int, str] = {}
        self._offsets = (0, 0)  # of image and annotation ids of the current source
        (manifest.folder / "images").mkdir()

    def start_source(self, dataset: AnnotatedDataset) -> None:
        """Read the ids and categories of the source whose images follow."""
        self._offsets = (0, 0)
        if self.num_images:
            image_ids = (image.id for image in dataset.images)
            object_ids = (thing.id for image in dataset.images for thing in image.objects)
            self._offsets = (self._offset("images", image_ids), self._offset("objects", object_ids))
        self._names = dict(dataset.categories)
        self._category_ids = {}

    def add(self, image: ImageSample, split: SplitName) -> None:
        """Copy one image and its objects.

        Raises:
            InputError: the picture is missing, or is on the other side of the split already.
        """
        before = self._splits.setdefault(str(image.path.resolve()), split)
        if before != split:
            raise InputError(f"split: expected {image.path} on one side, got it in {before} and in {split}")
        image_id = image.id + self._offsets[0]
        name = self._copy(image, image_id)
        front = in_front(image)
        with self._manifest.transaction() as connection:
            connection.execute(
                "INSERT INTO images (id, file_name, height, width, split) VALUES (?, ?, ?, ?, ?)",
                (image_id, name, image.height, image.width, split),
            )
            for thing in image.objects:
                record = self._record(thing, image_id, front[thing.id])
                row = (record["id"], image_id, json.dumps(record))
                connection.execute("INSERT INTO objects (id, image_id, record) VALUES (?, ?, ?)", row)
        self.num_images += 1

    def _offset(self, table: str, wanted: Iterable[int]) -> int:
        """What moves the ids of a source past those of earlier ones, 0 if none is taken."""
        ((highest,),) = self._manifest.query(f"SELECT max(id) FROM {table}")
        lowest, clash = None, False
        for number in wanted:
            lowest = number if lowest is None else min(lowest, number)
            clash = clash or bool(self._manifest.query(f"SELECT 1 FROM {table} WHERE id = ?", (number,)))
        return highest + 1 - lowest if clash and lowest is not None else 0

    def _copy(self, image: ImageSample, image_id: int) -> str:
        if not image.path.is_file():
            raise InputError(f"image: expected a file, got {str(image.path)!r}, which does not exist")
        folder, name = self._manifest.folder / "images", image.path.name
        if (folder / name).exists():
            name = f"{image_id}_{name}"
        link_file(image.path, folder / name)
        return name

    def _record(self, thing: ObjectSample, image_id: int, occluders: list[int]) -> dict[str, Any]:
        """Canonical annotation; masks as the source has them."""
        assert thing.amodal_rle is not None and thing.amodal_box_xyxy is not None
        return {
            "id": thing.id + self._offsets[1],
            "image_id": image_id,
            "category_id": self._category(thing),
            "segmentation": thing.amodal_rle,
            "visible_mask": thing.visible_rle,
            "bbox": xyxy_to_xywh(np.array(thing.amodal_box_xyxy)).tolist(),
            "visible_bbox": xyxy_to_xywh(np.array(thing.visible_box_xyxy)).tolist(),
            "area": rle_area(thing.amodal_rle),
            "occlude_rate": round(hidden_share(thing), 6),
            "occluders": [number + self._offsets[1] for number in occluders],
            "iscrowd": 0,
            "attributes": thing.attributes,
        }

    def _category(self, thing: ObjectSample) -> int:
        """Id of the category in the work folder: the source's own unless another kind has it."""
        if thing.category_id in self._category_ids:
            return self._category_ids[thing.category_id]
        name = self._names.get(thing.category_id, f"object of category {thing.category_id}")
        number = self._categories.get(name)
        if number is None:
            taken = set(self._categories.values())
            number = thing.category_id if thing.category_id not in taken else max(taken) + 1
            self._categories[name] = number
            with self._manifest.transaction() as connection:
                connection.execute("INSERT INTO categories VALUES (?, ?)", (number, name))
        self._category_ids[thing.category_id] = number
        return number


def link_file(path: Path, target: Path) -> None:
    """One file under another name, as a link where the disk allows."""
    try:
        os.link(path.resolve(), target)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(path, target)


def in_front(image: ImageSample) -> dict[int, list[int]]:
    """Ids of the objects that hide a part of each object, by the masks (see `Scene.occlusion_order`).

    An object of which only a rim is hidden counts as whole. The masks decide, whatever else the
    source says: they are what a question's answer is held against later.
    """
    things = []
    for thing in image.objects:
        amodal = thing.amodal_mask()
        assert amodal is not None
        things.append(SceneObject.from_masks(thing.visible_mask(), amodal))
    found: dict[int, list[int]] = {thing.id: [] for thing in image.objects}
    for front, behind in Scene(things, image.size).occlusion_order():
        if not is_hidden(image.objects[behind]):
            continue
        found[image.objects[behind].id].append(image.objects[front].id)
    return found
