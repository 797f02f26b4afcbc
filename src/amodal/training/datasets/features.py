"""Features of a frozen backbone, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from amodal.data.samples import ImageSample
from amodal.io.progress import bar

Encode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FeatureCache:
    """One float16 file an image, named by what the features depend on.

    Attributes:
        folder: created if needed.
        mark: what identifies backbone, weights and input size; features of another are not met.
    """

    folder: Path
    mark: str

    def read(self, image: ImageSample) -> Tensor:
        """(C, h, w) float32 features of an image that `fill` has seen."""
        return torch.from_numpy(np.load(self._file(image)).astype(np.float32))

    def fill(self, images: Iterable[ImageSample], prepare: Callable[[ImageSample], Tensor], encode: Encode) -> int:
        """Compute what is missing; a run that was stopped goes on where it was.

        Args:
            images: all that will be read.
            prepare: an image to (1, 3, S, S) pixels.
            encode: pixels to (1, C, h, w) features.

        Returns:
            How many were computed.
        """
        missing = [image for image in images if not self._file(image).is_file()]
        for image in bar(missing, "features", bool(missing)):
            file = self._file(image)
            file.parent.mkdir(parents=True, exist_ok=True)
            features = encode(prepare(image))[0].detach().cpu().to(torch.float16).numpy()
            temporary = file.with_suffix(f".writing{os.getpid()}")
            with temporary.open("wb") as stream:
                np.save(stream, features)
            os.replace(temporary, file)
        return len(missing)

    def _file(self, image: ImageSample) -> Path:
        stamp = image.path.stat()
        key = f"{self.mark} {image.path.resolve()} {stamp.st_size} {stamp.st_mtime_ns}"
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest[2:34]}.npy"
