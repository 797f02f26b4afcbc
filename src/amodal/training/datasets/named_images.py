"""Training samples without words, for an LLM that reads the names of regions: images with named objects.

They teach the tower to name regions, and the decoders to segment the object in a box.

Axes: B images, S_mllm side of the language model's square image in pixels, S_sam that of the backbone's, N objects of
the whole batch, P proposed boxes and Q ranks per image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

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
from amodal.training.datasets.sampling import Batch, Key, ReasonSource

Rng = np.random.Generator
ObjectMap = npt.NDArray[np.uint16]
FloatArray = npt.NDArray[np.float32]
Movement = npt.NDArray[np.float64]

OBJECT_MAP_SIDE = 128
"""Side of the map of objects whose masks are learned."""

MIN_MAP_PIXELS = 12
"""Pixels of that map that an object must cover to be learned."""

NUM_PROPOSALS, NUM_RANKS = 5, 3
"""P and Q: regions per image that are learned from boxes near true ones, and from what the detector finds."""

NEAR_ERROR, FAR_ERROR, FAR_SHARE = 0.07, 0.25, 0.2
"""Standard deviations of a proposed box's edges, relative to the sides of the true one, and the share that is far."""

MEAN_RANK = 14
"""Mean rank of the detector's boxes that are learned, of an exponential distribution."""

MIN_BOX = 0.02
"""Smallest side of a true box, relative to the image."""

MIN_BOX_SHARE = 0.3
"""Smallest share of the area of a true box that is inside a moved image."""

HINT_ERROR = 0.06
"""Standard deviation of the edges of a hinted box, relative to its sides."""

Kind = Literal["regions", "objects"]
"""What is learned: the names of regions, or the masks of objects."""


class NamedImages(Dataset[dict[str, Any]]):
    """Images as the language model sees them, with names and without text.

    Decoded images stay in memory: they are as small as the language model's input, and decoding one
    takes longer than a training step on it.

    Args:
        sources: datasets with weights; their questions are not used.
        processor: processor of the model.
        kind: what is learned. Of objects, the backbone sees the LLM's frame.
        augmentation: strength of the random changes; None for evaluation. `scale` zooms and `shift` is relative
            to S_mllm; the settings for boxes and wide windows have no effect.
        max_masks: maximum number of objects per image whose masks are learned, chosen at random; None learns all.
        box_error: standard deviation of the edges of the objects' boxes, relative to their sides.
        num_found: of regions, learn this number of those that the detector finds, best first, and no proposals; None
            learns P proposals and Q of the found.
    """

    def __init__(
        self,
        sources: Sequence[ReasonSource],
        processor: AuraProcessor,
        *,
        kind: Kind,
        augmentation: Augmentation | None = None,
        max_masks: int | None = None,
        box_error: float = 0.0,
        num_found: int | None = None,
    ) -> None:
        self.sources = list(sources)
        self.processor = processor
        self.kind, self.augmentation = kind, augmentation
        self.max_masks, self.box_error, self.num_found = max_masks, box_error, num_found
        self._images = [
            list({c.image.id: c.image for c in source.dataset.conversations}.values()) for source in sources
        ]
        self._decoded: dict[tuple[int, int], tuple[ImageArray, ObjectMap | None]] = {}

    @property
    def lengths(self) -> list[int]:
        """Number of images of each source."""
        return [len(images) for images in self._images]

    def describe(self, key: Key) -> dict[str, Any]:
        """The image that a key addresses: `source`, `image_id` and the image's `file`."""
        image = self._images[key[0]][key[1]]
        return {"source": key[0], "image_id": image.id, "file": str(image.path)}

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """`image` (S_mllm, S_mllm, 3) uint8, and what is learned.

        Of regions: `true_boxes_xyxy_mllm` (n, 4), `true_names` (n,) and `true_rates` (n,), NaN without amodal mask, of
        the objects; `true_hides` (n, n), 1 where the first one hides a part of the second, NaN where that is unknown;
        `proposals_xyxy_mllm` (P, 4) and `ranks` (Q,) of `TrunkTower.learn`.
        Of objects: `visible_masks` and `amodal_masks` (m, S_sam, S_sam), `has_amodal` (m,) and the visible boxes
        `box_hints_xyxy_sam` (m, 4), which may be inexact.
        """
        source, position, seed = key
        image, objects = self._decode(source, position)
        rng = np.random.default_rng(seed)
        movement: Movement = np.eye(2, 3)
        if self.augmentation is not None:
            movement = _movement(rng, self.augmentation)
            image = augment_colours(rng, _moved(image, movement, 127), self.augmentation)
        sample = self._images[source][position]
        if objects is not None:
            if self.augmentation is not None:
                objects = _moved(objects, movement, nearest=True)
            return {"image": image} | self._objects(rng, sample, objects, movement)
        known = self.sources[source].classes
        regions = _true_regions(sample, [known.get(obj.category_id, 0) for obj in sample.objects], movement)
        if self.num_found is None:
            proposals = _proposals(rng, regions["true_boxes_xyxy_mllm"])
            ranks = rng.exponential(MEAN_RANK, NUM_RANKS).astype(np.int64)
        else:
            proposals, ranks = np.zeros((0, 4), np.float32), np.arange(self.num_found)
        return {"image": image, "proposals_xyxy_mllm": proposals, "ranks": ranks} | regions

    def _objects(self, rng: Rng, sample: ImageSample, objects: ObjectMap, movement: Movement) -> dict[str, Any]:
        areas = np.bincount(objects.ravel(), minlength=len(sample.objects) + 1)[1:]
        chosen = rng.permutation(np.flatnonzero(areas >= MIN_MAP_PIXELS))[: self.max_masks]
        masks: dict[str, list[Mask]] = {"visible_masks": [], "amodal_masks": []}
        shown = [sample.objects[index] for index in chosen]
        for obj in shown:
            visible, amodal = obj.visible_mask(), obj.amodal_mask()
            for name, mask in zip(masks, (visible, visible if amodal is None else amodal | visible), strict=True):
                masks[name].append(_moved(_square(mask, self.processor.image_size), movement) >= 128)
        S_sam = self.processor.image_size
        boxes = np.array([mask_to_box(objects == index + 1) / len(objects) for index in chosen], np.float32)
        return {name: np.array(each, bool).reshape(-1, S_sam, S_sam) for name, each in masks.items()} | {
            "has_amodal": np.array([obj.amodal_rle is not None for obj in shown], bool),
            "box_hints_xyxy_sam": noisy_boxes(boxes.reshape(-1, 4), self.box_error, rng),
        }

    def collate(self, items: list[dict[str, Any]]) -> Batch:
        """Stack samples.

        Returns:
            `pixel_values` (B, 3, S_mllm, S_mllm), or `pixel_values_sam` (B, 3, S_sam, S_sam) with masks, and what the
            samples have. What there is one of per image is stacked; what there is one of per object is joined, with
            `image_index` (N,), the image of each; `true_hides` becomes (N, N) with zeros for pairs of two images.
        """
        stacked_names = {"image", "proposals_xyxy_mllm", "ranks"}
        stacked, joined = {}, {}
        for name in items[0]:
            values = [item[name] for item in items]
            if name in stacked_names:
                stacked[name] = torch.from_numpy(np.stack(values))
            elif name == "true_hides":
                joined[name] = torch.block_diag(*map(torch.from_numpy, values))
            else:
                joined[name] = torch.from_numpy(np.concatenate(values))
        images = stacked.pop("image")
        if self.kind == "objects":
            pixels = {"pixel_values_sam": torch.cat([self.processor.pixels_sam(image.numpy()) for image in images])}
        else:
            pixels = {"pixel_values": self.processor.normalize_mllm(images)}
        counted = "has_amodal" if self.kind == "objects" else "true_names"
        counts = torch.tensor([len(item[counted]) for item in items])
        return pixels | stacked | joined | {"image_index": torch.arange(len(items)).repeat_interleave(counts)}

    def _decode(self, source: int, position: int) -> tuple[ImageArray, ObjectMap | None]:
        """The image in the LLM's frame, and its object map, which regions do not need."""
        decoded = self._decoded.get((source, position))
        if decoded is None:
            image = self._images[source][position]
            objects = None if self.kind == "regions" else object_map(image, OBJECT_MAP_SIDE)
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


