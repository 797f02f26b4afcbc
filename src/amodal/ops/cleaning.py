"""Clean predicted masks: no specks, no pinholes, no occluded rims, no amodal mask in pieces.

A network predicts each pixel on its own, so that a mask resized to the image has specks and holes that no object has.
What hides an object often cuts its visible mask into pieces; the whole object is in one piece.
Differs from both papers, which score the raw masks: because people look at masks, `AmodalSegmenter` cleans by default;
evaluation by the papers' protocols does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from amodal.errors import InputError
from amodal.ops.arrays import FloatMap, Mask
from amodal.ops.boxes import mask_to_box
from amodal.ops.occlusion import occlusion_rate

MAX_DISC = 9
"""Largest disc in pixels that is moved over the mask itself."""

BRIDGES = tuple(0.25 / 2**step for step in range(8))
"""Probabilities above which a pixel may join pieces, tried in this order."""


@dataclass(frozen=True)
class CleanSettings:
    """Which parts of a mask are noise.

    Attributes:
        min_component: smallest connected component that is kept, as a share of the object's area. The largest
            component is always kept.
        max_hole: largest hole that is filled, as a share of the object's area.
        min_thickness: thickness that an occluded region needs to be kept, in pixels of the network's input.
        min_occlusion: occlusion rate below which an object counts as complete.
        min_confirmed: occlusion rate that a network must also predict from the mirrored crop with the visible mask as a
            prompt; otherwise the object counts as complete. For networks that take masks; 0 predicts once.
        min_bridge: smallest amodal probability of the pixels that may join the pieces of an amodal mask; 1 leaves the
            pieces apart.
        edge_radius: radius of the filter that moves the outline of a predicted visible mask to nearby edges of the
            image, in pixels of the network's input; 0 turns it off. A larger radius leaves thicker occluded rims beside
            a moved outline, which `min_thickness` must remove. `AmodalSegmenter` and `AmodalAssistant` apply it before
            the threshold (`ops.edges`), and `clean_masks` does not use it.

    Raises:
        InputError: `edge_radius` is not a whole number of 0 or more.
    """

    min_component: float = 0.05
    max_hole: float = 0.02
    min_thickness: float = 3.0
    min_occlusion: float = 0.05
    min_confirmed: float = 0.02
    min_bridge: float = 0.015
    edge_radius: int = 4

    def __post_init__(self) -> None:
        if type(self.edge_radius) is not int or self.edge_radius < 0:
            raise InputError(f"edge_radius: expected a whole number of 0 or more, got {self.edge_radius!r}")

    @classmethod
    def of(cls, clean: bool | CleanSettings) -> CleanSettings | None:
        """The settings that are meant: the given ones, the default ones for True, and None for False."""
        if isinstance(clean, CleanSettings):
            return clean
        return cls() if clean else None


def clean_masks(
    visible_mask: Mask,
    amodal_mask: Mask,
    *,
    settings: CleanSettings,
    pixel: float = 1.0,
    keep_visible: bool = False,
    amodal_probs: FloatMap | None = None,
) -> tuple[Mask, Mask]:
    """Clean the two masks of one object.

    Args:
        visible_mask: (H, W) bool.
        amodal_mask: (H, W) bool.
        settings: what counts as noise.
        pixel: size of one pixel of the network's input, in pixels of the masks.
        keep_visible: return the visible mask unchanged, because a person or another model gave it.
        amodal_probs: (H, W) from which the amodal mask was made; without them its pieces are not joined.

    Returns:
        Visible and amodal mask (H, W) bool; the visible mask lies within the amodal mask.
    """
    if not (visible_mask.any() or amodal_mask.any()):
        return visible_mask, amodal_mask
    x0, y0, x1, y1 = (int(v) for v in mask_to_box(visible_mask | amodal_mask))
    part = (slice(y0, y1), slice(x0, x1))  # nothing is outside; large images are cleaned several times faster like this
    given = visible_mask[part]
    visible = given if keep_visible else _without_noise(given, settings)
    occluded = _thick_parts(amodal_mask[part] & ~visible, round(settings.min_thickness * pixel))
    amodal = _without_noise(visible | occluded, settings, keep=given if keep_visible else None)
    if not keep_visible:
        visible = visible & amodal
    if occlusion_rate(visible, amodal) < settings.min_occlusion:
        amodal = visible
    if amodal_probs is not None:
        amodal = _joined(amodal, amodal_probs[part], settings.min_bridge)
    return (visible_mask if keep_visible else _placed(visible, part, visible_mask)), _placed(amodal, part, visible_mask)


def _placed(mask: Mask, part: tuple[slice, slice], like: Mask) -> Mask:
    """A mask of the size of `like` that is `mask` in a part, and empty elsewhere."""
    placed = np.zeros_like(like)
    placed[part] = mask
    return placed


def _without_noise(mask: Mask, settings: CleanSettings, keep: Mask | None = None) -> Mask:
    """Drop small components and fill small holes; what touches `keep` is never dropped.

    Outlines give the components and holes and their sizes, so that only the small ones are visited pixel by pixel.
    """
    outer, holes = _outlines(mask)
    if not outer:
        return mask
    sizes = np.array([_num_enclosed(outline) for outline, _ in outer])
    sizes -= [sum(_num_enclosed(hole, inside=True) for hole in own) for _, own in outer]
    small = sizes < settings.min_component * np.count_nonzero(mask)
    small[sizes.argmax()] = False
    cleaned = mask.astype(np.uint8)
    for index in np.flatnonzero(small):
        x, y = outer[index][0][0, 0].tolist()
        where, region, _ = _flooded(cleaned, (x, y), connectivity=8)
        cleaned[where][region] = keep is not None and keep[where][region].any()
    if small.any():
        _, holes = _outlines(cleaned)
    limit = settings.max_hole * np.count_nonzero(cleaned)
    for hole in holes:
        x, y = hole[hole[:, 0, 1].argmin(), 0].tolist()  # below the highest pixel of the outline, the hole begins
        where, region, num_pixels = _flooded(cleaned, (x, y + 1), connectivity=4)
        cleaned[where][region] = num_pixels <= limit
    return cleaned.astype(bool)


def _joined(mask: Mask, probs: FloatMap, least: float) -> Mask:
    """Join the pieces of a mask by pixels within its convex hull, the most probable ones first.

    At each limit of `BRIDGES` that is not below `least`, a connected region of pixels above the limit is added if it
    touches several pieces.
    """
    num_labels, pieces = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    if num_labels <= 2:
        return mask
    hull = np.zeros(mask.shape, np.uint8)  # once, because the drawn outlines of larger masks differ by a pixel
    cv2.fillConvexPoly(hull, cv2.convexHull(cv2.findNonZero(mask.view(np.uint8))), 1)
    for limit in (limit for limit in BRIDGES if limit >= least):
        between = ((probs > limit) & ~mask).astype(np.uint8) & hull
        _, regions, boxes, _ = cv2.connectedComponentsWithStats(between, connectivity=8)
        joined = mask.copy()
        for number, (x, y, w, h, _) in enumerate(boxes[1:].tolist(), 1):
            where = (slice(max(y - 1, 0), y + h + 1), slice(max(x - 1, 0), x + w + 1))
            region = regions[where] == number
            touched = pieces[where][cv2.dilate(region.view(np.uint8), np.ones((3, 3), np.uint8)) > 0]
            if len(np.unique(touched[touched > 0])) > 1:
                joined[where] |= region
        mask = joined
        num_labels, pieces = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
        if num_labels <= 2:
            break
    return mask


Outline = npt.NDArray[np.int32]
"""(K, 1, 2) pixels (x, y) of the object along a border, each a neighbour of the one before, also across a corner."""


def _outlines(mask: npt.NDArray[Any]) -> tuple[list[tuple[Outline, list[Outline]]], list[Outline]]:
    """Outlines of the components of a mask, each with those of its holes; and the outlines of all holes."""
    outlines, tree = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    parents = [] if tree is None else tree[0, :, 3].tolist()  # -1 for a component, its component for a hole
    own: dict[int, list[Outline]] = {index: [] for index, parent in enumerate(parents) if parent < 0}
    for outline, parent in zip(outlines, parents, strict=True):
        if parent >= 0:
            own[parent].append(outline)
    return [(outlines[index], holes) for index, holes in own.items()], [hole for all_ in own.values() for hole in all_]


def _num_enclosed(outline: Outline, inside: bool = False) -> int:
    """Number of pixels that an outline encloses, with its own pixels or without them, by Pick's theorem."""
    half = (len(outline) if len(outline) > 1 else 0) / 2
    return round(cv2.contourArea(outline) + (-half if inside else half) + 1)


