"""What the formats to write have in common: an object as the target sees it, and what is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from amodal.data.relations import clusters, depths, with_occluders
from amodal.data.samples import Box, ImageSample, ObjectSample
from amodal.ops.rle import rle_area, rle_intersection, rle_occlusion_rate

AMODAL = "amodal masks"
VISIBLE = "visible masks"
UNKNOWN_AMODAL = "objects whose amodal mask is unknown"
OCCLUDERS = "occluders"
STUFF = "stuff flags"
ANNOTATOR = "annotators"
ORDER = "order of the source"
ATTRIBUTES = "attributes"

EVERYTHING = frozenset({AMODAL, VISIBLE, UNKNOWN_AMODAL, OCCLUDERS, STUFF, ANNOTATOR, ORDER, ATTRIBUTES})


@dataclass(frozen=True)
class Placed:
    """An object among the others of its image.

    Attributes:
        thing: the object, with occluders where its amodal mask is known.
        image: its image.
        category: name of its category.
        depth: objects in front of it, one behind the other.
        cluster: number, within the image, of the group that hide each other.
        alone: neither hides an object nor is hidden by one.
    """

    thing: ObjectSample
    image: ImageSample
    category: str
    depth: int
    cluster: int
    alone: bool

    @property
    def rate(self) -> float | None:
        """Measured occlusion rate, rounded; None where the amodal mask is unknown."""
        amodal = self.thing.amodal_rle
        return None if amodal is None else round(rle_occlusion_rate(self.thing.visible_rle, amodal), 6)


@dataclass(frozen=True)
class Target:
    """A format that can be written as one COCO-like file.

    Attributes:
        name: as on the command line.
        record: the annotation record of an object.
        holds: kinds of information it has a place for.
        keeps: attributes it has a place for.
    """

    name: str
    record: Callable[[Placed], dict[str, Any]]
    holds: frozenset[str]
    keeps: frozenset[str] = frozenset()


@dataclass
class NotHeld:
    """What a target had no place for: kind, number of objects, and names where there are any."""

    counts: Counter[str] = field(default_factory=Counter)
    names: set[str] = field(default_factory=set)

    def note(self, thing: ObjectSample, holds: frozenset[str], keeps: frozenset[str]) -> None:
        """Count what is lost of an object."""
        attributes = set(thing.attributes) - keeps
        both = not holds >= {AMODAL, VISIBLE} and thing.amodal_rle is not None and _differ(thing)
        present = {
            AMODAL: both,
            VISIBLE: both,
            OCCLUDERS: bool(thing.occluders),
            STUFF: thing.is_stuff,
            ANNOTATOR: thing.annotator is not None,
            ORDER: thing.order is not None,
            ATTRIBUTES: bool(attributes),
        }
        for kind, is_there in present.items():
            if is_there and kind not in holds:
                self.counts[kind] += 1
        if ATTRIBUTES not in holds:
            self.names |= attributes

    def to_json(self) -> dict[str, Any]:
        """Kind: number of objects, names of attributes."""
        return {
            kind: {"objects": count} | ({"names": sorted(self.names)} if kind == ATTRIBUTES else {})
            for kind, count in sorted(self.counts.items())
        }


def placed_objects(image: ImageSample, categories: dict[int, str], *, modal: bool) -> Iterator[Placed]:
    """The objects of an image with their relations, derived where the source does not say.

    Args:
        image: with objects.
        categories: names by id.
        modal: include objects whose amodal mask is unknown.
    """
    image = with_occluders(image)
    objects = [thing for thing in image.objects if modal or thing.amodal_rle is not None]
    fronts = {number for thing in objects for number in thing.occluders}
    for thing, depth, cluster in zip(objects, depths(objects), clusters(objects), strict=True):
        name = categories.get(thing.category_id, str(thing.category_id))
        yield Placed(thing, image, name, depth, cluster, not thing.occluders and thing.id not in fronts)


def xywh(box: Box) -> list[float]:
    """COCO's form of a box."""
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _differ(thing: ObjectSample) -> bool:
    assert thing.amodal_rle is not None
    areas = (rle_area(thing.visible_rle), rle_area(thing.amodal_rle))
    return areas[0] != areas[1] or rle_area(rle_intersection(thing.visible_rle, thing.amodal_rle)) != areas[0]
