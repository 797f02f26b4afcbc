"""PLUG's inputs: crops around visible boxes, or a whole image, resized to the network's square."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers.image_processing_base import ImageProcessingMixin

from amodal.errors import InputError
from amodal.models.bases.protocol import IMAGE_MEAN, IMAGE_STD
from amodal.models.increments import resolve_folder, upload
from amodal.models.plug.configuration import PlugConfig
from amodal.ops.arrays import Mask, Window
from amodal.ops.boxes import boxes_to_crop, crop_window
from amodal.ops.masks import crop_and_resize, crop_mask


@dataclass
class PlugInputs:
    """Inputs of `PlugModel`: N crops with one object each, or one whole image with P objects.

    Attributes:
        pixel_values: (N, 3, S, S) normalised crops.
        input_boxes: (N, P, 4) visible boxes xyxy in pixels of the S x S crop.
        windows: N crop windows (x0, y0, x1, y1) in pixels of the image.
        size: (H, W) of the image.
        input_masks: (N, P, S, S) bool, visible masks in the crop; None if no masks were given.
        mask_given: (N, P) bool, which objects have a mask with pixels in the crop; None likewise.
    """

    pixel_values: Tensor
    input_boxes: Tensor
    windows: list[Window]
    size: tuple[int, int]
    input_masks: Tensor | None = None
    mask_given: Tensor | None = None


def mask_prompts_of(inputs: Sequence[PlugInputs]) -> dict[str, Tensor]:
    """Mask prompts of several crops as `PlugModel` takes them: `input_masks` and `mask_given`.

    Empty if no crop has one. Crops without mask prompts get masks that are not given.
    """
    shapes = [i.input_masks.shape for i in inputs if i.input_masks is not None]
    if not shapes:
        return {}
    masks = [torch.zeros(shapes[0], dtype=torch.bool) if i.input_masks is None else i.input_masks for i in inputs]
    given = [torch.zeros(shapes[0][:2], dtype=torch.bool) if i.mask_given is None else i.mask_given for i in inputs]
    return {"input_masks": torch.cat(masks), "mask_given": torch.cat(given)}


class PlugProcessor(ImageProcessingMixin):
    """Crops a window of twice the visible box around each object and resizes it to the network's square.

    The pixel rule is C2F-Seg's, which PLUG section 4.2 follows: the window is clipped to the
    image without padding and resized without keeping its aspect ratio.

    Args:
        image_size: side of the network's square input.
        crop_scale: side of the window relative to the box.
        crop_extra_pixel: let the window reach one pixel further to the right and to the bottom.
        image_mean: subtracted from RGB in [0, 1].
        image_std: divides the result.
    """

    def __init__(
        self,
        image_size: int = 512,
        crop_scale: float = 2.0,
        crop_extra_pixel: bool = False,
        image_mean: Sequence[float] = IMAGE_MEAN,
        image_std: Sequence[float] = IMAGE_STD,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        self.image_size = image_size
        self.crop_scale = crop_scale
        self.crop_extra_pixel = crop_extra_pixel
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        max_shard_size: int | str | None = None,
    ) -> None:
        """Write the settings to `preprocessor_config.json`.

        Args:
            save_directory: folder to create or fill.
            push_to_hub: upload the folder as well.
            repo_id: hub repository to upload to; named as the folder if None.
            max_shard_size: passed by transformers' `push_to_hub`; has no effect.
        """
        super().save_pretrained(str(save_directory))
        if push_to_hub:
            upload(Path(save_directory), repo_id)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None
    ) -> PlugProcessor:
        """Load the processor of a bundled name, folder or hub id.

        Raises:
            InputError: there is no such model, or it has no `preprocessor_config.json`.
        """
        folder = resolve_folder(pretrained_model_name_or_path, revision)
        try:
            return super().from_pretrained(str(folder))
        except OSError as error:
            raise InputError(f"model {folder}: expected a processor in preprocessor_config.json, got none") from error

    @classmethod
    def from_config(cls, config: PlugConfig) -> PlugProcessor:
        """Make the processor that belongs to a model."""
        return cls(
            image_size=config.image_size,
            crop_scale=config.crop_scale,
            crop_extra_pixel=config.crop_extra_pixel,
            image_mean=config.family.image_mean,
            image_std=config.family.image_std,
        )

    def __call__(
        self,
        image: npt.NDArray[np.uint8],
        boxes_xyxy: npt.NDArray[np.floating],
        masks: Sequence[Mask | None] | npt.NDArray[np.bool_] | None = None,
    ) -> PlugInputs:
        """Prepare all objects of one image, one crop per object.

        Args:
            image: (H, W, 3) uint8 RGB.
            boxes_xyxy: (N, 4) visible boxes in pixels of the image, inside it.
            masks: N visible masks, each (H, W) bool, or None for an object without one.

        Returns:
            `PlugInputs` with N crops.

        Raises:
            InputError: there is not one mask per box, or a mask is not (H, W) bool.
        """
        size = (image.shape[0], image.shape[1])
        crops, boxes, windows = [], [], []
        for box in np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4):
            window = self.window(box, size)
            crops.append(crop_and_resize(image, window, self.image_size, "area"))
            boxes.append(boxes_to_crop(box[None], window, self.image_size))
            windows.append(window)
        pixels = self.normalize(np.stack(crops))
        inputs = PlugInputs(pixels, torch.from_numpy(np.stack(boxes)).float(), windows, size)
        if masks is not None:
            inputs.input_masks, inputs.mask_given = (x[:, None] for x in self._mask_prompts(masks, windows, size))
        return inputs

    def window(self, box_xyxy: npt.NDArray[np.float64], size: tuple[int, int]) -> Window:
        """Window (x0, y0, x1, y1) of the crop around a box (4,), in pixels of an image of `size` (H, W)."""
        return crop_window(box_xyxy, size, self.crop_scale, extra=int(self.crop_extra_pixel))

    def whole(
        self,
        image: npt.NDArray[np.uint8],
        boxes_xyxy: npt.NDArray[np.floating],
        masks: Sequence[Mask | None] | npt.NDArray[np.bool_] | None = None,
    ) -> PlugInputs:
        """Prepare a whole image for all of its objects at once.

        Args:
            image: (H, W, 3) uint8 RGB.
            boxes_xyxy: (P, 4) visible boxes in pixels of the image, inside it.
            masks: P visible masks, each (H, W) bool, or None for an object without one.

        Returns:
            `PlugInputs` with one crop, the whole image, and P boxes.

        Raises:
            InputError: there is not one mask per box, or a mask is not (H, W) bool.
        """
        size = (image.shape[0], image.shape[1])
        window = (0, 0, size[1], size[0])
        pixels = self.normalize(crop_and_resize(image, window, self.image_size, "area")[None])
        boxes = boxes_to_crop(np.asarray(boxes_xyxy, np.float64).reshape(-1, 4), window, self.image_size)
        inputs = PlugInputs(pixels, torch.from_numpy(boxes[None]).float(), [window], size)
        if masks is not None:
            windows = [window] * len(boxes)
            inputs.input_masks, inputs.mask_given = (x[None] for x in self._mask_prompts(masks, windows, size))
        return inputs

    def _mask_prompts(
        self,
        masks: Sequence[Mask | None] | npt.NDArray[np.bool_],
        windows: Sequence[Window],
        size: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """Crop one mask per window: (N, S, S) bool, and (N,) bool, which of them have pixels in the crop."""
        if len(masks) != len(windows):
            raise InputError(f"masks: expected one mask per box, got {len(masks)} masks and {len(windows)} boxes")
        crops = np.zeros((len(masks), self.image_size, self.image_size), bool)
        for index, (mask, window) in enumerate(zip(masks, windows, strict=True)):
            if mask is None:
                continue
            if mask.dtype != bool or mask.shape != size:
                raise InputError(f"masks: expected bool masks of shape {size}, got {mask.dtype} of shape {mask.shape}")
            crops[index] = crop_mask(mask, window, self.image_size)
        return torch.from_numpy(crops), torch.from_numpy(crops.any((1, 2)))

    def normalize(self, crops: npt.NDArray[np.uint8]) -> Tensor:
        """(N, S, S, 3) uint8 RGB to (N, 3, S, S) float32, normalised."""
        mean = torch.tensor(self.image_mean).view(3, 1, 1)
        std = torch.tensor(self.image_std).view(3, 1, 1)
        return (torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255 - mean) / std
