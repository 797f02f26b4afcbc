"""Clean predicted masks: no specks, no pinholes, no occluded rims.

A network predicts each pixel on its own, so that a mask resized to the image has specks and holes that no object has.
Differs from both papers, which score the raw masks: because people look at masks, `AmodalSegmenter` cleans by default;
evaluation by the papers' protocols does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from amodal.ops.arrays import Mask
from amodal.ops.occlusion import occlusion_rate

MAX_DISC = 9
"""Largest disc in pixels that is moved over the mask itself."""


@dataclass(frozen=True)
class CleanSettings:
    """Which parts of a mask are noise.

    Attributes:
        min_component: smallest connected component that is kept, as a share of the object's area. The largest
            component is always kept.
        max_hole: largest hole that is filled, as a share of the object's area.
        min_thickness: thickness that an occluded region needs to be kept, in pixels of the network's input.
        min_occlusion: occlusion rate below which an object counts as complete.
    """

    min_component: float = 0.05
    max_hole: float = 0.02
    min_thickness: float = 2.0
    min_occlusion: float = 0.05


def clean_masks(
    visible_mask: Mask,
    amodal_mask: Mask,
    *,
    settings: CleanSettings,
    pixel: float = 1.0,
    keep_visible: bool = False,
) -> tuple[Mask, Mask]:
    """Clean the two masks of one object.

    Args:
        visible_mask: (H, W) bool.
        amodal_mask: (H, W) bool.
        settings: what counts as noise.
        pixel: size of one pixel of the network's input, in pixels of the masks.
        keep_visible: return the visible mask unchanged, because a person or another model gave it.

    Returns:
        Visible and amodal mask (H, W) bool; the visible mask lies within the amodal mask.
    """
    visible = visible_mask if keep_visible else _without_noise(visible_mask, settings)
    occluded = _thick_parts(amodal_mask & ~visible, round(settings.min_thickness * pixel))
    amodal = _without_noise(visible | occluded, settings, keep=visible if keep_visible else None)
    if not keep_visible:
        visible = visible & amodal
    return visible, visible if occlusion_rate(visible, amodal) < settings.min_occlusion else amodal


def _without_noise(mask: Mask, settings: CleanSettings, keep: Mask | None = None) -> Mask:
    """Drop small components and fill small holes; what touches `keep` is never dropped."""
    area = np.count_nonzero(mask)
    if not area:
        return mask
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    sizes = stats[:, cv2.CC_STAT_AREA].copy()
    sizes[0] = 0
    kept = sizes >= settings.min_component * area
    kept[sizes.argmax()] = True
    if keep is not None:
        kept[np.unique(labels[keep])] = True
    kept[0] = False
    cleaned = kept[labels]
    padded = np.pad(~cleaned, 1, constant_values=True).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(padded, connectivity=4)
    holes = stats[:, cv2.CC_STAT_AREA] <= settings.max_hole * np.count_nonzero(cleaned)
    holes[[0, labels[0, 0]]] = False  # the mask itself, and everything that is connected to the border
    return cleaned | holes[labels][1:-1, 1:-1]


def _thick_parts(mask: Mask, thickness: int) -> Mask:
    """Remove what a disc of this diameter does not fit into; the corners of what is thick enough are kept."""
    if thickness < 2 or not mask.any():
        return mask
    padded = np.pad(mask, thickness).astype(np.uint8)
    inner = slice(thickness, -thickness)
    if thickness > MAX_DISC:  # a large disc takes seconds on a large image; distances are exact to one pixel
        core = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) >= thickness / 2
        around = cv2.distanceTransform((~core).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= thickness
        return mask & around[inner, inner] & core.any()
    offsets = np.arange(thickness) - (thickness - 1) / 2
    disc = (np.hypot(*np.meshgrid(offsets, offsets)) <= thickness / 2).astype(np.uint8)
    last = (thickness - 1, thickness - 1)  # an even disc has no centre pixel: erode towards one corner, dilate back
    opened = cv2.dilate(cv2.erode(padded, disc, anchor=(0, 0)), disc, anchor=last)
    around = cv2.dilate(opened, np.ones((thickness | 1, thickness | 1), np.uint8))
    return mask & around[inner, inner].astype(bool)
