"""`DetectorModel`: finds the objects of an image with a small head on the trunk of a base.

The head is stored beside the base, as `detector.safetensors` and `detector.json`. The trunk is the base's own and stays
as it is, so a base with a detector is hardly larger than one without.

Axes: B images, H W input pixels, N objects.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from amodal.errors import InputError
from amodal.io.json_stream import read_json
from amodal.models.bases.efficientnet_lite import EfficientNetLite
from amodal.models.hub import find_source
from amodal.models.increments import bundled_models
from amodal.nn.detection_head import NORM_GROUPS, CellPredictions, DetectionHead
from amodal.ops.arrays import Boxes
from amodal.ops.boxes import without_overlaps

TENSORS = "detector.safetensors"
CONFIG = "detector.json"
STRIDES = (8, 16, 32)
OTHER = 0
"""Class of objects whose kind is not among `DetectorConfig.classes`."""
MAX_CANDIDATES = 300
"""Boxes with the best scores that are compared with each other."""


class DetectorConfig:
    """Settings of a detector, the content of `detector.json`.

    Args:
        classes: names of the kinds of objects that it knows. Class 0 is any other kind; class i is `classes[i - 1]`.
        image_size: side of the square input in pixels, a multiple of 32.
        channels: width of the head, a multiple of 8.
        min_score: smallest score of a detection.
        min_class_prob: smallest probability of a class that names an object.
        max_overlap: of boxes that overlap more than this (IoU), only the best is kept.
        max_objects: maximum number of detections per image.
        base_fingerprint: identifies the weights of the base that the head was trained on.

    Raises:
        InputError: a value of another type or range, a size that the trunk or the head cannot have, or a name that
            stands twice among the classes.
    """

    def __init__(
        self,
        classes: Sequence[str] = (),
        image_size: int = 256,
        channels: int = 64,
        min_score: float = 0.35,
        min_class_prob: float = 0.5,
        max_overlap: float = 0.6,
        max_objects: int = 40,
        base_fingerprint: str | None = None,
    ) -> None:
        for name, number in (("image_size", image_size), ("channels", channels), ("max_objects", max_objects)):
            if type(number) is not int or number < 1:
                raise InputError(f"{name}: expected an integer from 1, got {number!r:.60}")
        shares = {"min_score": min_score, "min_class_prob": min_class_prob, "max_overlap": max_overlap}
        for name, share in shares.items():
            if type(share) not in (int, float) or not 0 <= share <= 1:
                raise InputError(f"{name}: expected a number from 0 to 1, got {share!r:.60}")
        if not isinstance(classes, (list, tuple)) or not all(isinstance(name, str) for name in classes):
            raise InputError(f"classes: expected a list of names, got {classes!r:.60}")
        if not isinstance(base_fingerprint, (str, type(None))):
            raise InputError(f"base_fingerprint: expected a text, got {base_fingerprint!r:.60}")
        if image_size < STRIDES[-1] or image_size % STRIDES[-1]:
            raise InputError(f"image_size: expected a multiple of {STRIDES[-1]}, got {image_size}")
        if channels < NORM_GROUPS or channels % NORM_GROUPS:
            raise InputError(f"channels: expected a multiple of {NORM_GROUPS}, got {channels}")
        if len(set(classes)) < len(classes):
            raise InputError(f"classes: expected different names, got {list(classes)}")
        self.classes = list(classes)
        self.image_size, self.channels = image_size, channels
        self.min_score, self.min_class_prob = min_score, min_class_prob
        self.max_overlap, self.max_objects = max_overlap, max_objects
        self.base_fingerprint = base_fingerprint

    def name_of(self, number: int) -> str | None:
        """Name of a class; None for class 0."""
        return None if number == OTHER else self.classes[number - 1]


class Detections(NamedTuple):
    """The objects of one image, best first.

    Attributes:
        boxes: (N, 4) xyxy in pixels of the input, inside it.
        scores: (N,) in [0, 1].
        classes: (N,) class numbers; 0 where no class is probable enough.
    """

    boxes: Boxes
    scores: npt.NDArray[np.float64]
    classes: npt.NDArray[np.int64]


class DetectorModel(nn.Module):
    """The frozen trunk of a base with a detection head.

    Args:
        config: settings.
        trunk: the base's trunk; it is shared and frozen.
    """

    def __init__(self, config: DetectorConfig, trunk: EfficientNetLite) -> None:
        super().__init__()
        self.config = config
        self.trunk = trunk.requires_grad_(False)
        channels = [trunk.config.channels(stride) for stride in STRIDES]
        channels[0] += trunk.config.mixed_channels
        self.head = DetectionHead(channels, STRIDES, len(config.classes) + 1, config.channels)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, trunk: EfficientNetLite, fingerprint: str | None = None
    ) -> DetectorModel:
        """Load a head from a folder.

        Args:
            folder: folder with `detector.json` and `detector.safetensors`.
            trunk: the base's trunk.
            fingerprint: identifies the base; None loads the head onto any trunk of the same sizes.

        Raises:
            InputError: files are missing, unreadable or of another version, or the head belongs to other weights.
        """
        config, tensors = _read(Path(folder))
        if fingerprint not in (None, config.base_fingerprint):
            raise InputError(
                f"detector {folder}: expected a base with fingerprint {config.base_fingerprint}, which it was trained "
                f"on, got {fingerprint}"
            )
        model = cls(config, trunk)
        expected = {name: tensor.shape for name, tensor in model.head.state_dict().items()}
        if expected != {name: tensor.shape for name, tensor in tensors.items()}:
            raise InputError(f"detector {folder}: expected the tensors that {CONFIG} describes, got others")
        model.head.load_state_dict(tensors)
        return model

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `detector.json` and the head's tensors to a folder, which is created if needed."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        (path / CONFIG).write_text(json.dumps(vars(self.config), indent=2), encoding="utf-8")
        save_file({k: v.detach().cpu().contiguous() for k, v in self.head.state_dict().items()}, path / TENSORS)

    def forward(self, pixel_values: Tensor) -> CellPredictions:
        """Predict per cell from images (B, 3, H, W), normalised as for the base; H and W are multiples of 32."""
        with torch.no_grad():
            maps = self.trunk.maps(pixel_values)
            mixed = self.trunk.mixed(maps)
        fine, middle, coarse = (maps[stride] for stride in STRIDES)
        predictions: CellPredictions = self.head([torch.cat([fine, mixed], 1), middle, coarse])
        return predictions

    @torch.no_grad()
    def detect(self, pixel_values: Tensor, min_score: float | None = None) -> list[Detections]:
        """Find the objects of images.

        Args:
            pixel_values: as for `forward`.
            min_score: smallest score of a detection; that of the configuration if None.
        """
        return self.detections(self(pixel_values), (pixel_values.shape[-2], pixel_values.shape[-1]), min_score)

    def detections(
        self, cells: CellPredictions, size_hw: tuple[int, int], min_score: float | None = None
    ) -> list[Detections]:
        """Choose the objects from what `forward` predicts.

        Args:
            cells: predictions of B images.
            size_hw: (H, W) of the input.
            min_score: as for `detect`.
        """
        size = torch.tensor([size_hw[1], size_hw[0]] * 2)
        limit = self.config.min_score if min_score is None else min_score
        parts = (cells.score_logits.sigmoid(), cells.boxes, cells.class_logits.softmax(-1))
        images = zip(*(part.float().cpu() for part in parts), strict=True)
        return [self._best(scores, boxes, classes, size, limit) for scores, boxes, classes in images]

    def _best(self, scores: Tensor, boxes: Tensor, classes: Tensor, size: Tensor, limit: float) -> Detections:
        """Detections from the scores (N,), boxes (N, 4) and class probabilities (N, K) of an image's cells."""
        top = scores.topk(min(MAX_CANDIDATES, len(scores)))
        chosen = top.indices[top.values >= limit]
        found = torch.minimum(boxes[chosen].clamp_min(0), size).double().numpy()
        kept = without_overlaps(found, self.config.max_overlap)[: self.config.max_objects]
        probs, numbers = classes[chosen[kept]].max(-1)
        numbers[probs < self.config.min_class_prob] = OTHER
        return Detections(found[kept], scores[chosen[kept]].double().numpy(), numbers.numpy())


def has_detector(folder: str | Path) -> bool:
    """Whether a base's folder contains a detector."""
    return (Path(folder) / CONFIG).is_file()


def detector_folder(base: str | Path, revision: str | None = None) -> Path | None:
    """The folder of a base with a detector in it; None if it has none.

    Args:
        base: bundled name, folder or hub id of the base.
        revision: commit of the hub repository.

    Raises:
        InputError: there is no such base.
    """
    folder = find_source(base, argument="base", bundled=bundled_models(), revision=revision).path
    return folder if has_detector(folder) else None


def read_detector_config(folder: str | Path) -> DetectorConfig:
    """The settings of the detector in a base's folder.

    Raises:
        InputError: they are missing or unreadable.
    """
    try:
        return DetectorConfig(**read_json(Path(folder) / CONFIG, "detector"))
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(folder, error) from None


def _read(folder: Path) -> tuple[DetectorConfig, dict[str, Tensor]]:
    try:
        return read_detector_config(folder), load_file(folder / TENSORS)
    except (OSError, SafetensorError) as error:
        raise _unreadable(folder, error) from None


def _unreadable(folder: str | Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:160]
    return InputError(f"detector {folder}: expected {CONFIG} and {TENSORS} of a detector, got none ({reason})")
