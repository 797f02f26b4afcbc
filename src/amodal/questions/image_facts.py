"""What the offline writer knows about one picture: names, places, and who hides whom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from amodal.data.samples import ImageSample, ObjectSample
from amodal.datagen.describe import hides, is_hidden
from amodal.ops.rle import rle_area

MAX_LISTED = 4  # objects one answer mentions
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


class Facts:
    """What the forms ask about one picture.

    Attributes:
        things: the objects.
    """

    def __init__(self, image: ImageSample, categories: dict[int, str]) -> None:
        self.things = list(image.objects)
        self._by_id = {thing.id: thing for thing in self.things}
        self._behind = hides(image)
        self._kinds = {
            thing.id: categories.get(thing.category_id, "object").replace("_", " ").strip() for thing in self.things
        }
        self._names = self._distinct_names()
        self._pixels: dict[int, npt.NDArray[np.intp]] = {}

    def kind(self, thing: ObjectSample) -> str:
        """Category name."""
        return self._kinds[thing.id]

    def name(self, thing: ObjectSample) -> str:
        """Words that tell the object from the others, such as "the left mug"."""
        return self._names[thing.id]

    def mention(self, thing: ObjectSample) -> str:
        """The object in an answer."""
        return f"<p>{self.name(thing)}</p> {{seg:{thing.id}}}"

    def mentions(self, things: Sequence[ObjectSample]) -> str:
        """Objects from left to right: "A", "A and B", "A, B and C"."""
        *first, last = (self.mention(thing) for thing in sorted(things, key=centre_x))
        return f"{', '.join(first)} and {last}" if first else last

    def in_front(self, thing: ObjectSample) -> list[ObjectSample]:
        """What hides part of this one."""
        return [self._by_id[number] for number in thing.occluders if number in self._by_id]

    def behind(self, thing: ObjectSample) -> list[ObjectSample]:
        """What this one hides a part of."""
        return [self._by_id[number] for number in self._behind[thing.id]]

    def aside(
        self, thing: ObjectSample, *, leave: Sequence[ObjectSample] = (), joint: str = " "
    ) -> tuple[str, list[tuple[int, int]]]:
        """An object and how much of it is seen, and the claims in that.

        Args:
            thing: the object.
            leave: objects that the sentence mentions elsewhere.
            joint: between the object and "is ...", such as ", which ".
        """
        front = self.in_front(thing)
        if front and len(front) <= MAX_LISTED and not any(one in leave for one in front):
            claims = [(one.id, thing.id) for one in front]
            return f"{self.mention(thing)}{joint}is partly hidden behind {self.mentions(front)}", claims
        state = "is partly hidden" if is_hidden(thing) else "is fully visible"
        return f"{self.mention(thing)}{joint}{state}", []

    def distance(self, thing: ObjectSample, x_share: float, y_share: float) -> float:
        """Pixels from a point, in shares of the picture's sides, to the nearest visible pixel."""
        if thing.id not in self._pixels:
            self._pixels[thing.id] = np.argwhere(thing.visible_mask())
        height, width = thing.visible_rle["size"]
        away = self._pixels[thing.id] - np.array([y_share * (height - 1), x_share * (width - 1)])
        return float(np.hypot(*away.T).min())

    def _distinct_names(self) -> dict[int, str]:
        names = {}
        for kind in set(self._kinds.values()):
            alike = sorted((t for t in self.things if self._kinds[t.id] == kind), key=centre_x)
            for place, thing in enumerate(alike):
                names[thing.id] = f"the {_place(place, len(alike), kind)}"
        return names


def centre(thing: ObjectSample) -> tuple[float, float]:
    """Middle (x, y) of the visible box."""
    x0, y0, x1, y1 = thing.visible_box_xyxy
    return ((x0 + x1) / 2, (y0 + y1) / 2)


def centre_x(thing: ObjectSample) -> float:
    """Place from left to right."""
    return centre(thing)[0]


def area(thing: ObjectSample) -> int:
    """Pixels of the whole object."""
    return rle_area(thing.amodal_rle or thing.visible_rle)


def _place(place: int, count: int, kind: str) -> str:
    if count == 1:
        return kind
    if count <= 3:
        return f"{('left', 'right')[place] if count == 2 else ('left', 'middle', 'right')[place]} {kind}"
    if place < len(ORDINALS):
        return f"{ORDINALS[place]} {kind} from the left"
    return f"{kind} number {place + 1} from the left"