def _flooded(
    mask: npt.NDArray[np.uint8], seed: tuple[int, int], connectivity: int
) -> tuple[tuple[slice, slice], Mask, int]:
    """The pixels that are connected with a pixel (x, y) of the same value, which become 2 in the mask itself.

    Returns:
        Their bounding box, which of its pixels they are, and their number.
    """
    num_pixels, _, _, (x, y, w, h) = cv2.floodFill(mask, None, seed, 2, flags=connectivity)
    where = (slice(y, y + h), slice(x, x + w))
    return where, mask[where] == 2, num_pixels


def _thick_parts(mask: Mask, thickness: int) -> Mask:
    """Remove what a disc of this diameter does not fit into; the corners of what is thick enough are kept."""
    if thickness < 2 or not mask.any():
        return mask
    if thickness > MAX_DISC:  # a large disc takes seconds on a large image; distances are exact to one pixel
        return _thick_by_distance(mask, thickness)
    padded = np.pad(mask, thickness).astype(np.uint8)
    inner = slice(thickness, -thickness)
    offsets = np.arange(thickness) - (thickness - 1) / 2
    disc = (np.hypot(*np.meshgrid(offsets, offsets)) <= thickness / 2).astype(np.uint8)
    last = (thickness - 1, thickness - 1)  # an even disc has no centre pixel: erode towards one corner, dilate back
    opened = cv2.dilate(cv2.erode(padded, disc, anchor=(0, 0)), disc, anchor=last)
    around = cv2.dilate(opened, np.ones((thickness | 1, thickness | 1), np.uint8))
    return mask & around[inner, inner].astype(bool)


def _thick_by_distance(mask: Mask, thickness: int) -> Mask:
    """What is at most `thickness` away from the centre of a disc of this diameter that fits into the mask."""
    thick = np.zeros_like(mask)
    half = math.ceil(thickness / 2 / math.sqrt(2)) - 1  # a square of this size fits into the disc, and is fast to try
    fits = cv2.erode(mask.astype(np.uint8), np.ones((2 * half + 1, 2 * half + 1), np.uint8), borderValue=0)
    for outline in cv2.findContours(fits, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]:
        x, y, w, h = cv2.boundingRect(outline)
        rows = slice(max(y - thickness, 0), y + h + thickness)
        columns = slice(max(x - thickness, 0), x + w + thickness)
        part = mask[rows, columns]
        padded = np.pad(part, 1).astype(np.uint8)
        core = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) >= thickness / 2
        if core.any():
            around = cv2.distanceTransform((~core).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= thickness
            thick[rows, columns] |= part & around[1:-1, 1:-1]
    return thick
