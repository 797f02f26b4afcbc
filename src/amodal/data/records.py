"""What a dataset format is: how its records are read into samples and how samples are written back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from amodal.data.samples import ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.ops.occlusion import rle_occlusion_rate
from amodal.ops.rle import Rle, encode_empty, rle_box_xyxy, rle_difference, segmentation_to_rle
from amodal.ops.values import flag, ids, integer, numbers, optional_integer, text

Record = dict[str, Any]

MAX_COUNTS_PER_PIXEL = 7
"""Characters of an RLE's counts: a run of at least one pixel takes at most seven."""

AMODAL = "amodal masks"
VISIBLE = "visible masks"
UNKNOWN_AMODAL = "objects whose amodal mask is unknown"
OCCLUDERS = "occluders"
STUFF = "stuff flags"
ANNOTATOR = "annotators"
ORDER = "order of the source"
ATTRIBUTES = "attributes"

ALL_INFORMATION = frozenset({AMODAL, VISIBLE, UNKNOWN_AMODAL, OCCLUDERS, STUFF, ANNOTATOR, ORDER, ATTRIBUTES})
"""Kinds of information that a target format may or may not be able to store."""


@dataclass(frozen=True)
class RawAnnotation:
    """The fields of one object as its record states them: nothing is checked or decoded yet.

    Attributes:
        id: annotation id.
        category: category id, or a name if the format has no category ids.
        amodal: segmentation of the amodal mask, None if the format does not know it.
        visible: segmentation of the visible mask, None if the record has none: then the visible mask is the amodal
            mask without `invisible`.
        invisible: segmentation of the occluded part, None if the record has none.
        amodal_bbox: xywh of the amodal mask.
        visible_bbox: xywh of the visible mask.
        area: pixels of the amodal mask (of the visible mask in a modal format).
        occlude_rate: occlusion rate.
        occluders: annotation ids of the occluders, None if the record does not state them.

    The other fields are as in `ObjectSample`.
    """

    id: Any
    category: Any
    amodal: Any = None
    visible: Any = None
    invisible: Any = None
    amodal_bbox: Any = None
    visible_bbox: Any = None
    area: Any = None
    occlude_rate: Any = None
    occluders: Any = None
    iscrowd: Any = False
    is_stuff: Any = False
    annotator: Any = None
    order: Any = None
    order_group: Any = None
    attributes: Any = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """How a dataset is stored on disk, as far as reading needs to know.

    Attributes:
        name: name on the command line.
        title: name for people.
        files: names of the annotation files that the dataset ships with.
        masks: masks that the format stores per object, for people.
        order: how the format states the occlusion order, for people.
        keys: keys that each annotation must have besides `id` and `image_id`.
        parse: reads the objects that a record states.
        any_of: keys of which each annotation must have at least one; empty if there is no such rule.
        marks: keys that only this format has and by which it is recognised.
        foreign: keys that belong to another format in which the same keys mean other masks.
        names: returns the category names in a record, for formats that have names instead of category ids.
        may_lack_annotations: some of its files list images only.
    """

    name: str
    title: str
    files: tuple[str, ...]
    masks: str
    order: str
    keys: tuple[str, ...]
    parse: Callable[[Record], list[RawAnnotation]]
    any_of: frozenset[str] = frozenset()
    marks: frozenset[str] = frozenset()
    foreign: frozenset[str] = frozenset()
    names: Callable[[Record], list[str]] | None = None
    may_lack_annotations: bool = False


@dataclass(frozen=True)
class ObjectInImage:
    """An object with what a writer needs to know about its image and its relations to the other objects.

    Attributes:
        obj: the object, with its occluders where its amodal mask is known.
        image: its image.
        category: name of its category.
        depth: depth level, 0 for an object without occluders.
        group: number, within the image, of its occlusion group.
        alone: it neither occludes another object nor is occluded by one.
    """

    obj: ObjectSample
    image: ImageSample
    category: str
    depth: int
    group: int
    alone: bool

    def coco_keys(self) -> Record:
        """The keys with which the record of an object starts in every COCO-like format."""
        return {
            "id": self.obj.id,
            "image_id": self.image.id,
            "category_id": self.obj.category_id,
            "iscrowd": int(self.obj.iscrowd),
        }

    @property
    def rate(self) -> float | None:
        """Measured occlusion rate; None where the amodal mask is unknown."""
        return measured_rate(self.obj.visible_rle, self.obj.amodal_rle)


@dataclass(frozen=True)
class Target:
    """A format that can be written as one COCO-like file.

    Attributes:
        name: name on the command line.
        record: builds the annotation record of an object.
        holds: kinds of information that the format can store, of `ALL_INFORMATION`.
        keeps: names of the attributes that the format can store.
    """

    name: str
    record: Callable[[ObjectInImage], Record]
    holds: frozenset[str]
    keeps: frozenset[str] = frozenset()


def measured_rate(visible: Rle, amodal: Rle | None) -> float | None:
    """Occlusion rate as annotation files state it, with six decimals; None if the amodal mask is unknown."""
    return None if amodal is None else round(rle_occlusion_rate(visible, amodal), 6)


