"""Operations of the web demo on an image, independent of HTTP: segment, ask, draw and export."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from amodal.app.store import DemoImage
from amodal.errors import InputError
from amodal.inference.draw import draw_uncertainty, object_colour
from amodal.inference.everything import segment_everything
from amodal.inference.exports import FORMATS, export_scene
from amodal.inference.exports.layers import remove_front_objects
from amodal.inference.find import ObjectFinder
from amodal.inference.prompts import ObjectPrompt, collect_prompts
from amodal.inference.scene import Scene
from amodal.inference.segmenter import AmodalSegmenter
from amodal.io.images import ImageArray
from amodal.models.aura.processing import check_question

MAX_SIDE = 2048  # longest side of an image that is shown; prompts and results are in the pixels of the upload
MAX_DEPTH = 12  # of lists and objects inside each other in a request
MAX_PROMPTS = 32
MAX_NAME = 200  # characters of the name of a class
EXAMPLE_SEEDS = {"one": 11, "two": 27, "three": 40}  # examples are drawn, so nothing is stored or downloaded
EXAMPLE_SIZE = (384, 384)


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
        level = [value]
        for _ in range(MAX_DEPTH):
            level = [part for outer in level for part in _parts(outer)]
        if level:
            raise ValueError(f"expected at most {MAX_DEPTH} lists and objects inside each other, got more")
        return value

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


class DemoModels:
    """The models of the web demo. Calls must not overlap.

    Args:
        segmenter: segments objects in boxes.
        finder: finds boxes, from points or in the whole image.
        assistant: answers questions; None if there is no such model.
    """

    def __init__(self, segmenter: AmodalSegmenter, finder: ObjectFinder, assistant: Any = None) -> None:
        self.segmenter, self.finder, self.assistant = segmenter, finder, assistant

    def segment(self, pixels: ImageArray, prompts: PromptsBody) -> Scene:
        """Segment the objects of an image.

        Args:
            pixels: (H, W, 3) uint8 RGB.
            prompts: which objects.

        Raises:
            InputError: an impossible box, point, mask or threshold.
        """
        objects = prompts.objects((pixels.shape[0], pixels.shape[1]))
        if not objects:
            return segment_everything(self.segmenter, self.finder, pixels, threshold=prompts.threshold)
        return self.segmenter.segment_batch([pixels], [objects], threshold=prompts.threshold)[0]

    def ask(self, image: DemoImage, question: str) -> dict[str, Any]:
        """Answer a question about an image, as the next turn of the conversation about it.

        Args:
            image: image with its conversation; its scene is replaced.
            question: question in words.

        Returns:
            `answer`, `parts` (the answer in pieces, each with the numbers of the objects it names) and
            the content of `scene_for_page`.

        Raises:
            InputError: no assistant, or a question that is empty or too long.
        """
        if self.assistant is None:
            raise InputError("ask: expected a model that answers questions, got none (amodal serve --assistant MODEL)")
        check_question(question)
        if image.chat is None:
            image.chat = self.assistant.chat(image.pixels)
        reply = image.chat.ask(question)
        image.chat.replies.clear()  # their masks are not needed again
        image.scene = reply.scene
        parts = [{"text": part.text, "objects": list(part.objects)} for part in reply.parts]
        return {"answer": reply.text, "parts": parts, **scene_for_page(reply.scene)}


def scene_for_page(scene: Scene) -> dict[str, Any]:
    """The content of `scene.json`, plus the overlay colour of each object and the depth order `front_to_back`."""
    content = scene.to_json()
    for index, record in enumerate(content["objects"]):
        record["colour"] = "#{:02x}{:02x}{:02x}".format(*object_colour(index))
    return content | {"front_to_back": scene.front_to_back()}


def render_view(image: DemoImage, kind: str, number: int) -> bytes:
    """Draw an image for the page.

    Args:
        image: image with its scene.
        kind: `image`, `overlay`, `uncertainty` of object `number`, or `peeled` (without the `number` front objects).
        number: number of the object, or number of objects to remove.

    Returns:
        Content of a JPEG file, at most `MAX_SIDE` pixels long and wide.

    Raises:
        InputError: another kind, or no such object.
    """
    if kind == "image" or (kind == "overlay" and not image.num_objects):
        pixels = image.pixels
    elif kind == "overlay":
        pixels = image.scene.draw()
    elif kind == "peeled":
        pixels = remove_front_objects(image.scene, max(number, 0))
    elif kind == "uncertainty" and 0 <= number < image.num_objects:
        scene = image.scene
        assert scene.image is not None
        pixels = draw_uncertainty(scene.image, scene.objects[number].uncertainty)
    else:
        raise InputError(f"view: expected image, overlay, peeled or uncertainty of an object, got {kind!r:.40}")
    buffer = io.BytesIO()
    Image.fromarray(shrink(pixels, MAX_SIDE)).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def zip_scene(image: DemoImage, to: str) -> bytes:
    """Write the scene of an image as a ZIP file.

    Args:
        image: image with its scene.
        to: `scene` for the files that `amodal segment` writes, or one of `exports.FORMATS`.

    Returns:
        Content of the ZIP file.

    Raises:
        InputError: another format, or a scene without objects.
    """
    if to != "scene" and to not in FORMATS:
        raise InputError(f"to: expected scene, {', '.join(FORMATS)}, got {to!r:.40}")
    if not image.num_objects:
        raise InputError("export: expected a scene with objects, got none; draw a box first")
    buffer = io.BytesIO()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "scene"
        if to == "scene":
            image.scene.save(folder)
        else:
            export_scene(image.scene, to, folder, f"{image.name}.png")
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                archive.write(file, file.relative_to(folder))
    return buffer.getvalue()


def example_image(name: str) -> DemoImage:
    """Draw an example.

    Raises:
        InputError: unknown name.
    """
    from amodal.synthetic.scenes import render_scene

    if name not in EXAMPLE_SEEDS:
        raise InputError(f"example: expected one of {', '.join(EXAMPLE_SEEDS)}, got {name!r:.40}")
    buffer = io.BytesIO()
    Image.fromarray(render_scene(EXAMPLE_SEEDS[name], size=EXAMPLE_SIZE).image).save(buffer, format="PNG")
    return DemoImage(f"example-{name}", buffer.getvalue(), EXAMPLE_SIZE)


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


def shrink(pixels: ImageArray, max_side: int) -> ImageArray:
    """Shrink an (H, W, 3) image if a side is longer than `max_side`."""
    H, W = pixels.shape[:2]
    if max(H, W) <= max_side:
        return pixels
    scale = max_side / max(H, W)
    size = (max(round(W * scale), 1), max(round(H * scale), 1))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
