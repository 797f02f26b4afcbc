"""The objects with the lowest IoU, and images that show what went wrong."""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from amodal.data.samples import AnnotatedDataset
from amodal.evaluation.rows import Case, prediction_of
from amodal.io.images import ImageArray
from amodal.metrics.mask_protocols import IntArray, PixelCounts
from amodal.ops.arrays import Mask, Window
from amodal.ops.boxes import crop_window
from amodal.ops.masks import iou_of_counts
from amodal.ops.rle import decode_window, rle_box_xyxy

Colour = tuple[int, int, int]
_Entry = tuple[float, int, Case, dict[str, Any]]
"""Negated IoU, negated position among all objects, the object, and its line in the report."""

VISIBLE: Colour = (60, 200, 90)
OCCLUDED: Colour = (250, 200, 40)
MISSED: Colour = (60, 110, 250)
EXTRA: Colour = (240, 60, 60)
PANEL = 360  # pixels of the longer side of each of the three panels
CAPTION = 22
_FILE_NAMES = re.compile(r"\d{4,}_\d+_\d+\.png")


@dataclass
class WorstObjects:
    """Keeps the objects with the lowest IoU.

    Attributes:
        count: number of objects to keep.
        main: row whose predictions are compared.
    """

    count: int
    main: str
    _heap: list[_Entry] = field(default_factory=list)
    _num_added: int = 0

    def add(self, cases: list[Case], rows: IntArray) -> None:
        """Update with a batch of objects and their counts (n, fields) in the main row."""
        if not self.count:
            return
        counts = PixelCounts.from_rows(rows)
        full, occ = (
            iou_of_counts(counts.intersection, counts.union),
            iou_of_counts(counts.occluded_intersection, counts.occluded_union),
        )
        for i, case in enumerate(cases):
            # The heap keeps its smallest entry on top; negated, that is the best of the kept objects.
            entry = (-float(full[i]), -self._num_added, case, _line(case, counts, i, float(full[i]), float(occ[i])))
            self._num_added += 1
            self._keep(entry)

    def merge(self, other: WorstObjects) -> None:
        """Add the objects of the following part of the dataset."""
        for negated_iou, negated_position, case, line in other._ordered():
            self._keep((negated_iou, negated_position - self._num_added, case, line))
        self._num_added += other._num_added

    def lines(self) -> list[dict[str, Any]]:
        """Return one line per object for the report, worst first."""
        return [entry[3] for entry in self._ordered()]

    def draw(self, folder: Path, dataset: AnnotatedDataset) -> list[Path]:
        """Write one image file per object, named by rank, image and annotation; files of an earlier run are deleted.

        Raises:
            InputError: an image of the dataset cannot be read.
        """
        images = {image.id: image for image in dataset.images}
        drawings = []
        for rank, (_, _, case, line) in enumerate(self._ordered(), 1):
            name = f"{rank:04d}_{case.image_id}_{case.annotation_id}.png"
            drawings.append((folder / name, draw_case(images[case.image_id].load(), case, self.main, line)))
        folder.mkdir(parents=True, exist_ok=True)  # not earlier, so that a missing image leaves nothing behind
        for old in [path for path in folder.iterdir() if _FILE_NAMES.fullmatch(path.name)]:
            old.unlink()
        for path, pixels in drawings:
            Image.fromarray(pixels).save(path)
        return [path for path, _ in drawings]

    def _keep(self, entry: _Entry) -> None:
        if len(self._heap) < self.count:
            heapq.heappush(self._heap, entry)
        elif entry[:2] > self._heap[0][:2]:
            heapq.heapreplace(self._heap, entry)

    def _ordered(self) -> list[_Entry]:
        return sorted(self._heap, key=lambda entry: entry[:2], reverse=True)


def draw_case(pixels: ImageArray, case: Case, main: str, line: dict[str, Any]) -> ImageArray:
    """Draw three panels side by side: the crop, the true masks, and how the prediction differs from them.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        case: the object.
        main: row whose prediction is drawn.
        line: line of the object in the report.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    prediction = prediction_of(case, main, main)
    window = window_around([case.amodal, case.visible, prediction.amodal], (pixels.shape[0], pixels.shape[1]))
    x0, y0, x1, y1 = window
    crop = pixels[y0:y1, x0:x1]
    P, G, V = (decode_window(m, window) for m in (prediction.amodal, case.amodal, case.visible))
    truth = paint(crop, [(V, VISIBLE), (G & ~V, OCCLUDED)])
    compared = paint(crop, [(P & G & V, VISIBLE), (P & G & ~V, OCCLUDED), (G & ~P, MISSED), (P & ~G, EXTRA)])
    shown = f"image {case.image_id}, object {case.annotation_id}: IoU {line['iou']:.3f}"
    captions = [[(shown, (230, 230, 230))]]
    captions.append([("visible ", VISIBLE), ("occluded", OCCLUDED)])
    captions.append([("correct ", VISIBLE), ("correct, occluded ", OCCLUDED), ("missed ", MISSED), ("extra", EXTRA)])
    return np.concatenate([captioned(p, c) for p, c in zip((crop, truth, compared), captions, strict=True)], axis=1)


def _line(case: Case, counts: PixelCounts, i: int, full: float, occ: float) -> dict[str, Any]:
    return {
        "image_id": case.image_id,
        "annotation_id": case.annotation_id,
        "category_id": case.category_id,
        "iou": full,
        "iou_occ": occ if counts.occluded_area[i] else None,
        "occlusion_rate": float(counts.occluded_share[i]),
    }


def window_around(masks: Sequence[dict[str, Any]], size: tuple[int, int]) -> Window:
    """Return a window 1.5 times as large as the box around all masks."""
    boxes = np.array([b for b in map(rle_box_xyxy, masks) if b[2] > b[0]] or [(0, 0, size[1], size[0])])
    return crop_window(np.array([*boxes[:, :2].min(0), *boxes[:, 2:].max(0)]), size, 1.5)


def paint(crop: ImageArray, layers: list[tuple[Mask, Colour]]) -> ImageArray:
    """Return a darker copy of a crop (h, w, 3) with masks (h, w) in their colours."""
    painted = crop.astype(np.float32) * 0.7
    for mask, colour in layers:
        painted[mask] = painted[mask] * 0.45 + np.array(colour, np.float32) * 0.55
    return painted.astype(np.uint8)


def captioned(pixels: ImageArray, caption: list[tuple[str, Colour]]) -> ImageArray:
    """Return a square panel with a caption below."""
    h, w = pixels.shape[:2]
    scale = PANEL / max(h, w)
    size = (max(round(w * scale), 1), max(round(h * scale), 1))
    fitted = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    panel = np.full((PANEL + CAPTION, PANEL + 4, 3), 24, np.uint8)
    panel[: size[1], : size[0]] = fitted
    canvas = Image.fromarray(panel)
    pen, font, x = ImageDraw.Draw(canvas), ImageFont.load_default(size=13), 4.0
    for text, colour in caption:
        pen.text((x, PANEL + 3), text, fill=colour, font=font)
        x += pen.textlength(text, font=font)
    return np.array(canvas)
