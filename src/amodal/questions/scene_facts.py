"""What is true of a procedural scene, read off its masks: the ground on which questions stand.

Two things count as related only where a person could see it. A share of an object's hidden part below
`MIN_COVER` that another covers is a sliver; whatever depends on one is left unasked.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from amodal.data.samples import ImageSample
from amodal.errors import InputError
from amodal.ops.masks import occlusion_rate

MIN_COVER = 0.1  # as inference.scene: part of the hidden pixels that makes a thing "in front"
MIN_BORDER = 8  # pixels along the frame that a thing cut off by it touches
MIN_RATE = 0.05  # of an object that counts as hidden
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


class SceneFacts:
    """Relations between the objects of one picture; objects go by their position in `image.objects`.

    Args:
        image: with amodal masks.
        categories: names of the kinds.

    Attributes:
        kinds: name of each object's kind.
        names: "the mug", or "the left mug" where there are several.
        rates: (N,) occlusion rates.
        areas: (N,) pixels of the amodal masks.
        cover: (N, N), share of the hidden part of the second under the visible mask of the first.
        rank: position of each object from left to right, by the centre of its visible box.

    Raises:
        InputError: an object without an amodal mask or of an unnamed category.
    """

    def __init__(self, image: ImageSample, categories: dict[int, str]) -> None:
        self.image = image
        self.kinds = [_kind(image, thing.category_id, categories) for thing in image.objects]
        visible, amodal = [t.visible_mask() for t in image.objects], [t.amodal_mask() for t in image.objects]
        if any(mask is None for mask in amodal):
            raise InputError(f"image {image.id}: expected objects with amodal masks, got one without")
        pairs = [(v, a) for v, a in zip(visible, amodal, strict=True) if a is not None]
        self.rates = np.array([occlusion_rate(v, a) for v, a in pairs])
        self.areas = np.array([np.count_nonzero(a) for _, a in pairs])
        self.cover = _cover(pairs)
        self.rank = np.argsort(np.argsort([t.visible_box_xyxy[0] + t.visible_box_xyxy[2] for t in image.objects]))
        self.names = self._names()
        self._amodal = [a for _, a in pairs]

    def __len__(self) -> int:
        return len(self.kinds)

    def mention(self, index: int) -> str:
        """The object in an answer: its name in markup and its placeholder."""
        return f"<p>{self.names[index]}</p> {{seg:{self.image.objects[index].id}}}"

    def of_kinds(self, kinds: frozenset[str]) -> list[int]:
        """Objects of these kinds."""
        return [i for i, kind in enumerate(self.kinds) if kind in kinds]

    def in_front_of(self, index: int) -> list[int] | None:
        """Objects that hide part of this one, or None if a sliver makes that doubtful."""
        return self._related(self.cover[:, index])

    def behind(self, index: int) -> list[int] | None:
        """Objects partly hidden by this one, or None if in doubt."""
        return self._related(self.cover[index])

    def hidden(self) -> list[int] | None:
        """Objects that are partly hidden, or None if in doubt."""
        if ((self.rates > 0) & (self.rates < MIN_RATE)).any():
            return None
        return np.flatnonzero(self.rates > 0).tolist()

    def whole_without(self, index: int) -> list[int] | None:
        """Objects seen whole only once this one is gone, or None if in doubt or depths are unknown."""
        stated = [thing.attributes.get("depth") for thing in self.image.objects]
        depths = [depth for depth in stated if isinstance(depth, int)]
        if len(depths) < len(stated):
            return None
        freed = []
        for j, amodal in enumerate(self._amodal):
            others = [k for k in range(len(self)) if k not in (index, j) and depths[k] < depths[j]]
            left = np.logical_or.reduce([self._amodal[k] & amodal for k in others]) if others else np.zeros(1, bool)
            share = np.count_nonzero(left) / self.areas[j]
            if 0 < share < MIN_RATE or 0 < self.rates[j] < MIN_RATE:
                return None
            if j != index and self.rates[j] > 0 and share == 0:
                freed.append(j)
        return freed

    def cut_by_frame(self) -> list[int] | None:
        """Objects that reach out of the picture, or None if in doubt or unknown."""
        cut = []
        for index, (thing, mask) in enumerate(zip(self.image.objects, self._amodal, strict=True)):
            truncated = thing.attributes.get("truncated")
            border = max(int(edge.sum()) for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
            if truncated is None or (truncated and border < MIN_BORDER) or (not truncated and border):
                return None
            if truncated:
                cut.append(index)
        return cut

    def first_by(self, values: npt.NDArray[np.float64], among: list[int], margin: float) -> int | None:
        """The object with the largest value if it leads the next by `margin`."""
        order = sorted(among, key=lambda i: -values[i])
        if not order or (len(order) > 1 and values[order[0]] - values[order[1]] < margin):
            return None
        return order[0]

    def _related(self, shares: npt.NDArray[np.float64]) -> list[int] | None:
        if ((shares > 0) & (shares < MIN_COVER)).any():
            return None
        return np.flatnonzero(shares).tolist()

    def _names(self) -> list[str]:
        names = []
        for index, kind in enumerate(self.kinds):
            alike = sorted((i for i, k in enumerate(self.kinds) if k == kind), key=lambda i: self.rank[i])
            place = alike.index(index)
            if len(alike) == 1:
                names.append(f"the {kind}")
            elif len(alike) <= 3:
                sides = ("left", "middle", "right") if len(alike) == 3 else ("left", "right")
                names.append(f"the {sides[place]} {kind}")
            else:
                names.append(f"the {ORDINALS[place]} {kind} from the left")
        return names


def _kind(image: ImageSample, category_id: int, categories: dict[int, str]) -> str:
    if category_id not in categories:
        raise InputError(f"image {image.id}: expected categories with names, got {category_id} without one")
    return categories[category_id]


def _cover(
    pairs: list[tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]],
) -> npt.NDArray[np.float64]:
    """(N, N) from the (visible, amodal) masks of N objects."""
    if not pairs:
        return np.zeros((0, 0))
    visible = np.stack([v.ravel() for v, _ in pairs]).astype(np.float32)
    hidden = np.stack([(a & ~v).ravel() for v, a in pairs]).astype(np.float32)
    shares = visible @ hidden.T / np.maximum(hidden.sum(1), 1)
    np.fill_diagonal(shares, 0)
    return shares.astype(np.float64)
