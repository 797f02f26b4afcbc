"""Which prediction of a file belongs to which annotated object: by annotation id, or by matching masks.

A file whose records name their annotations is looked up by these ids. Predictions without them, as a detector makes
them, are matched to the annotated objects of their image one to one. An object that gets no prediction counts as
unanswered in both cases.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.evaluation.predictions import (
    MaskPrediction,
    NumberedRecord,
    PredictionRecord,
    image_of,
    image_sizes,
    integer,
    iterate_records,
    parse_records,
)
from amodal.evaluation.selection import ObjectSelection
from amodal.ops.rle import Rle, rle_as_bytes

DEFAULT_MATCH_IOU = 0.5


@dataclass(frozen=True)
class Matcher:
    """Matches predictions to the annotated objects of their image.

    Among all one-to-one assignments of pairs that may match, the one with the largest sum of IoUs is taken (Hungarian
    method).

    Attributes:
        min_iou: smallest IoU of a pair that may match.
        same_category: a pair may match only if the prediction states the category of the object, or none.

    Raises:
        InputError: an IoU outside (0, 1].
    """

    min_iou: float = DEFAULT_MATCH_IOU
    same_category: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.min_iou <= 1:
            raise InputError(f"match_iou: expected a number in (0, 1], got {self.min_iou}")

    def match(
        self, predictions: Sequence[PredictionRecord], objects: Sequence[ObjectSample], *, use_visible: bool
    ) -> dict[int, int]:
        """Match the predictions of one image.

        Args:
            predictions: P predictions.
            objects: T annotated objects with amodal masks.
            use_visible: compare visible masks, which all predictions have; amodal masks otherwise.

        Returns:
            Index of the prediction by index of its object.
        """
        if not predictions or not objects:
            return {}
        predicted = [one.masks.visible if use_visible else one.masks.amodal for one in predictions]
        true = [obj.visible_rle if use_visible else obj.amodal_rle for obj in objects]
        overlap = _pairwise_iou(predicted, true)
        if self.same_category:
            stated = np.array([-1 if one.category_id is None else one.category_id for one in predictions])[:, None]
            unstated = np.array([one.category_id is None for one in predictions])[:, None]
            overlap[~(unstated | (stated == np.array([obj.category_id for obj in objects])))] = 0
        overlap[overlap < self.min_iou] = 0
        from scipy.optimize import linear_sum_assignment  # slow to import, and only needed for this

        pairs = zip(*linear_sum_assignment(overlap, maximize=True), strict=True)
        return {int(t): int(p) for p, t in pairs if overlap[p, t] > 0}


def _pairwise_iou(first: Sequence[Rle | None], second: Sequence[Rle | None]) -> npt.NDArray[np.float64]:
    """IoU of each of N with each of M masks, (N, M)."""
    encoded = [[rle_as_bytes(rle) for rle in masks if rle is not None] for masks in (first, second)]
    return np.array(coco_mask.iou(*encoded, [0] * len(second)), np.float64)


@dataclass(frozen=True)
class ObjectRecords:
    """Records of a predictions file by image and annotation. Masks are validated when they are looked up.

    Attributes:
        path: the file, for error messages.
        by_image: records by image id, then by annotation id.
    """

    path: Path
    by_image: dict[int, dict[int, NumberedRecord]]

    def __len__(self) -> int:
        """Number of records."""
        return sum(map(len, self.by_image.values()))

    @property
    def have_visible(self) -> bool:
        """Whether there are records and each of them has a visible mask."""
        return _have_visible(record for image in self.by_image.values() for record in image.values())

    @property
    def options(self) -> dict[str, Any]:
        """How predictions are matched, for the report."""
        return {}

    def subset(self, image_ids: Iterable[int]) -> ObjectRecords:
        """Return the records of some images."""
        return ObjectRecords(self.path, {i: self.by_image[i] for i in image_ids if i in self.by_image})

    def predictions(
        self, image: ImageSample, objects: Sequence[ObjectSample], union_visible: bool
    ) -> list[MaskPrediction | None]:
        """Return the predictions for objects of one image, None for an object that is not in the file.

        Raises:
            InputError: an invalid mask or score, or no visible mask to unite with the amodal mask.
        """
        by_object = self.by_image.get(image.id, {})
        present = [obj.id for obj in objects if obj.id in by_object]
        parsed = parse_records(self.path, [by_object[i] for i in present], image.id, image.size, union_visible)
        masks = {i: one.masks for i, one in zip(present, parsed, strict=True)}
        return [masks.get(obj.id) for obj in objects]


@dataclass(frozen=True)
class MatchedRecords:
    """Records of a predictions file that name no annotations, by image. They are matched when they are looked up.

    All annotated objects of the image take part in the matching, also those that are not scored, so that the selection
    of objects does not change which prediction an object gets.

    Attributes:
        path: the file, for error messages.
        by_image: records by image id, in the order of the file.
        matcher: matches the records of an image to its objects.
        have_visible: whether all records of the file have a visible mask; visible masks are then compared.
    """

    path: Path
    by_image: dict[int, list[NumberedRecord]]
    matcher: Matcher
    have_visible: bool

    def __len__(self) -> int:
        """Number of records."""
        return sum(map(len, self.by_image.values()))

    @property
    def options(self) -> dict[str, Any]:
        """How predictions are matched, for the report."""
        return {
            "matcher": f"Hungarian on the IoU of {'visible' if self.have_visible else 'amodal'} masks",
            "match_iou": self.matcher.min_iou,
            "match_category": self.matcher.same_category,
        }

    def subset(self, image_ids: Iterable[int]) -> MatchedRecords:
        """Return the records of some images."""
        by_image = {i: self.by_image[i] for i in image_ids if i in self.by_image}
        return MatchedRecords(self.path, by_image, self.matcher, self.have_visible)

    def predictions(
        self, image: ImageSample, objects: Sequence[ObjectSample], union_visible: bool
    ) -> list[MaskPrediction | None]:
        """Return the predictions matched to objects of one image, None for an object without a match.

        Raises:
            InputError: an invalid mask, category or score, or no visible mask to unite with the amodal mask.
        """
        records = self.by_image.get(image.id, [])
        parsed = parse_records(self.path, records, image.id, image.size, union_visible)
        candidates = ObjectSelection().objects_of(image)
        matches = self.matcher.match(parsed, candidates, use_visible=self.have_visible)
        masks = {candidates[t].id: parsed[p].masks for t, p in matches.items()}
        return [masks.get(obj.id) for obj in objects]


def read_by_object(
    path: Path, dataset: AnnotatedDataset, matcher: Matcher | None = None
) -> ObjectRecords | MatchedRecords:
    """Read a predictions file of any form, with or without annotation ids.

    Args:
        path: as for `iterate_records`.
        dataset: the annotated images.
        matcher: for a file without annotation ids; the default one if None.

    Raises:
        InputError: as `iterate_records`; or a record has an unknown image, two records belong to the same object, or
            some records have annotation ids and others do not.
    """
    sizes = image_sizes(dataset)
    by_image: dict[int, list[NumberedRecord]] = {}
    first: dict[bool, int] = {}  # position of the first record with and of the first without an annotation id
    for index, record in iterate_records(path, dataset):
        try:
            image_id, _ = image_of(record, sizes)
        except InputError as error:
            raise InputError(f"predictions {path}: record {index}: {error}") from error
        first.setdefault(record.get("annotation_id") is not None, index)
        if len(first) == 2:
            raise InputError(
                f"predictions {path}: expected an annotation_id in all records or in none, "
                f"got one in record {first[True]} and none in record {first[False]}"
            )
        by_image.setdefault(image_id, []).append((index, record))
    if False in first:
        have_visible = _have_visible(record for records in by_image.values() for record in records)
        return MatchedRecords(path, by_image, matcher or Matcher(), have_visible)
    return ObjectRecords(path, {image_id: _by_annotation(path, records) for image_id, records in by_image.items()})


def _by_annotation(path: Path, records: list[NumberedRecord]) -> dict[int, NumberedRecord]:
    by_object: dict[int, NumberedRecord] = {}
    for index, record in records:
        try:
            annotation_id = integer(record, "annotation_id")
            if annotation_id in by_object:
                raise InputError(f"expected one record per object, got a second one of annotation {annotation_id}")
        except InputError as error:
            raise InputError(f"predictions {path}: record {index}: {error}") from error
        by_object[annotation_id] = (index, record)
    return by_object


def _have_visible(records: Iterable[NumberedRecord]) -> bool:
    """Whether there are records and each of them has a visible mask."""
    missing = [record.get("visible_segmentation") is None for _, record in records]
    return bool(missing) and not any(missing)
