"""Training samples: crops around visible boxes, drawn so that batch t depends on (seed, t) alone.

Axes: B crops, P prompts (objects) a crop, S side of the crop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.data.transforms import Augmentation, augment_colours, jitter_box
from amodal.models.plug.processing import IMAGE_MEAN, IMAGE_STD
from amodal.ops.boxes import Window, boxes_to_crop, crop_window, mask_to_box
from amodal.ops.masks import crop_and_resize, crop_mask
from amodal.ops.rle import rle_area

Rng = np.random.Generator
Mask = npt.NDArray[np.bool_]
Key = tuple[int, int, tuple[int, ...]]
"""(source, object within it, seed of the item)."""

MIN_PROMPT_PIXELS = 40  # of another object inside the crop, at the crop's resolution
MAX_POINTS = 3


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
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        image_size: int,
        crop_scale: float = 2.0,
        augmentation: Augmentation | None = None,
        num_prompts: int = 1,
    ) -> None:
        self.sources = list(sources)
        self.image_size = image_size
        self.crop_scale = crop_scale
        self.augmentation = augmentation
        self.num_prompts = num_prompts
        self._index = [_usable_objects(source) for source in self.sources]

    @property
    def lengths(self) -> list[int]:
        """Usable objects of each source."""
        return [len(index) for index in self._index]

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """Numpy arrays of one crop; see `collate` for the shapes."""
        source, position, seed = key
        image, thing = self._locate(source, position)
        rng = np.random.default_rng(seed)
        window = self._window(rng, image, thing)
        others = [o for o in image.objects if o is not thing and not o.iscrowd and _meets(o, window)]
        rng.shuffle(others)  # type: ignore[arg-type]
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

    def _locate(self, source: int, position: int) -> tuple[ImageSample, ObjectSample]:
        image_index, object_index = self._index[source][position]
        image = self.sources[source].dataset.images[image_index]
        return image, image.objects[object_index]

    def _window(self, rng: Rng, image: ImageSample, thing: ObjectSample) -> Window:
        box = np.array(thing.visible_box_xyxy)
        if self.augmentation is None:
            return crop_window(box, image.size, self.crop_scale)
        if rng.random() < self.augmentation.wide:
            scale = rng.uniform(*self.augmentation.wide_scale)
        else:
            scale = self.crop_scale * rng.uniform(*self.augmentation.scale)
        extent = np.tile(box[2:] - box[:2], 2)
        shift = np.tile(rng.uniform(-1, 1, 2) * self.augmentation.shift * max(scale - 1, 0), 2)
        return crop_window(box + extent * shift, image.size, scale)

    def _prompt(self, rng: Rng, thing: ObjectSample, window: Window) -> dict[str, Any]:
        size = self.image_size
        visible = crop_mask(thing.visible_mask(), window, size)
        full = thing.amodal_mask()
        amodal = visible if full is None else crop_mask(full, window, size) | visible
        if self.augmentation is None:
            box = boxes_to_crop(np.array([thing.visible_box_xyxy]), window, size)[0]
        else:
            box = jitter_box(rng, mask_to_box(visible), size, self.augmentation.box_jitter)
        return {
            "visible_mask": visible,
            "amodal_mask": amodal,
            "has_amodal": full is not None,
            "box": box.astype(np.float32),
            "points": _points_inside(rng, visible),
        }


class StepSampler:
    """Batches of keys; batch t is a function of (seed, t), so a run resumes where it stopped.

    Args:
        lengths: objects of each source.
        weights: share of each source.
        batch_size: keys a batch.
        seed: seed of the run.
        start: first step.
        stop: step after the last.
    """

    def __init__(
        self, lengths: Sequence[int], weights: Sequence[float], batch_size: int, seed: int, start: int, stop: int
    ) -> None:
        self.lengths = list(lengths)
        shares = np.array([w if n else 0.0 for w, n in zip(weights, lengths, strict=True)])
        self.shares = shares / shares.sum()
        self.batch_size, self.seed, self.start, self.stop = batch_size, seed, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self.start, self.stop):
            rng = np.random.default_rng([self.seed, step])
            sources = rng.choice(len(self.shares), self.batch_size, p=self.shares)
            yield [
                (int(s), int(rng.integers(self.lengths[s])), (self.seed, step, slot))
                for slot, s in enumerate(sources)
            ]


def evaluation_keys(dataset: ObjectCrops, limit: int, seed: int) -> list[Key]:
    """A fixed random choice of up to `limit` objects over all sources."""
    keys: list[Key] = [(s, i, (seed,)) for s, n in enumerate(dataset.lengths) for i in range(n)]
    chosen = np.random.default_rng(seed).permutation(len(keys))[:limit]
    return [keys[i] for i in chosen]


def collate(items: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Stack crops; missing prompts are padded with `valid` False.

    Returns:
        `pixel_values` (B, 3, S, S) normalised, `input_boxes` (B, P, 4) xyxy in the crop,
        `visible_masks` and `amodal_masks` (B, P, S, S) bool, `has_amodal` and `valid` (B, P)
        bool, `input_points` (B, P, N, 2) inside the visible masks with `input_labels`
        (B, P, N), 1 or -10 for padding.
    """
    B, P, S = len(items), items[0]["num_prompts"], items[0]["pixels"].shape[0]
    pixels = torch.from_numpy(np.stack([item["pixels"] for item in items]))
    batch = {
        "pixel_values": _normalised(pixels),
        "input_boxes": torch.tensor([0.0, 0.0, S, S]).repeat(B, P, 1),
        "visible_masks": torch.zeros(B, P, S, S, dtype=torch.bool),
        "amodal_masks": torch.zeros(B, P, S, S, dtype=torch.bool),
        "has_amodal": torch.zeros(B, P, dtype=torch.bool),
        "valid": torch.zeros(B, P, dtype=torch.bool),
        "input_points": torch.zeros(B, P, MAX_POINTS, 2),
        "input_labels": torch.full((B, P, MAX_POINTS), -10),
    }
    for b, item in enumerate(items):
        for p, prompt in enumerate(item["prompts"]):
            batch["input_boxes"][b, p] = torch.from_numpy(prompt["box"])
            batch["visible_masks"][b, p] = torch.from_numpy(prompt["visible_mask"])
            batch["amodal_masks"][b, p] = torch.from_numpy(prompt["amodal_mask"])
            batch["has_amodal"][b, p] = prompt["has_amodal"]
            batch["valid"][b, p] = bool(prompt["visible_mask"].any())
            points = torch.from_numpy(prompt["points"])
            batch["input_points"][b, p, : len(points)] = points
            batch["input_labels"][b, p, : len(points)] = 1
    return batch


