"""Finding objects for which no box was given: at points, with a detector, or with a grid of points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from amodal.errors import InputError
from amodal.inference.devices import pick_dtype
from amodal.inference.features import FeatureCache
from amodal.inference.prompts import check_points
from amodal.io.images import ImageArray
from amodal.models.bases.promptable import PromptableModel
from amodal.models.bases.protocol import ImageFeatures, Prompts
from amodal.models.detector import DetectorModel, detector_folder
from amodal.models.hub import find_source
from amodal.models.plug import PlugProcessor
from amodal.ops.arrays import Box, Boxes, Mask, Points, Window
from amodal.ops.boxes import boxes_to_crop, mask_to_box
from amodal.ops.masks import crop_and_resize, mask_iou


@dataclass(frozen=True)
class GridSettings:
    """How an image is searched for objects without prompts (after SAM's automatic masks, appendix D).

    Attributes:
        points_per_side: points per side of the grid in each window.
        levels: number of window sizes: the whole image, then halves of it, then quarters, ...
            Windows of one size overlap by half.
        min_quality: smallest IoU that the model predicts for its own mask.
        min_stability: smallest IoU of the mask with itself when its threshold moves by `offset`.
        offset: shift of the threshold in logits.
        max_overlap: masks that overlap more than this (IoU) count as one object.
        min_share: smallest area of an object as a share of its window.
        max_share: largest area of an object as a share of the image.
        max_objects: maximum number of objects; the best ones are kept.
    """

    points_per_side: int = 8
    levels: int = 2
    min_quality: float = 0.5
    min_stability: float = 0.5
    offset: float = 1.0
    max_overlap: float = 0.5
    min_share: float = 0.004
    max_share: float = 0.6
    max_objects: int = 24


@dataclass(frozen=True, eq=False)
class MaskProposal:
    """A modal mask in the low resolution of the window it was predicted in.

    Attributes:
        window: part of the image, in image pixels.
        mask: (h, w) bool; the whole window at the resolution of the mask decoder.
        score: predicted quality times stability, in [0, 1].
    """

    window: Window
    mask: Mask
    score: float

    @property
    def box_xyxy(self) -> Boxes:
        """Tight box (4,) in image pixels."""
        x0, y0, x1, y1 = self.window
        h, w = self.mask.shape
        scale = np.array([(x1 - x0) / w, (y1 - y0) / h] * 2)
        return mask_to_box(self.mask) * scale + np.array([x0, y0, x0, y0])


class ObjectFinder:
    """Finds boxes of visible parts with a promptable modal model (SAM, SAM 2, ...), from given points or a grid.

    Windows of the image are resized to the network's square without keeping their aspect ratio, as
    PLUG's crops are. Differs from SAM, which pads: the bundled model was trained on squares only. Points and boxes go
    into the model's own prompt encoder, whatever its family. Without points, the detector of the model finds the
    objects, and a grid of points does where the model has no detector.

    Args:
        model: a base of any family.
        device: device of the model.
        settings: settings of the search without prompts.
        dtype: precision of the network; `auto` as for `AmodalSegmenter`.
        detector: detector on the trunk of the model, or None.
    """

    def __init__(
        self,
        model: PromptableModel,
        device: torch.device | None = None,
        settings: GridSettings | None = None,
        dtype: str = "auto",
        detector: DetectorModel | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.dtype = pick_dtype(dtype, self.device)
        self.model = model.to(self.device)
        self.detector = None if detector is None else detector.to(self.device).eval()
        self.settings = settings or GridSettings()
        self.features = FeatureCache()
        self.processor = PlugProcessor(
            image_size=model.image_size, image_mean=model.family.image_mean, image_std=model.family.image_std
        )

    @classmethod
    def from_pretrained(
        cls, name: str | Path = "sam-small", device: torch.device | None = None, dtype: str = "auto"
    ) -> ObjectFinder:
        """Load a modal base model, with its detector if it has one.

        Args:
            name: bundled name, folder, hub id or checkpoint file.
            device: device of the model.
            dtype: as of the class.

        Raises:
            InputError: no such model, an unknown precision, or a detector that does not belong to the model.
        """
        model = PromptableModel.from_pretrained(name)
        return cls(model, device, dtype=dtype, detector=_detector_of(name, model))

    def boxes_at(self, image: ImageArray, points_xy: Sequence[Sequence[float]]) -> Boxes:
        """Find the box of the object at each point.

        Args:
            image: (H, W, 3) uint8 RGB.
            points_xy: (N, 2) in image pixels.

        Returns:
            (N, 4) boxes xyxy in image pixels; a box of one pixel where nothing was found.

        Raises:
            InputError: a point that is not two finite numbers inside the image.
        """
        points = check_points(points_xy, (image.shape[0], image.shape[1]))
        return np.array([self.box_of(image, point[None], np.ones(1, np.int64)) for point in points])

    def box_of(
        self, image: ImageArray, points_xy: Points, point_labels: npt.NDArray[np.int64], box_xyxy: Box | None = None
    ) -> Boxes:
        """Find the box of the visible part of one object from points on it and points that are not on it.

        Without a box, the model segments the object in windows of three sizes around the points on it. The result
        comes from the mask with the highest score among those that do not leave their window. With a box, the model
        gets both prompts in the window that PLUG cuts for the box.

        Args:
            image: (H, W, 3) uint8 RGB.
            points_xy: (K, 2) in image pixels.
            point_labels: (K,) 1 on the object, 0 not on the object; at least one is 1.
            box_xyxy: box that surrounds the visible part roughly, or None.

        Returns:
            (4,) box xyxy in image pixels; the given box, or one pixel at the first point, where nothing was found.
        """
        size = (image.shape[0], image.shape[1])
        positive = points_xy[point_labels == 1]
        if box_xyxy is None:
            windows = [_window_at(positive.mean(0), max(size) * share, size) for share in (1.0, 0.5, 0.25)]
            windows = [w for n, w in enumerate(windows) if n == 0 or _contains(w, positive).all()]
        else:
            windows = [self.processor.window(np.array(box_xyxy), size)]
        proposals: list[MaskProposal] = []
        for window in windows:
            inside = _contains(window, points_xy)
            if not (inside & (point_labels == 1)).any() and box_xyxy is None:
                continue
            proposals += self._propose(image, window, points_xy[inside][None], point_labels[inside][None], box_xyxy)
        filled = [p for p in proposals if p.mask.any()]
        complete = [p for p in filled if not _is_cut(p, size)]
        if not filled:
            x, y = int(positive[0, 0]), int(positive[0, 1])
            return np.array((x, y, x + 1, y + 1) if box_xyxy is None else box_xyxy, dtype=np.float64)
        return max(complete or filled, key=lambda p: p.score).box_xyxy

    def find(self, image: ImageArray, min_score: float | None = None) -> tuple[Boxes, list[str | None]]:
        """Find the objects of an image, with the detector if there is one, otherwise with a grid of points.

        Args:
            image: (H, W, 3) uint8 RGB.
            min_score: smallest score of an object in [0, 1]; that of the detector or of the grid if None.

        Returns:
            (N, 4) boxes xyxy in image pixels, best first, and their N kinds, None where the kind is not known.
        """
        if self.detector is None:
            boxes = self.all_boxes(image, min_score)
            return boxes, [None] * len(boxes)
        H, W = image.shape[:2]
        config = self.detector.config
        square = crop_and_resize(image, (0, 0, W, H), config.image_size)
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            pixel_values = self.processor.normalize(square[None]).to(self.device)
            found = self.detector.detect(pixel_values, min_score)[0]
        boxes = found.boxes * np.array([W, H, W, H]) / config.image_size
        return boxes, [config.name_of(int(number)) for number in found.classes]

    def all_boxes(self, image: ImageArray, min_score: float | None = None) -> Boxes:
        """Find objects with a grid of points.

        Args:
            image: (H, W, 3) uint8 RGB.
            min_score: smallest score of an object in [0, 1]; that of the settings if None.

        Returns:
            (N, 4) boxes xyxy in image pixels, best first; N may be 0.
        """
        limit = self.settings.min_quality * self.settings.min_stability if min_score is None else min_score
        size = (image.shape[0], image.shape[1])
        proposals: list[MaskProposal] = []
        for window in _search_windows(size, self.settings.levels):
            x0, y0, x1, y1 = window
            steps = (np.arange(self.settings.points_per_side) + 0.5) / self.settings.points_per_side
            grid = np.stack(np.meshgrid(x0 + steps * (x1 - x0), y0 + steps * (y1 - y0)), -1).reshape(-1, 2)
            labels = np.ones((len(grid), 1), np.int64)
            proposals += [
                p
                for p in self._propose(image, window, grid[:, None], labels)
                if p.score >= limit and self._is_usable(p, size)
            ]
        proposals.sort(key=lambda p: -p.score)
        return np.array([p.box_xyxy for p in self._remove_overlaps(proposals, size)]).reshape(-1, 4)

    @torch.inference_mode()
    def _propose(
        self,
        image: ImageArray,
        window: Window,
        points_xy: Points,
        point_labels: npt.NDArray[np.int64],
        box_xyxy: Box | None = None,
    ) -> Iterator[MaskProposal]:
        """Predict one mask per prompt of K points (P, K, 2) with labels (P, K); the window is encoded once."""
        x0, y0, x1, y1 = window
        scale = self.processor.image_size / np.array([x1 - x0, y1 - y0])
        points: Tensor | None = None
        labels: Tensor | None = None
        boxes: Tensor | None = None
        if points_xy.shape[1]:
            points = torch.from_numpy((points_xy - np.array([x0, y0])) * scale).float()[None].to(self.device)
            labels = torch.from_numpy(point_labels)[None].to(self.device)  # (1, P, K)
        if box_xyxy is not None:
            box = boxes_to_crop(np.array(box_xyxy)[None], window, self.processor.image_size)
            boxes = torch.from_numpy(box)[None].float().to(self.device)
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            encoded = self.features.get(image, (id(self.model), window), partial(self._encode, image, window))
            predicted, quality = self.model(encoded, Prompts(boxes, points, labels))
        logits = predicted[0].float().cpu()  # (P, h, w)
        offset = self.settings.offset
        stability = (logits > offset).sum((1, 2)) / (logits > -offset).sum((1, 2)).clamp_min(1)
        scores = quality[0].float().cpu().clamp(0, 1)
        for mask, q, s in zip((logits > 0).numpy(), scores.tolist(), stability.tolist(), strict=True):
            yield MaskProposal(window, mask, q * s)

    def _encode(self, image: ImageArray, window: Window) -> ImageFeatures:
        crop = crop_and_resize(image, window, self.processor.image_size)
        return self.model.encode(self.processor.normalize(crop[None]).to(self.device))

    def _is_usable(self, proposal: MaskProposal, size: tuple[int, int]) -> bool:
        share_of_window = float(proposal.mask.mean())
        (x0, y0, x1, y1), (H, W) = proposal.window, size
        share_of_image = share_of_window * (x1 - x0) * (y1 - y0) / (H * W)
        return (
            share_of_window >= self.settings.min_share
            and share_of_image <= self.settings.max_share
            and not _is_cut(proposal, size)
        )

    def _remove_overlaps(self, proposals: list[MaskProposal], size: tuple[int, int]) -> list[MaskProposal]:
        """The best proposals without those that overlap a better one; masks are compared on a small common raster."""
        scale = 256 / max(size)
        kept: list[MaskProposal] = []
        masks: list[Mask] = []
        for proposal in proposals:
            mask = _on_raster(proposal, size, scale)
            if all(mask_iou(mask, other) <= self.settings.max_overlap for other in masks):
                kept.append(proposal)
                masks.append(mask)
            if len(kept) == self.settings.max_objects:
                break
        return kept


class Detector:
    """An object detector of transformers: with texts an open-vocabulary one, otherwise one with fixed classes.

    Args:
        name: hub id or folder.
        texts: what to look for (Grounding DINO, OWLv2, ...); None for a detector with fixed classes.
        device: device of the model.
        threshold: smallest score of a detection.

    Raises:
        InputError: no such model, or a model for another task.
    """

    def __init__(
        self,
        name: str | Path,
        texts: Sequence[str] | None = None,
        device: torch.device | None = None,
        threshold: float = 0.3,
    ) -> None:
        from transformers import pipeline

        self.texts, self.threshold = list(texts or []), threshold
        task: Literal["zero-shot-object-detection", "object-detection"]
        task = "zero-shot-object-detection" if self.texts else "object-detection"
        folder = find_source(name, argument="detector", bundled={}).path
        try:
            self.pipeline: Any = pipeline(
                task, model=str(folder), device=device, use_fast=False, trust_remote_code=False
            )
        except Exception as error:  # transformers raises many types here
            reason = " ".join(str(error).split())[:160]
            hint = "" if self.texts else "; an open-vocabulary detector needs --text"
            raise InputError(f"detector: expected a model for {task}, got {str(name)!r} ({reason}){hint}") from error

    def __call__(self, image: ImageArray, threshold: float | None = None) -> tuple[Boxes, list[str]]:
        """Detect objects.

        Args:
            image: (H, W, 3) uint8 RGB.
            threshold: smallest score of a detection; that of the detector if None.

        Returns:
            (N, 4) boxes xyxy in image pixels and their N labels, best first.
        """
        options: dict[str, Any] = {"threshold": self.threshold if threshold is None else threshold}
        if self.texts:
            options["candidate_labels"] = self.texts
        detections = sorted(self.pipeline(Image.fromarray(image), **options), key=lambda d: -d["score"])
        H, W = image.shape[:2]
        boxes = [[d["box"][k] for k in ("xmin", "ymin", "xmax", "ymax")] for d in detections]
        clipped = np.clip(np.array(boxes, np.float64).reshape(-1, 4), 0, [W, H, W, H])
        has_area = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
        return clipped[has_area], [d["label"] for d, keep in zip(detections, has_area, strict=True) if keep]


def _detector_of(name: str | Path, model: PromptableModel) -> DetectorModel | None:
    """The detector in the folder of a base; only convolutional bases can have one."""
    if model.family.model_type != "conv_prompt":
        return None
    folder = detector_folder(name)
    if folder is None:
        return None
    return DetectorModel.from_pretrained(folder, model.vision_encoder.backbone, model.origin.fingerprint)


def _search_windows(size: tuple[int, int], levels: int) -> Iterator[Window]:
    """The whole image, then overlapping halves, quarters, ...; each distinct window once."""
    seen = set()
    for level in range(levels):
        rows, columns = (_overlapping_spans(length, -(-length >> level)) for length in size)
        for y0, y1 in rows:
            for x0, x1 in columns:
                window = (x0, y0, x1, y1)
                if window not in seen:
                    seen.add(window)
                    yield window


def _overlapping_spans(length: int, part: int) -> list[tuple[int, int]]:
    """Parts of a side that overlap by half; the last one ends where the side ends, and may overlap more."""
    last = length - part
    return [(start, start + part) for start in (*range(0, last, (part + 1) // 2), last)]


def _window_at(point: Points, side: float, size: tuple[int, int]) -> Window:
    """A square around a point, shifted and clipped so that it lies inside the image."""
    spans = []
    for centre, limit in ((point[0], size[1]), (point[1], size[0])):
        length = min(max(round(side), 1), limit)
        start = min(max(round(centre - length / 2), 0), limit - length)
        spans.append((start, start + length))
    (x0, x1), (y0, y1) = spans
    return (x0, y0, x1, y1)


def _contains(window: Window, points_xy: Points) -> npt.NDArray[np.bool_]:
    """(K,) whether each point (K, 2) lies in the window."""
    x0, y0, x1, y1 = window
    x, y = points_xy[:, 0], points_xy[:, 1]
    return (x >= x0) & (x < x1) & (y >= y0) & (y < y1)


def _is_cut(proposal: MaskProposal, size: tuple[int, int]) -> bool:
    """Whether a mask touches a border of its window that is not a border of the image."""
    (x0, y0, x1, y1), (H, W), mask = proposal.window, size, proposal.mask
    return bool(
        (x0 > 0 and mask[:, 0].any())
        or (y0 > 0 and mask[0].any())
        or (x1 < W and mask[:, -1].any())
        or (y1 < H and mask[-1].any())
    )


def _on_raster(proposal: MaskProposal, size: tuple[int, int], scale: float) -> Mask:
    """The mask in a raster of the whole image, resized by `scale`."""
    raster = np.zeros((max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)), bool)
    x0, y0, x1, y1 = (round(v * scale) for v in proposal.window)
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
    region = raster[y0:y1, x0:x1]
    if region.size:
        small = cv2.resize(proposal.mask.astype(np.uint8), region.shape[::-1], interpolation=cv2.INTER_NEAREST)
        region[:] = small.astype(bool)
    return raster
