"""Operations of the web demo on an image, independent of HTTP: store, segment, ask, draw and export."""

from __future__ import annotations

import io
import secrets
import tempfile
import time
import zipfile
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from amodal.errors import InputError
from amodal.inference.draw import draw_uncertainty, object_colour
from amodal.inference.everything import segment_everything
from amodal.inference.exports import FORMATS, export_scene
from amodal.inference.exports.layers import remove_front_objects
from amodal.inference.find import ObjectFinder
from amodal.inference.prompts import ObjectPrompt, collect_prompts
from amodal.inference.scene import Scene
from amodal.inference.segmenter import AmodalSegmenter
from amodal.io.images import ImageArray, load_image, opened_image
from amodal.models.aura.processing import check_question

MAX_SIDE = 2048  # longest side of an image on the page; larger uploads are shrunk, because a page shows no more pixels
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


@dataclass(eq=False)
class DemoImage:
    """An uploaded image with its latest scene and the conversation about it.

    Attributes:
        name: file name without suffix.
        pixels: (H, W, 3) uint8 RGB.
        scene: result of the latest request.
        chat: conversation about the image, or None.
        used: time of the latest use, from `time.monotonic`.
    """

    name: str
    pixels: ImageArray
    scene: Scene
    chat: Any = None
    used: float = field(default_factory=time.monotonic)


class ImageStore:
    """Uploaded images in memory, limited in number and age; the least recently used image is removed first.

    Args:
        max_images: maximum number of images.
        max_seconds: maximum time since the latest use of an image.
        max_pixels: maximum number of pixels of an upload, before shrinking.
    """

    def __init__(self, max_images: int = 64, max_seconds: float = 1800.0, max_pixels: int = 50_000_000) -> None:
        self.max_images, self.max_seconds, self.max_pixels = max_images, max_seconds, max_pixels
        self.images: OrderedDict[str, DemoImage] = OrderedDict()

    def add(self, name: str, pixels: ImageArray) -> str:
        """Store an image and return its key, which cannot be guessed."""
        self._remove_old()
        key = secrets.token_urlsafe(12)
        self.images[key] = DemoImage(name, pixels, Scene([], pixels.shape[:2], pixels))
        while len(self.images) > self.max_images:
            self.images.popitem(last=False)
        return key

    def get(self, key: str) -> DemoImage:
        """Look up an image.

        Raises:
            InputError: no image with this key, or it was removed.
        """
        self._remove_old()
        image = self.images.get(key)
        if image is None:
            raise InputError("image: expected the key of a stored image, got another key; upload the image again")
        image.used = time.monotonic()
        self.images.move_to_end(key)
        return image

    def read(self, content: bytes, max_side: int | None = None) -> ImageArray:
        """Decode an upload to (H, W, 3) uint8 RGB.

        Args:
            content: bytes of an image file.
            max_side: longest side of the result, to which a larger image is shrunk; its own size if None.

        Raises:
            InputError: not an image, a damaged one, or one with too many pixels.
        """
        pixels = decode_image(content, self.max_pixels)
        return pixels if max_side is None else shrink(pixels, max_side)

    def _remove_old(self) -> None:
        limit = time.monotonic() - self.max_seconds
        while self.images and next(iter(self.images.values())).used < limit:
            self.images.popitem(last=False)


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
        Content of a JPEG file.

    Raises:
        InputError: another kind, or no such object.
    """
    scene = image.scene
    if kind == "image":
        pixels = image.pixels
    elif kind == "overlay":
        pixels = scene.draw() if scene.objects else image.pixels
    elif kind == "peeled":
        pixels = remove_front_objects(scene, max(number, 0))
    elif kind == "uncertainty" and 0 <= number < len(scene.objects):
        pixels = draw_uncertainty(image.pixels, scene.objects[number].uncertainty)
    else:
        raise InputError(f"view: expected image, overlay, peeled or uncertainty of an object, got {kind!r:.40}")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=90)
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
    if not image.scene.objects:
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


def example_image(name: str) -> ImageArray:
    """Draw an example, (H, W, 3) uint8 RGB.

    Raises:
        InputError: unknown name.
    """
    from amodal.synthetic.scenes import render_scene

    if name not in EXAMPLE_SEEDS:
        raise InputError(f"example: expected one of {', '.join(EXAMPLE_SEEDS)}, got {name!r:.40}")
    return render_scene(EXAMPLE_SEEDS[name], size=EXAMPLE_SIZE).image


def decode_image(content: bytes, max_pixels: int) -> ImageArray:
    """Decode the bytes of an image file to (H, W, 3) uint8 RGB; the size is checked before decoding.

    Raises:
        InputError: not an image, a damaged one, or one with too many pixels.
    """
    with opened_image(content, max_pixels) as image:
        return load_image(image)


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
