"""Answers in the form that scoring takes: one amodal and perhaps one visible mask an object, encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from amodal.errors import InputError
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


def _encoded(given: Predicted) -> Answer:
    score = float(getattr(given, "score", 1.0))
    return Answer(encode_mask(given.amodal_mask), encode_mask(given.visible_mask), score)


def check_threshold(threshold: float) -> float:
    """The threshold itself. Raises `InputError` unless it is in (0, 1)."""
    if not 0 < threshold < 1:
        raise InputError(f"threshold: expected a number in (0, 1), got {threshold}")
    return threshold
