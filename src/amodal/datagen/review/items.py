"""A pair as the review page shows it: numbered, coloured objects, run lengths, a shrunk image, an editable answer.

In an editable answer, `[the mug #2]` stands for `<p>the mug</p> {seg:1204356}`. The number is that of
the object in the image, from 1 in the order of the annotations: the same on the coloured masks, in
the text, and on the keyboard. `[#2]` is a placeholder without words, and `[two mugs #2 #3]` one
phrase for several objects.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from amodal.data.reason_seg import PLACEHOLDER
from amodal.datagen.prompt import inner_point
from amodal.datagen.rules import RuleContext, check_pair
from amodal.datagen.store.records import Draft, Pair, WorkImage
from amodal.datagen.store.work_folder import WorkFolder
from amodal.errors import InputError
from amodal.inference.draw import object_colour
from amodal.ops.arrays import Mask
from amodal.ops.occlusion import occlusion_rate
from amodal.ops.rle import decode_mask

MAX_SIDE = 2048  # pixels of the image that is sent; a page cannot show more
JPEG_QUALITY = 93

_MENTION = re.compile(r"(?:<p>([^<>]*)</p>\s*)?(\{seg:\d+\}(?:\s*\{seg:\d+\})*)")
# Brackets around markup or within marked words are text, not a mention.
_BRACKETS = re.compile(r"<p>[^<>]*</p>|\[([^\[\]<>{}]*)\]")


class ReviewItems:
    """Pairs and images of a work folder, ready to be sent. Threads may share it.

    Attributes:
        work: the work folder.
        objects: objects of an image as the page shows them, by image id.
        context: rule context of an image, by image id.
        image_file: JPEG file of an image, by image id.
    """

    def __init__(self, work: WorkFolder) -> None:
        """Keeps the most recent images in memory, because the pairs of an image follow one another."""
        self.work = work
        self._categories = work.categories()
        self.objects = lru_cache(maxsize=16)(self._objects)
        self.context = lru_cache(maxsize=16)(self._context)
        self.image_file = lru_cache(maxsize=16)(self._image_file)

    def object_ids(self, image_id: int) -> list[int]:
        """Annotation ids of an image; object number n is the n-th."""
        return [record["id"] for record in self.work.object_records(image_id)]

    def item(self, pair: Pair) -> dict[str, Any]:
        """Everything that the page needs to show a pair.

        It contains the verdicts of others only if the pair waits for a tiebreak decision, and
        without names, so that people judge the text and not its writer.
        """
        image = self.work.image(pair.image_id)
        ids = self.object_ids(image.id)
        number = {annotation_id: i + 1 for i, annotation_id in enumerate(ids)}
        needs_decision = pair.state == "cross_checked"
        height, width = _shown_size(image.height, image.width)
        return {
            "id": pair.id,
            "tries": pair.tries,
            "state": pair.state,
            "question": pair.question,
            "answer": to_editable(pair.answer, ids),
            "fault": reason_for_people(pair.reason or "", ids) if pair.state in ("failed", "unclear") else None,
            "claims": [[number[a], number[b]] for a, b in pair.claims if a in number and b in number],
            "image": {"id": image.id, "width": width, "height": height, "url": f"images/{image.id}"},
            "objects": self.objects(image.id),
            "verdicts": [
                {
                    "verdict": review.verdict,
                    "question": review.question,
                    "answer": None if review.answer is None else to_editable(review.answer, ids),
                    "note": review.note,
                }
                for review in (self.work.reviews.of_pair(pair.id) if needs_decision else [])
            ],
        }

    def violations(self, pair: Pair, question: str, answer: str) -> list[str]:
        """The rules that a question and an editable answer violate, in the words of the page."""
        ids = self.object_ids(pair.image_id)
        try:
            draft = Draft(" ".join(question.split()), from_editable(answer, ids))
        except InputError as error:
            return [str(error)]
        return [reason_for_people(found.reason, ids) for found in check_pair(draft, self.context(pair.image_id))]

    def _context(self, image_id: int) -> RuleContext:
        return RuleContext(self.work.sample(self.work.image(image_id)), self._categories)

    def _objects(self, image_id: int) -> list[dict[str, Any]]:
        records = self.work.object_records(image_id)
        number = {record["id"]: i + 1 for i, record in enumerate(records)}
        return [self._object(record, number) for record in records]

    def _object(self, record: dict[str, Any], number: dict[int, int]) -> dict[str, Any]:
        visible, amodal = decode_mask(record["visible_mask"]), decode_mask(record["segmentation"])
        shown = _shown_size(*amodal.shape)
        red, green, blue = object_colour(number[record["id"]] - 1)
        return {
            "number": number[record["id"]],
            "name": self._categories.get(record["category_id"], f"category {record['category_id']}"),
            "colour": f"#{red:02x}{green:02x}{blue:02x}",
            "hidden": round(occlusion_rate(visible, amodal), 4),
            "behind": [number[i] for i in record["occluders"] if i in number],
            "anchor": list(inner_point(_shrink(visible if visible.any() else amodal, shown))),
            "visible": run_lengths(_shrink(visible, shown)),
            "amodal": run_lengths(_shrink(amodal, shown)),
        }

    def _image_file(self, image_id: int) -> bytes:
        """JPEG file of an image, encoded again from its pixels, so that no other file can be read through it.

        Raises:
            InputError: the file is outside the work folder's `images/`, missing or damaged.
        """
        image = self.work.image(image_id)
        safe_image_path(self.work, image)
        pixels = self.work.sample(image).load()
        shown = _shown_size(image.height, image.width)
        if shown != pixels.shape[:2]:
            pixels = np.asarray(cv2.resize(pixels, shown[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        file = BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        return file.getvalue()


def safe_image_path(work: WorkFolder, image: WorkImage) -> Path:
    """Path of an image file with links resolved.

    Raises:
        InputError: the path is outside the work folder's `images/`.
    """
    path = work.image_path(image).resolve()
    if not path.is_relative_to((work.folder / "images").resolve()):
        raise InputError(f"image {image.id}: expected an image inside the work folder, got one outside it")
    return path


def run_lengths(mask: Mask) -> list[int]:
    """Lengths of the runs of an (H, W) bool mask, row by row: pixels off, on, off, ...; the first may be 0."""
    flat = mask.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs: list[int] = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs


def to_editable(answer: str, object_ids: Sequence[int]) -> str:
    """Convert an answer to its editable form.

    Args:
        answer: text with `<p>words</p> {seg:ANNOTATION_ID}`.
        object_ids: annotation ids of the image's objects; object number n is the n-th.

    Returns:
        The text with `[words #n]`. A mention without an editable form (words with brackets in
        them, an id that is not of this image) stays as it is.
    """
    numbers = {annotation_id: i + 1 for i, annotation_id in enumerate(object_ids)}

    def shorten(match: re.Match[str]) -> str:
        words = " ".join((match[1] or "").split())
        mentioned = [int(number) for number in PLACEHOLDER.findall(match[2])]
        if re.search(r"[\[\]#{}]", words) or not all(i in numbers for i in mentioned):
            return match[0]
        return "[" + " ".join(filter(None, [words, *(f"#{numbers[i]}" for i in mentioned)])) + "]"

    return _MENTION.sub(shorten, answer)


def from_editable(text: str, object_ids: Sequence[int]) -> str:
    """Convert an editable answer back to `<p>words</p> {seg:ANNOTATION_ID}`; white space becomes single spaces.

    Raises:
        InputError: the text has a number that no object of the image has.
    """

    def expand(match: re.Match[str]) -> str:
        words, numbers = _split_mention(match[1] or "")
        if not numbers:
            return match[0]
        for number in numbers:
            if not 1 <= number <= len(object_ids):
                raise InputError(f"answer: expected objects #1 to #{len(object_ids)}, got #{number}")
        placeholders = [f"{{seg:{object_ids[number - 1]}}}" for number in numbers]
        return " ".join(([f"<p>{words}</p>"] if words else []) + placeholders)

    return _BRACKETS.sub(expand, " ".join(text.split()))


def reason_for_people(reason: str, object_ids: Sequence[int]) -> str:
    """The reason why a pair failed, with `#2` instead of the `[1204356]` that a model is told."""
    numbers = {str(annotation_id): i + 1 for i, annotation_id in enumerate(object_ids)}

    def shorten(match: re.Match[str]) -> str:
        return f"#{numbers[match[1]]}" if (match[1] or "") in numbers else match[0]

    return to_editable(_BRACKETS.sub(shorten, reason), object_ids)


def _split_mention(inside: str) -> tuple[str, list[int]]:
    """Split `the mug #2 #3` into its words and the numbers at its end."""
    words, numbers = inside.split(), list[int]()
    while words:
        rest, mark, digits = words[-1].rpartition("#")
        if not mark or not re.fullmatch("[0-9]{1,9}", digits):
            break
        numbers.append(int(digits))
        words[-1:] = [rest] if rest else []
    return " ".join(words), numbers[::-1]


def _shown_size(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, MAX_SIDE / max(height, width))
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _shrink(mask: Mask, size: tuple[int, int]) -> Mask:
    if mask.shape == size:
        return mask
    return np.asarray(cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST), bool)
