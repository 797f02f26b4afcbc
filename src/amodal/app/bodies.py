"""Bodies of the requests of the HTTP API."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from amodal.errors import MAX_QUESTION_LENGTH
from amodal.inference.prompts import ObjectPrompt, collect_prompts

MAX_DEPTH = 12  # of lists and objects inside each other in a request
MAX_PROMPTS = 32
MAX_NAME = 200  # characters of the name of a class
MAX_ANSWER = 20_000  # characters
MAX_OBJECTS = 200  # of a scene in a request


LabelledPoint = Annotated[list[float], Field(min_length=2, max_length=3)]
"""A point [x, y] on an object, or [x, y, label] with 1 for a point on the object and 0 for a point not on it."""


class Annotation(BaseModel):
    """The keys of a COCO annotation that are used as a prompt; other keys are ignored."""

    id: int | None = None
    category_id: int | None = None
    category_name: str | None = Field(None, max_length=MAX_NAME)
    bbox: tuple[float, float, float, float] | None = None
    visible_bbox: tuple[float, float, float, float] | None = None
    segmentation: dict[str, Any] | list[Any] | None = None
    visible_mask: dict[str, Any] | None = None


class PromptsBody(BaseModel):
    """The objects to segment; without any prompt, all objects are looked for.

    `boxes`, `points_per_object` and `masks` describe the same N objects, as the arguments of `AmodalSegmenter` do, and
    null leaves that kind of prompt out for one object. `detections` replaces these three and keeps names and ids. Each
    entry of `points` is one more object, except that a point with label 0 belongs to the object of the point before it.
    """

    model_config = ConfigDict(extra="forbid")

    boxes: list[tuple[float, float, float, float] | None] = Field([], max_length=MAX_PROMPTS)
    points: list[LabelledPoint] = Field([], max_length=MAX_PROMPTS)
    points_per_object: list[Annotated[list[LabelledPoint], Field(max_length=MAX_PROMPTS)] | None] = Field(
        [], max_length=MAX_PROMPTS
    )
    masks: list[dict[str, Any] | None] = Field([], max_length=MAX_PROMPTS)
    detections: list[Annotation] = Field([], max_length=MAX_PROMPTS)
    everything: bool = False
    threshold: float | None = Field(None, gt=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _limit_depth(cls, value: Any) -> Any:
        return limit_depth(value)

    def objects(self, size: tuple[int, int]) -> list[ObjectPrompt]:
        """One prompt per object of an image of this size (H, W); none if all objects are to be found.

        Raises:
            InputError: an impossible prompt, or lists of different lengths.
        """
        if self.everything:
            return []
        objects: list[ObjectPrompt] = []
        if self.boxes or self.points_per_object or self.masks or self.detections:
            points, labels = _split_labels(self.points_per_object)
            objects = collect_prompts(
                size,
                boxes_xyxy=self.boxes or None,
                points_xy=points or None,
                point_labels=labels or None,
                masks=self.masks or None,
                detections=[entry.model_dump(exclude_none=True) for entry in self.detections] or None,
            )
        if self.points:
            groups: list[list[list[float]] | None] = []
            for point in self.points:
                if groups and groups[-1] and point[2:] == [0]:
                    groups[-1].append(point)
                else:
                    groups.append([point])
            points, labels = _split_labels(groups)
            objects += collect_prompts(size, points_xy=points, point_labels=labels)
        return objects


class _LimitedBody(BaseModel):
    """A body without unknown keys and without deeply nested values."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _limit_depth(cls, value: Any) -> Any:
        return limit_depth(value)


class FindBody(_LimitedBody):
    """The visible masks (COCO RLE) of the objects that are known already, and the threshold as in `PromptsBody`."""

    known: list[dict[str, Any]] = Field([], max_length=MAX_OBJECTS)
    threshold: float | None = Field(None, gt=0, lt=1)


class QuestionBody(_LimitedBody):
    """A question about a stored image, and the visible masks (COCO RLE) of the objects that are known already."""

    question: str
    known: list[dict[str, Any]] = Field([], max_length=MAX_OBJECTS)


class ObjectRecord(BaseModel):
    """The keys of an object of `scene.json` that a scene is built from; other keys are ignored."""

    visible: dict[str, Any]
    amodal: dict[str, Any]
    visible_box_xyxy: tuple[float, float, float, float]
    score: float = Field(1.0, ge=0, le=1)
    name: str | None = Field(None, max_length=MAX_NAME)
    phrase: str | None = Field(None, max_length=MAX_NAME)
    class_id: int | None = None
    source_id: int | None = None
    tracker_id: int | None = None


class SceneBody(_LimitedBody):
    """A scene, as in `scene.json`; the image is the stored one."""

    objects: list[ObjectRecord] = Field([], max_length=MAX_OBJECTS)
    question: str | None = Field(None, max_length=MAX_QUESTION_LENGTH)
    answer: str | None = Field(None, max_length=MAX_ANSWER)


def limit_depth(value: Any) -> Any:
    """The value itself.

    Raises:
        ValueError: it has more than `MAX_DEPTH` lists and objects inside each other.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [part for outer in level for part in _parts(outer)]
    if level:
        raise ValueError(f"expected at most {MAX_DEPTH} lists and objects inside each other, got more")
    return value


def _parts(value: Any) -> list[Any]:
    """What a list or an object of JSON consists of; nothing for other values."""
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _split_labels(
    objects: list[list[list[float]] | None],
) -> tuple[list[list[list[float]] | None], list[list[Any] | None]]:
    """Separate the points (x, y) of each object from their labels; a point without a label is on the object."""
    points = [None if own is None else [point[:2] for point in own] for own in objects]
    labels: list[list[Any] | None] = [
        None if own is None else [point[2] if len(point) > 2 else 1 for point in own] for own in objects
    ]
    return points, labels
