"""Pixels in, pixels out: crops for PLUG's network and masks back in the photograph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers.image_processing_base import ImageProcessingMixin

from amodal.models.plug.configuration import PlugConfig
from amodal.ops.arrays import Window
from amodal.ops.boxes import boxes_to_crop, crop_window
from amodal.ops.masks import crop_and_resize

# ImageNet mean and deviation on the 0-1 scale, as SAM was trained with.
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


@dataclass
class PlugInputs:
    """One crop a row, ready for `PlugModel`; a crop shows one object, a whole picture all of them.

    Attributes:
        pixel_values: (N, 3, S, S) normalised crops.
        input_boxes: (N, P, 4) visible boxes xyxy in the crop's S x S frame.
        windows: N crop windows (x0, y0, x1, y1) in image pixels.
        size: (H, W) of the image.
    """

    pixel_values: Tensor
    input_boxes: Tensor
    windows: list[Window]
    size: tuple[int, int]


class PlugProcessor(ImageProcessingMixin):
    """Cuts twice the visible box around each object, resized to the network's square.

    The pixel rule is C2F-Seg's, which PLUG section 4.2 follows: the window is clipped to the
    image without padding and resized without keeping its aspect.

    Args:
        image_size: side of the network's square input.
        crop_scale: side of the window relative to the box.
        image_mean: subtracted from RGB in [0, 1].
        image_std: divides the result.
    """

    def __init__(
        self,
        image_size: int = 512,
        crop_scale: float = 2.0,
        image_mean: Sequence[float] = IMAGE_MEAN,
        image_std: Sequence[float] = IMAGE_STD,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        self.image_size = image_size
        self.crop_scale = crop_scale
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)

    @classmethod
    def from_config(cls, config: PlugConfig) -> PlugProcessor:
        """The processor that belongs to a model."""
        return cls(image_size=config.image_size, crop_scale=config.crop_scale)

    def __call__(self, image: npt.NDArray[np.uint8], boxes_xyxy: npt.NDArray[np.floating]) -> PlugInputs:
        """Prepare all objects of one image.

        Args:
            image: (H, W, 3) uint8 RGB.
            boxes_xyxy: (N, 4) visible boxes in image pixels, inside the image.

        Returns:
            `PlugInputs` with N rows.
        """
        size = (image.shape[0], image.shape[1])
        crops, boxes, windows = [], [], []
        for box in np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4):
            window = crop_window(box, size, self.crop_scale)
            crops.append(crop_and_resize(image, window, self.image_size, "area"))
            boxes.append(boxes_to_crop(box[None], window, self.image_size))
            windows.append(window)
        pixels = self.normalize(np.stack(crops))
        return PlugInputs(pixels, torch.from_numpy(np.stack(boxes)).float(), windows, size)

    def whole(self, image: npt.NDArray[np.uint8], boxes_xyxy: npt.NDArray[np.floating]) -> PlugInputs:
        """Prepare a whole picture for all of its objects at once.

        Args:
            image: (H, W, 3) uint8 RGB.
            boxes_xyxy: (P, 4) visible boxes in image pixels, inside the image.

        Returns:
            `PlugInputs` with one row of P boxes.
        """
        size = (image.shape[0], image.shape[1])
        window = (0, 0, size[1], size[0])
        pixels = self.normalize(crop_and_resize(image, window, self.image_size, "area")[None])
        boxes = boxes_to_crop(np.asarray(boxes_xyxy, np.float64).reshape(-1, 4), window, self.image_size)
        return PlugInputs(pixels, torch.from_numpy(boxes[None]).float(), [window], size)

    def normalize(self, crops: npt.NDArray[np.uint8]) -> Tensor:
        """(N, S, S, 3) uint8 RGB to (N, 3, S, S) float32."""
        mean = torch.tensor(self.image_mean).view(3, 1, 1)
        std = torch.tensor(self.image_std).view(3, 1, 1)
        return (torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255 - mean) / std
