"""Masks of objects as Label Studio writes them, and whether people drew over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from amodal.errors import InputError
from amodal.ops.brush_rle import decode_brush, encode_brush
from amodal.ops.rle import decode_mask

Mask = npt.NDArray[np.bool_]
Record = dict[str, Any]

PARTS = {"visible": "visible_mask", "whole": "segmentation"}


def masks_changed(result: Sequence[Record], masks: dict[str, tuple[Mask, list[int]]]) -> bool:
    """Whether an annotation's brush regions are not the masks of the picture's objects, bit by bit.

    Args:
        result: the annotation's.
        masks: as `labelled_masks` gives them.
    """
    for region in result:
        value = region.get("value") or {}
        if region.get("type") != "brushlabels" or "rle" not in value:
            continue
        label = str((value.get("brushlabels") or [""])[0])
        if label not in masks:
            return True
        mask, encoded = masks[label]
        if value["rle"] == encoded:
            continue
        try:
            if not np.array_equal(decode_brush(value["rle"], (mask.shape[0], mask.shape[1])), mask):
                return True
        except InputError:
            return True
    return False


def labelled_masks(records: Sequence[Record]) -> dict[str, tuple[Mask, list[int]]]:
    """Both masks of every object by label, `2 visible`, also as brush RLE; those without a pixel left out."""
    masks = {}
    for number, record in enumerate(records, start=1):
        for part, key in PARTS.items():
            mask = decode_mask(record[key])
            if mask.any():
                masks[f"{number} {part}"] = (mask, encode_brush(mask))
    return masks
