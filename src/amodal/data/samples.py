"""The one sample type every reader yields."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from amodal.data.images import load_image
from amodal.errors import InputError
from amodal.ops.rle import Rle, decode_mask

Mask = npt.NDArray[np.bool_]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class ObjectSample:
    """One annotated object. Masks stay encoded until asked for.

    Attributes:
        id: annotation id.
        category_id: key into the dataset's categories.
        visible_rle: visible mask, COCO compressed RLE.
        amodal_rle: amodal mask, or None where the source does not know it (modal datasets).
        visible_box_xyxy: tight box of the visible mask, image pixels.
        amodal_box_xyxy: tight box of the amodal mask, or None.
        occluders: annotation ids of the objects in front of this one.
        iscrowd: a region of many objects rather than one.
        attributes: what else the source says.
    """

    id: int
    category_id: int
    visible_rle: Rle
    amodal_rle: Rle | None
    visible_box_xyxy: Box
    amodal_box_xyxy: Box | None = None
    occluders: tuple[int, ...] = ()
    iscrowd: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)

    def visible_mask(self) -> Mask:
        """(H, W) bool."""
        return decode_mask(self.visible_rle)

    def amodal_mask(self) -> Mask | None:
        """(H, W) bool, or None where unknown."""
        return None if self.amodal_rle is None else decode_mask(self.amodal_rle)


@dataclass(frozen=True)
class ImageSample:
    """One image with its objects."""

    id: int
    path: Path
    height: int
    width: int
    objects: tuple[ObjectSample, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return (self.height, self.width)

    def load(self) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB.

        Raises:
            InputError: the file cannot be read, or has another size than its annotations say.
        """
        pixels = load_image(self.path)
        if pixels.shape[:2] != self.size:
            found = f"{pixels.shape[0]} x {pixels.shape[1]}"
            raise InputError(f"image {self.path}: expected {self.height} x {self.width} as annotated, got {found}")
        return pixels


@dataclass(frozen=True)
class AnnotatedDataset:
    """Images, their objects, and the names of the categories."""

    images: tuple[ImageSample, ...]
    categories: dict[int, str]
    format: str

    @property
    def num_objects(self) -> int:
        """Objects in all images."""
        return sum(len(image.objects) for image in self.images)
