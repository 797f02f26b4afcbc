"""Finding objects where nobody gave a box: by points, by a grid of them, or by a detector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers import SamModel

from amodal.errors import InputError
from amodal.inference.segmenter import pick_dtype
from amodal.models.bases.sam import load_sam
from amodal.models.plug import PlugProcessor
from amodal.nn.attention import use_folded_attention
from amodal.ops.boxes import Boxes, Window, mask_to_box
from amodal.ops.masks import crop_and_resize

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GridSettings:
    """How a picture is searched without prompts (after SAM's automatic masks, appendix D).

    Attributes:
        points_per_side: points of the grid in each window.
        levels: windows are the picture, then halves of it, then quarters, ...; they overlap by half.
        min_quality: least IoU the model expects of its own mask.
        min_stability: least IoU of the mask with itself when its threshold moves by `offset`.
        offset: of the threshold, in logits.
        max_overlap: masks that overlap more (IoU) are one object.
        min_share: least area of an object in its window; `max_share` in the picture the largest.
        max_objects: best ones kept.
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
class Found:
    """A modal mask in the low resolution of its window."""

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
    """A promptable modal model (SAM) that turns points into boxes of visible parts.

    Windows of the picture are resized to the network's square without keeping their aspect, as
    PLUG's crops are. Differs from SAM, which pads: the bundled model has only seen squares.

    Args:
        model: a `SamModel`.
        device: where it runs.
        settings: of the search without prompts.
        dtype: precision of the network; `auto` as for `AmodalSegmenter`.
    """

    def __init__(
        self,
        model: SamModel,
        device: torch.device | None = None,
        settings: GridSettings | None = None,
        dtype: str = "auto",
    ) -> None:
        self.device = device or torch.device("cpu")
        self.dtype = pick_dtype(dtype, self.device)
        self.model = model.to(self.device).eval()
        self.settings = settings or GridSettings()
        self.processor = PlugProcessor(image_size=model.config.vision_config.image_size)

    @classmethod
    def from_pretrained(cls, name: str | Path = "sam-tiny", device: torch.device | None = None) -> ObjectFinder:
        """Load a base: bundled name, folder, hub id or Meta `.pth`. Raises `InputError` if there is none."""
        model = load_sam(name).model
        use_folded_attention(model.vision_encoder)
        return cls(model, device)

    def boxes_at(self, image: Pixels, points_xy: Sequence[Sequence[float]]) -> Boxes:
        """Box of the object under each point.

        Each point is looked at in windows of three sizes; the mask the model trusts most, among
        those that do not leave their window, gives the box.

        Args:
            image: (H, W, 3) uint8 RGB.
            points_xy: (N, 2) image pixels.

        Returns:
            (N, 4) boxes xyxy in image pixels, of one pixel where nothing was found.

        Raises:
            InputError: a point that is not two finite numbers inside the image.
        """
        return np.array([self._box_at(image, point) for point in check_points(points_xy, image.shape[:2])])

    def everything(self, image: Pixels) -> Boxes:
        """(N, 4) boxes xyxy of the objects found by a grid of points, best first; N may be 0."""
        H, W = image.shape[:2]
        found: list[Found] = []
        for window in _tiles((H, W), self.settings.levels):
            x0, y0, x1, y1 = window
            steps = (np.arange(self.settings.points_per_side) + 0.5) / self.settings.points_per_side
            grid = np.stack(np.meshgrid(x0 + steps * (x1 - x0), y0 + steps * (y1 - y0)), -1).reshape(-1, 2)
            found += [f for f in self._masks(image, window, grid) if self._keep(f, (H, W))]
        found.sort(key=lambda f: -f.score)
        return np.array([f.box_xyxy for f in self._distinct(found, (H, W))]).reshape(-1, 4)

    def _box_at(self, image: Pixels, point: Points) -> Boxes:
        H, W = image.shape[:2]
        found: list[Found] = []
        for share in (1.0, 0.5, 0.25):
            window = _window_at(point, max(H, W) * share, (H, W))
            found += self._masks(image, window, point[None])
        usable = [f for f in found if f.mask.any()]
        inside = [f for f in usable if not _is_cut(f, (H, W))]
        if not usable:
            x, y = int(point[0]), int(point[1])
            return np.array([x, y, x + 1, y + 1], dtype=np.float64)
        return max(inside or usable, key=lambda f: f.score).box_xyxy

    @torch.inference_mode()
    def _masks(self, image: Pixels, window: Window, points_xy: Points) -> Iterator[Found]:
        """One mask a point, all from one encoder call."""
        x0, y0, x1, y1 = window
        crop = crop_and_resize(image, window, self.processor.image_size)
        pixel_values = self.processor.normalize(crop[None]).to(self.device)
        scale = self.processor.image_size / np.array([x1 - x0, y1 - y0])
        points = torch.from_numpy((points_xy - np.array([x0, y0])) * scale).float().to(self.device)
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            output = self.model(
                pixel_values=pixel_values,
                input_points=points[None, :, None],  # (1, P, 1, 2)
                input_labels=torch.ones(1, len(points), 1, dtype=torch.long, device=self.device),
                multimask_output=False,
            )
        logits = output.pred_masks[0, :, 0].float().cpu()  # (P, h, w)
        stable = (logits > self.settings.offset).sum((1, 2)) / (logits > -self.settings.offset).sum((1, 2)).clamp_min(1)
        quality = output.iou_scores[0, :, 0].float().cpu().clamp(0, 1)
        for mask, q, s in zip((logits > 0).numpy(), quality.tolist(), stable.tolist(), strict=True):
            yield Found(window, mask, q * s)

    def _keep(self, found: Found, size: tuple[int, int]) -> bool:
        share = float(found.mask.mean())
        (x0, y0, x1, y1), (H, W) = found.window, size
        of_picture = share * (x1 - x0) * (y1 - y0) / (H * W)
        good = found.score >= self.settings.min_quality * self.settings.min_stability
        return (
            good
            and share >= self.settings.min_share
            and of_picture <= self.settings.max_share
            and not _is_cut(found, size)
        )

    def _distinct(self, found: list[Found], size: tuple[int, int]) -> list[Found]:
        """Best first, without those that overlap a better one; compared on a small common raster."""
        raster = 256 / max(size)
        kept: list[Found] = []
        masks: list[Mask] = []
        for one in found:
            mask = _on_raster(one, size, raster)
            if all(_iou(mask, other) <= self.settings.max_overlap for other in masks):
                kept.append(one)
                masks.append(mask)
            if len(kept) == self.settings.max_objects:
                break
        return kept


class Detector:
    """A detector of transformers' zoo, by hub id or folder; with texts, an open-vocabulary one.

    Args:
        name: hub id or folder.
        texts: what to look for (Grounding DINO, OWLv2, ...); None for a detector of fixed classes.
        device: where it runs.
        threshold: least score of a detection.

    Raises:
        InputError: no such model, or one that does not detect.
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
        try:
            self.pipeline: Any = pipeline(task, model=str(name), device=device, use_fast=False)
        except Exception as error:  # the zoo raises a dozen types
            reason = " ".join(str(error).split())[:160]
            raise InputError(f"detector: expected a model for {task}, got {str(name)!r} ({reason})") from error

    def __call__(self, image: Pixels) -> tuple[Boxes, list[str]]:
        """Boxes (N, 4) xyxy in image pixels and their labels, best first."""
        options: dict[str, Any] = {"threshold": self.threshold}
        if self.texts:
            options["candidate_labels"] = self.texts
        found = sorted(self.pipeline(Image.fromarray(image), **options), key=lambda f: -f["score"])
        H, W = image.shape[:2]
        boxes = [[f["box"][k] for k in ("xmin", "ymin", "xmax", "ymax")] for f in found]
        clipped = np.clip(np.array(boxes, np.float64).reshape(-1, 4), 0, [W, H, W, H])
        whole = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
        return clipped[whole], [f["label"] for f, keep in zip(found, whole, strict=True) if keep]


def check_points(points_xy: Sequence[Sequence[float]], size: tuple[int, ...]) -> Points:
    """Validate points (N, 2) against an image (H, W).

    Raises:
        InputError: not two finite numbers, or outside the image.
    """
    H, W = size[:2]
    checked = []
    for point in points_xy:
        try:
            values = np.asarray(point, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"point: expected two numbers X,Y, got {point!r:.80}") from error
        if values.shape != (2,) or not np.isfinite(values).all():
            raise InputError(f"point: expected two finite numbers X,Y, got {point!r:.80}")
        if not (0 <= values[0] < W and 0 <= values[1] < H):
            raise InputError(f"point: expected a point inside the {W} x {H} image, got {values.tolist()}")
        checked.append(values)
    if not checked:
        raise InputError("point: expected at least one point, got none")
    return np.array(checked)


def _tiles(size: tuple[int, int], levels: int) -> Iterator[Window]:
    """The picture, then overlapping halves, quarters, ..., each level once per distinct window."""
    H, W = size
    seen = set()
    for level in range(levels):
        w, h = max(W >> level, 1), max(H >> level, 1)
        for y in range(0, max(H - h, 0) + 1, max(h // 2, 1)):
            for x in range(0, max(W - w, 0) + 1, max(w // 2, 1)):
                window = (x, y, x + w, y + h)
                if window not in seen:
                    seen.add(window)
                    yield window


def _window_at(point: Points, side: float, size: tuple[int, int]) -> Window:
    """A square of a side around a point, moved and cut so that it lies inside the image."""
    spans = []
    for centre, limit in ((point[0], size[1]), (point[1], size[0])):
        length = min(max(round(side), 1), limit)
        start = min(max(round(centre - length / 2), 0), limit - length)
        spans.append((start, start + length))
    (x0, x1), (y0, y1) = spans
    return (x0, y0, x1, y1)


def _is_cut(found: Found, size: tuple[int, int]) -> bool:
    """Whether a mask touches a border of its window that is not the picture's."""
    (x0, y0, x1, y1), (H, W), mask = found.window, size, found.mask
    return bool(
        (x0 > 0 and mask[:, 0].any())
        or (y0 > 0 and mask[0].any())
        or (x1 < W and mask[:, -1].any())
        or (y1 < H and mask[-1].any())
    )


def _on_raster(found: Found, size: tuple[int, int], scale: float) -> Mask:
    raster = np.zeros((max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)), bool)
    x0, y0, x1, y1 = (round(v * scale) for v in found.window)
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
    region = raster[y0:y1, x0:x1]
    if region.size:
        small = cv2.resize(found.mask.astype(np.uint8), region.shape[::-1], interpolation=cv2.INTER_NEAREST)
        region[:] = small.astype(bool)
    return raster


def _iou(a: Mask, b: Mask) -> float:
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 0.0
