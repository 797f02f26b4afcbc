"""What the HTTP API does with an image, independent of HTTP: segment, find, ask, complete a scene, draw and export."""

from __future__ import annotations

import base64
import io
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from amodal.app.bodies import FindBody, PromptsBody, QuestionBody, SceneBody
from amodal.app.store import DecodedImages, DemoImage
from amodal.errors import InputError
from amodal.inference.everything import MAX_OVERLAP, segment_everything
from amodal.inference.exports import FORMATS, export_scene
from amodal.inference.find import ObjectFinder
from amodal.inference.prompts import mask_prompt
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject, object_from_json, visible_iou
from amodal.inference.segmenter import AmodalSegmenter
from amodal.io.images import ImageArray
from amodal.models.aura.processing import check_question
from amodal.ops.masks import resize_probs
from amodal.ops.rle import Rle, rle_box_xyxy, segmentation_to_rle

MAX_SIDE = 2048  # longest side of the image that `render_image` returns; all prompts and masks are in upload pixels
MAX_AREA = 500_000_000  # pixels of the boxes of all masks of one request
MAP_SIDE = 128  # longest side of an uncertainty map in a response
KEPT_FEATURES = 40  # encoded parts of images


class DemoModels:
    """The models of the server. Calls must not overlap.

    Args:
        segmenter: segments objects in boxes.
        finder: finds boxes, from points or in the whole image.
        assistant: answers questions; None if there is no such model.
        options: options of `amodal segment` with which it gives the same masks, for instance the model.
    """

    def __init__(
        self,
        segmenter: AmodalSegmenter,
        finder: ObjectFinder,
        assistant: Any = None,
        options: Sequence[str] = (),
    ) -> None:
        self.segmenter, self.finder, self.assistant, self.options = segmenter, finder, assistant, list(options)
        self.decoded = DecodedImages()
        if segmenter is not None:
            segmenter.keep_features(KEPT_FEATURES)

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

    def segment_stored(self, image: DemoImage, prompts: PromptsBody) -> dict[str, Any]:
        """Segment objects of a stored image, which is decoded once for all of its requests.

        Returns:
            The content of `scene.json`, with the uncertainty of each object and the depth order.

        Raises:
            InputError: as `segment`.
        """
        return scene_content(self.segment(self.decoded.pixels(image), prompts))

    def find(self, image: DemoImage, body: FindBody) -> dict[str, Any]:
        """Find and segment all objects of a stored image, except those that are known.

        Raises:
            InputError: a mask that is empty or not of the image's size.
        """
        known = known_objects(body.known, image.size)
        scene = self.segment(self.decoded.pixels(image), PromptsBody(everything=True, threshold=body.threshold))
        scene.objects = [obj for obj in scene.objects if same_object(obj, known) is None]
        return scene_content(scene)

    def ask(self, image: DemoImage, body: QuestionBody) -> dict[str, Any]:
        """Answer a question about an image, as the next turn of the conversation about it.

        Args:
            image: image with its conversation.
            body: the question, and the visible masks of the objects that are known.

        Returns:
            `answer`, `parts` (the answer in pieces, each with the numbers of the objects it names) and the content of
            `scene_content`. `same_as` of an object is the number of the known object that it is, or None.

        Raises:
            InputError: no assistant, a question that is empty or too long, or an impossible mask.
        """
        if self.assistant is None:
            raise InputError("ask: expected a model that answers questions, got none (amodal serve --assistant MODEL)")
        check_question(body.question)
        known = known_objects(body.known, image.size)
        if image.chat is None:
            image.chat = self.assistant.chat(self.decoded.pixels(image))
        reply = image.chat.ask(body.question)
        image.chat.replies.clear()  # their masks are not needed again
        content = scene_content(reply.scene)
        for record, obj in zip(content["objects"], reply.scene, strict=True):
            record["same_as"] = same_object(obj, known)
        parts = [{"text": part.text, "objects": list(part.objects)} for part in reply.parts]
        return {"answer": reply.text, "parts": parts, **content}

    def zip_scene(self, image: DemoImage, to: str, body: SceneBody) -> bytes:
        """Write a scene of a stored image as a ZIP file.

        Args:
            image: stored image.
            to: `scene` for the files that `amodal segment` writes, or one of `exports.FORMATS`.
            body: objects of the scene.

        Returns:
            Content of the ZIP file.

        Raises:
            InputError: another format, or a scene without objects or with an impossible one.
        """
        if to != "scene" and to not in FORMATS:
            raise InputError(f"to: expected scene, {', '.join(FORMATS)}, got {to!r:.40}")
        if not body.objects:
            raise InputError("export: expected a scene with objects, got none; click an object first")
        scene = scene_of(body, image.size)
        scene.image = self.decoded.pixels(image)
        buffer = io.BytesIO()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "scene"
            if to == "scene":
                scene.save(folder)
            else:
                export_scene(scene, to, folder, f"{image.name}.png")
            with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                    archive.write(file, file.relative_to(folder))
        return buffer.getvalue()

    def render_image(self, image: DemoImage) -> bytes:
        """A stored image as a JPEG file with sides of at most `MAX_SIDE`, for browsers that cannot read the file."""
        buffer = io.BytesIO()
        Image.fromarray(shrink(self.decoded.pixels(image), MAX_SIDE)).save(buffer, format="JPEG", quality=90)
        return buffer.getvalue()


