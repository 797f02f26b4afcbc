"""A machine learning backend for Label Studio: predictions for whole tasks, and masks for boxes, points and brushes.

Label Studio creates an `AmodalBackend` per request and calls `predict`. `make_app` gives the class its models and its
folder of images. The masks are brush regions with the labels `visible` and `amodal`, in the form that
`amodal label collect` reads.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np

from amodal.errors import InputError
from amodal.inference.exports.label_studio import Tags, object_regions, object_relation, rectangle_box
from amodal.inference.prompts import ObjectPrompt, collect_prompts
from amodal.inference.scene import Scene
from amodal.inference.segmenter import AmodalSegmenter
from amodal.io.image_names import ImageFinder
from amodal.io.images import ImageArray, load_image
from amodal.ops.brush_rle import decode_brush
from amodal.version import __version__

try:
    from label_studio_ml.api import init_app
    from label_studio_ml.model import LabelStudioMLBase
    from label_studio_ml.response import ModelResponse
except ImportError as error:
    raise InputError(
        f"label-studio: expected Label Studio's ML backend 2, got no {error.name!r} (pip install "
        "'amodal[label-studio]' 'label-studio-ml @ git+https://github.com/HumanSignal/label-studio-ml-backend.git')"
    ) from error

INTERFACE = """<View>
  <Image name="image" value="$image" zoom="true" zoomControl="true"/>
  <BrushLabels name="part" toName="image" smart="true">
    <Label value="visible" background="#2f9e44"/>
    <Label value="amodal" background="#d6336c"/>
  </BrushLabels>
  <RectangleLabels name="box" toName="image" smart="true" smartOnly="true">
    <Label value="object" background="#1971c2"/>
  </RectangleLabels>
  <KeyPointLabels name="point" toName="image" smart="true" smartOnly="true">
    <Label value="object" background="#1971c2"/>
  </KeyPointLabels>
  <TextArea name="phrase" toName="image" perRegion="true" maxSubmissions="1" placeholder="What is it?"/>
  <Relations><Relation value="same object"/></Relations>
</View>
"""
"""Labelling interface with the brushes of `amodal label predict`, and a box and a point that ask for masks."""

MAX_REQUEST = 64 * 1024 * 1024
"""Largest size of a request in bytes; a brush mask of 100 megapixels fits."""


@dataclass(frozen=True)
class BackendModels:
    """What all requests share. Calls of the models do not overlap.

    Attributes:
        segmenter: segments the objects of prompts.
        find: finds and segments all objects of an image (H, W, 3).
        images: folder of the images; None to ask Label Studio for them.
        lock: held while a model runs.
    """

    segmenter: AmodalSegmenter
    find: Callable[[ImageArray], Scene]
    images: ImageFinder | None
    lock: Lock


class AmodalBackend(LabelStudioMLBase):  # type: ignore[misc, unused-ignore]
    """Predicts visible and amodal masks; `backend_class` makes the class that has its models."""

    models: ClassVar[BackendModels]

    def setup(self) -> None:
        """Tell Label Studio the version of the predictions."""
        self.set("model_version", f"amodal {__version__}")

    def predict(
        self, tasks: Sequence[Mapping[str, Any]], context: Mapping[str, Any] | None = None, **_: Any
    ) -> ModelResponse:
        """Predict masks.

        Args:
            tasks: tasks of Label Studio.
            context: what a person has drawn on the first task: boxes, points or visible brush strokes. Each box and
                each stroke is one object; all points belong to one object, that of the box if there is one. None to
                find the objects of all tasks.

        Returns:
            One prediction per task.

        Raises:
            InputError: an image that cannot be read, an impossible prompt, or a labelling interface without an image
                or without brushes for `visible` and `amodal`.
        """
        tags, key = self._tags()
        drawn = (context or {}).get("result") or []
        predictions = []
        for task in tasks[:1] if drawn else tasks:
            image = self._image(task, key)
            scene = self._drawn_objects(image, drawn) if drawn else self._all_objects(image)
            scores = [obj.score for obj in scene]
            predictions.append(
                {
                    "result": list(_regions(scene, tags, related=not drawn)),
                    "score": float(np.mean(scores)) if scores else 0.0,
                    "model_version": self.get("model_version"),
                }
            )
        return ModelResponse(model_version=self.get("model_version"), predictions=predictions)

    def _all_objects(self, image: ImageArray) -> Scene:
        with self.models.lock:
            return self.models.find(image)

    def _drawn_objects(self, image: ImageArray, drawn: Sequence[Mapping[str, Any]]) -> Scene:
        prompts = _prompts(drawn, image)
        if not prompts:
            return Scene([], _size(image))
        with self.models.lock:
            return self.models.segmenter.segment_batch([image], [prompts])[0]

    def _tags(self) -> tuple[Tags, str]:
        """Names of the tags of the project's labelling interface, and the key of the image in its tasks."""
        try:
            part, image, key = self.get_first_tag_occurence("BrushLabels", "Image")
            labels = set(self.label_interface.get_control(part).labels)
        except (ValueError, AttributeError, KeyError) as error:
            raise InputError(
                "interface: expected an Image with BrushLabels, got none (amodal label backend --interface FILE)"
            ) from error
        if not {"visible", "amodal"} <= labels:
            raise InputError(f"interface: expected brushes with the labels visible and amodal, got {sorted(labels)}")
        try:
            text = self.get_first_tag_occurence("TextArea", "Image")[0]
        except ValueError:
            text = None
        return Tags(part, image, text), key

    def _image(self, task: Mapping[str, Any], key: str) -> ImageArray:
        name = (task.get("data") or {}).get(key)
        if not isinstance(name, str) or not name:
            raise InputError(f"task: expected the name of an image as data.{key}, got {name!r:.40}")
        if self.models.images is not None:
            return load_image(self.models.images.find(name))
        try:
            return load_image(Path(self.get_local_path(name, task_id=task.get("id"))))
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"image {name!r:.80}: expected Label Studio to send it, got {' '.join(str(error).split())!s:.160} (set "
                "LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY, or name the folder with --images)"
            ) from error


