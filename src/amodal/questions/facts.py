"""What the annotation of an image says about its objects: the facts that questions and answers are made from.

Questions about procedural scenes are asked only where a person can see the answer. What depends on a sliver (a few
occluded pixels, or an occluder that covers less than `MIN_OCCLUDER_SHARE` of an object's occluded pixels) is in doubt;
the methods that take care of this return None then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from amodal.data.relations import occluder_positions
from amodal.data.samples import ImageSample
from amodal.ops.arrays import Mask
from amodal.ops.boxes import boxes_meet
from amodal.ops.occlusion import MIN_OCCLUDER_SHARE, cover_shares, is_occluded
from amodal.ops.rle import rle_area
from amodal.questions.grammar import joined

MIN_BORDER = 8  # pixels along the image border that an object cut off by it must touch
MIN_CLEAR_RATE = 0.05  # smallest occlusion rate that is clearly visible
CLEAR_PIXELS, CLEAR_SHARE = 4, 0.02  # smallest difference of two places: pixels, and share of the longer side
UNNAMED_KIND = "object"
"""Kind of an object whose category has no name, or is no kind."""


def ordinal(number: int) -> str:
    """The number as a position in a row: "first", "second", ... "11th", "21st"."""
    words = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
    if number <= len(words):
        return words[number - 1]
    ending = "th" if number // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


class Facts:
    """Names, places, sizes and occlusion of the objects of one image.

    Objects are given by their position in the image's list of objects.

    Args:
        image: its objects have occluders (see `data.relations.derive_occluders`).
        categories: category names by id; an object of another category is called "object".
        stacked_names: call two objects of a kind "upper" and "lower" where one stands above the other.

    Attributes:
        objects: the annotated objects.
        kinds: category name of each object.
        names: words that tell each object from the others: "the mug", or "the left mug" if there are several.
        rates: (N,) occlusion rates; 0 where the amodal mask is unknown.
        areas: (N,) pixels of the amodal masks, or of the visible masks where the amodal ones are unknown.
        visible_areas: (N,) pixels of the visible masks.
        clear_gap: pixels from which one place is called further to a side, or nearer, than another.
        centres: (x, y) of each visible box's centre.
        rank: (N,) place of each object from left to right, by the centre.
    """

    def __init__(self, image: ImageSample, categories: Mapping[int, str], *, stacked_names: bool = False) -> None:
        self.size = image.size
        self.objects = list(image.objects)
        self.kinds = [categories.get(obj.category_id, UNNAMED_KIND).replace("_", " ").strip() for obj in self.objects]
        self.rates = np.array([obj.occlusion_rate() for obj in self.objects])
        self.areas = np.array([rle_area(obj.amodal_rle or obj.visible_rle) for obj in self.objects])
        self.visible_areas = np.array([rle_area(obj.visible_rle) for obj in self.objects])
        self.clear_gap = max(CLEAR_PIXELS, CLEAR_SHARE * max(self.size))
        boxes = [obj.visible_box_xyxy for obj in self.objects]
        self.centres = [((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in boxes]
        order = np.argsort([x for x, _ in self.centres], kind="stable")
        self.rank = np.argsort(order, kind="stable")
        self._stacked_names = stacked_names
        self.names = self._distinct_names()
        self._occluders = [sorted(positions) for positions in occluder_positions(self.objects)]
        self._visible_pixels: dict[int, npt.NDArray[np.intp]] = {}

    def __len__(self) -> int:
        return len(self.objects)

    # Mentions

    def mention(self, index: int) -> str:
        """The object in an answer: its name in markup and its placeholder."""
        return f"<p>{self.names[index]}</p> {{seg:{self.objects[index].id}}}"

    def listing(self, indices: Iterable[int], *, by_name: bool = False, ordered: bool = False) -> str:
        """Objects as "A", "A and B", "A, B and C": as mentions, or by their names alone.

        Args:
            indices: the objects.
            by_name: without markup and placeholders.
            ordered: in the order given, instead of from left to right.
        """
        name = self.names.__getitem__ if by_name else self.mention
        return joined([name(i) for i in (indices if ordered else self.left_to_right(indices))])

    def left_to_right(self, indices: Iterable[int] | None = None) -> list[int]:
        """These objects, or all of them, from left to right."""
        return sorted(range(len(self)) if indices is None else indices, key=lambda i: self.rank[i])

    def of_kinds(self, kinds: frozenset[str]) -> list[int]:
        """Objects of these kinds."""
        return [i for i, kind in enumerate(self.kinds) if kind in kinds]

    def is_distinct(self, index: int) -> bool:
        """Whether the name tells the object apart: no object of its kind has its centre in almost the same place."""
        alike = [i for i, kind in enumerate(self.kinds) if kind == self.kinds[index] and i != index]
        axis = 1 if self.is_stacked(index) else 0
        return all(abs(self.centres[i][axis] - self.centres[index][axis]) >= self.clear_gap for i in alike)

    def is_stacked(self, index: int) -> bool:
        """Whether it is one of two objects of a kind that are called "upper" and "lower"."""
        alike = [self.centres[i] for i, kind in enumerate(self.kinds) if kind == self.kinds[index]]
        if not self._stacked_names or len(alike) != 2:
            return False
        (x0, y0), (x1, y1) = alike
        return abs(x0 - x1) < self.clear_gap <= abs(y0 - y1)

    # What is known of the whole

    def is_known(self, index: int) -> bool:
        """Whether the whole object is annotated, as far as it lies in the image."""
        obj = self.objects[index]
        return obj.amodal_rle is not None and not obj.attributes.get("amodal_unknown")

    def touches_border(self, index: int) -> bool:
        """Whether the object reaches the border of the image, so that more of it may lie beyond."""
        return bool(self.objects[index].attributes.get("truncated")) or self._border_pixels[index] > 0

    def reaches_beyond(self, index: int) -> bool:
        """Whether the border clearly cuts the object off: a long edge touches it, and the source does not deny it."""
        stated = self.objects[index].attributes.get("truncated")
        return stated is not False and self._border_pixels[index] >= MIN_BORDER

    def is_full(self, index: int) -> bool:
        """Whether all of the object can be seen: its whole is known, within the image, and not occluded."""
        return self.is_known(index) and not self.touches_border(index) and not is_occluded(float(self.rates[index]))

    def is_clearly_hidden(self, index: int) -> bool:
        """Whether another object hides a part of this one that nobody overlooks."""
        return self.is_known(index) and self.rates[index] >= MIN_CLEAR_RATE and bool(self.in_front_of(index))

    @cached_property
    def _border_pixels(self) -> list[int]:
        """Pixels of each object along the side of the image that most of them touch."""
        return [max(int(edge.sum()) for edge in (m[0], m[-1], m[:, 0], m[:, -1])) for m in self._amodal_masks]

    # Occlusion

    def in_front_of(self, index: int) -> list[int]:
        """Occluders of this object."""
        return self._occluders[index]

    def behind(self, index: int) -> list[int]:
        """Objects that this one occludes."""
        return [i for i, occluders in enumerate(self._occluders) if index in occluders]

    def clearly_in_front_of(self, index: int) -> list[int] | None:
        """Occluders of this object, or None if a sliver puts them in doubt."""
        return None if _is_doubtful(self.cover[:, index], MIN_OCCLUDER_SHARE) else self.in_front_of(index)

    def clearly_behind(self, index: int) -> list[int] | None:
        """Objects that this one occludes, or None if a sliver puts them in doubt."""
        return None if _is_doubtful(self.cover[index], MIN_OCCLUDER_SHARE) else self.behind(index)

    def occluded(self) -> list[int]:
        """Occluded objects."""
        return [i for i, rate in enumerate(self.rates) if is_occluded(rate)]

    def clearly_occluded(self) -> list[int] | None:
        """Occluded objects, or None if a sliver puts them in doubt."""
        return None if _is_doubtful(self.rates, MIN_CLEAR_RATE) else self.occluded()

    def revealed_without(self, index: int) -> list[int] | None:
        """Occluded objects that would be visible as a whole without this one.

        None if slivers put them in doubt, or if the annotation does not state the depth of every object.
        """
        stated = [obj.attributes.get("depth") for obj in self.objects]
        depths = [depth for depth in stated if isinstance(depth, int)]
        if len(depths) < len(stated):
            return None
        revealed = []
        for j, amodal in enumerate(self._amodal_masks):
            others = [k for k in range(len(self)) if k not in (index, j) and depths[k] < depths[j]]
            left = np.logical_or.reduce([self._amodal_masks[k] & amodal for k in others]) if others else np.zeros(1)
            share = np.count_nonzero(left) / self.areas[j]
            if 0 < share < MIN_CLEAR_RATE or 0 < self.rates[j] < MIN_CLEAR_RATE:
                return None
            if j != index and self.rates[j] > 0 and share == 0:
                revealed.append(j)
        return revealed

    @cached_property
    def uncovered(self) -> npt.NDArray[np.int64]:
        """(N,) pixels at which an object hides another one: what taking it away would uncover."""
        visible = [obj.visible_mask() for obj in self.objects]
        hidden = [whole & ~seen for whole, seen in zip(self._amodal_masks, visible, strict=True)]
        counts = []
        for index, mask in enumerate(visible):
            others = [hidden[i] for i in range(len(self)) if i != index]
            counts.append(int(np.count_nonzero(mask & np.logical_or.reduce(others))) if others else 0)
        return np.array(counts, np.int64)

    @cached_property
    def cover(self) -> npt.NDArray[np.float64]:
        """(N, N) share of the occluded pixels of the second object that the first one covers."""
        return cover_shares([obj.visible_mask() for obj in self.objects], self._amodal_masks)

    @cached_property
    def _amodal_masks(self) -> list[Mask]:
        masks = ((obj.amodal_mask(), obj) for obj in self.objects)
        return [obj.visible_mask() if mask is None else mask for mask, obj in masks]

    # Places and sizes

    def cut_by_border(self) -> list[int] | None:
        """Objects that reach beyond the image, or None if that is in doubt or not stated."""
        cut = []
        for index, obj in enumerate(self.objects):
            truncated, border = obj.attributes.get("truncated"), self._border_pixels[index]
            if truncated is None or (truncated and border < MIN_BORDER) or (not truncated and border):
                return None
            if truncated:
                cut.append(index)
        return cut

    def place(self, index: int, others: Iterable[int]) -> str | None:
        """The ninth of the image that holds the object's centre, in words; None if another object reaches into it."""
        height, width = self.size
        x, y = self.centres[index]
        column, row = int(min(3 * x // width, 2)), int(min(3 * y // height, 2))
        cell = (column * width / 3, row * height / 3, (column + 1) * width / 3, (row + 1) * height / 3)
        if any(boxes_meet(self.objects[i].visible_box_xyxy, cell) for i in others if i != index):
            return None
        across, down = ("left", "middle", "right")[column], ("upper", "middle", "lower")[row]
        if across == down:
            return "in the very middle"
        if down == "middle":
            return f"at the {across}"
        return f"in the {down} part" if across == "middle" else f"at the {down} {across}"

    def distance(self, index: int, x_share: float, y_share: float) -> float:
        """Pixels from a point, given in shares of width and height, to the object's nearest visible pixel."""
        if index not in self._visible_pixels:
            self._visible_pixels[index] = np.argwhere(self.objects[index].visible_mask())
        height, width = self.size
        offsets = self._visible_pixels[index] - np.array([y_share * (height - 1), x_share * (width - 1)])
        return float(np.hypot(*offsets.T).min())

    def largest(
        self, values: npt.NDArray[np.float64], among: Sequence[int] | None = None, *, margin: float
    ) -> int | None:
        """The object with the largest value, or None unless it leads the next one by `margin`."""
        order = sorted(range(len(self)) if among is None else among, key=lambda i: -values[i])
        if not order or (len(order) > 1 and values[order[0]] - values[order[1]] < margin):
            return None
        return order[0]

    def _distinct_names(self) -> list[str]:
        names = [""] * len(self)
        for kind in dict.fromkeys(self.kinds):
            alike = self.left_to_right(self.of_kinds(frozenset([kind])))
            for place, index in enumerate(alike):
                names[index] = f"the {_name_at(place, len(alike), kind)}"
            if self.is_stacked(alike[0]):
                upper, lower = sorted(alike, key=lambda i: self.centres[i][1])
                names[upper], names[lower] = f"the upper {kind}", f"the lower {kind}"
        return names


def _is_doubtful(shares: npt.NDArray[np.float64], smallest: float) -> bool:
    return bool(((shares > 0) & (shares < smallest)).any())


def _name_at(place: int, count: int, kind: str) -> str:
    """Name of the object at this place from the left among `count` of its kind."""
    if count == 1:
        return kind
    if count <= 3:
        return f"{(('left', 'right') if count == 2 else ('left', 'middle', 'right'))[place]} {kind}"
    return f"{ordinal(place + 1)} {kind} from the left"
