"""Training samples for a detector: windows of images with the boxes of all objects in them.

Axes: B images, M boxes per image, S side of the square input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from amodal.data.samples import ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.models.bases.protocol import IMAGE_MEAN, IMAGE_STD
from amodal.models.detector import OTHER
from amodal.ops.arrays import Window
from amodal.ops.boxes import boxes_meet
from amodal.ops.masks import crop_and_resize
from amodal.ops.rle import rle_area
from amodal.training.datasets.crops import Augmentation, augment_colours, normalised
from amodal.training.datasets.sampling import Batch, CropSource, Key

UNNAMED = "object"
"""Category of objects whose kind the source does not tell."""
UNKNOWN = -1
"""Class of these objects; they have no class loss."""
MIN_SIDE = 6.0
"""Smallest side in pixels of the input of a box that is learned; smaller ones are neither objects nor background."""
MIN_SHARE = 0.4
"""Smallest share of a box inside the window for it to be learned, likewise."""
WHOLE_SHARE = 0.4
"""Share of training samples that are whole images."""
MIN_WINDOW = 0.5
"""Smallest side of a window relative to that of the image."""

Rng = np.random.Generator


@dataclass(frozen=True)
class DetectionSource(CropSource):
    """A dataset, and whether all objects in its images are annotated.

    Where they are not, only the surroundings of annotated objects inside their boxes count as background.
    """

    all_annotated: bool = True


class DetectionImages(Dataset[dict[str, Any]]):
    """One sample per image: a window, resized to a square without keeping its aspect ratio.

    Args:
        sources: datasets with weights; `min_visible_pixels` says which objects are learned.
        image_size: S.
        classes: names of the classes 1, 2, ...; other kinds are class 0. The case of letters does not matter.
        augmentation: strength of the changes of colour, and the share of flipped samples; None gives whole images
            with unchanged pixels.

    Raises:
        InputError: no source has an image with an object.
    """

    def __init__(
        self,
        sources: Sequence[DetectionSource],
        *,
        image_size: int,
        classes: Sequence[str],
        augmentation: Augmentation | None = None,
    ) -> None:
        self.sources = list(sources)
        self.image_size, self.augmentation = image_size, augmentation
        self._numbers = {name.lower(): number for number, name in enumerate(classes, 1)} | {UNNAMED: UNKNOWN}
        self._index = [[i for i, image in enumerate(s.dataset.images) if len(image.objects)] for s in self.sources]
        if not any(self._index):
            raise InputError("data: expected sources with at least one annotated image, got none")

    @property
    def lengths(self) -> list[int]:
        """Number of images with objects of each source."""
        return [len(index) for index in self._index]

    @property
    def collate(self) -> Any:
        """See the function `collate`."""
        return collate

    def describe(self, key: Key) -> dict[str, Any]:
        """The image that a key addresses: `source`, `image_id` and `file`."""
        image = self._image(key)
        return {"source": key[0], "image_id": image.id, "file": str(image.path)}

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """NumPy arrays of one sample; see `collate` for the shapes."""
        source, image, rng = self.sources[key[0]], self._image(key), np.random.default_rng(key[2])
        window = (0, 0, image.width, image.height)
        if self.augmentation is not None and rng.random() >= WHOLE_SHARE:
            window = _random_window(rng, image.size)
        pixels = crop_and_resize(image.load(), window, self.image_size)
        boxes, classes, learned = self._boxes(image, window, source)
        if self.augmentation is not None:
            pixels = augment_colours(rng, pixels, self.augmentation)
            if rng.random() < self.augmentation.flip:
                pixels = np.ascontiguousarray(pixels[:, ::-1])
                boxes[:, [0, 2]] = self.image_size - boxes[:, [2, 0]]
        return {
            "pixels": pixels,
            "boxes": boxes,
            "classes": classes,
            "learned": learned,
            "all_annotated": source.all_annotated,
        }

    def _image(self, key: Key) -> ImageSample:
        return self.sources[key[0]].dataset.images[self._index[key[0]][key[1]]]

    def _boxes(self, image: ImageSample, window: Window, source: DetectionSource) -> tuple[Any, Any, Any]:
        """Boxes (M, 4) in the window's frame, their classes (M,), and which of them are learned (M,)."""
        x0, y0, x1, y1 = window
        scale = self.image_size / np.array([x1 - x0, y1 - y0] * 2)
        boxes, classes, learned = [], [], []
        for obj in image.objects:
            if obj.is_stuff or not boxes_meet(obj.visible_box_xyxy, window):
                continue
            whole = (np.array(obj.visible_box_xyxy) - np.array([x0, y0, x0, y0])) * scale
            clipped = np.clip(whole, 0, self.image_size)
            sides = clipped[2:] - clipped[:2]
            share = sides.prod() / max((whole[2:] - whole[:2]).prod(), 1e-9)
            boxes.append(clipped)
            classes.append(self._class_of(obj, source))
            learned.append(
                not obj.iscrowd
                and bool(sides.min() >= MIN_SIDE)
                and share >= MIN_SHARE
                and rle_area(obj.visible_rle) >= source.min_visible_pixels
            )
        return np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64), np.array(learned, bool)

    def _class_of(self, obj: ObjectSample, source: DetectionSource) -> int:
        return self._numbers.get(source.dataset.categories.get(obj.category_id, UNNAMED).lower(), OTHER)


def collate(items: list[dict[str, Any]]) -> Batch:
    """Stack samples.

    Args:
        items: samples of `DetectionImages`.

    Returns:
        `pixel_values` (B, 3, S, S) normalised; `boxes` (B, M, 4) xyxy in pixels; `classes` (B, M), -1 where the kind
        is unknown; `learned` (B, M) bool, the objects; `ignored` (B, M) bool, boxes that are neither objects nor
        background; both are False for padding; `all_annotated` (B,) bool.
    """
    B, M = len(items), max(1, *(len(item["boxes"]) for item in items))
    boxes, classes = np.zeros((B, M, 4), np.float32), np.full((B, M), UNKNOWN)
    learned, ignored = np.zeros((B, M), bool), np.zeros((B, M), bool)
    for b, item in enumerate(items):
        m = len(item["boxes"])
        boxes[b, :m], classes[b, :m] = item["boxes"], item["classes"]
        learned[b, :m], ignored[b, :m] = item["learned"], ~item["learned"]
    pixels = torch.from_numpy(np.stack([item["pixels"] for item in items]))
    arrays = {"boxes": boxes, "classes": classes, "learned": learned, "ignored": ignored}
    return {
        "pixel_values": normalised(pixels, IMAGE_MEAN, IMAGE_STD),
        **{name: torch.from_numpy(array) for name, array in arrays.items()},
        "all_annotated": torch.tensor([bool(item["all_annotated"]) for item in items]),
    }


def _random_window(rng: Rng, size: tuple[int, int]) -> Window:
    """A window with sides of at least `MIN_WINDOW` of those of an image (H, W), about its own aspect ratio."""
    H, W = size
    share = rng.uniform(MIN_WINDOW, 1)
    stretch = rng.uniform(0.85, 1 / 0.85)
    w, h = (max(min(round(side * share * f), side), 1) for side, f in ((W, stretch), (H, 1 / stretch)))
    x, y = int(rng.integers(W - w + 1)), int(rng.integers(H - h + 1))
    return (x, y, x + w, y + h)
