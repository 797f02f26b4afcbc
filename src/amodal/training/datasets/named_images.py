"""Training samples that name the object under each image token, which teach a small vision tower to see.

Axes: B images, S_mllm side of the language model's square image in pixels, c tokens along each side, K names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from amodal.data.samples import ImageSample
from amodal.io.images import ImageArray
from amodal.models.aura.processing import AuraProcessor
from amodal.ops.boxes import mask_to_box
from amodal.training.datasets.crops import Augmentation, augment_colours
from amodal.training.datasets.sampling import Batch, Key, ReasonSource

Rng = np.random.Generator
ObjectMap = npt.NDArray[np.uint16]
FloatArray = npt.NDArray[np.float32]

MAP_PIXELS_PER_TOKEN = 16
"""Pixels of an object map along each side of a token."""


class NamedImages(Dataset[dict[str, Any]]):
    """Images as the language model sees them, with the name and the box under each token and without text.

    Decoded images stay in memory: they are as small as the language model's input, and decoding one
    takes longer than a training step on it.

    Args:
        sources: datasets with weights; their questions are not used.
        processor: processor of the model.
        cells: c.
        classes: K.
        augmentation: strength of the random changes; None for evaluation. `scale` zooms and `shift` is relative
            to S_mllm; the settings for boxes and wide windows have no effect.
    """

    def __init__(
        self,
        sources: Sequence[ReasonSource],
        processor: AuraProcessor,
        *,
        cells: int,
        classes: int,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.sources = list(sources)
        self.processor = processor
        self.cells, self.classes, self.augmentation = cells, classes, augmentation
        self._images = [
            list({c.image.id: c.image for c in source.dataset.conversations}.values()) for source in sources
        ]
        self._decoded: dict[tuple[int, int], tuple[ImageArray, ObjectMap]] = {}

    @property
    def lengths(self) -> list[int]:
        """Number of images of each source."""
        return [len(images) for images in self._images]

    def describe(self, key: Key) -> dict[str, Any]:
        """The image that a key addresses: `source`, `image_id` and the image's `file`."""
        image = self._images[key[0]][key[1]]
        return {"source": key[0], "image_id": image.id, "file": str(image.path)}

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """`image` (S_mllm, S_mllm, 3) uint8, `naming_shares` (c * c, K), `naming_boxes_xyxy_mllm` (c * c, 4)."""
        source, position, seed = key
        image, objects = self._decode(source, position)
        if self.augmentation is not None:
            rng = np.random.default_rng(seed)
            image, objects = _moved(rng, image, objects, self.augmentation)
            image = augment_colours(rng, image, self.augmentation)
        known = self.sources[source].classes
        kinds = [known.get(obj.category_id, 0) for obj in self._images[source][position].objects]
        names, boxes = named_tokens(objects, kinds, self.cells, self.classes)
        return {"image": image, "naming_shares": names, "naming_boxes_xyxy_mllm": boxes}

    def collate(self, items: list[dict[str, Any]]) -> Batch:
        """Stack samples.

        Returns:
            `pixel_values` (B, 3, S_mllm, S_mllm), `naming_shares` (B, c * c, K) and
            `naming_boxes_xyxy_mllm` (B, c * c, 4).
        """
        batch = {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in items[0]}
        return {"pixel_values": self.processor.normalize_mllm(batch.pop("image"))} | batch

    def _decode(self, source: int, position: int) -> tuple[ImageArray, ObjectMap]:
        decoded = self._decoded.get((source, position))
        if decoded is None:
            image = self._images[source][position]
            objects = object_map(image, self.cells * MAP_PIXELS_PER_TOKEN)
            decoded = self._decoded[source, position] = self.processor.pixels_mllm(image.load()), objects
        return decoded


def object_map(image: ImageSample, side: int) -> ObjectMap:
    """Map (side, side) of the image padded to a square: 1 + index of the object visible there, 0 for none."""
    longest = max(image.size)
    top, left = (longest - image.height) // 2, (longest - image.width) // 2
    square = np.zeros((longest, longest), np.uint16)
    inner = square[top : top + image.height, left : left + image.width]
    for number, obj in enumerate(image.objects, 1):
        inner[obj.visible_mask()] = number
    return np.asarray(cv2.resize(square, (side, side), interpolation=cv2.INTER_NEAREST), np.uint16)


def named_tokens(objects: ObjectMap, kinds: Sequence[int], cells: int, classes: int) -> tuple[FloatArray, FloatArray]:
    """Names and boxes of what is visible under each token.

    Args:
        objects: (side, side) result of `object_map`; side is a multiple of `cells`.
        kinds: class of each object, below `classes`.
        cells: c.
        classes: K; 0 is the background.

    Returns:
        (c * c, K) share of each name, and (c * c, 4) visible box xyxy in [0, 1] of the object that covers
        most of the token, zeros for background.
    """
    side, num_values = len(objects), len(kinds) + 1
    cell = np.arange(side) // (side // cells)
    keys = (cell[:, None] * cells + cell) * num_values + objects
    counts = np.bincount(keys.ravel(), minlength=cells * cells * num_values).reshape(-1, num_values)
    names = np.zeros((num_values, classes), np.float32)
    names[range(num_values), [0, *kinds]] = 1
    boxes = np.zeros((num_values, 4), np.float32)
    for number in np.unique(objects[objects > 0]):
        boxes[number] = mask_to_box(objects == number) / side
    shares = np.asarray(counts / counts[0].sum(), np.float32)
    return shares @ names, boxes[counts.argmax(1)]


def covered_tokens(objects: ObjectMap, number: int, cells: int) -> FloatArray:
    """Share (c * c,) of an object's visible area under each token; zeros for an object that is not visible.

    Args:
        objects: (side, side) result of `object_map`.
        number: value of the object in it.
        cells: c.
    """
    step = len(objects) // cells
    areas = (objects == number).reshape(cells, step, cells, step).sum((1, 3)).reshape(-1)
    return np.asarray(areas / max(areas.sum(), 1), np.float32)


def _moved(rng: Rng, image: ImageArray, objects: ObjectMap, strength: Augmentation) -> tuple[ImageArray, ObjectMap]:
    """Zoom, shift and perhaps flip the image and its object map alike; uncovered pixels become grey."""
    zoom = rng.uniform(*strength.scale)
    shift = rng.uniform(-1, 1, 2) * strength.shift
    mirror = -1 if rng.random() < strength.flip else 1

    def move(values: npt.NDArray[Any], interpolation: int, outside: int) -> npt.NDArray[Any]:
        side = len(values)
        middle = (side - 1) / 2
        scales = np.array([zoom * mirror, zoom])
        offset = middle - scales * middle + shift * side
        matrix = np.concatenate([np.diag(scales), offset[:, None]], axis=1)
        border = (outside,) * 3
        return cv2.warpAffine(values, matrix, (side, side), flags=interpolation, borderValue=border)

    return move(image, cv2.INTER_LINEAR, 127), move(objects, cv2.INTER_NEAREST, 0)
