"""Amodal images from modal datasets: object instances of photographs pasted over complete instances.

The amodal mask of a complete instance (away from the border, no occluder) equals its modal mask. Pasting other
instances over it does not change that amodal mask and occludes a known part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.io.images import ImageArray
from amodal.ops.arrays import Mask
from amodal.ops.occlusion import occluders_of, occlusion_rate
from amodal.ops.rle import rle_area
from amodal.synthetic.scenes import SyntheticImage, SyntheticObject
from amodal.synthetic.shapes import Rng

MAX_SIDE = 384
BORDER = 2.0  # pixels between a complete instance and the image border
MIN_AREA, MAX_AREA = 0.015, 0.6  # of the image
MIN_VISIBLE_PIXELS = 60
MIN_OCCLUSION, MAX_OCCLUSION = 0.05, 0.75
WANTED_OCCLUSION = (0.1, 0.6)
FREE_SHARE = 0.45  # of the images in which the target is not occluded, but has neighbours behind and beside it
SAME_KIND_SHARE = 0.25  # of the pasted instances that are of the target's own kind
GROUND_SHARE = 0.5  # of the occluders that stand in front of the target, with their lowest point below its own
STRIPS_SHARE = 0.12  # of the images with thin occluders such as poles and branches
CUT_SHARE = 0.2  # of the images whose frame cuts the target
WANTED_COVER = (0.1, 0.5)  # share of a pasted instance that the objects in front of it hide
MAX_TRIES = 30
MAX_ROUNDS = 40  # of `MAX_TRIES` each, before an image counts as impossible


@dataclass(frozen=True)
class _Instance:
    """A complete instance and the name of its category."""

    image: ImageSample
    obj: ObjectSample
    category: str


@dataclass
class _Cutout:
    """An instance cut out of its photograph: pixels and mask within its box."""

    pixels: ImageArray
    mask: Mask
    category: str


class PastedOccluders:
    """Makes amodal images from modal datasets.

    Args:
        datasets: photographs with modal instance masks.
        exclude_categories: names of categories that are used neither as target nor as occluder.

    Raises:
        InputError: the datasets have no complete instance, or no category of a given name.
    """

    def __init__(self, datasets: Sequence[AnnotatedDataset], exclude_categories: Sequence[str] = ()) -> None:
        known = {name for dataset in datasets for name in dataset.categories.values()}
        unknown = sorted(set(exclude_categories) - known)
        if unknown:
            raise InputError(f"exclude_categories: expected names of the datasets' categories, got {unknown}")
        groups: dict[tuple[int, str], list[_Instance]] = {}
        for index, dataset in enumerate(datasets):
            for image in dataset.images:
                for obj in image.objects:
                    name = dataset.categories.get(obj.category_id, str(obj.category_id))
                    if name not in exclude_categories and is_complete(image, obj):
                        groups.setdefault((index, name), []).append(_Instance(image, obj, name))
        if not groups:
            raise InputError("annotations: expected complete instances to paste on, got none")
        self._groups = [groups[key] for key in sorted(groups)]
        # square root of the frequency: common categories come more often, but rare ones come too
        weights = np.sqrt([len(group) for group in self._groups])
        self._weights = weights / weights.sum()

    @property
    def categories(self) -> list[str]:
        """Names of the categories that occur, sorted."""
        return sorted({group[0].category for group in self._groups})

    def render(self, seed: int | Sequence[int]) -> SyntheticImage:
        """Make one image; the same seed gives the same bytes.

        Returns:
            Image (H, W, 3) with its long side at most `MAX_SIDE`. The objects are listed from back to front. One of
            them is the target, the others were pasted in front of it, behind it or beside it. Attributes: `pasted`,
            False for the target. Thin strips that hide parts of the objects are not objects themselves.

        Raises:
            InputError: no two instances fit over each other, or a photograph cannot be read.
        """
        entropy = [seed] if isinstance(seed, int) else list(seed)
        for round_ in range(MAX_ROUNDS):
            rng = np.random.default_rng([*entropy, *[1] * round_])
            for _ in range(MAX_TRIES):
                made = self._attempt(rng)
                if made is not None:
                    return made
        raise InputError("annotations: expected instances that fit over each other, got none in many tries")

    def _draw(self, rng: Rng) -> _Instance:
        group = self._groups[int(rng.choice(len(self._groups), p=self._weights))]
        return group[int(rng.integers(len(group)))]

    def _draw_neighbour(self, rng: Rng, category: str) -> _Instance:
        """An instance to paste: of the target's own kind at times, otherwise of any kind."""
        if rng.random() < SAME_KIND_SHARE:
            groups = [group for group in self._groups if group[0].category == category]
            group = groups[int(rng.integers(len(groups)))]
            return group[int(rng.integers(len(group)))]
        return self._draw(rng)

    def _attempt(self, rng: Rng) -> SyntheticImage | None:
        target = self._draw(rng)
        pixels, amodal = _shrunk(target)
        if rng.random() < 0.5:
            pixels, amodal = pixels[:, ::-1], amodal[:, ::-1]
        canvas, amodal = pixels.copy(), amodal.copy()
        if not _one_piece(amodal):
            return None
        area = int(np.count_nonzero(amodal))
        wanted = 0.0 if rng.random() < FREE_SHARE else float(rng.uniform(*WANTED_OCCLUSION))
        centre = SyntheticObject(target.category, amodal.copy(), amodal, attributes={"pasted": False})
        objects = [centre]
        for _ in range(int(rng.integers(1, 5))):
            cutout = _lift(rng, self._draw_neighbour(rng, target.category), area)
            if cutout is None:
                continue
            rate = occlusion_rate(centre.visible_mask, amodal)
            behind = wanted == 0 or rate > wanted - 0.05
            front = np.logical_or.reduce([obj.visible_mask for obj in objects])
            if behind:
                cover = 0.0 if rng.random() < 0.3 else float(rng.uniform(*WANTED_COVER))
                place = _place(rng, cutout.mask, front, cover * np.count_nonzero(cutout.mask))
            else:
                place = _place(rng, cutout.mask, centre.visible_mask, (wanted - rate) * area)
            if place is None:
                continue
            pasted = _mask_at(cutout.mask, place, front.shape)
            visible = pasted & ~front if behind else pasted
            _paste(rng, canvas, cutout, place, visible)
            if not behind:
                for obj in objects:
                    obj.visible_mask = obj.visible_mask & ~pasted
            made = SyntheticObject(cutout.category, visible, pasted, attributes={"pasted": True})
            objects.insert(0 if behind else len(objects), made)
        if len(objects) == 1:
            return None
        if wanted > 0 and rng.random() < STRIPS_SHARE:
            strips = _paste_strips(rng, canvas, _shrunk(self._draw(rng))[0], amodal)
            for obj in objects:
                obj.visible_mask = obj.visible_mask & ~strips
        if rng.random() < CUT_SHARE:
            canvas = _cut(rng, canvas, objects, centre)
        if len(objects) == 1 or not all(_is_fair(obj) for obj in objects):
            return None
        visible_masks = [obj.visible_mask for obj in objects]
        for index, obj in enumerate(objects):
            obj.occluders = occluders_of(index, visible_masks, obj.amodal_mask & ~obj.visible_mask)
        return SyntheticImage(canvas, objects)


