"""Uploaded images in memory with their scenes, compressed and within one limit of bytes."""

from __future__ import annotations

import secrets
import time
import zlib
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from amodal.errors import InputError
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject, object_from_json, object_to_json
from amodal.io.images import ImageArray, load_image, opened_image
from amodal.ops.arrays import Window

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


@dataclass(frozen=True)
class _PackedObject:
    """An object with its masks as RLE and its uncertainty map as compressed float16."""

    record: dict[str, Any]
    uncertainty: bytes = b""
    shape: tuple[int, ...] = ()
    window: Window = (0, 0, 0, 0)

    @classmethod
    def of(cls, obj: SceneObject) -> _PackedObject:
        record = object_to_json(obj)
        if obj.uncertainty_crop is None:
            return cls(record)
        values, window = obj.uncertainty_crop
        return cls(record, zlib.compress(values.astype(np.float16).tobytes(), 1), values.shape, window)

    @property
    def num_bytes(self) -> int:
        return len(self.uncertainty) + sum(len(self.record[key]["counts"]) for key in ("visible", "amodal"))

    def unpack(self, size: tuple[int, int]) -> SceneObject:
        obj = object_from_json(self.record, size)
        if not self.shape:
            return obj
        values = np.frombuffer(zlib.decompress(self.uncertainty), np.float16).reshape(self.shape)
        return replace(obj, uncertainty_crop=(values.astype(np.float32), self.window))


@dataclass(eq=False)
class DemoImage:
    """An uploaded image with its latest scene and the conversation about it.

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
    _objects: list[_PackedObject] = field(default_factory=list)
    _rest: Scene | None = None  # the scene without its objects and image

    @classmethod
    def decoded(cls, name: str, content: bytes, max_pixels: int = MAX_PIXELS) -> DemoImage:
        """An image without objects, from the bytes of its file.

        Raises:
            InputError: as `decode_image`.
        """
        pixels = decode_image(content, max_pixels)
        return cls(name, content, (pixels.shape[0], pixels.shape[1]))

    @property
    def pixels(self) -> ImageArray:
        """(H, W, 3) uint8 RGB, decoded again at each call."""
        return decode_image(self.content, self.size[0] * self.size[1])

    @property
    def scene(self) -> Scene:
        """The result of the latest request with its image, unpacked again at each call."""
        rest = self._rest or Scene([], self.size)
        return replace(rest, objects=[obj.unpack(self.size) for obj in self._objects], image=self.pixels)

    @scene.setter
    def scene(self, scene: Scene) -> None:
        self._objects = [_PackedObject.of(obj) for obj in scene.objects]
        self._rest = replace(scene, objects=[], image=None)

    @property
    def num_objects(self) -> int:
        """Number of objects of the scene."""
        return len(self._objects)

    @property
    def num_bytes(self) -> int:
        """Memory that the image, its scene and its conversation take, roughly."""
        chat = getattr(self.chat, "num_bytes", 0)
        return _OVERHEAD + len(self.content) + sum(obj.num_bytes for obj in self._objects) + chat


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
            InputError: no image with this key, or it was removed.
        """
        self.remove_old()
        image = self.images.get(key)
        if image is None:
            raise InputError("image: expected the key of a stored image, got another key; upload the image again")
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
