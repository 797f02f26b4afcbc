"""Answers in the form that scoring takes: one amodal and perhaps one visible mask an object, encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from amodal.errors import InputError
from amodal.ops.boxes import Window
from amodal.ops.rle import Mask, Rle, encode_mask

Pixels = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a row of the table says about one object.

    Attributes:
        amodal: amodal mask.
        visible: visible mask, or None where the row has none to offer.
        score: in [0, 1], for `amodal_ap`.
    """

    amodal: Rle
    visible: Rle | None
    score: float = 1.0


class Predicted(Protocol):
    """One answer as full-size masks; `SceneObject` is one."""

    @property
    def visible_mask(self) -> Mask:
        """(H, W) bool."""

    @property
    def amodal_mask(self) -> Mask:
        """(H, W) bool."""


class Predictor(Protocol):
    """What can be scored; `AmodalSegmenter` is one."""

    def predict(self, image: Pixels, boxes_xyxy: Boxes) -> Sequence[Predicted | Answer]:
        """One answer a box."""


@dataclass(frozen=True)
class AtThreshold:
    """A segmenter that is called with a threshold of its own, as a `Predictor`."""

    segmenter: Any
    threshold: float

    def predict(self, image: Pixels, boxes_xyxy: Boxes) -> Sequence[Predicted]:
        """One answer a box."""
        answers: Sequence[Predicted] = self.segmenter(image, boxes_xyxy, threshold=self.threshold).objects
        return answers


def ask(predictor: Predictor, image: Pixels, boxes_xyxy: Boxes, batch_size: int) -> list[Answer]:
    """Answers for N boxes of an image, `batch_size` of them a call.

    Raises:
        InputError: not one answer a box.
    """
    answers: list[Answer] = []
    for start in range(0, len(boxes_xyxy), batch_size):
        part = boxes_xyxy[start : start + batch_size]
        given = predictor.predict(image, part)
        if len(given) != len(part):
            raise InputError(f"predictor: expected an answer for each of {len(part)} boxes, got {len(given)}")
        answers.extend(a if isinstance(a, Answer) else _encoded(a) for a in given)
    return answers


def encode_window(part: Mask, window: Window, size: Sequence[int]) -> Rle:
    """RLE of the whole image from a mask (h, w) in a window, without making it full size.

    Runs go down the columns; only those of the window can change value.
    """
    H, W = size
    x0, y0, x1, y1 = window
    columns = np.zeros((x1 - x0, H), np.int8)
    columns[:, y0:y1] = part.T
    changes = np.flatnonzero(np.diff(columns.ravel(), prepend=0, append=0)) + x0 * H
    return _from_changes(changes, H, W)


def encode_columns(part: Mask, corner: tuple[int, int], size: Sequence[int]) -> Rle:
    """As `encode_window` for a mask of one unbroken run a column, such as a convex one; (h, w) at a corner (x, y)."""
    H, W = size
    x0, y0 = corner
    filled = np.flatnonzero(part.any(axis=0))
    starts = part.argmax(axis=0)[filled] + y0 + (filled + x0) * H
    changes = np.stack([starts, starts + part.sum(axis=0)[filled]], axis=1).ravel()
    joined = np.flatnonzero(changes[1:-1:2] == changes[2::2])  # down to the last row, then on from the first
    return _from_changes(np.delete(changes, np.concatenate([2 * joined + 1, 2 * joined + 2])), H, W)


def _from_changes(changes: npt.NDArray[np.int64], H: int, W: int) -> Rle:
    """RLE from the positions, down the columns, where the mask changes its value."""
    counts = np.diff(changes, prepend=0, append=H * W).tolist()
    if counts[-1] == 0:  # the last pixel is set: no run of zeros follows
        counts.pop()
    rle = coco_mask.frPyObjects({"size": [H, W], "counts": counts}, H, W)
    return {"size": [int(H), int(W)], "counts": rle["counts"].decode("ascii")}


def _encoded(given: Predicted) -> Answer:
    score = float(getattr(given, "score", 1.0))
    return Answer(encode_mask(given.amodal_mask), encode_mask(given.visible_mask), score)


def check_threshold(threshold: float) -> float:
    """The threshold itself. Raises `InputError` unless it is in (0, 1)."""
    if not 0 < threshold < 1:
        raise InputError(f"threshold: expected a number in (0, 1), got {threshold}")
    return threshold
