"""Pictures with the names of what is in them: what teaches a small vision tower to see.

Axes: B pictures, S side of the LLM's square picture in pixels, c tokens along each side, K names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from amodal.models.aura.processing import AuraProcessor
from amodal.training.datasets.conversations import ReasonSource
from amodal.training.datasets.crops import Key
from amodal.training.datasets.naming import TOKEN, Numbers, named_tokens, object_map
from amodal.training.datasets.transforms import Augmentation, augment_colours

Rng = np.random.Generator
Picture = npt.NDArray[np.uint8]


class NamedPictures(Dataset[dict[str, Any]]):
    """Pictures as the LLM sees them, and what is under each token; no words.

    What has been read is kept, small as the LLM's pictures are: reading costs more than learning.

    Args:
        sources: datasets with weights; their questions do not matter.
        processor: of the model.
        cells: c.
        classes: K.
        augmentation: None for evaluation. `scale` zooms, `shift` is relative to S; there are no
            boxes to jitter and no wide windows.
    """

    def __init__(
        self,
        sources: Sequence[ReasonSource],
        processor: AuraProcessor,
        *,
        cells: int,
        classes: int,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.sources = list(sources)
        self.processor = processor
        self.cells, self.classes, self.augmentation = cells, classes, augmentation
        self._images = [
            list({c.image.id: c.image for c in source.dataset.conversations}.values()) for source in sources
        ]
        self._kept: dict[tuple[int, int], tuple[Picture, Numbers]] = {}

    @property
    def lengths(self) -> list[int]:
        """Pictures of each source."""
        return [len(images) for images in self._images]

    def describe(self, key: Key) -> dict[str, Any]:
        """What a key names: `source`, `image_id` and the image's `file`."""
        image = self._images[key[0]][key[1]]
        return {"source": key[0], "image_id": image.id, "file": str(image.path)}

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """`picture` (S, S, 3) uint8, `names` (c * c, K) and `name_boxes` (c * c, 4)."""
        source, position, seed = key
        picture, objects = self._read(source, position)
        if self.augmentation is not None:
            rng = np.random.default_rng(seed)
            picture, objects = _moved(rng, picture, objects, self.augmentation)
            picture = augment_colours(rng, picture, self.augmentation)
        categories = [thing.category_id for thing in self._images[source][position].objects]
        names, boxes = named_tokens(objects, categories, self.cells, self.classes)
        return {"picture": picture, "names": names, "name_boxes": boxes}

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        """`pixel_values` (B, 3, S, S), `names` (B, c * c, K) and `name_boxes` (B, c * c, 4)."""
        batch = {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in items[0]}
        return {"pixel_values": self.processor.normalised(batch.pop("picture"))} | batch

    def _read(self, source: int, position: int) -> tuple[Picture, Numbers]:
        kept = self._kept.get((source, position))
        if kept is None:
            image = self._images[source][position]
            kept = self.processor.mllm_picture(image.load()), object_map(image, self.cells * TOKEN)
            self._kept[source, position] = kept
        return kept


def _moved(rng: Rng, picture: Picture, objects: Numbers, strength: Augmentation) -> tuple[Picture, Numbers]:
    """Picture and map zoomed about the middle, shifted and perhaps mirrored alike; grey where nothing was."""
    zoom = rng.uniform(*strength.scale)
    shift = rng.uniform(-1, 1, 2) * strength.shift
    mirror = -1 if rng.random() < strength.flip else 1

    def move(values: npt.NDArray[Any], interpolation: int, outside: int) -> npt.NDArray[Any]:
        side = len(values)
        middle = (side - 1) / 2
        scales = np.array([zoom * mirror, zoom])
        offset = middle - scales * middle + shift * side
        matrix = np.concatenate([np.diag(scales), offset[:, None]], axis=1)
        border = (outside,) * 3
        return cv2.warpAffine(values, matrix, (side, side), flags=interpolation, borderValue=border)

    return move(picture, cv2.INTER_LINEAR, 127), move(objects, cv2.INTER_NEAREST, 0)
