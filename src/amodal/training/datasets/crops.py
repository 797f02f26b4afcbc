"""Training samples: crops around visible boxes, drawn so that batch t depends on (seed, t) alone.

Axes: B crops, P prompts (objects) a crop, S side of the crop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from amodal.data.samples import AnnotatedDataset, Box, ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.models.plug.processing import IMAGE_MEAN, IMAGE_STD
from amodal.ops.boxes import Window, boxes_meet, boxes_to_crop, crop_window, mask_to_box
from amodal.ops.masks import crop_and_resize, crop_mask
from amodal.ops.rle import Rle, decode_window, rle_area
from amodal.training.datasets.transforms import Augmentation, augment_colours, jitter_box

Rng = np.random.Generator
Mask = npt.NDArray[np.bool_]
Key = tuple[int, int, tuple[int, ...]]
"""(source, object within it, seed of the item)."""

MIN_PROMPT_PIXELS = 40  # of another object inside the crop, at the crop's resolution
MAX_POINTS = 3
NEGATIVE_SHARE = 0.2  # of point prompts: one more point, on what is not the object

BoxSource = Literal["visible", "amodal"]


class HasLengths(Protocol):
    """A dataset of several sources."""

    @property
    def lengths(self) -> list[int]:
        """Samples of each source."""


@dataclass(frozen=True)
class Source:
    """A dataset and its share of the batches."""

    dataset: AnnotatedDataset
    weight: float = 1.0
    min_visible_pixels: int = 1


class ObjectCrops(Dataset[dict[str, Any]]):
    """One object a crop, and on request its neighbours as further prompts.

    Args:
        sources: datasets with weights.
        image_size: S.
        crop_scale: side of the window relative to the visible box.
        augmentation: None for evaluation: the exact window, no change of pixels.
        num_prompts: P; the first prompt is the object the crop is made around.
        box_source: box that prompts and that the crop is made around; `amodal` falls back to
            the visible box where the amodal mask is unknown.

    Raises:
        InputError: no source has an object to offer.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        image_size: int,
        crop_scale: float = 2.0,
        augmentation: Augmentation | None = None,
        num_prompts: int = 1,
        box_source: BoxSource = "visible",
    ) -> None:
        self.sources = list(sources)
        self.image_size = image_size
        self.crop_scale = crop_scale
        self.augmentation = augmentation
        self.num_prompts = num_prompts
        self.box_source = box_source
        self._index = [_usable_objects(source) for source in self.sources]
        if not any(self._index):
            raise InputError("data: expected sources with at least one usable object, got none")

    @property
    def lengths(self) -> list[int]:
        """Usable objects of each source."""
        return [len(index) for index in self._index]

    @staticmethod
    def collate(items: list[dict[str, Any]]) -> dict[str, Tensor]:
        """See `collate`, the function."""
        return collate(items)

    def describe(self, key: Key) -> dict[str, Any]:
        """Which object a key names: `source`, `image_id`, `annotation_id` and the image's `file`."""
        image, thing = self._locate(*key[:2])
        return {"source": key[0], "image_id": image.id, "annotation_id": thing.id, "file": str(image.path)}

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """Numpy arrays of one crop; see `collate` for the shapes."""
        source, position, seed = key
        image, thing = self._locate(source, position)
        rng = np.random.default_rng(seed)
        window = self._window(rng, image, thing)
        others = self._neighbours(rng, image, thing, window)
        pixels = crop_and_resize(image.load(), window, self.image_size)
        prompts = [self._prompt(rng, thing, window)]
        for other in others:
            if len(prompts) == self.num_prompts:
                break
            prompt = self._prompt(rng, other, window)
            if prompt["visible_mask"].sum() >= MIN_PROMPT_PIXELS:
                prompts.append(prompt)
        if self.augmentation is not None:
            pixels = augment_colours(rng, pixels, self.augmentation)
            if rng.random() < self.augmentation.flip:
                pixels = np.ascontiguousarray(pixels[:, ::-1])
                prompts = [_flipped(prompt) for prompt in prompts]
        return {"pixels": pixels, "prompts": prompts, "num_prompts": self.num_prompts}

    def _neighbours(self, rng: Rng, image: ImageSample, thing: ObjectSample, window: Window) -> list[ObjectSample]:
        """Other objects that may become prompts, in random order."""
        if self.num_prompts == 1:
            return []
        others = [
            o for o in image.objects if o is not thing and not o.iscrowd and boxes_meet(o.visible_box_xyxy, window)
        ]
        rng.shuffle(others)
        return others

    def _locate(self, source: int, position: int) -> tuple[ImageSample, ObjectSample]:
        image_index, object_index = self._index[source][position]
        image = self.sources[source].dataset.images[image_index]
        return image, image.objects[object_index]

    def _window(self, rng: Rng, image: ImageSample, thing: ObjectSample) -> Window:
        box = np.array(self._box(thing))
        if self.augmentation is None:
            return crop_window(box, image.size, self.crop_scale)
        if rng.random() < self.augmentation.wide:
            scale = rng.uniform(*self.augmentation.wide_scale)
        else:
            scale = self.crop_scale * rng.uniform(*self.augmentation.scale)
        extent = np.tile(box[2:] - box[:2], 2)
        shift = np.tile(rng.uniform(-1, 1, 2) * self.augmentation.shift * max(scale - 1, 0), 2)
        return crop_window(box + extent * shift, image.size, scale)

    def _box(self, thing: ObjectSample) -> Box:
        if self.box_source == "amodal" and thing.amodal_box_xyxy is not None:
            return thing.amodal_box_xyxy
        return thing.visible_box_xyxy

    def _prompt(self, rng: Rng, thing: ObjectSample, window: Window) -> dict[str, Any]:
        size = self.image_size
        visible = _mask_in(thing.visible_rle, window, size)
        has_amodal = thing.amodal_rle is not None
        amodal = visible if thing.amodal_rle is None else _mask_in(thing.amodal_rle, window, size) | visible
        if self.augmentation is None:
            box = boxes_to_crop(np.array([self._box(thing)]), window, size)[0]
        else:
            inside = mask_to_box(amodal if self.box_source == "amodal" else visible)
            box = jitter_box(rng, inside, size, self.augmentation.box_jitter)
        return {
            "visible_mask": visible,
            "amodal_mask": amodal,
            "has_amodal": has_amodal,
            "box": box.astype(np.float32),
            "points": _points(rng, visible),
        }


