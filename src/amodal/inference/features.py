"""`FeatureCache`: what an encoder returned for parts of an image, kept for further prompts about the same parts."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from amodal.io.images import ImageArray

T = TypeVar("T")


class FeatureCache:
    """The latest results of an encoder, by image and part of the image; the least recently used one is removed first.

    An image is known by its array, not by its content, and is not kept alive.

    Args:
        max_entries: maximum number of results; with 0 nothing is kept.
    """

    def __init__(self, max_entries: int = 0) -> None:
        self.max_entries = max_entries
        self._entries: OrderedDict[tuple[int, Hashable], tuple[weakref.ref[ImageArray], Any]] = OrderedDict()

    def get(self, image: ImageArray, part: Hashable, encode: Callable[[], T]) -> T:
        """What was kept for a part of an image, or what `encode` returns, which is then kept.

        Args:
            image: (H, W, 3) uint8 RGB.
            part: the model and the part of the image, for instance its window.
            encode: makes the result.
        """
        if not self.max_entries:
            return encode()
        for known in [key for key, (owner, _) in self._entries.items() if owner() is None]:
            del self._entries[known]  # before the lookup: a new array may have the address of an old one
        key = (id(image), part)
        if key not in self._entries:
            self._entries[key] = (weakref.ref(image), encode())
            while len(self._entries) > self.max_entries:
                self._entries.popitem(last=False)
        self._entries.move_to_end(key)
        found: T = self._entries[key][1]
        return found