def scene_content(scene: Scene) -> dict[str, Any]:
    """The content of `scene.json`, plus the depth order `front_to_back` and the uncertainty map of each object."""
    content = scene.to_json()
    for record, obj in zip(content["objects"], scene, strict=True):
        record["uncertainty"] = uncertainty_content(obj)
    return content | {"front_to_back": scene.front_to_back()}


def uncertainty_content(obj: SceneObject) -> dict[str, Any] | None:
    """The uncertainty map of an object for JSON.

    Returns:
        `window` of the image that the map spans, its `size` (h, w), and `values`, one byte per pixel in base64, in
        which 255 stands for ln 2; None for an object without a map.
    """
    if obj.uncertainty_crop is None:
        return None
    values, window = obj.uncertainty_crop
    h, w = values.shape
    scale = min(MAP_SIDE / max(h, w), 1)
    small = resize_probs(values, (0, 0, max(round(w * scale), 1), max(round(h * scale), 1)))
    shares = np.clip(small / np.log(2), 0, 1)
    encoded = base64.b64encode(np.rint(shares * 255).astype(np.uint8).tobytes()).decode("ascii")
    return {"window": list(window), "size": list(small.shape), "values": encoded}


def complete_scene(image: DemoImage, body: SceneBody) -> dict[str, Any]:
    """Compute what follows from the masks of a scene: occlusion rates, boxes, who occludes whom, depth order.

    Raises:
        InputError: an impossible object.
    """
    scene = scene_of(body, image.size)
    return scene.to_json() | {"front_to_back": scene.front_to_back()}


def scene_of(body: SceneBody, size: tuple[int, int]) -> Scene:
    """The scene of an image (H, W) that a request describes.

    Raises:
        InputError: a mask that does not cover the image exactly, an impossible box or score, or masks that are too
            large together.
    """
    records = [record.model_dump() for record in body.objects]
    for record in records:
        record |= {key: segmentation_to_rle(record[key], *size) for key in ("visible", "amodal")}
    _check_area([record[key] for record in records for key in ("visible", "amodal")])
    return Scene.from_json({"size": size, "objects": records, "question": body.question, "answer": body.answer})


def known_objects(visible: Sequence[Any], size: tuple[int, int]) -> list[SceneObject]:
    """Objects from the visible masks (COCO RLE) in a request about an image (H, W).

    Raises:
        InputError: a mask that is empty or not of this size, or masks that are too large together.
    """
    rles = [mask_prompt(rle, size) for rle in visible]
    _check_area(rles)
    box = (0.0, 0.0, 1.0, 1.0)
    return [object_from_json({"visible": r, "amodal": r, "visible_box_xyxy": box, "score": 1}, size) for r in rles]


def same_object(obj: SceneObject, known: Sequence[SceneObject]) -> int | None:
    """The number of the known object that an object is, by the rule for objects that were found twice; or None."""
    overlaps = [visible_iou(obj, other) for other in known]
    best = int(np.argmax(overlaps)) if overlaps else -1
    return best if overlaps and overlaps[best] > MAX_OVERLAP else None


def _check_area(rles: Sequence[Rle]) -> None:
    """Refuse masks that would take too much memory when they are decoded, each inside its box."""
    boxes = [rle_box_xyxy(rle) for rle in rles]
    area = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes)
    if area > MAX_AREA:
        raise InputError(f"masks: expected boxes of at most {MAX_AREA} pixels together, got {area:.0f}")


def shrink(pixels: ImageArray, max_side: int) -> ImageArray:
    """Shrink an (H, W, 3) image if a side is longer than `max_side`."""
    H, W = pixels.shape[:2]
    if max(H, W) <= max_side:
        return pixels
    scale = max_side / max(H, W)
    size = (max(round(W * scale), 1), max(round(H * scale), 1))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
