"""Training samples without words: images with the name of the object under each image token, and objects to find.

They teach a small vision tower to see, and the decoders to find the objects of a category.

Axes: B images, S_mllm side of the language model's square image in pixels, S_sam that of the backbone's, c tokens along
each side, K names, N objects of the whole batch.
"""

from __future__ import annotations

from collections import Counter
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
from amodal.ops.arrays import Mask
from amodal.ops.boxes import mask_to_box
from amodal.training.datasets.crops import Augmentation, augment_colours
from amodal.training.datasets.sampling import UNNAMED, Batch, Key, ReasonSource

Rng = np.random.Generator
ObjectMap = npt.NDArray[np.uint16]
FloatArray = npt.NDArray[np.float32]
Movement = npt.NDArray[np.float64]

MAP_PIXELS_PER_TOKEN = 16
"""Pixels of an object map along each side of a token."""

MIN_MAP_PIXELS = 12
"""Pixels of an object map that an object must cover to be found; a token has 256."""


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
        with_objects: also give the objects to find, which are those that are the only ones of their category. The
            backbone sees the LLM's frame.
        max_masks: maximum number of objects per image whose masks are learned, chosen at random; None learns all.
    """

    def __init__(
        self,
        sources: Sequence[ReasonSource],
        processor: AuraProcessor,
        *,
        cells: int,
        classes: int,
        augmentation: Augmentation | None = None,
        with_objects: bool = False,
        max_masks: int | None = None,
    ) -> None:
        self.sources = list(sources)
        self.processor = processor
        self.cells, self.classes, self.augmentation = cells, classes, augmentation
        self.with_objects, self.max_masks = with_objects, max_masks
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
        """`image` (S_mllm, S_mllm, 3) uint8, `naming_shares` (c * c, K), `naming_boxes_xyxy_mllm` (c * c, 4).

        With objects to find also, in the same frame: `object_names` (n,), `visible_boxes_xyxy_sam` (n, 4) and
        `pointing_shares` (n, c * c); `chosen` (n,) says of which there are `visible_masks` and `amodal_masks`
        (m, S_sam, S_sam) and `has_amodal` (m,).
        """
        source, position, seed = key
        image, objects = self._decode(source, position)
        rng = np.random.default_rng(seed)
        movement: Movement = np.eye(2, 3)
        if self.augmentation is not None:
            movement = _movement(rng, self.augmentation)
            image, objects = _moved(image, movement, 127), _moved(objects, movement, nearest=True)
            image = augment_colours(rng, image, self.augmentation)
        sample = self._images[source][position]
        known = self.sources[source].classes
        kinds = [known.get(obj.category_id, 0) for obj in sample.objects]
        names, boxes = named_tokens(objects, kinds, self.cells, self.classes)
        item: dict[str, Any] = {"image": image, "naming_shares": names, "naming_boxes_xyxy_mllm": boxes}
        if self.with_objects:
            item |= self._objects(rng, sample, objects, kinds, movement)
        return item

    def _objects(
        self, rng: Rng, sample: ImageSample, objects: ObjectMap, kinds: Sequence[int], movement: Movement
    ) -> dict[str, Any]:
        found = alone(objects, kinds)
        chosen = np.zeros(len(found), bool)
        chosen[rng.permutation(len(found))[: self.max_masks]] = True
        masks: dict[str, list[Mask]] = {"visible_masks": [], "amodal_masks": []}
        shown = [sample.objects[index] for index, is_chosen in zip(found, chosen, strict=True) if is_chosen]
        for obj in shown:
            visible, amodal = obj.visible_mask(), obj.amodal_mask()
            for name, mask in zip(masks, (visible, visible if amodal is None else amodal | visible), strict=True):
                masks[name].append(_moved(_square(mask, self.processor.image_size), movement) >= 128)
        S_sam = self.processor.image_size
        boxes = [mask_to_box(objects == index + 1) / len(objects) for index in found]
        shares = [covered_tokens(objects, index + 1, self.cells) for index in found]
        return {name: np.array(each, bool).reshape(-1, S_sam, S_sam) for name, each in masks.items()} | {
            "has_amodal": np.array([obj.amodal_rle is not None for obj in shown], bool),
            "chosen": chosen,
            "object_names": np.array([kinds[index] for index in found], np.int64),
            "visible_boxes_xyxy_sam": np.array(boxes, np.float32).reshape(-1, 4),
            "pointing_shares": np.array(shares, np.float32).reshape(-1, self.cells**2),
        }

    def collate(self, items: list[dict[str, Any]]) -> Batch:
        """Stack samples.

        Returns:
            `pixel_values` (B, 3, S_mllm, S_mllm), `naming_shares` (B, c * c, K) and
            `naming_boxes_xyxy_mllm` (B, c * c, 4). With objects to find also `pixel_values_sam` (B, 3, S_sam, S_sam),
            `image_index` (N,), and what a sample has of its objects.
        """
        per_image = {name for name in items[0] if name == "image" or name.startswith("naming_")}
        stacked = {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in per_image}
        joined = {
            name: torch.from_numpy(np.concatenate([item[name] for item in items]))
            for name in items[0].keys() - per_image
        }
        images = stacked.pop("image")
        batch = {"pixel_values": self.processor.normalize_mllm(images)} | stacked | joined
        if joined:
            counts = torch.tensor([len(item["object_names"]) for item in items])
            batch["image_index"] = torch.arange(len(items)).repeat_interleave(counts)
            batch["pixel_values_sam"] = torch.cat([self.processor.pixels_sam(image.numpy()) for image in images])
        return batch

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
        kinds: class of each object, below `classes`; `UNNAMED` has no share.
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
    for number, kind in enumerate((0, *kinds)):
        if kind != UNNAMED:
            names[number, kind] = 1
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


def alone(objects: ObjectMap, kinds: Sequence[int]) -> list[int]:
    """Indices of the objects that are well visible and the only visible ones of their kind."""
    areas = np.bincount(objects.ravel(), minlength=len(kinds) + 1)[1:]
    visible = Counter(kind for kind, area in zip(kinds, areas, strict=True) if area)
    return [i for i, kind in enumerate(kinds) if kind > 0 and visible[kind] == 1 and areas[i] >= MIN_MAP_PIXELS]


def _square(mask: Mask, side: int) -> npt.NDArray[np.uint8]:
    """A mask padded to a square as in `object_map`, as values from 0 to 255 (side, side)."""
    longest = max(mask.shape)
    top, left = (longest - mask.shape[0]) // 2, (longest - mask.shape[1]) // 2
    square = np.zeros((longest, longest), np.uint8)
    square[top : top + mask.shape[0], left : left + mask.shape[1]] = mask.view(np.uint8) * np.uint8(255)
    how = cv2.INTER_AREA if longest > side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (side, side), interpolation=how), np.uint8)


def _movement(rng: Rng, strength: Augmentation) -> Movement:
    """A random zoom, shift and perhaps flip of a square: an affine matrix (2, 3) for sides of length 1."""
    zoom = rng.uniform(*strength.scale)
    shift = rng.uniform(-1, 1, 2) * strength.shift
    scales = np.array([zoom * (-1 if rng.random() < strength.flip else 1), zoom])
    return np.concatenate([np.diag(scales), (0.5 - scales * 0.5 + shift)[:, None]], axis=1)


def _moved(values: npt.NDArray[Any], movement: Movement, outside: int = 0, nearest: bool = False) -> Any:
    """Move a square image or map; what no pixel covers becomes `outside`."""
    side = len(values)
    matrix = movement.copy()
    matrix[:, 2] = movement[:, 2] * side + (movement[:, :2].sum(1) - 1) / 2  # pixel centres are at half numbers
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return cv2.warpAffine(values, matrix, (side, side), flags=how, borderValue=(outside,) * 3)
