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
FREE_SHARE = 0.15  # of the images in which nothing is occluded
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
            Image (H, W, 3) with its long side at most `MAX_SIDE`. The first object is the target, then come the
            pasted ones in the order in which they were pasted. Attributes: `pasted`.

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
        objects = [SyntheticObject(target.category, amodal.copy(), amodal, attributes={"pasted": False})]
        for _ in range(int(rng.integers(1, 4))):
            cutout = _lift(rng, self._draw(rng), area)
            if cutout is None:
                continue
            rate = occlusion_rate(objects[0].visible_mask, amodal)
            if wanted > 0 and rate > wanted - 0.05:
                break
            place = _place(rng, cutout.mask, objects[0].visible_mask, (wanted - rate) * area)
            if place is None:
                continue
            pasted = _paste(rng, canvas, cutout, place)
            for obj in objects:
                obj.visible_mask = obj.visible_mask & ~pasted
            objects.append(SyntheticObject(cutout.category, pasted.copy(), pasted, attributes={"pasted": True}))
        if len(objects) == 1 or not all(_is_fair(obj) for obj in objects):
            return None
        visible = [obj.visible_mask for obj in objects]
        for index, obj in enumerate(objects):
            obj.occluders = occluders_of(index, visible, obj.amodal_mask & ~obj.visible_mask)
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


def _place(rng: Rng, mask: Mask, visible: Mask, wanted: float) -> tuple[int, int] | None:
    """Top left corner at which the cutout occludes about `wanted` pixels of the target, or None.

    The cutout stays inside the image, so that its own mask is complete.
    """
    h, w = mask.shape
    H, W = visible.shape
    if h >= H or w >= W:
        return None
    x0, y0, bw, bh = cv2.boundingRect(visible.astype(np.uint8))
    best, best_gap = None, np.inf
    for _ in range(24):
        x = int(np.clip(x0 + bw * rng.uniform(-0.1, 1.1) - w / 2, 0, W - w))
        y = int(np.clip(y0 + bh * rng.uniform(-0.1, 1.1) - h / 2, 0, H - h))
        if wanted <= 0:
            x, y = int(rng.integers(0, W - w)), int(rng.integers(0, H - h))
        gap = abs(np.count_nonzero(visible[y : y + h, x : x + w] & mask) - wanted)
        if gap < best_gap:
            best, best_gap = (x, y), gap
    tolerance = 0.35 * wanted if wanted > 0 else 0.5
    return best if best_gap <= tolerance else None


def _paste(rng: Rng, canvas: ImageArray, cutout: _Cutout, place: tuple[int, int]) -> Mask:
    """Blend a cutout into the image in place and return its mask in the image."""
    x, y = place
    h, w = cutout.mask.shape
    below = canvas[y : y + h, x : x + w].astype(np.float32)
    pixels = _match_colours(rng, cutout, below)
    soft = float(rng.uniform(0.4, 1.0))
    alpha = cv2.GaussianBlur(cutout.mask.astype(np.float32), (0, 0), soft)[..., None]
    if rng.random() < 0.3:
        shade = cv2.GaussianBlur(cutout.mask.astype(np.float32), (0, 0), max(h, w) * 0.06 + 1)
        below = below * (1 - shade[..., None] * float(rng.uniform(0.1, 0.45)))
    canvas[y : y + h, x : x + w] = np.clip(below + (pixels - below) * alpha, 0, 255)
    pasted = np.zeros(canvas.shape[:2], bool)
    pasted[y : y + h, x : x + w] = cutout.mask
    return pasted


def _match_colours(rng: Rng, cutout: _Cutout, below: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Move brightness and contrast of the cutout part of the way towards its surroundings."""
    pixels = cutout.pixels.astype(np.float32)
    inside = pixels[cutout.mask]
    share = float(rng.uniform(0, 0.5))
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
