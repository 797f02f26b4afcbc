"""The pictures visitors work on, in memory, for a while."""

from __future__ import annotations

import io
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from amodal.errors import InputError
from amodal.inference.scene import Scene
from amodal.io.images import load_image

Pixels = npt.NDArray[np.uint8]

MAX_SIDE = 2048  # larger uploads are shrunk: a page shows no more


@dataclass(eq=False)
class Picture:
    """One upload: pixels, what was found last, and the conversation about it."""

    name: str
    pixels: Pixels
    scene: Scene
    chat: Any = None
    used: float = field(default_factory=time.monotonic)


class Pictures:
    """A store with a limit of number and age; the least recently used goes first.

    Args:
        max_pictures: kept at once.
        max_seconds: since the last use.
        max_pixels: of an upload, before shrinking.
    """

    def __init__(self, max_pictures: int = 64, max_seconds: float = 1800.0, max_pixels: int = 50_000_000) -> None:
        self.max_pictures, self.max_seconds, self.max_pixels = max_pictures, max_seconds, max_pixels
        self.kept: OrderedDict[str, Picture] = OrderedDict()

    def add(self, name: str, pixels: Pixels) -> str:
        """Keep a picture; returns its key, which nobody can guess."""
        self._forget_old()
        key = secrets.token_urlsafe(12)
        self.kept[key] = Picture(name, pixels, Scene([], pixels.shape[:2], pixels))
        while len(self.kept) > self.max_pictures:
            self.kept.popitem(last=False)
        return key

    def get(self, key: str) -> Picture:
        """A picture by its key. Raises `InputError` if it is not kept (any more)."""
        self._forget_old()
        picture = self.kept.get(key)
        if picture is None:
            raise InputError("picture: expected one that is kept, got none of that key; upload it again")
        picture.used = time.monotonic()
        self.kept.move_to_end(key)
        return picture

    def read(self, content: bytes) -> Pixels:
        """An upload as (H, W, 3) uint8 RGB of at most `MAX_SIDE`.

        Raises:
            InputError: not an image, damaged, or of too many pixels.
        """
        return shrunk(read_image(content, self.max_pixels))

    def _forget_old(self) -> None:
        limit = time.monotonic() - self.max_seconds
        while self.kept and next(iter(self.kept.values())).used < limit:
            self.kept.popitem(last=False)


def read_image(content: bytes, max_pixels: int) -> Pixels:
    """Bytes of an image file as (H, W, 3) uint8 RGB; its size is looked at before it is decoded.

    Raises:
        InputError: not an image, damaged, or of too many pixels.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > max_pixels:
                raise InputError(f"image: expected at most {max_pixels} pixels, got {image.width} x {image.height}")
            return load_image(image)
    except UnidentifiedImageError as error:
        raise InputError("image: expected an image file, got a file of another kind") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"image: expected a whole image, got a damaged one ({error!s:.80})") from error


def shrunk(pixels: Pixels, max_side: int = MAX_SIDE) -> Pixels:
    """The picture, smaller if a side is longer than `max_side`."""
    H, W = pixels.shape[:2]
    if max(H, W) <= max_side:
        return pixels
    scale = max_side / max(H, W)
    size = (max(round(W * scale), 1), max(round(H * scale), 1))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
