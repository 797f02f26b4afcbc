"""Uploaded images in memory, compressed and within one limit of bytes, and the latest ones decoded."""

from __future__ import annotations

import secrets
import time
import weakref
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from amodal.errors import InputError
from amodal.io.images import ImageArray, load_image, opened_image

MAX_PIXELS = 50_000_000
"""Largest number of pixels of an upload."""

_OVERHEAD = 4096
"""Bytes that an image costs besides its content, roughly."""


def decode_image(content: bytes, max_pixels: int = MAX_PIXELS) -> ImageArray:
    """Decode the bytes of an image file to (H, W, 3) uint8 RGB; the size is checked before decoding.

    Raises:
        InputError: not an image, a damaged one, or one with too many pixels.
    """
    with opened_image(content, max_pixels) as image:
        return load_image(image)


class UnknownImageError(InputError):
    """No image with this key, or it was removed."""


@dataclass(eq=False)
class DemoImage:
    """An uploaded image and the conversation about it.

    Attributes:
        name: file name without suffix.
        content: bytes of the image file.
        size: (H, W) of the upright image.
        chat: conversation about the image, or None.
        used: time of the latest use, from `time.monotonic`.
    """

    name: str
    content: bytes
    size: tuple[int, int]
    chat: Any = None
    used: float = field(default_factory=time.monotonic)

    @property
    def num_bytes(self) -> int:
        """Memory that the image and its conversation take, roughly."""
        chat = getattr(self.chat, "num_bytes", 0)
        return _OVERHEAD + len(self.content) + chat


class DecodedImages:
    """The pixels of the images that were used last, so that an image is decoded once for many requests.

    Args:
        max_bytes: maximum size of all arrays together; the latest one stays in any case.
    """

    def __init__(self, max_bytes: int = 160 * 2**20) -> None:
        self.max_bytes = max_bytes
        self._arrays: OrderedDict[int, tuple[weakref.ref[DemoImage], ImageArray]] = OrderedDict()

    def open(self, name: str, content: bytes, max_pixels: int = MAX_PIXELS) -> DemoImage:
        """An image from the bytes of its file; its pixels are kept.

        Raises:
            InputError: as `decode_image`.
        """
        pixels = decode_image(content, max_pixels)
        image = DemoImage(name, content, (pixels.shape[0], pixels.shape[1]))
        self._keep(image, pixels)
        return image

    def pixels(self, image: DemoImage) -> ImageArray:
        """(H, W, 3) uint8 RGB: the same array at each call, until it had to make room for other images."""
        kept = self._arrays.get(id(image))
        if kept is None or kept[0]() is not image:
            self._keep(image, decode_image(image.content, image.size[0] * image.size[1]))
        self._arrays.move_to_end(id(image))
        return self._arrays[id(image)][1]

    def _keep(self, image: DemoImage, pixels: ImageArray) -> None:
        for removed in [key for key, (owner, _) in self._arrays.items() if owner() is None]:
            del self._arrays[removed]
        self._arrays[id(image)] = (weakref.ref(image), pixels)
        while len(self._arrays) > 1 and sum(array.nbytes for _, array in self._arrays.values()) > self.max_bytes:
            self._arrays.popitem(last=False)


class ImageStore:
    """Uploaded images in memory, limited in bytes and age; the least recently used image is removed first.

    Args:
        max_bytes: maximum size of all images together.
        max_seconds: maximum time since the latest use of an image.
        max_pixels: maximum number of pixels of an upload.
    """

    def __init__(self, max_bytes: int = 512 * 2**20, max_seconds: float = 1800.0, max_pixels: int = MAX_PIXELS) -> None:
        self.max_bytes, self.max_seconds, self.max_pixels = max_bytes, max_seconds, max_pixels
        self.images: OrderedDict[str, DemoImage] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        """Size of all images together."""
        return sum(image.num_bytes for image in self.images.values())

    def add(self, image: DemoImage) -> str:
        """Store an image and return its key, which cannot be guessed."""
        key = secrets.token_urlsafe(12)
        self.images[key] = image
        self.remove_old()
        return key

    def get(self, key: str) -> DemoImage:
        """Look up an image.

        Raises:
            UnknownImageError: no image with this key, or it was removed.
        """
        self.remove_old()
        image = self.images.get(key)
        if image is None:
            raise UnknownImageError(
                "image: expected the key of a stored image, got another key; upload the image again"
            )
        image.used = time.monotonic()
        self.images.move_to_end(key)
        return image

    def remove_old(self) -> None:
        """Remove images that are too old, and the oldest ones of too many; the latest image stays."""
        limit = time.monotonic() - self.max_seconds
        while self.images and next(iter(self.images.values())).used < limit:
            self.images.popitem(last=False)
        while len(self.images) > 1 and self.num_bytes > self.max_bytes:
            self.images.popitem(last=False)