def other_keys(record: Record, used: frozenset[str]) -> Record:
    """The part of a record whose keys the reader does not use."""
    return {key: value for key, value in record.items() if key not in used}


def to_sample(raw: RawAnnotation, size: tuple[int, int], categories: Mapping[str, int]) -> ObjectSample:
    """Check the fields of an annotation and build a sample from them.

    Args:
        raw: as the format's `parse` returns it.
        size: (H, W) of the image.
        categories: ids by name, for formats that have names instead of ids.

    Raises:
        InputError: a mask, id or field is invalid; the message names the annotation.
    """
    try:
        raw = typed(raw)
        visible, amodal = visible_and_amodal(raw, size)
        return ObjectSample(
            id=raw.id,
            category_id=category_number(raw.category, categories),
            visible_rle=visible,
            amodal_rle=amodal,
            visible_box_xyxy=rle_box_xyxy(visible),
            amodal_box_xyxy=None if amodal is None else rle_box_xyxy(amodal),
            occluders=raw.occluders or (),
            iscrowd=raw.iscrowd,
            attributes=raw.attributes,
            occluders_known=raw.occluders is not None,
            is_stuff=raw.is_stuff,
            annotator=raw.annotator,
            order=raw.order,
            order_group=raw.order_group,
        )
    except InputError as error:
        raise InputError(f"annotation {raw.id!r:.40}: {error}") from error


def typed(raw: RawAnnotation, on_fault: Callable[[str], None] | None = None) -> RawAnnotation:
    """The annotation with fields of the types that `ObjectSample` has, whatever type its file has for them.

    Masks, boxes, area, rate and category are left as they are.

    Args:
        raw: as the format's `parse` returns it.
        on_fault: called with what is wrong with a field, which then counts as missing; if None, it is an error.

    Raises:
        InputError: a field has no value of its type, and there is no `on_fault`.
    """
    found: dict[str, Any] = {}
    for name, (convert, missing) in _FIELDS.items():
        try:
            found[name] = convert(getattr(raw, name), name)
        except InputError as error:
            if on_fault is None:
                raise
            on_fault(str(error))
            found[name] = raw.id if name == "id" else missing
    return replace(raw, **found)


def category_number(category: Any, categories: Mapping[str, int]) -> int:
    """The category id of an annotation.

    Raises:
        InputError: it is neither an id nor one of the names.
    """
    named = isinstance(category, str) and category in categories
    return categories[category] if named else integer(category, "category_id")


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"expected {what} by name, got {value!r:.60}")
    return value


def _optional_text(value: Any, what: str) -> str | None:
    return None if value is None else text(value, what)


_FIELDS: dict[str, tuple[Callable[[Any, str], Any], Any]] = {
    "id": (integer, None),
    "occluders": (ids, None),
    "iscrowd": (flag, False),
    "is_stuff": (flag, False),
    "annotator": (_optional_text, None),
    "order": (optional_integer, None),
    "order_group": (optional_integer, None),
    "attributes": (_mapping, {}),
}
"""The conversion of each field of an annotation, and what it is where that fails."""


def visible_and_amodal(raw: RawAnnotation, size: tuple[int, int]) -> tuple[Rle, Rle | None]:
    """The visible and the amodal mask of an object as RLEs of the image's (H, W); amodal is None where unknown.

    Raises:
        InputError: a mask cannot be read.
    """
    amodal = None if raw.amodal is None else mask_rle(raw.amodal, size)
    if raw.visible is not None:
        return mask_rle(raw.visible, size), amodal
    if amodal is None:
        raise InputError("segmentation: expected a visible or an amodal mask, got none")
    if raw.invisible is not None:
        return rle_difference(amodal, mask_rle(raw.invisible, size)), amodal
    return amodal, amodal


def mask_rle(segmentation: Any, size: tuple[int, int]) -> Rle:
    """A segmentation as an RLE of the image's (H, W).

    Polygons of one or two points enclose no pixel. Published files contain some; they are skipped here, and
    `validate` reports them. An empty list is an empty mask.

    Raises:
        InputError: the segmentation is invalid in any other way.
    """
    if isinstance(segmentation, list):
        segmentation = [part for part in segmentation if not is_degenerate(part)]
        if not segmentation:
            return encode_empty(size)
    elif isinstance(segmentation, dict):
        counts, most = segmentation.get("counts"), MAX_COUNTS_PER_PIXEL * (size[0] * size[1] + 1)
        if isinstance(counts, (str, bytes, list)) and len(counts) > most:
            raise InputError(f"segmentation: expected at most {most} counts for {size} pixels, got {len(counts)}")
    return segmentation_to_rle(segmentation, *size)


def is_degenerate(polygon: Any) -> bool:
    """Whether a polygon has fewer than three points."""
    if not isinstance(polygon, list) or len(polygon) not in (0, 2, 4):
        return False
    try:
        numbers(polygon, "polygon")
    except InputError:
        return False
    return True
