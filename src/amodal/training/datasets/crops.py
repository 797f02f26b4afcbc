"""Training samples for PLUG and SAM: augmented crops around visible boxes.

Axes: B crops, P prompts (objects) per crop, S side of the crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError
from torch import Tensor
from torch.utils.data import Dataset

from amodal.data.samples import ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.io.images import ImageArray
from amodal.models.bases.protocol import IMAGE_MEAN, IMAGE_STD
from amodal.ops.arrays import Box, Boxes, Mask, Window
from amodal.ops.boxes import boxes_meet, boxes_to_crop, crop_window, mask_to_box
from amodal.ops.masks import crop_and_resize, crop_mask
from amodal.ops.rle import Rle, decode_window, rle_area
from amodal.training.datasets.sampling import Batch, CropSource, Key

Rng = np.random.Generator
BoxSource = Literal["visible", "amodal"]
AmodalTarget = Literal["union", "annotated"]

MIN_PROMPT_PIXELS = 40
"""Minimum visible pixels, at the crop's resolution, of a neighbour that becomes a further prompt."""
MAX_POINTS = 3
NEGATIVE_SHARE = 0.2
"""Share of point prompts whose last point lies outside the object."""


def _rising(values: tuple[float, float]) -> tuple[float, float]:
    if not 0 < values[0] <= values[1]:
        raise PydanticCustomError("range", "two numbers above 0 in rising order")
    return values


Share = Annotated[float, Field(ge=0, le=1)]
"""A share or a probability in a recipe."""
Range = Annotated[tuple[float, float], AfterValidator(_rising)]


class Augmentation(BaseModel):
    """Strength of each random change of a training crop; probabilities in [0, 1]."""

    model_config = ConfigDict(extra="forbid", strict=True)

    scale: Range = Field((0.8, 1.3), description="range of the factor on the crop scale")
    shift: Share = Field(0.15, description="shift of the window, relative to the room around the box")
    wide: Share = Field(0.0, description="probability of a window of `wide_scale`")
    wide_scale: Range = Field((3.0, 6.0), description="range of the crop scale of wide windows")
    box_jitter: Share = Field(0.03, description="shift of each box edge, relative to the box")
    flip: Share = Field(0.5, description="probability of a horizontal flip")
    colour: Share = Field(0.3, description="strength of changes of brightness, contrast and saturation")
    hue: Share = Field(0.08, description="maximum rotation of the hue, as a share of the circle")
    grey: Share = Field(0.08, description="probability of a greyscale image")
    blur: Share = Field(0.1, description="probability of a blur")
    noise: Share = Field(0.15, description="probability of noise")


