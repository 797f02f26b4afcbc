"""Visible masks from a promptable segmenter as it was published (SAM, SAM 2, ...), without training it.

The whole image is prepared as the segmenter's own processor in transformers does it: resized to the input size that it
was trained with, with padding where its family keeps the aspect ratio. A pixel is foreground where the logit of the
decoder's first mask token, resized to the image, is above 0.

Differs from SAM for an ambiguous point: because one mask per object is needed, the single mask is used, and not the
best of the three alternatives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from amodal.errors import InputError
from amodal.inference.features import FeatureCache
from amodal.inference.prompts import ObjectPrompt
from amodal.io.images import ImageArray
from amodal.models.bases.promptable import PromptableModel
from amodal.models.bases.protocol import Prompts
from amodal.ops.arrays import Mask
from amodal.ops.boxes import mask_to_box
from amodal.ops.rle import encode_mask


class VisibleMaskSource:
    """Makes visible masks from boxes and points.

    Args:
        model: the promptable segmenter.
        name: what scenes call it.
        device: device of the model.
        dtype: precision of the encoder; bfloat16 runs under autocast.
    """

    def __init__(
        self,
        model: PromptableModel,
        name: str,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.name, self.dtype = name, dtype
        self.device = device or torch.device("cpu")
        self.model = model.to(self.device)
        self.features = FeatureCache()

    @classmethod
    def from_pretrained(
        cls, name: str | Path, device: torch.device | None = None, dtype: torch.dtype = torch.float32
    ) -> VisibleMaskSource:
        """Load a promptable segmenter of any family in `models/bases`.

        Args:
            name: hub id, folder, checkpoint file or bundled name.
            device: device of the model.
            dtype: precision of the encoder.

        Raises:
            InputError: there is no such segmenter, or it cannot be read.
        """
        try:
            return cls(PromptableModel.from_pretrained(name), str(name), device, dtype)
        except InputError as error:
            raise InputError(f"visible-from: {str(error).removeprefix('base: ')}") from error

    def complete(self, image: ImageArray, prompts: Sequence[ObjectPrompt], batch_size: int = 16) -> list[ObjectPrompt]:
        """Give each object that has no visible mask the mask that the segmenter makes for its box and points.

        An object without a box gets the tight box of its mask. Where the mask is empty, it gets one pixel at its first
        point.

        Args:
            image: (H, W, 3) uint8 RGB.
            prompts: one per object.
            batch_size: maximum number of objects per call of the mask decoder.

        Returns:
            The prompts in their order, each with a visible mask, which may be empty, and with a box.
        """
        complete = list(prompts)
        missing = [index for index, prompt in enumerate(prompts) if prompt.visible is None]
        for index, mask in zip(missing, self.masks(image, [prompts[i] for i in missing], batch_size), strict=True):
            prompt = prompts[index]
            box = prompt.box_xyxy
            if box is None:
                x0, y0, x1, y1 = (float(v) for v in mask_to_box(mask))
                if x1 == 0 and prompt.points_xy is not None and prompt.point_labels is not None:
                    x0, y0 = np.floor(prompt.points_xy[prompt.point_labels == 1][0]).tolist()
                    x1, y1 = x0 + 1, y0 + 1
                box = (x0, y0, x1, y1)
            complete[index] = replace(prompt, visible=encode_mask(mask), box_xyxy=box)
        return complete

    @torch.inference_mode()
    def masks(self, image: ImageArray, prompts: Sequence[ObjectPrompt], batch_size: int = 16) -> list[Mask]:
        """Predict the mask of each object from its box, its points, or both; the image is encoded once.

        Args:
            image: (H, W, 3) uint8 RGB.
            prompts: one per object; visible masks in them are not used.
            batch_size: maximum number of objects per call of the mask decoder.

        Returns:
            N masks (H, W) bool.
        """
        if not prompts:
            return []
        size = (image.shape[0], image.shape[1])
        inner = self._inner_size(size)
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            features = self.features.get(image, id(self.model), lambda: self.model.encode(self._prepared(image, inner)))
        masks: dict[int, Mask] = {}
        for group in _groups(prompts, batch_size):
            given = self._inputs([prompts[i] for i in group], size, inner)
            with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
                logits, _quality = self.model(features, given)
            for index, one in zip(group, logits[0].float(), strict=True):  # one by one: (H, W) may be large
                masks[index] = self._resized(one, size, inner)
        return [masks[index] for index in range(len(prompts))]

    def _inner_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Size (h, w) of the image within the network's square input, from the size (H, W) of the image."""
        side = self.model.image_size
        if not self.model.family.keeps_aspect_ratio:
            return (side, side)
        scale = side / max(size)
        return (max(int(size[0] * scale + 0.5), 1), max(int(size[1] * scale + 0.5), 1))

    def _prepared(self, image: ImageArray, inner: tuple[int, int]) -> Tensor:
        """(1, 3, S, S) normalised, with zeros on the right and below."""
        if self.model.family.keeps_aspect_ratio:  # by Pillow, as in SAM's code
            image = np.asarray(Image.fromarray(image).resize(inner[::-1], Image.Resampling.BILINEAR))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        if not self.model.family.keeps_aspect_ratio:  # by PyTorch, as in transformers; it rounds differently
            pixels = F.interpolate(pixels, inner, mode="bilinear", antialias=True, align_corners=False)
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in (self.model.family.image_mean, self.model.family.image_std))
        side = self.model.image_size
        normalised = (pixels.float() / 255 - mean) / std
        return F.pad(normalised, (0, side - inner[1], 0, side - inner[0])).to(self.device)

    def _inputs(self, prompts: Sequence[ObjectPrompt], size: tuple[int, int], inner: tuple[int, int]) -> Prompts:
        """Prompts of one kind in pixels of the network's input, for one image."""
        scale = np.array([inner[1] / size[1], inner[0] / size[0]])

        def tensor(rows: list[np.ndarray]) -> Tensor:
            return torch.from_numpy(np.stack(rows)[None]).float().to(self.device)

        boxes = [np.array(p.box_xyxy) * np.tile(scale, 2) for p in prompts if p.box_xyxy is not None]
        points = [p.points_xy * scale for p in prompts if p.points_xy is not None]
        labels = [p.point_labels for p in prompts if p.point_labels is not None]
        return Prompts(
            boxes=tensor(boxes) if boxes else None,
            points=tensor(points) if points else None,
            labels=torch.from_numpy(np.stack(labels)[None]).to(self.device) if points else None,
        )

    def _resized(self, logits: Tensor, size: tuple[int, int], inner: tuple[int, int]) -> Mask:
        """Mask (H, W) of logits (h, w), without the padding of the input."""
        maps = logits[None, None]
        if self.model.family.keeps_aspect_ratio:
            side = self.model.image_size
            maps = F.interpolate(maps, (side, side), mode="bilinear", align_corners=False)[..., : inner[0], : inner[1]]
        maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
        return np.asarray((maps[0, 0] > 0).cpu().numpy(), bool)


def _groups(prompts: Sequence[ObjectPrompt], batch_size: int) -> Iterator[list[int]]:
    """Divide prompts into lists of indices of one form (with or without a box, number of points), in their order."""
    by_form: dict[tuple[bool, int], list[int]] = {}
    for index, prompt in enumerate(prompts):
        num_points = 0 if prompt.points_xy is None else len(prompt.points_xy)
        by_form.setdefault((prompt.box_xyxy is not None, num_points), []).append(index)
    for indices in by_form.values():
        for start in range(0, len(indices), batch_size):
            yield indices[start : start + batch_size]