def is_complete(image: ImageSample, obj: ObjectSample) -> bool:
    """Whether an instance is visible as a whole: fitting in size, clear of the border, touched by no other box.

    Modal annotations do not say whether a neighbour is in front of an instance or behind it. An instance with a
    touching neighbour therefore does not count as complete, unless the neighbour's area is below 5 % of its own.
    """
    x0, y0, x1, y1 = obj.visible_box_xyxy
    share = rle_area(obj.visible_rle) / (image.height * image.width)
    if obj.iscrowd or not MIN_AREA <= share <= MAX_AREA:
        return False
    if x0 < BORDER or y0 < BORDER or x1 > image.width - BORDER or y1 > image.height - BORDER:
        return False
    for other in image.objects:
        if other is obj:
            continue
        a0, b0, a1, b1 = other.visible_box_xyxy
        apart = a0 > x1 + BORDER or a1 < x0 - BORDER or b0 > y1 + BORDER or b1 < y0 - BORDER
        if not apart and rle_area(other.visible_rle) > 0.05 * rle_area(obj.visible_rle):
            return False
    return True


@lru_cache(maxsize=64)
def _photograph(path: Path, size: tuple[int, int]) -> ImageArray:
    return ImageSample(0, path, *size, ()).load()


def _shrunk(instance: _Instance) -> tuple[ImageArray, Mask]:
    """Photograph and mask, shrunk so that the long side is at most `MAX_SIDE`."""
    pixels, mask = _photograph(instance.image.path, instance.image.size), instance.obj.visible_mask()
    factor = MAX_SIDE / max(mask.shape)
    if factor >= 1:
        return pixels, mask
    return _resized(pixels, mask, factor)