def backend_class(models: BackendModels) -> type[AmodalBackend]:
    """A backend with its models, as Label Studio's server wants it: a class."""
    return type("AmodalBackend", (AmodalBackend,), {"models": models})


def make_app(
    segmenter: AmodalSegmenter,
    find: Callable[[ImageArray], Scene],
    images: Path | None = None,
    *,
    user: str | None = None,
    password: str | None = None,
) -> Any:
    """The web application (Flask) that Label Studio connects to.

    Args:
        segmenter: segments the objects of prompts.
        find: finds and segments all objects of an image.
        images: folder in which images are found by the last part of their names; None to download them from the
            Label Studio that the environment names.
        user: name that requests must state, together with `password`; None to accept all requests.
        password: password that belongs to `user`.

    Raises:
        InputError: the folder does not exist.
    """
    if images is not None and not images.is_dir():
        raise InputError(f"images: expected a folder, got {str(images)!r}")
    finder = None if images is None else ImageFinder(images, "name")
    app = init_app(backend_class(BackendModels(segmenter, find, finder, Lock())), user, password)
    app.config["MAX_CONTENT_LENGTH"] = MAX_REQUEST
    return app


def _prompts(drawn: Sequence[Mapping[str, Any]], image: ImageArray) -> list[ObjectPrompt]:
    """Prompts from regions as Label Studio sends them, whose positions are per cent of the image's sides."""
    H, W = size = _size(image)
    objects: list[ObjectPrompt] = []
    points: list[tuple[float, float]] = []
    labels: list[int] = []
    try:
        for region in drawn:
            kind, value = region.get("type"), region["value"]
            if kind in ("rectanglelabels", "rectangle"):
                objects += collect_prompts(size, boxes_xyxy=[rectangle_box(value, W, H)])
            elif kind in ("keypointlabels", "keypoint"):
                points.append((min(value["x"] * W / 100, W - 0.5), min(value["y"] * H / 100, H - 0.5)))
                labels.append(int(bool(region.get("is_positive", True))))
            elif kind in ("brushlabels", "brush") and value.get("brushlabels", ["visible"]) != ["amodal"]:
                objects += collect_prompts(size, masks=[decode_brush(value["rle"], size)])
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"context: expected regions of Label Studio, got {error!r:.100}") from error
    if not points:
        return objects
    (given,) = collect_prompts(size, points_xy=[points], point_labels=[labels])
    if len(objects) == 1 and objects[0].box_xyxy is not None:
        return [replace(objects[0], points_xy=given.points_xy, point_labels=given.point_labels)]
    return [*objects, given]


def _regions(scene: Scene, tags: Tags, *, related: bool) -> Iterator[dict[str, Any]]:
    """Regions of all objects that have a mask. Their ids are new, since a task may get several predictions."""
    for index, obj in enumerate(scene):
        if not obj.amodal_in_window.any():
            continue
        prefix = f"amodal{uuid.uuid4().hex[:10]}"
        yield from object_regions(obj, prefix, f"object {index}", tags)
        if related:
            yield object_relation(prefix)


def _size(image: ImageArray) -> tuple[int, int]:
    return image.shape[0], image.shape[1]
