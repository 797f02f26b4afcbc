"""The one sample type every reader yields."""

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
        attributes: what else the source says, under the source's own names.
        occluders_known: the source says what hides this object (which may be nothing); where it
            does not, `relations.with_occluders` derives it from the masks.
        is_stuff: a region without a countable shape (sky, floor) rather than a thing.
        annotator: who drew it, where several people annotated the same image.
        order: the source's own order from front to back: within one `order_group` an object
            never stands in front of one with a smaller number.
        order_group: objects of the same image and group can be compared by `order`.
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
        """(H, W) bool."""
        return decode_mask(self.visible_rle)

    def amodal_mask(self) -> Mask | None:
        """(H, W) bool, or None where unknown."""
        return None if self.amodal_rle is None else decode_mask(self.amodal_rle)

    def occlusion_rate(self) -> float:
        """Occlusion rate in [0, 1]; 0 where the amodal mask is unknown."""
        return 0.0 if self.amodal_rle is None else rle_occlusion_rate(self.visible_rle, self.amodal_rle)


@dataclass(frozen=True)
class ImageSample:
    """One image with its objects.

    Attributes:
        id: image id.
        path: file of the pixels; it need not exist until they are loaded.
        height: H in pixels.
        width: W in pixels.
        objects: in file order. Readers hand out sequences that read an image's records when they
            are asked for, and only then find out that one of them is broken.
        file_name: as the source writes it, relative to the folder of the images; the path's last
            part if left out.
        attributes: what else the source says about the image (licence, address ...).
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
    """Images, their objects, and the names of the categories.

    Attributes:
        images: in file order; light, as objects are read when asked for.
        categories: names by id.
        format: name of the format it was read from.
        extras: what else the source says about the whole (`info`, `licenses` ...).
    """

    images: tuple[ImageSample, ...]
    categories: dict[int, str]
    format: str
    extras: dict[str, Any] = field(default_factory=dict)

    @property
    def num_objects(self) -> int:
        """Objects in all images."""
        return sum(len(image.objects) for image in self.images)