def noisy_boxes(boxes: FloatArray, error: float, rng: Rng) -> FloatArray:
    """Boxes (N, 4) xyxy in [0, 1] whose edges are moved at random, by `error` times the sides on average."""
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return np.asarray(np.clip(boxes + error * sides * rng.standard_normal(boxes.shape), 0, 1), np.float32)


def _true_regions(sample: ImageSample, kinds: Sequence[int], movement: Movement) -> dict[str, Any]:
    """What a sample of regions has of its objects."""
    shift = (max(sample.size) - np.array([sample.width, sample.height])) / 2  # padded to a square
    boxes = np.array([obj.visible_box_xyxy for obj in sample.objects], np.float64).reshape(-1, 2, 2) + shift
    scales, offsets = movement[:, :2].sum(1), movement[:, 2]  # the movement neither turns nor shears
    corners = boxes / max(sample.size) * scales + offsets
    whole = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    inside = whole.clip(0, 1)
    sides, areas = inside[:, 2:] - inside[:, :2], (whole[:, 2:] - whole[:, :2]).prod(1)
    kept = (sides.min(1, initial=1) >= MIN_BOX) & (sides.prod(1) >= MIN_BOX_SHARE * areas)
    rates = [np.nan if obj.amodal_rle is None else obj.occlusion_rate() for obj in sample.objects]
    return {
        "true_boxes_xyxy_mllm": inside[kept].astype(np.float32),
        "true_names": np.array(kinds, np.int64)[kept],
        "true_rates": np.array(rates, np.float32)[kept],
        "true_hides": _hides(sample)[kept][:, kept],
    }


def _hides(sample: ImageSample) -> FloatArray:
    """(n, n): 1 where the first object hides a part of the second, NaN where the source does not say it."""
    positions = {obj.id: position for position, obj in enumerate(sample.objects)}
    hides = np.zeros((len(positions), len(positions)), np.float32)
    for behind, obj in enumerate(sample.objects):
        hides[:, behind] = 0 if obj.occluders_known else np.nan
        hides[[positions[number] for number in obj.occluders if number in positions], behind] = 1
    return hides


def _proposals(rng: Rng, boxes: FloatArray) -> FloatArray:
    """Boxes (P, 4) near and further away from the true ones (n, 4); random ones if there are none."""
    if not len(boxes):
        ends = np.sort(rng.random((NUM_PROPOSALS, 2, 2)), axis=1)
        return np.asarray(ends.reshape(-1, 4), np.float32)
    chosen = boxes[rng.integers(len(boxes), size=NUM_PROPOSALS)]
    errors = np.where(rng.random((NUM_PROPOSALS, 1)) < FAR_SHARE, FAR_ERROR, NEAR_ERROR)
    moved = chosen + errors * np.tile(chosen[:, 2:] - chosen[:, :2], 2) * rng.standard_normal(chosen.shape)
    low, high = np.minimum(moved[:, :2], moved[:, 2:] - MIN_BOX), np.maximum(moved[:, 2:], moved[:, :2] + MIN_BOX)
    return np.asarray(np.concatenate([low, high], axis=1), np.float32)


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
