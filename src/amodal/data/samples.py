"""Datasets in memory: images and their annotated objects, whatever format they were read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from amodal.errors import InputError
from amodal.io.images import load_image
from amodal.ops.arrays import Box, Mask
from amodal.ops.occlusion import rle_occlusion_rate
from amodal.ops.rle import Rle, decode_mask


@dataclass(frozen=True)
class ObjectSample:
    """One annotated object, whose masks are kept as RLEs.

    Attributes:
        id: annotation id.
        category_id: key into the dataset's categories.
        visible_rle: visible mask, COCO compressed RLE.
        amodal_rle: amodal mask, or None if the source does not know it (modal datasets).
        visible_box_xyxy: tight box of the visible mask, image pixels.
        amodal_box_xyxy: tight box of the amodal mask, or None.
        occluders: annotation ids of its occluders.
        iscrowd: it is a region of many objects instead of one object.
        attributes: other fields of the source, under the source's own names.
        occluders_known: the source states the occluders (there may be none); otherwise
            `relations.derive_occluders` derives them from the masks.
        is_stuff: it is a region without a countable shape (sky, floor), "stuff" instead of a "thing" in COCO's terms.
        annotator: who drew it, if several people annotated the same image.
        order: the source's own order from front to back: within one `order_group` an object never occludes an object
            with a smaller number.
        order_group: group of objects of the image within which `order` can be compared.
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
    occluders_known: bool = False
    is_stuff: bool = False
    annotator: str | None = None
    order: int | None = None
    order_group: int | None = None

    def visible_mask(self) -> Mask:
        """Decode the visible mask, (H, W) bool."""
        return decode_mask(self.visible_rle)

    def amodal_mask(self) -> Mask | None:
        """Decode the amodal mask, (H, W) bool; None if it is unknown."""
        return None if self.amodal_rle is None else decode_mask(self.amodal_rle)

    def occlusion_rate(self) -> float:
        """Occlusion rate in [0, 1]; 0 where the amodal mask is unknown."""
        return 0.0 if self.amodal_rle is None else rle_occlusion_rate(self.visible_rle, self.amodal_rle)


@dataclass(frozen=True)
class ImageSample:
    """One image with its objects.

    Attributes:
        id: image id.
        path: image file; it need not exist until `load` is called.
        height: H of the image.
        width: W of the image.
        objects: in file order. Datasets that were read from a file have lazy sequences, which read and check the
            records of an image on access.
        file_name: name in the source, relative to the folder of the images; default: the last part of the path.
        attributes: other fields of the source about the image (licence, address ...).
    """

    id: int
    path: Path
    height: int
    width: int
    objects: Sequence[ObjectSample]
    file_name: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.file_name:
            object.__setattr__(self, "file_name", self.path.name)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return (self.height, self.width)

    def load(self) -> npt.NDArray[np.uint8]:
        """Load the pixels, (H, W, 3) uint8 RGB.

        Raises:
            InputError: the file cannot be read, or its size is not the annotated one.
        """
        pixels = load_image(self.path)
        if pixels.shape[:2] != self.size:
            found = f"{pixels.shape[0]} x {pixels.shape[1]}"
            raise InputError(f"image {self.path}: expected {self.height} x {self.width} as annotated, got {found}")
        return pixels


@dataclass(frozen=True)
class AnnotatedDataset:
    """Images, their objects, and the names of the categories.

    Attributes:
        images: in file order; objects are read on access.
        categories: names by id.
        format: name of the format it was read from.
        extras: other fields of the source about the whole dataset (`info`, `licenses` ...).
    """

    images: tuple[ImageSample, ...]
    categories: dict[int, str]
    format: str
    extras: dict[str, Any] = field(default_factory=dict)

    @property
    def num_objects(self) -> int:
        """Number of objects in all images."""
        return sum(len(image.objects) for image in self.images)