def _normalised(pixels: Tensor) -> Tensor:
    mean, std = torch.tensor(IMAGE_MEAN).view(3, 1, 1), torch.tensor(IMAGE_STD).view(3, 1, 1)
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


def _usable_objects(source: Source) -> list[tuple[int, int]]:
    return [
        (i, j)
        for i, image in enumerate(source.dataset.images)
        for j, thing in enumerate(image.objects)
        if not thing.iscrowd and rle_area(thing.visible_rle) >= source.min_visible_pixels
    ]


def _meets(thing: ObjectSample, window: Window) -> bool:
    x0, y0, x1, y1 = thing.visible_box_xyxy
    return x0 < window[2] and x1 > window[0] and y0 < window[3] and y1 > window[1]


def _points_inside(rng: Rng, mask: Mask) -> npt.NDArray[np.float32]:
    """1 to MAX_POINTS random pixels (x, y) of a mask, (N, 2)."""
    inside = np.flatnonzero(mask)
    if len(inside) == 0:
        return np.zeros((0, 2), np.float32)
    chosen = rng.choice(inside, int(rng.integers(1, MAX_POINTS + 1)))
    return np.stack([chosen % mask.shape[1], chosen // mask.shape[1]], axis=1).astype(np.float32)


def _flipped(prompt: dict[str, Any]) -> dict[str, Any]:
    size = prompt["visible_mask"].shape[1]
    x0, y0, x1, y1 = prompt["box"]
    points = prompt["points"].copy()
    points[:, 0] = size - 1 - points[:, 0]
    return prompt | {
        "visible_mask": np.ascontiguousarray(prompt["visible_mask"][:, ::-1]),
        "amodal_mask": np.ascontiguousarray(prompt["amodal_mask"][:, ::-1]),
        "box": np.array([size - x1, y0, size - x0, y1], np.float32),
        "points": points,
    }


def limit_threads() -> None:
    """One thread a worker process: the cores belong to the model."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
