"""The request to a vision-language model about one image, and the parsing of its reply.

A request has the text of a versioned prompt file, the image's annotation in words, and the image itself with
numbered outlines.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydantic import BaseModel, ConfigDict, ValidationError

from amodal.data.samples import ImageSample
from amodal.datagen.store.records import Draft
from amodal.errors import InputError
from amodal.inference.draw import object_colour
from amodal.io.images import ImageArray, load_image
from amodal.ops.arrays import Box, Mask
from amodal.ops.occlusion import is_occluded
from amodal.questions.facts import Facts

PROMPT_VERSION = "2"
MAX_JSON_STARTS = 2000  # brackets in a reply at which JSON is looked for
MAX_REJECTED = 20  # rejected pairs that another request mentions
JPEG_QUALITY = 90


class OcclusionClaim(BaseModel):
    """A statement that one object occludes another."""

    model_config = ConfigDict(extra="forbid")
    front: int
    behind: int


class WrittenPair(BaseModel):
    """A question and its answer as a model writes them."""

    model_config = ConfigDict(extra="forbid")
    question: str
    answer: str
    occlusion: list[OcclusionClaim]


class WrittenPairs(BaseModel):
    """The complete reply of a model."""

    model_config = ConfigDict(extra="forbid")
    pairs: list[WrittenPair]


@dataclass(frozen=True)
class RejectedPair:
    """A pair of an earlier round, and why it failed the check."""

    question: str
    answer: str
    reason: str


@dataclass(frozen=True)
class Prompt:
    """Text of one request.

    Attributes:
        system: instructions, the same for all images.
        user: summary of the image, and the number of pairs wanted.
        version: version of the prompt file.
    """

    system: str
    user: str
    version: str


def make_prompt(
    summary: str,
    count: int,
    rejected: Sequence[RejectedPair] = (),
    kept: Sequence[str] = (),
    complaint: str | None = None,
    version: str = PROMPT_VERSION,
) -> Prompt:
    """Fill the prompt file.

    Args:
        summary: summary of the image, from `describe`.
        count: number of pairs wanted.
        rejected: pairs of earlier rounds that failed the check.
        kept: questions about the image that stay.
        complaint: why the earlier reply as a whole could not be used.
        version: version of the prompt file.

    Raises:
        InputError: there is no prompt file of this version.
    """
    file = resources.files("amodal.datagen") / "prompts" / f"{version}.md"
    if not file.is_file():
        raise InputError(f"prompt: expected a version in amodal/datagen/prompts, got {version!r}")
    system, user = file.read_text(encoding="utf-8").split("\n---\n")
    retry_text = _retry_text(rejected, kept, complaint)
    text = Template(user).substitute(summary=summary, count=count, again=retry_text)
    return Prompt(system.strip(), text.strip(), version)


def response_format() -> dict[str, Any]:
    """JSON schema of the reply, in the form that OpenAI-compatible servers accept."""
    schema = WrittenPairs.model_json_schema()
    return {"type": "json_schema", "json_schema": {"name": "pairs", "strict": True, "schema": schema}}


def parse_response(text: str, *, allow_none: bool = False) -> list[Draft]:
    """Parse the pairs in a model's reply, wherever the JSON stands.

    Models think aloud before the JSON, put it into a code fence, and add words after it. Of several JSON objects of
    the form asked for, the last one counts, because a model may sketch its reply while it thinks.

    Args:
        text: the reply.
        allow_none: accept an empty list.

    Raises:
        InputError: there is no JSON of the form asked for; the message says what is wrong with the nearest match.
    """
    reason, is_empty = "", False
    for body in json_bodies(text):
        try:
            written = WrittenPairs.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "answer"
            if not reason or reason.startswith("answer:"):  # says more than that there is no JSON
                reason = f"{place}: {first['msg']}"
            continue
        if written.pairs or allow_none:
            return [_draft(pair) for pair in written.pairs]
        is_empty = True
    if is_empty:
        raise InputError("format: expected pairs, got an empty list")
    raise InputError(f"format: expected JSON of the form asked for, got {reason}")


def to_response(drafts: Sequence[Draft]) -> str:
    """Write pairs as a model would reply with them."""
    pairs = [
        {
            "question": draft.question,
            "answer": draft.answer,
            "occlusion": [{"front": front, "behind": behind} for front, behind in draft.claims],
        }
        for draft in drafts
    ]
    return json.dumps({"pairs": pairs}, ensure_ascii=False)


def describe(image: ImageSample, categories: dict[int, str]) -> str:
    """Summary of an image's annotation in words, one line per object.

    Args:
        image: image whose occluders follow from the masks, as `WorkFolder.sample` returns it.
        categories: names by id.
    """
    height, width = image.size
    count = f"{len(image.objects)} object" + ("s" if len(image.objects) != 1 else "")
    lines = [f"Image: {width} pixels wide, {height} high. {count}:"]
    facts = Facts(image, categories)
    for index, obj in enumerate(image.objects):
        rate = obj.occlusion_rate()
        parts = [f"[{obj.id}] {categories.get(obj.category_id, 'object').strip()}"]
        parts.append(f"visible box {_box(obj.visible_box_xyxy)}")
        if facts.is_known(index):
            parts.append(f"whole box {_box(obj.amodal_box_xyxy)}")
            if is_occluded(rate):
                parts.append(f"{rate:.0%} hidden")
            elif facts.is_full(index):
                parts.append("fully visible")
        else:
            parts.append("whole unknown")
        if facts.reaches_beyond(index):
            parts.append("reaches beyond the image")
        if obj.occluders:
            parts.append("hidden by " + _listed(obj.occluders))
        behind = [other.id for other in image.objects if obj.id in other.occluders]
        if behind:
            parts.append("hides part of " + _listed(behind))
        lines.append("; ".join(parts))
    return "\n".join(lines)


def image_url(image: ImageSample, *, outlines: bool, max_side: int) -> str:
    """The image as a JPEG `data:` URL.

    Args:
        image: image to load.
        outlines: draw the outlines and numbers of the objects on it.
        max_side: maximum side in pixels; a larger image is shrunk.
    """
    pixels = load_image(image.path)
    scale = min(1.0, max_side / max(pixels.shape[:2]))
    if scale < 1:
        size = (max(round(pixels.shape[1] * scale), 1), max(round(pixels.shape[0] * scale), 1))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    if outlines:
        pixels = draw_outlines(pixels, image)
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, code = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(code.tobytes()).decode("ascii")


def draw_outlines(pixels: ImageArray, image: ImageSample) -> ImageArray:
    """Outline the visible part of each object and write the object's id on it.

    Args:
        pixels: (h, w, 3) uint8 RGB, the image at any scale.
        image: its objects.

    Returns:
        (h, w, 3) uint8 RGB, a copy.
    """
    canvas = pixels.copy()
    size = (canvas.shape[1], canvas.shape[0])
    line_width = max(round(max(size) / 400), 1)
    spots = []
    for index, obj in enumerate(image.objects):
        resized = cv2.resize(obj.visible_mask().astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        contours, _ = cv2.findContours(resized, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(canvas, contours, -1, object_colour(index), line_width, cv2.LINE_AA)
        spots.append(inner_point(resized.astype(bool)))
    drawing = Image.fromarray(canvas)
    pen = ImageDraw.Draw(drawing)
    font = ImageFont.load_default(size=max(round(max(size) / 45), 10))
    for index, (obj, spot) in enumerate(zip(image.objects, spots, strict=True)):
        place = _inside(spot, pen.textbbox(spot, str(obj.id), font=font, anchor="mm"), size)
        left, top, right, bottom = pen.textbbox(place, str(obj.id), font=font, anchor="mm")
        colour = object_colour(index)
        pen.rectangle((left - 2, top - 2, right + 2, bottom + 2), fill=colour)
        text_colour = (0, 0, 0) if np.dot(colour, (0.299, 0.587, 0.114)) > 110 else (255, 255, 255)
        pen.text(place, str(obj.id), fill=text_colour, font=font, anchor="mm")
    return np.array(drawing)


def inner_point(mask: Mask) -> tuple[int, int]:
    """The pixel (x, y) of an (H, W) bool mask that is farthest from its border, where its number is drawn."""
    padded = np.pad(mask.astype(np.uint8), 1)  # the border of the image is a border of the mask
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(x), int(y)


def json_bodies(text: str) -> Iterator[str]:
    """What may be the JSON in a reply, the most likely first: all of it, then the JSON values in it from the last."""
    yield text.strip()
    thought, closed, after = text.rpartition("</think>")
    found = list[str]()
    for part in (after, thought) if closed else (text,):
        decoder, position, end, spans = json.JSONDecoder(), 0, len(part), list[str]()
        for _ in range(MAX_JSON_STARTS):
            position = min((p for p in (part.find("{", position), part.find("[", position)) if p >= 0), default=end)
            if position == end:
                break
            try:
                value, stop = decoder.raw_decode(part, position)
            except (ValueError, RecursionError):
                position += 1
                continue
            spans.append(json.dumps({"pairs": value}) if isinstance(value, list) else part[position:stop])
            position = stop
        found += reversed(spans)
    yield from found


def _draft(pair: WrittenPair) -> Draft:
    claims = tuple((claim.front, claim.behind) for claim in pair.occlusion)
    return Draft(" ".join(pair.question.split()), " ".join(pair.answer.split()), claims)


def _retry_text(rejected: Sequence[RejectedPair], kept: Sequence[str], complaint: str | None) -> str:
    parts = []
    if complaint:
        parts.append(f"\n\nYour last answer could not be used: {complaint}")
    if kept:
        parts.append("\n\nThese questions are there already; ask for something else:")
        parts += [f"\n- {question}" for question in kept]
    if rejected:
        parts.append("\n\nThese were turned down. Write others that do not have the fault named:")
        parts += [f"\n- {one.question} -> {one.answer} ({one.reason})" for one in rejected[:MAX_REJECTED]]
    return "".join(parts)


def _inside(
    spot: tuple[float, float], label: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float]:
    """The spot (x, y), moved until its label (left, top, right, bottom) lies inside the image (W, H)."""
    moved = []
    for place, low, high, limit in zip(spot, label[:2], label[2:], size, strict=True):
        moved.append(place - max(high + 3 - limit, 0) if low - 3 >= 0 else place - min(low - 3, 0))
    return moved[0], moved[1]


def _box(box: Box | None) -> str:
    return "unknown" if box is None else "(" + ", ".join(f"{v:.0f}" for v in box) + ")"


def _listed(ids: Sequence[int]) -> str:
    *first, last = (f"[{number}]" for number in sorted(ids))
    return f"{', '.join(first)} and {last}" if first else last