class ObjectCrops(Dataset[dict[str, Any]]):
    """One crop per object, optionally with neighbouring objects as further prompts.

    Args:
        sources: datasets with weights.
        image_size: S.
        crop_scale: side of the window relative to the visible box.
        crop_extra_pixel: let the window reach one pixel further to the right and to the bottom.
        augmentation: strength of the random changes; None uses the exact window and unchanged pixels,
            as evaluation needs.
        num_prompts: P; the first prompt is the object that the crop is centred on.
        box_source: box that prompts and that the crop is centred on. `amodal` falls back to the visible
            box where the amodal mask is unknown.
        amodal_target: mask that the amodal decoder learns: the annotated amodal mask, united with the visible mask
            or as it is annotated.
        mask_prompt_share: share of the prompts that also have a mask, the visible mask after `noisy_mask`. The masks
            have their own random numbers: windows, colours and boxes are the same for any share.
        mask_prompt_noise: `amount` of `noisy_mask`.

    Attributes:
        image_mean: subtracted from RGB in [0, 1] when crops are stacked; ImageNet's unless the base has its own.
        image_std: divides the result.

    Raises:
        InputError: no source has a usable object.
    """

    image_mean: Sequence[float] = IMAGE_MEAN
    image_std: Sequence[float] = IMAGE_STD

    def __init__(
        self,
        sources: Sequence[CropSource],
        *,
        image_size: int,
        crop_scale: float = 2.0,
        crop_extra_pixel: bool = False,
        augmentation: Augmentation | None = None,
        num_prompts: int = 1,
        box_source: BoxSource = "visible",
        amodal_target: AmodalTarget = "union",
        mask_prompt_share: float = 0.0,
        mask_prompt_noise: float = 0.0,
    ) -> None:
        self.sources = list(sources)
        self.image_size = image_size
        self.crop_scale = crop_scale
        self.crop_extra_pixel = crop_extra_pixel
        self.augmentation = augmentation
        self.num_prompts = num_prompts
        self.box_source = box_source
        self.amodal_target = amodal_target
        self.mask_prompt_share = mask_prompt_share
        self.mask_prompt_noise = mask_prompt_noise
        self._index = [_usable_objects(source) for source in self.sources]
        if not any(self._index):
            raise InputError("data: expected sources with at least one usable object, got none")

    @property
    def lengths(self) -> list[int]:
        """Number of usable objects of each source."""
        return [len(index) for index in self._index]

    def collate(self, items: list[dict[str, Any]]) -> Batch:
        """Stack crops; see the function `collate`."""
        return collate(items, self.image_mean, self.image_std)

    def describe(self, key: Key) -> dict[str, Any]:
        """The object that a key addresses: `source`, `image_id`, `annotation_id` and the image's `file`."""
        image, obj = self._locate(*key[:2])
        return {"source": key[0], "image_id": image.id, "annotation_id": obj.id, "file": str(image.path)}

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """NumPy arrays of one crop; see `collate` for the shapes."""
        source, position, seed = key
        image, obj = self._locate(source, position)
        rng = np.random.default_rng(seed)
        window = self._window(rng, image, obj)
        neighbours = self._neighbours(rng, image, obj, window)
        pixels = crop_and_resize(image.load(), window, self.image_size)
        prompts = [self._prompt(rng, obj, window)]
        for neighbour in neighbours:
            if len(prompts) == self.num_prompts:
                break
            prompt = self._prompt(rng, neighbour, window)
            if prompt["visible_mask"].sum() >= MIN_PROMPT_PIXELS:
                prompts.append(prompt)
        if self.mask_prompt_share > 0:
            own_rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
            prompts = [prompt | {"mask_prompt": self._mask_prompt(own_rng, prompt)} for prompt in prompts]
        if self.augmentation is not None:
            pixels = augment_colours(rng, pixels, self.augmentation)
            if rng.random() < self.augmentation.flip:
                pixels = np.ascontiguousarray(pixels[:, ::-1])
                prompts = [_flipped(prompt) for prompt in prompts]
        return {"pixels": pixels, "prompts": prompts, "num_prompts": self.num_prompts}

    def _neighbours(self, rng: Rng, image: ImageSample, obj: ObjectSample, window: Window) -> list[ObjectSample]:
        """Other objects that may become prompts, in random order."""
        if self.num_prompts == 1:
            return []
        others = [o for o in image.objects if o is not obj and not o.iscrowd and boxes_meet(o.visible_box_xyxy, window)]
        rng.shuffle(others)
        return others

    def _locate(self, source: int, position: int) -> tuple[ImageSample, ObjectSample]:
        image_index, object_index = self._index[source][position]
        image = self.sources[source].dataset.images[image_index]
        return image, image.objects[object_index]

    def _window(self, rng: Rng, image: ImageSample, obj: ObjectSample) -> Window:
        box, extra = np.array(self._box(obj)), int(self.crop_extra_pixel)
        if self.augmentation is None:
            return crop_window(box, image.size, self.crop_scale, extra=extra)
        if rng.random() < self.augmentation.wide:
            scale = rng.uniform(*self.augmentation.wide_scale)
        else:
            scale = self.crop_scale * rng.uniform(*self.augmentation.scale)
        extent = np.tile(box[2:] - box[:2], 2)
        shift = np.tile(rng.uniform(-1, 1, 2) * self.augmentation.shift * max(scale - 1, 0), 2)
        return crop_window(box + extent * shift, image.size, scale, extra=extra)

    def _box(self, obj: ObjectSample) -> Box:
        if self.box_source == "amodal" and obj.amodal_box_xyxy is not None:
            return obj.amodal_box_xyxy
        return obj.visible_box_xyxy

    def _prompt(self, rng: Rng, obj: ObjectSample, window: Window) -> dict[str, Any]:
        size = self.image_size
        visible = _mask_in(obj.visible_rle, window, size)
        has_amodal = obj.amodal_rle is not None
        amodal = visible if obj.amodal_rle is None else _mask_in(obj.amodal_rle, window, size)
        if self.amodal_target == "union":
            amodal = amodal | visible
        if self.augmentation is None:
            box = boxes_to_crop(np.array([self._box(obj)]), window, size)[0]
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

    def _mask_prompt(self, rng: Rng, prompt: dict[str, Any]) -> Mask | None:
        """The mask (S, S) that prompts for an object, or None if this prompt has none."""
        visible = prompt["visible_mask"]
        if rng.random() >= self.mask_prompt_share or not visible.any():
            return None
        return noisy_mask(rng, visible, self.mask_prompt_noise)