def _resized(pixels: ImageArray, mask: Mask, factor: float) -> tuple[ImageArray, Mask]:
    size = (max(round(mask.shape[1] * factor), 1), max(round(mask.shape[0] * factor), 1))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    grey = mask.astype(np.uint8) * np.uint8(255)
    small = cv2.resize(grey, size, interpolation=how) >= 128
    return np.asarray(cv2.resize(pixels, size, interpolation=how), np.uint8), small


def _lift(rng: Rng, instance: _Instance, target_area: int) -> _Cutout | None:
    """Cut an instance out and scale it relative to the target."""
    pixels, mask = _photograph(instance.image.path, instance.image.size), instance.obj.visible_mask()
    x0, y0, x1, y1 = (int(v) for v in instance.obj.visible_box_xyxy)
    pixels, mask = pixels[y0:y1, x0:x1], mask[y0:y1, x0:x1]
    wanted_area = target_area * float(rng.uniform(0.25, 1.6))
    factor = float((wanted_area / max(int(np.count_nonzero(mask)), 1)) ** 0.5)
    if not 0.1 < factor < 2 or max(mask.shape) * factor > MAX_SIDE:
        return None
    pixels, mask = _resized(pixels, mask, factor)
    if np.count_nonzero(mask) < MIN_VISIBLE_PIXELS or not _one_piece(mask):
        return None
    if rng.random() < 0.5:
        pixels, mask = pixels[:, ::-1], mask[:, ::-1]
    return _Cutout(np.ascontiguousarray(pixels), np.ascontiguousarray(mask), instance.category)


def _place(rng: Rng, mask: Mask, other: Mask, wanted: float) -> tuple[int, int] | None:
    """Top left corner at which the cutout and `other` share about `wanted` pixels, or None.

    The cutout stays inside the image, so that its own mask is complete. If `wanted` is 0, the cutout lies close to
    `other`, but does not overlap it.
    """
    h, w = mask.shape
    H, W = other.shape
    if h >= H or w >= W:
        return None
    x0, y0, bw, bh = cv2.boundingRect(other.astype(np.uint8))
    grounded = wanted > 0 and rng.random() < GROUND_SHARE
    reach = 0.1 if wanted > 0 else 0.5
    best, best_gap = None, np.inf
    for _ in range(24):
        x = int(np.clip(x0 + bw * rng.uniform(-reach, 1 + reach) - w / 2, 0, W - w))
        y = int(np.clip(y0 + bh * rng.uniform(-reach, 1 + reach) - h / 2, 0, H - h))
        if grounded:
            y = int(np.clip(y0 + bh * rng.uniform(0.95, 1.3) - h, 0, H - h))
        gap = abs(np.count_nonzero(other[y : y + h, x : x + w] & mask) - wanted)
        if gap < best_gap:
            best, best_gap = (x, y), gap
    tolerance = 0.35 * wanted if wanted > 0 else 0.5
    return best if best_gap <= tolerance else None


def _mask_at(mask: Mask, place: tuple[int, int], size: tuple[int, ...]) -> Mask:
    """The mask of a cutout in an image of `size` (H, W)."""
    x, y = place
    placed = np.zeros(size, bool)
    placed[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    return placed


def _paste(rng: Rng, canvas: ImageArray, cutout: _Cutout, place: tuple[int, int], visible: Mask) -> None:
    """Blend the visible part (H, W) of a cutout into the image in place."""
    x, y = place
    h, w = cutout.mask.shape
    below = canvas[y : y + h, x : x + w].astype(np.float32)
    pixels = _match_colours(rng, cutout, below)
    if rng.random() < 0.25:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), float(rng.uniform(0.5, 1.3))), np.float32)
    soft = float(rng.uniform(0.4, 1.0))
    shown = visible[y : y + h, x : x + w].astype(np.float32)
    alpha = cv2.GaussianBlur(shown, (0, 0), soft)[..., None]
    if rng.random() < 0.3 and shown.sum() == np.count_nonzero(cutout.mask):
        shade = cv2.GaussianBlur(cutout.mask.astype(np.float32), (0, 0), max(h, w) * 0.06 + 1)
        below = below * (1 - shade[..., None] * float(rng.uniform(0.1, 0.45)))
    canvas[y : y + h, x : x + w] = np.clip(below + (pixels - below) * alpha, 0, 255)


