"""The registry of answers that need no amodal training: rows beside a model, or in its place.

Those that use the true visible mask are oracles; they show how much of a figure the visible part
alone is worth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from amodal.data.samples import Box
from amodal.errors import InputError
from amodal.ops.boxes import Window
from amodal.ops.masks import convex_hull_mask
from amodal.ops.rle import Rle, decode_window, encode_columns, encode_empty, rle_box_xyxy


@dataclass(frozen=True)
class Known:
    """What a shape may look at.

    Attributes:
        visible_true: true visible mask.
        box_xyxy: box that the model was given; None where it got none.
        visible_pred: the model's own visible mask; None where it has none.
    """

    visible_true: Rle
    box_xyxy: Box | None
    visible_pred: Rle | None = None


@dataclass(frozen=True)
class Row:
    """One answer of the registry.

    Attributes:
        title: for tables.
        shape: amodal mask from what is known of an object; None for a row that looks at pixels.
        box_source: of a row that looks at pixels: the box it is given, the model's if None.
        needs_own_visible: the row can only stand beside a model that predicts visible masks.
    """

    title: str
    shape: Callable[[Known], Rle] | None = None
    box_source: str | None = None
    needs_own_visible: bool = False


def filled_box(known: Known) -> Rle:
    """All pixels of the box."""
    size = _size(known.visible_true)
    window = _window(known.box_xyxy, size)
    if window is None:
        return encode_empty(size)
    x0, y0, x1, y1 = window
    return encode_columns(np.ones((y1 - y0, x1 - x0), bool), (x0, y0), size)


def hull(mask: Rle) -> Rle:
    """Smallest convex region that covers a mask."""
    size = _size(mask)
    window = _window(rle_box_xyxy(mask), size)
    if window is None:
        return mask
    part = decode_window(mask, window)
    outline = np.zeros_like(part)  # the ends of each column: they have the same hull as the whole
    filled = np.flatnonzero(part.any(axis=0))
    outline[part.argmax(axis=0)[filled], filled] = True
    outline[len(part) - 1 - part[::-1].argmax(axis=0)[filled], filled] = True
    return encode_columns(convex_hull_mask(outline), window[:2], size)


def _own_hull(known: Known) -> Rle:
    return hull(known.visible_pred) if known.visible_pred else encode_empty(_size(known.visible_true))


ROWS: dict[str, Row] = {
    "true_visible": Row("true visible mask (oracle)", lambda known: known.visible_true),
    "filled_box": Row("filled box", filled_box),
    "hull_true_visible": Row("convex hull of the true visible mask (oracle)", lambda known: hull(known.visible_true)),
    "hull_own_visible": Row("convex hull of the own visible mask", _own_hull, needs_own_visible=True),
    "sam": Row("SAM without fine-tuning, the same box"),
    "sam_amodal_box": Row("SAM without fine-tuning, true amodal box (PLUG, table 2)", box_source="gt_amodal"),
}
"""Names to answers. Rows without a shape are run as `evaluation.plug.pretrained_sam`."""

DEFAULT_BASELINES = ("true_visible", "filled_box", "hull_true_visible", "hull_own_visible")
"""What stands beside a model unless asked otherwise: all that costs no network call."""


def check_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names without repeats. Raises `InputError` for one that is not in the registry."""
    for name in names:
        if name not in ROWS:
            raise InputError(f"baseline: expected one of {', '.join(ROWS)}, got {name!r}")
    return tuple(dict.fromkeys(names))


def _size(mask: Rle) -> tuple[int, int]:
    H, W = mask["size"]
    return (H, W)


def _window(box_xyxy: Box | None, size: tuple[int, int]) -> Window | None:
    """Pixels whose centre lies in a box, clipped to the image; None if there are none."""
    if box_xyxy is None:
        return None
    H, W = size
    x0, y0, x1, y1 = (round(float(v)) for v in box_xyxy)
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, W), min(y1, H)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
