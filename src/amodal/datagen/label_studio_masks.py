"""Masks as Label Studio writes them, through its SDK's converter.

Its brush RLE is not COCO's: a bit stream over the picture's red, green, blue and alpha values, row
by row. Masks come back bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from amodal.errors import InputError
from amodal.ops.rle import decode_mask

Mask = npt.NDArray[np.bool_]
Record = dict[str, Any]

PARTS = {"visible": "visible_mask", "whole": "segmentation"}


def brush_rle(mask: Mask) -> list[int]:
    """(H, W) bool to the bytes of Label Studio's brush RLE."""
    encoded: list[int] = load_sdk().converter.brush.mask2rle(mask.astype(np.uint8) * np.uint8(255))
    return encoded


def brush_mask(rle: Sequence[int], height: int, width: int) -> Mask:
    """Label Studio's brush RLE to (H, W) bool: where alpha is not 0.

    Raises:
        InputError: not bytes, broken off, or of a picture of another size.
    """
    try:
        data = bytes(rle)
    except (TypeError, ValueError) as error:
        raise InputError("mask: expected the bytes of a brush RLE, got other values") from error
    covered = int.from_bytes(data[:4], "big")  # checked first: the decoder makes room for any number
    if covered != height * width * 4:
        raise InputError(f"mask: expected a brush RLE of {height * width * 4} values, got one of {covered}")
    try:
        values = load_sdk().converter.brush.decode_rle(data)
    except (ValueError, IndexError) as error:
        raise InputError("mask: expected a whole brush RLE, got a part") from error
    return np.asarray(values.reshape(height, width, 4)[..., 3] > 0)


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
            if not np.array_equal(brush_mask(value["rle"], *mask.shape), mask):
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
                masks[f"{number} {part}"] = (mask, brush_rle(mask))
    return masks


def load_sdk() -> Any:
    """The SDK with the parts used here. Raises `InputError` if it is not installed."""
    try:
        import label_studio_sdk
        import label_studio_sdk.converter.brush
        import label_studio_sdk.label_interface
    except ImportError as error:
        raise InputError(
            "review: expected the Label Studio SDK, got none: pip install 'amodal[label-studio]'"
        ) from error
    return label_studio_sdk
