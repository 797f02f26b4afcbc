"""Going through a dataset and collecting, for each object, what every row answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from amodal.data.samples import AnnotatedDataset, Box, ImageSample, ObjectSample
from amodal.evaluation.answers import Answer, Pixels, Predictor, ask
from amodal.evaluation.boxes import PREDICTED, PredictedBoxes
from amodal.evaluation.predictions import Records
from amodal.evaluation.scoring import Case
from amodal.evaluation.selection import Selection

Things = Sequence[ObjectSample]


class Answerer(Protocol):
    """One row: answers the objects of an image."""

    def __call__(self, image: ImageSample, things: Things) -> list[Answer | None]:
        """An answer each, None for an object that could not be asked about."""


@dataclass(frozen=True)
class Boxes:
    """The box of each object by a box source.

    Attributes:
        source: `gt_visible`, `gt_amodal` or `predicted`.
        predicted: boxes of the file, for `predicted`.
    """

    source: str
    predicted: PredictedBoxes | None = None

    def __call__(self, image: ImageSample, things: Things) -> list[Box | None]:
        """A box each, None where the source has none or one without area."""
        if self.source == PREDICTED:
            assert self.predicted is not None
            return self.predicted.for_objects(image.id, things)
        given = [t.visible_box_xyxy if self.source == "gt_visible" else t.amodal_box_xyxy for t in things]
        return [b if b is not None and b[2] > b[0] and b[3] > b[1] else None for b in given]


@dataclass
class LastImage:
    """Loads an image once for all rows that look at it."""

    path: Path | None = None
    pixels: Pixels | None = None

    def __call__(self, image: ImageSample) -> Pixels:
        """(H, W, 3) uint8 RGB."""
        if self.pixels is None or self.path != image.path:
            self.path, self.pixels = image.path, image.load()
        return self.pixels


@dataclass(frozen=True)
class Asked:
    """A row that looks at pixels."""

    predictor: Predictor
    boxes: Boxes
    load: LastImage
    batch_size: int = 32

    def __call__(self, image: ImageSample, things: Things) -> list[Answer | None]:
        """An answer each, None for an object without a box."""
        boxes = self.boxes(image, things)
        answers: list[Answer | None] = [None] * len(things)
        known = [(i, box) for i, box in enumerate(boxes) if box is not None]
        if known:
            asked = np.array([box for _, box in known], dtype=np.float64)
            for (i, _), answer in zip(
                known, ask(self.predictor, self.load(image), asked, self.batch_size), strict=True
            ):
                answers[i] = answer
        return answers


@dataclass(frozen=True)
class Looked:
    """A row whose answers are in a file; masks are checked when they are looked up.

    Attributes:
        records: of the file.
        union_visible: add each visible mask to its amodal one.
    """

    records: Records
    union_visible: bool = False

    def __call__(self, image: ImageSample, things: Things) -> list[Answer | None]:
        """An answer each, None for an object that the file does not have."""
        return self.records.answers(image.id, [thing.id for thing in things], image.size, self.union_visible)


class Kept:
    """An answerer whose answers are kept in a file as they come, so that a killed run goes on.

    The first line says what is asked of whom; a file of another question starts anew. An image
    whose line is whole is not asked about again.

    Args:
        answerer: the row.
        path: of the file; `finish` removes it.
        question: all that the answers depend on.
    """

    def __init__(self, answerer: Answerer, path: Path, question: dict[str, Any]) -> None:
        self._answerer, self._path = answerer, path
        self._done: dict[int, dict[int, Answer | None]] = {}
        self._started = False
        header = json.dumps(question, sort_keys=True)
        # The last piece is nothing, or a line that was being written when the run was killed.
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
        lines = lines if lines and lines[0] == header else [header]
        for record in map(json.loads, lines[1:]):
            self._done[record["image_id"]] = {i: None if a is None else Answer(*a) for i, a in record["answers"]}
        self._start = "\n".join(lines) + "\n"

    def __call__(self, image: ImageSample, things: Things) -> list[Answer | None]:
        """The kept answers of an image, or new ones."""
        kept = self._done.get(image.id, {})
        if all(thing.id in kept for thing in things):
            return [kept[thing.id] for thing in things]
        answers = self._answerer(image, things)
        plain = [None if a is None else (a.amodal, a.visible, a.score) for a in answers]
        record = {"image_id": image.id, "answers": [(t.id, a) for t, a in zip(things, plain, strict=True)]}
        if not self._started:  # not before there is an answer: a run that is refused leaves nothing
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(self._start, encoding="utf-8")
            self._started = True
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        return answers

    def finish(self) -> None:
        """Remove the file: what it was for is written."""
        self._path.unlink(missing_ok=True)


def cases(
    dataset: AnnotatedDataset,
    selection: Selection,
    answerers: Mapping[str, Answerer],
    boxes: Boxes,
    progress: bool = False,
) -> Iterator[Case]:
    """Objects of a dataset with the answers of every row, in file order."""
    for image, things in selection.of(dataset, progress):
        yield from cases_of(image, things, answerers, boxes)


def cases_of(image: ImageSample, things: Things, answerers: Mapping[str, Answerer], boxes: Boxes) -> Iterator[Case]:
    """Objects of one image with the answers of every row."""
    given = boxes(image, things)
    answers = {name: answerer(image, things) for name, answerer in answerers.items()}
    for i, thing in enumerate(things):
        assert thing.amodal_rle is not None
        own = {name: row[i] for name, row in answers.items()}
        yield Case(image.id, thing.id, thing.category_id, thing.visible_rle, thing.amodal_rle, given[i], own)