class StepSampler:
    """Batches of keys; those of step t are a function of (seed, t), so a run resumes where it stopped.

    A step has `parts * accumulation` batches of equal size. Batch m of process p holds the keys
    m * parts + p, m * parts + p + parts * accumulation, ... of the step: two processes draw what
    one with twice the accumulation and half the batch draws, batch by batch.

    Args:
        lengths: objects of each source.
        weights: share of each source.
        batch_size: keys a batch, over all processes.
        seed: seed of the run.
        start: first step.
        stop: step after the last.
        accumulation: batches a step and process.
        part: which of the `parts` processes this is; together they draw what one would.
        parts: number of processes.

    Raises:
        InputError: no source has both objects and a weight.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        weights: Sequence[float],
        batch_size: int,
        seed: int,
        start: int,
        stop: int,
        *,
        accumulation: int = 1,
        part: int = 0,
        parts: int = 1,
    ) -> None:
        self.lengths = list(lengths)
        shares = np.array([w if n else 0.0 for w, n in zip(weights, lengths, strict=True)])
        if not shares.sum() > 0:
            raise InputError(f"weight: expected a source with objects and a weight above 0, got {list(weights)}")
        self.shares = shares / shares.sum()
        self.batch_size, self.seed, self.start, self.stop = batch_size, seed, start, stop
        self.accumulation, self.part, self.parts = accumulation, part, parts

    def __len__(self) -> int:
        return (self.stop - self.start) * self.accumulation

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self.start, self.stop):
            for batch in range(self.accumulation):
                yield self.keys(step, batch)

    def keys(self, step: int, batch: int = 0) -> list[Key]:
        """Keys of one batch of a step for this process."""
        rng = np.random.default_rng([self.seed, step])
        sources = rng.choice(len(self.shares), self.batch_size * self.accumulation, p=self.shares)
        keys: list[Key] = [
            (int(s), int(rng.integers(self.lengths[s])), (self.seed, step, slot)) for slot, s in enumerate(sources)
        ]
        return keys[batch * self.parts + self.part :: self.parts * self.accumulation]


def evaluation_keys(dataset: HasLengths, limit: int, seed: int) -> list[Key]:
    """A fixed random choice of up to `limit` objects over all sources."""
    keys: list[Key] = [(s, i, (seed,)) for s, n in enumerate(dataset.lengths) for i in range(n)]
    chosen = np.random.default_rng(seed).permutation(len(keys))[:limit]
    return [keys[i] for i in chosen]


def collate(items: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Stack crops; missing prompts are padded with `valid` False.

    Returns:
        `pixel_values` (B, 3, S, S) normalised, `input_boxes` (B, P, 4) xyxy in the crop,
        `visible_masks` and `amodal_masks` (B, P, S, S) bool, `has_amodal` and `valid` (B, P)
        bool, `input_points` (B, P, N, 2) with `input_labels` (B, P, N): 1 inside the visible
        mask, 0 outside, -10 padding.
    """
    B, P, S = len(items), items[0]["num_prompts"], items[0]["pixels"].shape[0]
    boxes = np.tile(np.array([0, 0, S, S], np.float32), (B, P, 1))
    visible, amodal = np.zeros((B, P, S, S), bool), np.zeros((B, P, S, S), bool)
    has_amodal, valid = np.zeros((B, P), bool), np.zeros((B, P), bool)
    points = np.zeros((B, P, MAX_POINTS, 2), np.float32)
    labels = np.full((B, P, MAX_POINTS), -10)
    for b, item in enumerate(items):
        for p, prompt in enumerate(item["prompts"]):
            boxes[b, p] = prompt["box"]
            visible[b, p], amodal[b, p] = prompt["visible_mask"], prompt["amodal_mask"]
            has_amodal[b, p] = prompt["has_amodal"]
            valid[b, p] = prompt["visible_mask"].any()
            xy, kinds = prompt["points"]
            points[b, p, : len(xy)], labels[b, p, : len(xy)] = xy, kinds
    arrays = {
        "input_boxes": boxes,
        "visible_masks": visible,
        "amodal_masks": amodal,
        "has_amodal": has_amodal,
        "valid": valid,
        "input_points": points,
        "input_labels": labels,
    }
    pixels = torch.from_numpy(np.stack([item["pixels"] for item in items]))
    return {"pixel_values": _normalised(pixels)} | {k: torch.from_numpy(v) for k, v in arrays.items()}


