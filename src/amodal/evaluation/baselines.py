"""Baselines that need no amodal training. They are scored beside a model, or alone.

Baselines that use the true visible mask are oracles: they show how much of a metric the visible part alone is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from amodal.errors import InputError
from amodal.ops.arrays import Box, Window
from amodal.ops.masks import convex_hull_mask
from amodal.ops.rle import Rle, decode_window, encode_columns, encode_empty, rle_box_xyxy

if TYPE_CHECKING:
    from amodal.inference.segmenter import AmodalSegmenter

SAM_THRESHOLD = 0.5
"""SAM's own threshold: its masks are the logits above 0."""


@dataclass(frozen=True)
class BaselineInputs:
    """What a baseline without a network may use to predict the amodal mask of an object.

    Attributes:
        visible_true: true visible mask.
        box_xyxy: box prompt of the model; None if the object has none.
        visible_pred: visible mask that the model predicted; None if it predicts none.
    """

    visible_true: Rle
    box_xyxy: Box | None
    visible_pred: Rle | None = None


@dataclass(frozen=True)
class Baseline:
    """One baseline.

    Attributes:
        title: name in tables.
        amodal_mask: computes the amodal mask of an object; None for a baseline that runs a network on the image.
        box_source: box source of a network; None for the model's own.
        needs_visible_pred: whether it can only be scored beside a model that predicts visible masks.
    """

    title: str
    amodal_mask: Callable[[BaselineInputs], Rle] | None = None
    box_source: str | None = None
    needs_visible_pred: bool = False


def filled_box_mask(inputs: BaselineInputs) -> Rle:
    """Return the mask of all pixels in the box."""
    size = _size(inputs.visible_true)
    window = _window(inputs.box_xyxy, size)
    if window is None:
        return encode_empty(size)
    x0, y0, x1, y1 = window
    return encode_columns(np.ones((y1 - y0, x1 - x0), bool), (x0, y0), size)


def rle_convex_hull(mask: Rle) -> Rle:
    """Return the smallest convex region that covers a mask."""
    size = _size(mask)
    window = _window(rle_box_xyxy(mask), size)
    if window is None:
        return mask
    part = decode_window(mask, window)
    outline = np.zeros_like(part)  # the ends of each column have the same hull as the whole mask
    columns = np.flatnonzero(part.any(axis=0))
    outline[part.argmax(axis=0)[columns], columns] = True
    outline[len(part) - 1 - part[::-1].argmax(axis=0)[columns], columns] = True
    return encode_columns(convex_hull_mask(outline), window[:2], size)


def _hull_of_visible_pred(inputs: BaselineInputs) -> Rle:
    if not inputs.visible_pred:
        return encode_empty(_size(inputs.visible_true))
    return rle_convex_hull(inputs.visible_pred)


BASELINES: dict[str, Baseline] = {
    "true_visible": Baseline("true visible mask (oracle)", lambda inputs: inputs.visible_true),
    "filled_box": Baseline("filled box", filled_box_mask),
    "hull_true_visible": Baseline(
        "convex hull of the true visible mask (oracle)", lambda inputs: rle_convex_hull(inputs.visible_true)
    ),
    "hull_own_visible": Baseline(
        "convex hull of the predicted visible mask", _hull_of_visible_pred, needs_visible_pred=True
    ),
    "sam": Baseline("SAM without fine-tuning, same box"),
    "sam_amodal_box": Baseline("SAM without fine-tuning, true amodal box (PLUG, table 2)", box_source="gt_amodal"),
}
"""Baselines by name. Those without `amodal_mask` run `pretrained_sam`."""

DEFAULT_BASELINES = ("true_visible", "filled_box", "hull_true_visible", "hull_own_visible")
"""All baselines that do not run a network."""


def check_baselines(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names without repetitions. Raises `InputError` for an unknown name."""
    for name in names:
        if name not in BASELINES:
            raise InputError(f"baseline: expected one of {', '.join(BASELINES)}, got {name!r}")
    return tuple(dict.fromkeys(names))


def pretrained_sam(base: str, device: str = "auto") -> AmodalSegmenter:
    """Load SAM without fine-tuning, run as in row 1 of PLUG's table 2: crop and box in, one mask out.

    The model is a PLUG without adapters, visible branch and refine module, in float32, with SAM's own threshold. Its
    input is the paper's 512 pixels wide, or as wide as the base's own input if that is smaller, in whole strides.

    Args:
        base: bundled name, folder, hub id or checkpoint file of a base of any family.
        device: `auto` (a GPU if there is one), `cpu`, `cuda`, ...

    Raises:
        InputError: unknown base or device.
    """
    import torch  # processes that only count pixels do without it

    from amodal.inference.devices import pick_device
    from amodal.inference.segmenter import AmodalSegmenter
    from amodal.models.bases.families import family_of, load_base
    from amodal.models.plug import PlugConfig, PlugModel

    sam = load_base(base)
    family = family_of(sam.model.config)
    sizes = family.sizes(sam.model.config)
    side, stride = min(family.native_size(sizes), PlugConfig().image_size), family.stride(sizes)
    config = PlugConfig(
        sam=sizes, image_size=side // stride * stride,
        lora_rank=0, parallel_lora=False, visible_branch=False, refine=False, point_loss=False,
        mask_threshold=SAM_THRESHOLD,
    )  # fmt: skip
    return AmodalSegmenter(PlugModel.from_base(sam, config), pick_device(device), torch.float32)


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
