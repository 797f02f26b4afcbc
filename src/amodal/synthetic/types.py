"""What every generator of pictures with known truth returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass
class SyntheticObject:
    """One object of a generated picture.

    Attributes:
        category: name of its kind.
        visible_mask: (H, W) bool, part not hidden by others.
        amodal_mask: (H, W) bool, whole object within the frame; covers the visible mask.
        occluders: indices, in the picture's list, of the objects that hide part of it.
        attributes: what else is known (colour, material, depth, truncation ...).
    """

    category: str
    visible_mask: npt.NDArray[np.bool_]
    amodal_mask: npt.NDArray[np.bool_]
    occluders: list[int] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass
class SyntheticImage:
    """A generated picture and its truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        objects: back to front.
    """

    image: npt.NDArray[np.uint8]
    objects: list[SyntheticObject]


def occluders_of(index: int, visible: list[npt.NDArray[np.bool_]], hidden: npt.NDArray[np.bool_]) -> list[int]:
    """Indices of the objects whose visible mask covers pixels of `hidden`, except `index`."""
    return [i for i, mask in enumerate(visible) if i != index and bool((mask & hidden).any())]