def _paste_strips(rng: Rng, canvas: ImageArray, texture: ImageArray, target: Mask) -> Mask:
    """Paste thin bars over the target in place, with the pixels of another photograph, and return their mask (H, W)."""
    H, W = target.shape
    x0, y0, bw, bh = cv2.boundingRect(target.astype(np.uint8))
    strips = np.zeros((H, W), np.uint8)
    length = float(np.hypot(H, W))
    for _ in range(int(rng.integers(1, 4))):
        centre = np.array([x0 + bw * rng.uniform(0.1, 0.9), y0 + bh * rng.uniform(0.1, 0.9)])
        angle = rng.normal(np.pi / 2, 0.25) if rng.random() < 0.6 else rng.uniform(0, np.pi)
        bend = rng.normal(0, 0.06, 2) * length
        step = np.array([np.cos(angle), np.sin(angle)]) * length
        points = np.stack([centre - step, centre + bend, centre + step]).round().astype(np.int32)
        cv2.polylines(strips, [points], False, 1, max(int(max(bw, bh) * rng.uniform(0.03, 0.12)), 2))
    pixels = cv2.resize(texture, (W, H), interpolation=cv2.INTER_AREA).astype(np.float32)
    pixels *= float(rng.uniform(0.4, 1.1))
    alpha = cv2.GaussianBlur(strips.astype(np.float32), (0, 0), float(rng.uniform(0.4, 1.0)))[..., None]
    canvas[:] = np.clip(canvas + (pixels - canvas) * alpha, 0, 255)
    return np.asarray(strips > 0, bool)


def _cut(rng: Rng, canvas: ImageArray, objects: list[SyntheticObject], target: SyntheticObject) -> ImageArray:
    """Cut the image through the target; all masks end at the new frame, as in photographs."""
    H, W = canvas.shape[:2]
    x0, y0, bw, bh = cv2.boundingRect(target.amodal_mask.astype(np.uint8))
    share = float(rng.uniform(0.1, 0.45))
    left, top, right, bottom = 0, 0, W, H
    side = int(rng.integers(4))
    if side == 0:
        left = x0 + int(bw * share)
    elif side == 1:
        right = x0 + bw - int(bw * share)
    elif side == 2:
        top = y0 + int(bh * share)
    else:
        bottom = y0 + bh - int(bh * share)
    for obj in objects:
        obj.visible_mask = np.ascontiguousarray(obj.visible_mask[top:bottom, left:right])
        obj.amodal_mask = np.ascontiguousarray(obj.amodal_mask[top:bottom, left:right])
    objects[:] = [o for o in objects if o is target or np.count_nonzero(o.visible_mask) >= MIN_VISIBLE_PIXELS]
    return np.ascontiguousarray(canvas[top:bottom, left:right])


def _match_colours(rng: Rng, cutout: _Cutout, below: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Move brightness and contrast of the cutout part of the way towards its surroundings."""
    pixels = cutout.pixels.astype(np.float32)
    inside = pixels[cutout.mask]
    share = float(rng.uniform(0, 0.8))
    mean, spread = inside.mean(), inside.std() + 1
    wanted_mean = mean + (below.mean() - mean) * share
    wanted_spread = spread + (below.std() + 1 - spread) * share
    return np.asarray((pixels - mean) * (wanted_spread / spread) + wanted_mean, np.float32)


def _one_piece(mask: Mask) -> bool:
    """Whether one component holds at least 95 % of the mask."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    return count > 1 and bool(areas.max() >= 0.95 * areas.sum())


def _is_fair(obj: SyntheticObject) -> bool:
    """Whether enough of the object is visible, and either nothing of it or more than a sliver is occluded."""
    if np.count_nonzero(obj.visible_mask) < MIN_VISIBLE_PIXELS:
        return False
    rate = occlusion_rate(obj.visible_mask, obj.amodal_mask)
    return rate == 0 or MIN_OCCLUSION <= rate <= MAX_OCCLUSION
