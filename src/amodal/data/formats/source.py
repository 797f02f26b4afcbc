"""What a format is, and the way from what a record states to a sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from amodal.data.samples import ObjectSample
from amodal.errors import InputError
from amodal.ops.rle import Rle, encode_empty, rle_box_xyxy, rle_difference, segmentation_to_rle

Record = dict[str, Any]

MAX_COUNTS_PER_PIXEL = 7
"""Characters of an RLE's counts: a run of at least one pixel takes at most seven."""


@dataclass(frozen=True)
class Stated:
    """What a record states about one object: nothing is checked or decoded yet.

    Attributes:
        id: annotation id.
        category: category id, or a name where the format has no categories.
        amodal: segmentation of the whole object, None if the format does not know it.
        visible: segmentation of what is seen, None if the record has none: then all of the
            amodal mask is seen, except `invisible`.
        invisible: segmentation of what is hidden, None if the record has none.
        amodal_bbox: xywh of the whole object; `visible_bbox` likewise of what is seen.
        area: pixels of the amodal mask (of the visible one in a modal format).
        occlude_rate: hidden share of the object.
        occluders: annotation ids in front, None if the record does not say.

    The others are as in `ObjectSample`.
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
    """How a dataset is written down.

    Attributes:
        name: as on the command line.
        title: for people.
        files: names of the annotation files the dataset ships with.
        masks: what is known of an object.
        order: what is known of who hides whom.
        keys: what each annotation must have besides `id` and `image_id`.
        any_of: keys of which each annotation must have one, if there are any.
        marks: keys that only this format has, by which it is recognised.
        state: from a record to the objects it states.
        names: names of the objects a record states, where those take the place of categories.
        may_lack_annotations: some of its files list images alone.
        foreign: keys that give away another format, in which the same words mean other masks.
    """

    name: str
    title: str
    files: tuple[str, ...]
    masks: str
    order: str
    keys: tuple[str, ...]
    state: Callable[[Record], list[Stated]]
    any_of: frozenset[str] = frozenset()
    marks: frozenset[str] = frozenset()
    foreign: frozenset[str] = frozenset()
    names: Callable[[Record], list[str]] | None = None
    may_lack_annotations: bool = False


def rest(record: Record, used: frozenset[str]) -> Record:
    """What a record says beyond the keys a reader uses."""
    return {key: value for key, value in record.items() if key not in used}


def to_sample(stated: Stated, size: tuple[int, int], categories: Mapping[str, int]) -> ObjectSample:
    """Check what a record states and make a sample of it.

    Args:
        stated: as the format's `state` gives it.
        size: (H, W) of the image.
        categories: ids by name, for formats that have names in place of ids.

    Raises:
        InputError: a mask, id or field that is not what it should be; the message names the
            annotation.
    """
    try:
        return _to_sample(stated, size, categories)
    except InputError as error:
        raise InputError(f"annotation {stated.id}: {error}") from error


def visible_and_amodal(stated: Stated, size: tuple[int, int]) -> tuple[Rle, Rle | None]:
    """The masks of an object as RLEs of the image's (H, W); amodal is None where unknown.

    Raises:
        InputError: a mask that cannot be read.
    """
    amodal = None if stated.amodal is None else mask_rle(stated.amodal, size)
    if stated.visible is not None:
        return mask_rle(stated.visible, size), amodal
    if amodal is None:
        raise InputError("segmentation: expected a visible or an amodal mask, got none")
    if stated.invisible is not None:
        return rle_difference(amodal, mask_rle(stated.invisible, size)), amodal
    return amodal, amodal


def mask_rle(segmentation: Any, size: tuple[int, int]) -> Rle:
    """A segmentation as an RLE of the image's (H, W).

    Polygons of one or two points enclose no pixel: published files hold some, and they are left
    out (`validate` reports them). An empty list is an empty mask.

    Raises:
        InputError: anything else that is no segmentation.
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
    return isinstance(polygon, list) and len(polygon) in (0, 2, 4) and all(is_number(v) for v in polygon)


def integer(value: Any, what: str) -> int:
    """A whole number from a file, written as number or digits.

    Raises:
        InputError: another value.
    """
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        return int(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1:
        return int(value)
    raise InputError(f"expected the {what} to be an integer, got {value!r:.60}")


def _to_sample(stated: Stated, size: tuple[int, int], categories: Mapping[str, int]) -> ObjectSample:
    named = isinstance(stated.category, str) and stated.category in categories
    visible, amodal = visible_and_amodal(stated, size)
    occluders = () if stated.occluders is None else stated.occluders
    if not isinstance(occluders, (list, tuple)) or not all(type(i) is int for i in occluders):
        raise InputError(f"expected occluders as ids, got {occluders!r:.60}")
    if not isinstance(stated.attributes, dict):
        raise InputError(f"expected attributes by name, got {stated.attributes!r:.60}")
    return ObjectSample(
        id=integer(stated.id, "id"),
        category_id=categories[stated.category] if named else integer(stated.category, "category_id"),
        visible_rle=visible,
        amodal_rle=amodal,
        visible_box_xyxy=rle_box_xyxy(visible),
        amodal_box_xyxy=None if amodal is None else rle_box_xyxy(amodal),
        occluders=tuple(occluders),
        iscrowd=bool(stated.iscrowd),
        attributes=stated.attributes,
        occluders_known=stated.occluders is not None,
        is_stuff=bool(stated.is_stuff),
        annotator=None if stated.annotator is None else str(stated.annotator),
        order=_optional(stated.order),
        order_group=_optional(stated.order_group),
    )


def _optional(value: Any) -> int | None:
    """Fields that no source confirmed are taken where they make sense."""
    return int(value) if is_number(value) and value == value // 1 else None


def is_number(value: Any) -> bool:
    """Whether a value of a file is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