def _normalised(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
    planes = pixels.permute(0, 3, 1, 2).contiguous()  # while a value is one byte, not four
    return planes.float().mul_(1 / (255 * std)).sub_(mean / std)


def _usable_objects(source: Source) -> list[tuple[int, int]]:
    return [
        (i, j)
        for i, image in enumerate(source.dataset.images)
        for j, thing in enumerate(image.objects)
        if not thing.iscrowd and rle_area(thing.visible_rle) >= source.min_visible_pixels
    ]


def _mask_in(rle: Rle, window: Window, size: int) -> Mask:
    """Rasterise a mask inside a window alone, resized to (S, S)."""
    x0, y0, x1, y1 = window
    return crop_mask(decode_window(rle, window), (0, 0, x1 - x0, y1 - y0), size)


def _points(rng: Rng, mask: Mask) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Up to MAX_POINTS random pixels (x, y) as a prompt for a mask, (N, 2), and labels (N,).

    At least one lies on the mask (label 1); at times the last one lies beside it (label 0).
    """
    inside = np.flatnonzero(mask)
    if len(inside) == 0:
        return np.zeros((0, 2), np.float32), np.zeros(0, np.int64)
    chosen = rng.choice(inside, int(rng.integers(1, MAX_POINTS + 1)))
    labels = np.ones(len(chosen), np.int64)
    if rng.random() < NEGATIVE_SHARE and len(chosen) > 1 and len(inside) < mask.size:
        chosen[-1], labels[-1] = rng.choice(np.flatnonzero(~mask)), 0
    xy = np.stack([chosen % mask.shape[1], chosen // mask.shape[1]], axis=1)
    return xy.astype(np.float32), labels


def _flipped(prompt: dict[str, Any]) -> dict[str, Any]:
    size = prompt["visible_mask"].shape[1]
    x0, y0, x1, y1 = prompt["box"]
    xy, labels = prompt["points"]
    xy = np.stack([size - 1 - xy[:, 0], xy[:, 1]], axis=1)
    return prompt | {
        "visible_mask": np.ascontiguousarray(prompt["visible_mask"][:, ::-1]),
        "amodal_mask": np.ascontiguousarray(prompt["amodal_mask"][:, ::-1]),
        "box": np.array([size - x1, y0, size - x0, y1], np.float32),
        "points": (xy, labels),
    }


def limit_threads() -> None:
    """One thread a worker process: the cores belong to the model."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