def collate(
    items: list[dict[str, Any]], image_mean: Sequence[float] = IMAGE_MEAN, image_std: Sequence[float] = IMAGE_STD
) -> Batch:
    """Stack crops; missing prompts are padded with `valid` False.

    Args:
        items: crops of `ObjectCrops`.
        image_mean: subtracted from RGB in [0, 1].
        image_std: divides the result.

    Returns:
        `pixel_values` (B, 3, S, S) normalised, `input_boxes` (B, P, 4) xyxy in the crop,
        `visible_masks` and `amodal_masks` (B, P, S, S) bool, `has_amodal` and `valid` (B, P)
        bool, `input_points` (B, P, N, 2) with `input_labels` (B, P, N): 1 inside the visible
        mask, 0 outside, -10 padding. If there are mask prompts also `input_masks` (B, P, S, S) bool and
        `mask_given` (B, P) bool, which prompts have one.
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
            points_xy, point_labels = prompt["points"]
            points[b, p, : len(points_xy)], labels[b, p, : len(points_xy)] = points_xy, point_labels
    arrays = {
        "input_boxes": boxes,
        "visible_masks": visible,
        "amodal_masks": amodal,
        "has_amodal": has_amodal,
        "valid": valid,
        "input_points": points,
        "input_labels": labels,
    }
    if "mask_prompt" in items[0]["prompts"][0]:
        arrays |= _mask_prompts(items, (B, P, S, S))
    pixels = torch.from_numpy(np.stack([item["pixels"] for item in items]))
    return {"pixel_values": normalised(pixels, image_mean, image_std)} | {
        k: torch.from_numpy(v) for k, v in arrays.items()
    }


def augment_colours(rng: Rng, pixels: ImageArray, strength: Augmentation) -> ImageArray:
    """Randomly change colours, brightness and sharpness of an (S, S, 3) uint8 RGB image."""
    amount = strength.colour
    levels = np.arange(256, dtype=np.float32)
    contrast, brightness = 1 + rng.uniform(-amount, amount), rng.uniform(-amount, amount) * 128
    table = np.clip((levels - 128) * contrast + 128 + brightness, 0, 255).astype(np.uint8)
    pixels = np.asarray(cv2.LUT(pixels, table), np.uint8)
    if rng.random() < strength.grey:
        pixels = np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    elif strength.hue > 0 or amount > 0:
        hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
        rotation = int(rng.uniform(-strength.hue, strength.hue) * 180)
        saturation = 1 + rng.uniform(-amount, amount)
        hues = ((np.arange(256) + rotation) % 180).astype(np.uint8)
        saturations = np.clip(levels * saturation, 0, 255).astype(np.uint8)
        hsv[..., 0], hsv[..., 1] = cv2.LUT(hsv[..., 0], hues), cv2.LUT(hsv[..., 1], saturations)
        pixels = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)
    if rng.random() < strength.blur:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), float(rng.uniform(0.4, 1.2))), np.uint8)
    if rng.random() < strength.noise:
        noise = rng.standard_normal(pixels.shape, dtype=np.float32) * rng.uniform(2, 10)
        pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels)


def jitter_box(rng: Rng, box_xyxy: Boxes, size: int, amount: float) -> Boxes:
    """Move each edge of a (4,) box by up to `amount` of its extent, clipped to (size, size)."""
    extent = np.tile(box_xyxy[2:] - box_xyxy[:2], 2)
    moved = box_xyxy + extent * rng.uniform(-amount, amount, 4)
    return np.clip(moved, 0, size)


def noisy_mask(rng: Rng, mask: Mask, amount: float) -> Mask:
    """Move the outline of a mask, as masks from people and from other models differ from the true one.

    The outline moves outwards or inwards by a smooth random distance. A field of 1 x 1 cell dilates or erodes the mask
    everywhere alike; a finer one, up to 4 x 4 cells over the crop, does both in different places.

    Args:
        rng: source of the random numbers.
        mask: (S, S) bool.
        amount: largest distance, relative to the square root of the mask's area.

    Returns:
        (S, S) bool; the mask itself if nothing of it would remain.
    """
    cells = int(rng.integers(1, 5))
    field = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    inside, outside = (cv2.distanceTransform(m.astype(np.uint8), cv2.DIST_L2, 3) for m in (mask, ~mask))
    distance = np.where(mask, inside - 0.5, 0.5 - outside)  # from the outline to a pixel's centre, positive inside
    shift = cv2.resize(field, mask.shape[::-1]) * np.float32(amount * np.sqrt(np.count_nonzero(mask)))
    moved = np.asarray(distance + shift > 0, bool)
    return moved if moved.any() else mask


def _mask_prompts(items: list[dict[str, Any]], shape: tuple[int, int, int, int]) -> dict[str, npt.NDArray[Any]]:
    """Stack the mask prompts of a batch of `shape` (B, P, S, S)."""
    masks, given = np.zeros(shape, bool), np.zeros(shape[:2], bool)
    for b, item in enumerate(items):
        for p, prompt in enumerate(item["prompts"]):
            if prompt["mask_prompt"] is not None:
                masks[b, p], given[b, p] = prompt["mask_prompt"], True
    return {"input_masks": masks, "mask_given": given}


def normalised(pixels: Tensor, image_mean: Sequence[float], image_std: Sequence[float]) -> Tensor:
    """(B, S, S, 3) uint8 to (B, 3, S, S) float32, normalised."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (image_mean, image_std))
    planes = pixels.permute(0, 3, 1, 2).contiguous()  # before the conversion, while a value takes one byte
    return planes.float().mul_(1 / (255 * std)).sub_(mean / std)


