"""The objects a model does worst on, and pictures of them."""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from amodal.data.samples import AnnotatedDataset
from amodal.evaluation.scoring import Case, answer_of
from amodal.metrics.counts import Counts, Numbers
from amodal.metrics.strict import iou
from amodal.ops.boxes import Window, crop_window
from amodal.ops.masks import Mask
from amodal.ops.rle import decode_window, rle_box_xyxy

Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
Entry = tuple[float, int, Case, dict[str, Any]]
"""Minus the IoU, minus the place among all objects, the object, its line in the report."""

VISIBLE: Colour = (60, 200, 90)
HIDDEN: Colour = (250, 200, 40)
MISSED: Colour = (60, 110, 250)
TOO_MUCH: Colour = (240, 60, 60)
PANEL = 360  # pixels of the longer side of each of the three panels
CAPTION = 22
_OWN_FILES = re.compile(r"\d{4,}_\d+_\d+\.png")


@dataclass
class Worst:
    """Keeps the objects of lowest IoU among all that pass by.

    Attributes:
        count: how many are kept.
        main: the row they are judged by.
    """

    count: int
    main: str
    _heap: list[Entry] = field(default_factory=list)
    _seen: int = 0

    def add(self, cases: list[Case], rows: Numbers) -> None:
        """Let objects pass by, with their counts (n, fields) under the main row."""
        if not self.count:
            return
        counts = Counts.of_rows(rows)
        full, occ = iou(counts.overlap, counts.union), iou(counts.hidden_overlap, counts.hidden_union)
        for i, case in enumerate(cases):
            # Largest on top of the heap would be the best kept one: both keys are negated.
            entry = (-float(full[i]), -self._seen, case, _line(case, counts, i, float(full[i]), float(occ[i])))
            self._seen += 1
            self._keep(entry)

    def merge(self, other: Worst) -> None:
        """Let the objects pass by that another one of the same count has seen, after all of this one's."""
        for value, place, case, line in other._ordered():
            self._keep((value, place - self._seen, case, line))
        self._seen += other._seen

    def lines(self) -> list[dict[str, Any]]:
        """For the report, worst first."""
        return [entry[3] for entry in self._ordered()]

    def draw(self, folder: Path, dataset: AnnotatedDataset) -> list[Path]:
        """Write one picture an object, worst first, named by rank, image and annotation."""
        images = {image.id: image for image in dataset.images}
        drawn = []
        for rank, (_, _, case, line) in enumerate(self._ordered(), 1):
            name = f"{rank:04d}_{case.image_id}_{case.annotation_id}.png"
            drawn.append((folder / name, draw_case(images[case.image_id].load(), case, self.main, line)))
        folder.mkdir(parents=True, exist_ok=True)  # only now: an image that is missing leaves nothing behind
        for old in [path for path in folder.iterdir() if _OWN_FILES.fullmatch(path.name)]:
            old.unlink()
        for path, picture in drawn:
            Image.fromarray(picture).save(path)
        return [path for path, _ in drawn]

    def _keep(self, entry: Entry) -> None:
        if len(self._heap) < self.count:
            heapq.heappush(self._heap, entry)
        elif entry[:2] > self._heap[0][:2]:
            heapq.heapreplace(self._heap, entry)

    def _ordered(self) -> list[Entry]:
        return sorted(self._heap, key=lambda entry: entry[:2], reverse=True)


def draw_case(pixels: Pixels, case: Case, main: str, line: dict[str, Any]) -> Pixels:
    """Three panels side by side: the crop, the truth, and where the answer differs from it.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        case: the object.
        main: row whose answer is drawn.
        line: its figures.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    answer = answer_of(case, main, main)
    window = _around([case.amodal, case.visible, answer.amodal], (pixels.shape[0], pixels.shape[1]))
    x0, y0, x1, y1 = window
    crop = pixels[y0:y1, x0:x1]
    P, G, V = (decode_window(m, window) for m in (answer.amodal, case.amodal, case.visible))
    truth = _paint(crop, [(V, VISIBLE), (G & ~V, HIDDEN)])
    compared = _paint(crop, [(P & G & V, VISIBLE), (P & G & ~V, HIDDEN), (G & ~P, MISSED), (P & ~G, TOO_MUCH)])
    shown = f"image {case.image_id}, object {case.annotation_id}: IoU {line['iou']:.3f}"
    captions = [[(shown, (230, 230, 230))]]
    captions.append([("visible ", VISIBLE), ("hidden", HIDDEN)])
    captions.append([("right ", VISIBLE), ("right, hidden ", HIDDEN), ("missed ", MISSED), ("too much", TOO_MUCH)])
    return np.concatenate([_panel(p, c) for p, c in zip((crop, truth, compared), captions, strict=True)], axis=1)


def _line(case: Case, counts: Counts, i: int, full: float, occ: float) -> dict[str, Any]:
    return {
        "image_id": case.image_id,
        "annotation_id": case.annotation_id,
        "category_id": case.category_id,
        "iou": full,
        "iou_occ": occ if counts.hidden[i] else None,
        "hidden_share": float(counts.hidden_share[i]),
    }


def _around(masks: Sequence[dict[str, Any]], size: tuple[int, int]) -> Window:
    """A window half as large again as the box of all masks."""
    boxes = np.array([b for b in map(rle_box_xyxy, masks) if b[2] > b[0]] or [(0, 0, size[1], size[0])])
    return crop_window(np.array([*boxes[:, :2].min(0), *boxes[:, 2:].max(0)]), size, 1.5)


def _paint(crop: Pixels, layers: list[tuple[Mask, Colour]]) -> Pixels:
    painted = crop.astype(np.float32) * 0.7
    for mask, colour in layers:
        painted[mask] = painted[mask] * 0.45 + np.array(colour, np.float32) * 0.55
    return painted.astype(np.uint8)


def _panel(picture: Pixels, caption: list[tuple[str, Colour]]) -> Pixels:
    """A square panel with a caption under it."""
    h, w = picture.shape[:2]
    scale = PANEL / max(h, w)
    size = (max(round(w * scale), 1), max(round(h * scale), 1))
    fitted = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    panel = np.full((PANEL + CAPTION, PANEL + 4, 3), 24, np.uint8)
    panel[: size[1], : size[0]] = fitted
    canvas = Image.fromarray(panel)
    pen, font, x = ImageDraw.Draw(canvas), ImageFont.load_default(size=13), 4.0
    for text, colour in caption:
        pen.text((x, PANEL + 3), text, fill=colour, font=font)
        x += pen.textlength(text, font=font)
    return np.array(canvas)
