"""Masks as polygons and as uncompressed RLEs, for tools that read no compressed RLEs."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np

from amodal.ops.arrays import Mask
from amodal.ops.rle import Rle, decode_window, rle_box_xyxy, run_lengths

MaskForm = Literal["rle", "polygon", "counts"]
"""Compressed RLE, polygons, or uncompressed RLE, each as COCO defines it."""

_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
"""Steps (row, column) along the upper, right, lower and left edge of a pixel, clockwise."""

_FIRST_CORNERS = ((0, 0), (0, 1), (1, 1), (1, 0))
"""Where, from the upper left corner of the pixel, each of these edges starts."""


def segmentation_as(rle: Rle, form: MaskForm) -> Any:
    """The mask as a COCO segmentation of this form; all forms have the same pixels."""
    if form == "rle":
        return rle
    if form == "counts":
        return {"size": rle["size"], "counts": run_lengths(rle)}
    return rle_polygons(rle)


def rle_polygons(rle: Rle) -> list[list[float]]:
    """Polygons [x, y, x, y, ...] along the edges of the pixels, which COCO's tools fill to exactly the mask.

    Each part whose pixels share sides has its own polygon. Polygons have no holes, so a part with holes is cut in two
    along a column through a hole until no part has one. An empty mask has no polygon.
    """
    x0, y0, x1, y1 = (int(v) for v in rle_box_xyxy(rle))
    waiting = [(decode_window(rle, (x0, y0, x1, y1)), x0)] if x1 > x0 else []
    polygons = []
    while waiting:
        mask, left = waiting.pop()
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
        for label in range(1, count):
            x, y, width, height = (int(v) for v in stats[label][:4])
            part = labels[y : y + height, x : x + width] == label
            hole = _column_of_a_hole(part)
            if hole is None:
                polygons.append([float(v) for px, py in _outline(part) for v in (px + left + x, py + y0 + y)])
            else:
                whole = np.zeros((mask.shape[0], width), bool)
                whole[y : y + height] = part
                waiting += [(whole[:, :hole], left + x), (whole[:, hole:], left + x + hole)]
    return polygons


def _column_of_a_hole(part: Mask) -> int | None:
    """A column, not the first one, at which a cut opens a hole of a part; None if it has no hole."""
    outside = np.pad(~part, 1, constant_values=True).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(outside, connectivity=8)
    if count <= 2:
        return None
    left, width = next(
        (int(s[0]), int(s[2])) for s in stats[1:] if not (s[0] == 0 and s[1] == 0)
    )  # the surroundings touch the corner
    return max(left - 1 + width // 2, 1)


def _outline(part: Mask) -> list[tuple[int, int]]:
    """Corners (x, y) of the outline of a part without holes whose pixels share sides, clockwise."""
    padded = np.pad(part, 1)
    around = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])  # above, right, below, left
    edges: dict[tuple[int, int], list[int]] = {}
    for direction, (neighbour, (down, right)) in enumerate(zip(around, _FIRST_CORNERS, strict=True)):
        rows, columns = np.nonzero(part & ~neighbour)
        for corner in zip((rows + down).tolist(), (columns + right).tolist(), strict=True):
            edges.setdefault(corner, []).append(direction)
    start = (0, int(part[0].argmax()))
    corner, direction, corners = start, 0, list[tuple[int, int]]()
    while True:
        row, column = corner
        corners.append((column, row))
        while True:
            corner = (corner[0] + _STEPS[direction][0], corner[1] + _STEPS[direction][1])
            if direction not in edges[corner] or (direction + 1) % 4 in edges[corner]:
                break
        if corner == start:
            return corners
        # Where two pixels touch at a corner, a turn to the right stays with the same pixel.
        right_turn = (direction + 1) % 4
        direction = right_turn if right_turn in edges[corner] else (direction + 3) % 4
