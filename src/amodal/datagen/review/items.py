"""A pair as the review page shows it: numbered, coloured objects, run lengths, a picture made small enough."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from amodal.datagen.describe import inner_point
from amodal.datagen.review.markup import from_editable, reason_for_people, to_editable
from amodal.datagen.rules import Context, check_pair
from amodal.datagen.store.manifest import Manifest
from amodal.datagen.store.records import Draft, Pair, WorkImage
from amodal.errors import InputError
from amodal.inference.draw import object_colour
from amodal.ops.masks import occlusion_rate
from amodal.ops.rle import decode_mask

Mask = npt.NDArray[np.bool_]

MAX_SIDE = 2048  # pixels of what is sent; a person sees no more on a page
JPEG_QUALITY = 93


class Items:
    """Pairs and pictures of a work folder, ready to be sent; may be shared by threads.

    Attributes:
        work: the work folder.
    """

    def __init__(self, work: Manifest) -> None:
        """Keeps the last pictures in memory: a picture's pairs come one after the other."""
        self.work = work
        self._categories = work.categories()
        self.objects = lru_cache(maxsize=16)(self._objects)
        self.context = lru_cache(maxsize=16)(self._context)
        self.picture = lru_cache(maxsize=16)(self._picture)

    def object_ids(self, image_id: int) -> list[int]:
        """Annotation ids of a picture; object number n is the n-th."""
        return [record["id"] for record in self.work.object_records(image_id)]

    def item(self, pair: Pair) -> dict[str, Any]:
        """All that the page needs to show a pair.

        Others' verdicts are in it only if the pair waits for a decision between them, and without
        names: the text should be judged, not its writer.
        """
        image = self.work.image(pair.image_id)
        ids = self.object_ids(image.id)
        number = {annotation_id: i + 1 for i, annotation_id in enumerate(ids)}
        waits = pair.state == "cross_checked"
        height, width = _shown_size(image.height, image.width)
        return {
            "id": pair.id,
            "tries": pair.tries,
            "state": pair.state,
            "question": pair.question,
            "answer": to_editable(pair.answer, ids),
            "fault": reason_for_people(pair.reason or "", ids) if pair.state == "failed" else None,
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
                for review in (self.work.reviews(pair.id) if waits else [])
            ],
        }

    def faults(self, pair: Pair, question: str, answer: str) -> list[str]:
        """What the automatic check has against a text in the short form, in that form."""
        ids = self.object_ids(pair.image_id)
        try:
            draft = Draft(" ".join(question.split()), from_editable(answer, ids))
        except InputError as error:
            return [str(error)]
        return [reason_for_people(fault.reason, ids) for fault in check_pair(draft, self.context(pair.image_id))]

    def _context(self, image_id: int) -> Context:
        return Context(self.work.sample(self.work.image(image_id)), self._categories)

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

    def _picture(self, image_id: int) -> bytes:
        """JPEG of a picture, made anew from its pixels, so that no other file's bytes get out.

        Raises:
            InputError: the picture is outside the work folder's `images/`, missing or damaged.
        """
        image = self.work.image(image_id)
        picture_path(self.work, image)
        pixels = self.work.sample(image).load()
        shown = _shown_size(image.height, image.width)
        if shown != pixels.shape[:2]:
            pixels = np.asarray(cv2.resize(pixels, shown[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        file = BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        return file.getvalue()


def picture_path(work: Manifest, image: WorkImage) -> Path:
    """File of a picture, links followed. Raises `InputError` if it is outside the work folder's `images/`."""
    path = work.image_path(image).resolve()
    if not path.is_relative_to((work.folder / "images").resolve()):
        raise InputError(f"image {image.id}: expected a picture inside the work folder, got one outside it")
    return path


def run_lengths(mask: Mask) -> list[int]:
    """(H, W) bool to pixels off, on, off, ... row by row; the first number may be 0."""
    flat = mask.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs: list[int] = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs


def _shown_size(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, MAX_SIDE / max(height, width))
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _shrink(mask: Mask, size: tuple[int, int]) -> Mask:
    if mask.shape == size:
        return mask
    return np.asarray(cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST), bool)
