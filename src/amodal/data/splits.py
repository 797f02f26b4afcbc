"""Splitting a dataset into training and validation images, in the same way on every machine."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from amodal.data.samples import AnnotatedDataset
from amodal.errors import InputError

Split = Literal["all", "train", "validation"]
VALIDATION_SHARE = 0.1


def is_validation(file_name: str, share: float = VALIDATION_SHARE, seed: int = 0) -> bool:
    """Whether an image belongs to the validation split, by the CRC-32 of its base name; `seed` selects others."""
    name = Path(file_name).name
    return zlib.crc32((f"{seed} {name}" if seed else name).encode()) % 10_000 < share * 10_000


def select_split(
    dataset: AnnotatedDataset, split: Split, share: float = VALIDATION_SHARE, seed: int = 0
) -> AnnotatedDataset:
    """Return the images of one split; an image is never in both.

    Args:
        dataset: all images.
        split: "all", "train" or "validation".
        share: share of the images that is validation, about.
        seed: selects other images.

    Raises:
        InputError: the split is unknown.
    """
    if split not in get_args(Split):
        raise InputError(f"split: expected one of {', '.join(get_args(Split))}, got {split!r}")
    if split == "all":
        return dataset
    wanted = split == "validation"
    images = tuple(i for i in dataset.images if is_validation(i.path.name, share, seed) == wanted)
    return replace(dataset, images=images)