def _usable_objects(source: CropSource) -> list[tuple[int, int]]:
    return [
        (i, j)
        for i, image in enumerate(source.dataset.images)
        for j, obj in enumerate(image.objects)
        if not obj.iscrowd and rle_area(obj.visible_rle) >= source.min_visible_pixels
    ]


def _mask_in(rle: Rle, window: Window, size: int) -> Mask:
    """Decode only the part of a mask inside a window and resize it to (S, S)."""
    x0, y0, x1, y1 = window
    return crop_mask(decode_window(rle, window), (0, 0, x1 - x0, y1 - y0), size)


def _points(rng: Rng, mask: Mask) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Up to MAX_POINTS random pixels (x, y) that prompt for a mask, (N, 2), and their labels (N,).

    At least one lies on the mask (label 1); the last one sometimes lies outside it (label 0).
    """
    inside = np.flatnonzero(mask)
    if len(inside) == 0:
        return np.zeros((0, 2), np.float32), np.zeros(0, np.int64)
    chosen = rng.choice(inside, int(rng.integers(1, MAX_POINTS + 1)))
    labels = np.ones(len(chosen), np.int64)
    if rng.random() < NEGATIVE_SHARE and len(chosen) > 1 and len(inside) < mask.size:
        chosen[-1], labels[-1] = rng.choice(np.flatnonzero(~mask)), 0
    points_xy = np.stack([chosen % mask.shape[1], chosen // mask.shape[1]], axis=1)
    return points_xy.astype(np.float32), labels


def _flipped(prompt: dict[str, Any]) -> dict[str, Any]:
    size = prompt["visible_mask"].shape[1]
    x0, y0, x1, y1 = prompt["box"]
    points_xy, labels = prompt["points"]
    points_xy = np.stack([size - 1 - points_xy[:, 0], points_xy[:, 1]], axis=1)
    masks = {name: prompt.get(name) for name in ("visible_mask", "amodal_mask", "mask_prompt")}
    return prompt | {
        **{name: np.ascontiguousarray(mask[:, ::-1]) for name, mask in masks.items() if mask is not None},
        "box": np.array([size - x1, y0, size - x0, y1], np.float32),
        "points": (points_xy, labels),
    }
