"""Real photographs made amodal: instances pasted over complete instances.

A complete instance (clear of the border, nothing in front) has an amodal mask equal to its
modal one. Pasting other instances over it keeps that truth and hides a known part.
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
from amodal.ops.rle import rle_area
from amodal.synthetic.types import SyntheticImage, SyntheticObject, occluders_of

Rng = np.random.Generator
Mask = npt.NDArray[np.bool_]
Image = npt.NDArray[np.uint8]

MAX_SIDE = 384
BORDER = 2.0  # px an instance must stay clear of the frame to count as complete
MIN_AREA, MAX_AREA = 0.015, 0.6  # of the picture
MIN_VISIBLE_PIXELS = 60
MIN_OCCLUSION, MAX_OCCLUSION = 0.05, 0.75
WANTED_OCCLUSION = (0.1, 0.6)
FREE_SHARE = 0.15  # of pictures in which nothing is hidden
MAX_TRIES = 30
MAX_ROUNDS = 40  # of so many tries before a picture counts as impossible


@dataclass(frozen=True)
class _Instance:
    """A complete instance and its name."""

    image: ImageSample
    thing: ObjectSample
    category: str


@dataclass
class _Cutout:
    """An instance lifted out of its photograph: pixels and mask of its box."""

    pixels: Image
    mask: Mask
    category: str


class PastedOccluders:
    """Makes amodal pictures out of modal datasets.

    Args:
        datasets: photographs with modal instance masks.
        exclude_categories: names that are neither target nor occluder.

    Raises:
        InputError: no complete instance in the datasets, or a name that none of them has.
    """

    def __init__(self, datasets: Sequence[AnnotatedDataset], exclude_categories: Sequence[str] = ()) -> None:
        known = {name for dataset in datasets for name in dataset.categories.values()}
        unknown = sorted(set(exclude_categories) - known)
        if unknown:
            raise InputError(f"exclude_categories: expected names of the datasets' categories, got {unknown}")
        groups: dict[tuple[int, str], list[_Instance]] = {}
        for index, dataset in enumerate(datasets):
            for image in dataset.images:
                for thing in image.objects:
                    name = dataset.categories.get(thing.category_id, str(thing.category_id))
                    if name not in exclude_categories and is_complete(image, thing):
                        groups.setdefault((index, name), []).append(_Instance(image, thing, name))
        if not groups:
            raise InputError("annotations: expected complete instances to paste on, got none")
        self._groups = [groups[key] for key in sorted(groups)]
        # square root of the frequency: common kinds lead without drowning the rare ones
        weights = np.sqrt([len(group) for group in self._groups])
        self._weights = weights / weights.sum()

    @property
    def categories(self) -> list[str]:
        """Names of the kinds that occur, sorted."""
        return sorted({group[0].category for group in self._groups})

    def render(self, seed: int | Sequence[int]) -> SyntheticImage:
        """Make one picture; the same seed gives the same bytes.

        Returns:
            Picture (H, W, 3) with its long side at most `MAX_SIDE`; the target first, then what
            was pasted, in the order it was pasted. Attributes: `pasted`.

        Raises:
            InputError: no two instances fit over each other, or a photograph cannot be read.
        """
        entropy = [seed] if isinstance(seed, int) else list(seed)
        for round_ in range(MAX_ROUNDS):
            rng = np.random.default_rng([*entropy, *[1] * round_])
            for _ in range(MAX_TRIES):
                picture = self._attempt(rng)
                if picture is not None:
                    return picture
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
        things = [SyntheticObject(target.category, amodal.copy(), amodal, attributes={"pasted": False})]
        for _ in range(int(rng.integers(1, 4))):
            cutout = _lift(rng, self._draw(rng), area)
            if cutout is None:
                continue
            hidden = 1 - np.count_nonzero(things[0].visible_mask) / area
            if wanted > 0 and hidden > wanted - 0.05:
                break
            place = _place(rng, cutout.mask, things[0].visible_mask, (wanted - hidden) * area)
            if place is None:
                continue
            pasted = _paste(rng, canvas, cutout, place)
            for thing in things:
                thing.visible_mask = thing.visible_mask & ~pasted
            things.append(SyntheticObject(cutout.category, pasted.copy(), pasted, attributes={"pasted": True}))
        if len(things) == 1 or not all(_is_fair(thing) for thing in things):
            return None
        visible = [thing.visible_mask for thing in things]
        for index, thing in enumerate(things):
            thing.occluders = occluders_of(index, visible, thing.amodal_mask & ~thing.visible_mask)
        return SyntheticImage(canvas, things)


def is_complete(image: ImageSample, thing: ObjectSample) -> bool:
    """Whether an instance shows its whole shape: sized, off the border, no neighbour's box on it.

    A neighbour may stand behind, but one whose box reaches into the instance's may also stand in
    front, and modal annotations do not say which: such instances are left out, unless the
    neighbour is so small (area under 5 % of the instance's) that it hides next to nothing.
    """
    x0, y0, x1, y1 = thing.visible_box_xyxy
    share = rle_area(thing.visible_rle) / (image.height * image.width)
    if thing.iscrowd or not MIN_AREA <= share <= MAX_AREA:
        return False
    if x0 < BORDER or y0 < BORDER or x1 > image.width - BORDER or y1 > image.height - BORDER:
        return False
    for other in image.objects:
        if other is thing:
            continue
        a0, b0, a1, b1 = other.visible_box_xyxy
        apart = a0 > x1 + BORDER or a1 < x0 - BORDER or b0 > y1 + BORDER or b1 < y0 - BORDER
        if not apart and rle_area(other.visible_rle) > 0.05 * rle_area(thing.visible_rle):
            return False
    return True


@lru_cache(maxsize=64)
def _photograph(path: Path, size: tuple[int, int]) -> Image:
    return ImageSample(0, path, *size, ()).load()


def _shrunk(instance: _Instance) -> tuple[Image, Mask]:
    """Photograph and mask with the long side at most `MAX_SIDE`."""
    pixels, mask = _photograph(instance.image.path, instance.image.size), instance.thing.visible_mask()
    factor = MAX_SIDE / max(mask.shape)
    if factor >= 1:
        return pixels, mask
    return _resized(pixels, mask, factor)


def _resized(pixels: Image, mask: Mask, factor: float) -> tuple[Image, Mask]:
    size = (max(round(mask.shape[1] * factor), 1), max(round(mask.shape[0] * factor), 1))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    grey = mask.astype(np.uint8) * np.uint8(255)
    small = cv2.resize(grey, size, interpolation=how) >= 128
    return np.asarray(cv2.resize(pixels, size, interpolation=how), np.uint8), small


def _lift(rng: Rng, instance: _Instance, target_area: int) -> _Cutout | None:
    """Cut an instance out and scale it relative to the target."""
    pixels, mask = _photograph(instance.image.path, instance.image.size), instance.thing.visible_mask()
    x0, y0, x1, y1 = (int(v) for v in instance.thing.visible_box_xyxy)
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
    """Top-left corner where the cutout hides about `wanted` pixels of the target.

    The cutout stays inside the frame, so that its own shape is complete.
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


def _paste(rng: Rng, canvas: Image, cutout: _Cutout, place: tuple[int, int]) -> Mask:
    """Blend a cutout into the picture in place; returns its mask in the picture."""
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
    """Move brightness and contrast of the cutout part of the way to its surroundings."""
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


def _is_fair(thing: SyntheticObject) -> bool:
    """Enough to see, and hidden either not at all or more than a sliver."""
    area, visible = int(np.count_nonzero(thing.amodal_mask)), int(np.count_nonzero(thing.visible_mask))
    if visible < MIN_VISIBLE_PIXELS:
        return False
    hidden = 1 - visible / area
    return hidden == 0 or MIN_OCCLUSION <= hidden <= MAX_OCCLUSION
