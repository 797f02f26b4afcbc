"""What the web demo can do with a picture, without a word about HTTP."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from amodal.app.pictures import Picture
from amodal.errors import InputError
from amodal.inference.draw import draw_uncertainty, object_colour
from amodal.inference.everything import segment_everything
from amodal.inference.exports import FORMATS, export_scene
from amodal.inference.exports.layers import front_to_back, peeled
from amodal.inference.find import ObjectFinder
from amodal.inference.scene import Scene
from amodal.inference.segmenter import AmodalSegmenter

Pixels = npt.NDArray[np.uint8]

MAX_PROMPTS = 32
MAX_QUESTION = 500
EXAMPLE_SEEDS = {"one": 11, "two": 27, "three": 40}  # procedural: nothing has to be stored or downloaded
EXAMPLE_SIZE = (384, 384)


class Prompts(BaseModel):
    """What to segment: boxes, points, or neither for everything."""

    model_config = ConfigDict(extra="forbid")

    boxes: list[tuple[float, float, float, float]] = Field([], max_length=MAX_PROMPTS)
    points: list[tuple[float, float]] = Field([], max_length=MAX_PROMPTS)
    everything: bool = False
    threshold: float | None = Field(None, gt=0, lt=1)


class Studio:
    """The models, and what they do; one call at a time.

    Args:
        segmenter: for boxes.
        finder: for points and whole pictures.
        assistant: for questions; None if there is no such model.
    """

    def __init__(self, segmenter: AmodalSegmenter, finder: ObjectFinder, assistant: Any = None) -> None:
        self.segmenter, self.finder, self.assistant = segmenter, finder, assistant

    def segment(self, pixels: Pixels, prompts: Prompts) -> Scene:
        """The scene of a picture.

        Raises:
            InputError: an impossible box, point or threshold.
        """
        if prompts.everything or not (prompts.boxes or prompts.points):
            return segment_everything(self.segmenter, self.finder, pixels, threshold=prompts.threshold)
        boxes = [list(box) for box in prompts.boxes]
        if prompts.points:
            boxes += self.finder.boxes_at(pixels, prompts.points).tolist()
        return self.segmenter(pixels, boxes, threshold=prompts.threshold)

    def ask(self, picture: Picture, question: str) -> dict[str, Any]:
        """Answer about a picture; the conversation goes on from question to question.

        `parts` are the answer in pieces, each with the numbers of the objects it names.

        Raises:
            InputError: no assistant, or an empty or over-long question.
        """
        if self.assistant is None:
            raise InputError("ask: expected a model that answers questions, got none (amodal serve --assistant MODEL)")
        if not question.strip() or len(question) > MAX_QUESTION:
            raise InputError(f"question: expected 1 to {MAX_QUESTION} characters, got {len(question.strip())}")
        if picture.chat is None:
            picture.chat = self.assistant.chat(picture.pixels)
        reply = picture.chat.ask(question)
        picture.scene = reply.scene
        parts = [{"text": part.text, "objects": list(part.objects)} for part in reply.parts]
        return {"answer": reply.text, "parts": parts, **describe(reply.scene)}


def describe(scene: Scene) -> dict[str, Any]:
    """`scene.json` and, an object, the colour of its overlay; what lies in front comes first in `front_to_back`."""
    content = scene.to_json()
    for index, thing in enumerate(content["objects"]):
        thing["colour"] = "#{:02x}{:02x}{:02x}".format(*object_colour(index))
    return content | {"front_to_back": front_to_back(scene)}


def view(picture: Picture, kind: str, number: int) -> bytes:
    """A picture to look at, as JPEG.

    Args:
        picture: with its scene.
        kind: `picture`, `overlay`, `uncertainty` of object `number`, or `peeled` by `number` objects.
        number: see there.

    Raises:
        InputError: another kind, or no such object.
    """
    scene = picture.scene
    if kind == "picture":
        pixels = picture.pixels
    elif kind == "overlay":
        pixels = scene.draw() if scene.objects else picture.pixels
    elif kind == "peeled":
        pixels = peeled(scene, max(number, 0))
    elif kind == "uncertainty" and 0 <= number < len(scene.objects):
        pixels = draw_uncertainty(picture.pixels, scene.objects[number].uncertainty)
    else:
        raise InputError(f"view: expected picture, overlay, peeled or uncertainty of an object, got {kind!r:.40}")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def packed(picture: Picture, to: str) -> bytes:
    """The scene as a ZIP: `scene` for what `amodal segment` writes, or a form of `exports.FORMATS`.

    Raises:
        InputError: another form, or nothing to write.
    """
    if to != "scene" and to not in FORMATS:
        raise InputError(f"to: expected scene, {', '.join(FORMATS)}, got {to!r:.40}")
    if not picture.scene.objects:
        raise InputError("export: expected a scene with objects, got none; draw a box first")
    buffer = io.BytesIO()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "scene"
        if to == "scene":
            picture.scene.save(folder)
        else:
            export_scene(picture.scene, to, folder, f"{picture.name}.png")
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.iterdir()):
                archive.write(file, file.name)
    return buffer.getvalue()


def example(name: str) -> Pixels:
    """A procedural scene. Raises `InputError` for an unknown name."""
    from amodal.synthetic.scenes import render_scene

    if name not in EXAMPLE_SEEDS:
        raise InputError(f"example: expected one of {', '.join(EXAMPLE_SEEDS)}, got {name!r:.40}")
    return render_scene(EXAMPLE_SEEDS[name], size=EXAMPLE_SIZE).image
