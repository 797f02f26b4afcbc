"""Pixel counts of an object, from which every protocol but `amodal_ap` follows.

P predicted amodal mask, G true amodal mask, V true visible mask, W predicted visible mask. Counting
happens on run lengths: nothing of the image's size is ever allocated.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from amodal.ops.rle import Rle, rle_as_bytes

Numbers = npt.NDArray[np.int64]
Row = tuple[int, ...]
"""Counts of one object in the order of the fields of `Counts`."""


class Counts(NamedTuple):
    """Counts of N objects, each (N,) int64.

    Attributes:
        overlap: |P∩G|.
        union: |P∪G|.
        hidden_overlap: |(P∖V) ∩ (G∖V)|.
        hidden_union: |(P∖V) ∪ (G∖V)|.
        amodal: |G|.
        visible: |V|.
        hidden: |G∖V|.
        spilled: |V∖G|, 0 where truth is consistent.
        own_overlap: |W∩V|.
        own_union: |W∪V|; -1 where no visible mask was predicted.
    """

    overlap: Numbers
    union: Numbers
    hidden_overlap: Numbers
    hidden_union: Numbers
    amodal: Numbers
    visible: Numbers
    hidden: Numbers
    spilled: Numbers
    own_overlap: Numbers
    own_union: Numbers

    @classmethod
    def of_rows(cls, rows: Iterable[Row] | Numbers) -> Counts:
        """From one row an object."""
        table = np.asarray(rows if isinstance(rows, np.ndarray) else list(rows), np.int64)
        return cls(*table.reshape(-1, len(cls._fields)).T)

    @property
    def hidden_share(self) -> npt.NDArray[np.float64]:
        """|G∖V| / |G| (N,) in [0, 1], 0 for an empty G.

        Where V stays inside G this is the occlusion rate; where V spills out it still agrees with
        what counts as hidden.
        """
        return np.asarray(self.hidden / np.maximum(self.amodal, 1), np.float64)


def count_pixels(amodal_pred: Rle, amodal_true: Rle, visible_true: Rle, visible_pred: Rle | None = None) -> Row:
    """Counts of one object; all masks of the same image size.

    Raises:
        ValueError: a mask of another size.
    """
    given = [amodal_pred, amodal_true, visible_true, *([visible_pred] if visible_pred else [])]
    for rle in given:
        if list(rle["size"]) != list(amodal_true["size"]):
            raise ValueError(f"masks: expected all of size {list(amodal_true['size'])}, got {list(rle['size'])}")
    P, G, V, *W = (rle_as_bytes(rle) for rle in given)
    PG = _intersection(P, G)
    areas = [P, G, V, PG, _intersection(P, V), _intersection(G, V), _intersection(PG, V)]
    areas += [W[0], _intersection(W[0], V)] if W else []
    p, g, v, pg, pv, gv, pgv, *own = (int(n) for n in coco_mask.area(areas))
    hidden_overlap = pg - pgv
    own_overlap, own_union = (own[1], own[0] + v - own[1]) if own else (0, -1)
    return (
        pg,
        p + g - pg,
        hidden_overlap,
        (p - pv) + (g - gv) - hidden_overlap,
        g,
        v,
        g - gv,
        v - gv,
        own_overlap,
        own_union,
    )


def _intersection(a: Rle, b: Rle) -> Rle:
    merged: Rle = coco_mask.merge([a, b], True)
    return merged
