"""Rows of the result table: each predicts masks for annotated objects, with a network or from a file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from amodal.data.formats.c2f import IS_DETECTED
from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.evaluation.baselines import BASELINES, BaselineInputs
from amodal.evaluation.boxes import BoxSource
from amodal.evaluation.matching import MatchedRecords, ObjectRecords
from amodal.evaluation.predictions import MaskPrediction
from amodal.evaluation.selection import ObjectSelection
from amodal.inference.prompts import bool_mask, check_threshold
from amodal.io.images import ImageArray
from amodal.ops.arrays import Box, Boxes, Mask
from amodal.ops.rle import Rle, encode_empty, encode_mask, encode_window, segmentation_to_rle

if TYPE_CHECKING:
    from amodal.inference.scene_object import SceneObject
    from amodal.inference.segmenter import AmodalSegmenter


class FullSizeMasks(Protocol):
    """Predicted masks of one object, as attributes. A number `score` in [0, 1] is optional."""

    @property
    def visible_mask(self) -> Mask | None:
        """(H, W) bool at the size of the image; None if it is not predicted."""

    @property
    def amodal_mask(self) -> Mask:
        """(H, W) bool at the size of the image."""


class MaskPredictor(Protocol):
    """A model other than `AmodalSegmenter` that can be scored. Its masks are scored as it returns them."""

    def predict(self, image: ImageArray, boxes_xyxy: Boxes) -> Sequence[FullSizeMasks | MaskPrediction]:
        """Return one prediction per box, in the order of the boxes.

        Args:
            image: (H, W, 3) uint8 RGB.
            boxes_xyxy: (N, 4) boxes in image pixels.

        Returns:
            N predictions whose masks are (H, W) bool at the size of the image, or RLEs of that size.
        """


class Row(Protocol):
    """One row of the result table."""

    def __call__(self, image: ImageSample, objects: Sequence[ObjectSample]) -> list[MaskPrediction | None]:
        """Return one prediction per object, None for an object that cannot be predicted."""


@dataclass
class ImageCache:
    """Loads each image once for all rows that look at it."""

    path: Path | None = None
    pixels: ImageArray | None = None

    def load(self, image: ImageSample) -> ImageArray:
        """Return (H, W, 3) uint8 RGB."""
        if self.pixels is None or self.path != image.path:
            self.path, self.pixels = image.path, image.load()
        return self.pixels


@dataclass(frozen=True)
class ModelRow:
    """A row whose predictions come from a network.

    Attributes:
        model: the network.
        boxes: source of the box prompts.
        images: cache of the last image.
        threshold: probability above which a pixel is foreground; the model's own if None.
        union_visible: unite each amodal mask with the visible mask; True if None.
        batch_size: maximum number of objects per forward pass.
        clean: clean the masks before they are scored.

    Raises:
        InputError: neither an `AmodalSegmenter` nor a `MaskPredictor`, an invalid threshold or batch size, or mask
            options with a model other than `AmodalSegmenter`.
    """

    model: AmodalSegmenter | MaskPredictor
    boxes: BoxSource
    images: ImageCache
    threshold: float | None = None
    union_visible: bool | None = None
    batch_size: int = 32
    clean: bool = False

    def __post_init__(self) -> None:
        _check_model(self.model)
        if self.batch_size < 1:
            raise InputError(f"batch_size: expected 1 or more, got {self.batch_size}")
        if self.threshold is not None:
            check_threshold(self.threshold)
        options = (self.threshold, self.union_visible, self.clean)
        if hasattr(self.model, "predict") and options != (None, None, False):
            raise InputError(
                "threshold, union_visible, clean: expected None, None and False for a model other than "
                f"AmodalSegmenter, got {options} for {type(self.model).__name__}"
            )
        if self.boxes.gives_masks and not getattr(self.model, "uses_masks", False):
            raise InputError(
                "box source: expected gt_visible or another source of boxes for a model that was not "
                "trained with mask prompts, got gt_visible_mask"
            )

    @property
    def options(self) -> dict[str, Any]:
        """How the masks are made, for the report; what is not known of a model other than `AmodalSegmenter` is None."""
        if hasattr(self.model, "predict"):
            return UNKNOWN_COMPUTATION | {"threshold": None, "union_visible": None}
        threshold = self.model.model.config.mask_threshold if self.threshold is None else self.threshold
        options = {"threshold": threshold, "union_visible": self.union_visible is not False}
        return options | computation(self.model) | {"clean": self.clean} | _parameters(self.model)

    def __call__(self, image: ImageSample, objects: Sequence[ObjectSample]) -> list[MaskPrediction | None]:
        """Return one prediction per object, None for an object without a box."""
        boxes = self.boxes.boxes_for(image, objects)
        predictions: list[MaskPrediction | None] = [None] * len(objects)
        prompted = [(i, box) for i, box in enumerate(boxes) if box is not None]
        if prompted:
            boxes_xyxy = np.array([box for _, box in prompted], dtype=np.float64)
            masks = [objects[i].visible_mask() for i, _ in prompted] if self.boxes.gives_masks else None
            found = self.predict(image, boxes_xyxy, masks)
            for (i, _), prediction in zip(prompted, found, strict=True):
                predictions[i] = prediction
        return predictions

    def predict(
        self, image: ImageSample, boxes_xyxy: Boxes, masks: Sequence[Mask] | None = None
    ) -> list[MaskPrediction]:
        """Return one prediction per box.

        Args:
            image: the image.
            boxes_xyxy: (N, 4) boxes in image pixels.
            masks: N visible masks (H, W) that prompt together with the boxes; None for boxes alone.

        Raises:
            InputError: the image cannot be read; or a `MaskPredictor` does not return one prediction per box, or masks
                of another form than (H, W) bool at the size of the image.
        """
        if hasattr(self.model, "predict"):
            return self._predict_with_other_model(image, boxes_xyxy)
        scene = self.model(
            self.images.load(image),
            boxes_xyxy,
            masks=None if masks is None else list(masks),
            threshold=self.threshold,
            union_visible=self.union_visible is not False,
            clean=self.clean,
            batch_size=self.batch_size,
        )
        return [_encode_object(obj, self.model.has_visible_branch) for obj in scene.objects]

    def _predict_with_other_model(self, image: ImageSample, boxes_xyxy: Boxes) -> list[MaskPrediction]:
        pixels, predictions = self.images.load(image), list[MaskPrediction]()
        for start in range(0, len(boxes_xyxy), self.batch_size):
            batch = boxes_xyxy[start : start + self.batch_size]
            results = self.model.predict(pixels, batch)  # type: ignore[union-attr]
            try:
                predictions += [_encode_prediction(result, image.size) for result in _one_per_box(results, len(batch))]
            except InputError as error:
                raise InputError(f"predict: image {image.id}: {error}") from error
        return predictions


def _check_model(model: Any) -> None:
    if not isinstance(model, type):
        if callable(getattr(model, "predict", None)):
            return
        from amodal.inference.segmenter import AmodalSegmenter  # slow to import, and not needed for other models

        if isinstance(model, AmodalSegmenter):
            return
    found = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
    if isinstance(model, (str, Path)):
        found = f"{str(model)!r} (AmodalSegmenter.from_pretrained loads a model)"
    raise InputError(
        f"model: expected an AmodalSegmenter or an object with a method predict(image, boxes_xyxy), got {found}"
    )


UNKNOWN_COMPUTATION: dict[str, Any] = {"device": None, "dtype": None, "clean": None}
"""Options of a report about masks that were made elsewhere."""


def computation(model: Any) -> dict[str, Any]:
    """Return device, precision and the source of visible masks of a segmenter or an assistant, for the report."""
    dtype = "int8" if getattr(model, "int8", False) else str(model.dtype).removeprefix("torch.")
    source = getattr(model, "visible_from", None)
    return {"device": str(model.device), "dtype": dtype} | ({} if source is None else {"visible_from": source.name})


def _parameters(model: AmodalSegmenter) -> dict[str, dict[str, int]]:
    """Return the numbers of parameters of a PLUG model, as `amodal info` counts them; nothing for other models."""
    from amodal.models.plug.modeling import PlugModel, parameter_counts  # slow to import

    network = model.model
    return {"parameters": parameter_counts(network.config)} if isinstance(network, PlugModel) else {}


def _encode_object(obj: SceneObject, has_visible: bool) -> MaskPrediction:
    amodal, visible = (encode_window(m, obj.window, obj.size) for m in (obj.amodal_in_window, obj.visible_in_window))
    return MaskPrediction(amodal, visible if has_visible else None, obj.score)


def _one_per_box(results: Any, num_boxes: int) -> list[Any]:
    """What a `MaskPredictor` returns for some boxes, as a list."""
    if isinstance(results, (str, Mapping)) or not isinstance(results, Iterable):
        raise InputError(f"expected a list with one prediction per box, got {type(results).__name__}")
    predictions = list(results)
    if len(predictions) != num_boxes:
        raise InputError(f"expected one prediction for each of {num_boxes} boxes, got {len(predictions)}")
    return predictions


def _encode_prediction(prediction: Any, size: tuple[int, int]) -> MaskPrediction:
    """Check and encode one prediction of a `MaskPredictor` for an image of size (H, W)."""
    has_rles = isinstance(prediction, MaskPrediction)
    rles: list[Rle | None] = []
    for name in ("amodal", "visible") if has_rles else ("amodal_mask", "visible_mask"):
        try:
            mask = getattr(prediction, name)
        except AttributeError as error:
            raise InputError(
                "expected predictions with the attributes amodal_mask and visible_mask, got "
                f"{type(prediction).__name__} without {name}"
            ) from error
        if mask is None and rles:  # the visible mask
            rles.append(None)
            continue
        try:
            rles.append(segmentation_to_rle(mask, *size) if has_rles else _encode_mask(mask, size))
        except InputError as error:
            found = str(error).removeprefix("mask: ").removeprefix("segmentation: ")
            raise InputError(f"{name}: {found}") from error
    amodal, visible = rles
    assert amodal is not None
    return MaskPrediction(amodal, visible, _score(getattr(prediction, "score", 1.0)))


def _encode_mask(mask: Any, size: tuple[int, int]) -> Rle:
    if not hasattr(mask, "shape"):
        raise InputError(f"mask: expected an array (H, W), got {type(mask).__name__}")
    return encode_mask(bool_mask(mask, size))


def _score(score: Any) -> float:
    try:
        number = float(score)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"score: expected a finite number, got {score!r:.60}")
    return number


@dataclass(frozen=True)
class FileRow:
    """A row whose predictions come from a file.

    Attributes:
        records: records of the file.
        union_visible: unite each amodal mask with the visible mask.
    """

    records: ObjectRecords | MatchedRecords
    union_visible: bool = False

    def __call__(self, image: ImageSample, objects: Sequence[ObjectSample]) -> list[MaskPrediction | None]:
        """Return one prediction per object, None for an object that has none in the file."""
        return self.records.predictions(image, objects, self.union_visible)


class Case(NamedTuple):
    """One object to score, with its annotation and the predictions of the rows.

    Attributes:
        image_id: image of the object.
        annotation_id: annotation of the object.
        category_id: category of the object.
        visible: true visible mask.
        amodal: true amodal mask.
        box: box prompt; None if the object has none.
        predictions: prediction by name of the row; None for an object that the row cannot predict. Baselines without
            a network have no entry, `prediction_of` computes theirs.
        is_detected: whether a detector found the object, in C2F-Seg's released data.
    """

    image_id: int
    annotation_id: int
    category_id: int
    visible: Rle
    amodal: Rle
    box: Box | None
    predictions: dict[str, MaskPrediction | None]
    is_detected: bool = False


def iterate_cases(
    dataset: AnnotatedDataset,
    selection: ObjectSelection,
    rows: Mapping[str, Row],
    boxes: BoxSource,
    progress: bool = False,
) -> Iterator[Case]:
    """Yield the selected objects of a dataset in file order, with the predictions of every row."""
    for image, objects in selection.iterate(dataset, progress):
        yield from cases_of_image(image, objects, rows, boxes)


def cases_of_image(
    image: ImageSample, objects: Sequence[ObjectSample], rows: Mapping[str, Row], boxes: BoxSource
) -> Iterator[Case]:
    """Yield objects of one image with the predictions of every row."""
    prompts = boxes.boxes_for(image, objects)
    predictions = {name: row(image, objects) for name, row in rows.items()}
    for i, obj in enumerate(objects):
        assert obj.amodal_rle is not None
        of_object = {name: of_row[i] for name, of_row in predictions.items()}
        is_detected = bool(obj.attributes.get(IS_DETECTED))
        yield Case(
            image.id, obj.id, obj.category_id, obj.visible_rle, obj.amodal_rle, prompts[i], of_object, is_detected
        )


def prediction_of(case: Case, name: str, main: str) -> MaskPrediction:
    """Return what a row predicts for an object: its prediction, a baseline's mask, or empty masks.

    Args:
        case: the object.
        name: the row.
        main: row whose visible mask the baselines may use.
    """
    if name not in case.predictions:
        amodal_mask, of_main = BASELINES[name].amodal_mask, case.predictions.get(main)
        assert amodal_mask is not None
        inputs = BaselineInputs(case.visible, case.box, of_main.visible if of_main else None)
        return MaskPrediction(amodal_mask(inputs), None)
    prediction = case.predictions[name]
    if prediction is None:
        empty = encode_empty(case.amodal["size"])
        return MaskPrediction(empty, empty, 0.0)
    return prediction
