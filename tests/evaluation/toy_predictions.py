"""A small dataset for evaluation tests, and predictions whose scores are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from amodal.data.datasets import read_dataset
from amodal.data.samples import AnnotatedDataset
from amodal.ops.rle import decode_mask, encode_mask
from tests.data.toy import write_toy


def toy(folder: Path, count: int = 2) -> tuple[Path, AnnotatedDataset]:
    """Write and read `count` images with two objects each; ids start at 1, objects with odd ids are partly occluded."""
    path = write_toy(folder / "toy", count)
    return path, read_dataset("canonical", path)


def perfect(dataset: AnnotatedDataset) -> list[dict[str, Any]]:
    """Records of a predictions file whose masks are all correct."""
    return [
        {
            "image_id": image.id,
            "annotation_id": obj.id,
            "category_id": obj.category_id,
            "segmentation": obj.amodal_rle,
            "visible_segmentation": obj.visible_rle,
            "score": 0.9,
        }
        for image in dataset.images
        for obj in image.objects
    ]


def shifted(rle: dict[str, Any], by: int) -> dict[str, Any]:
    """A mask moved to the right; pixels that leave the image are lost."""
    mask = decode_mask(rle)
    moved = np.zeros_like(mask)
    moved[:, by:] = mask[:, : mask.shape[1] - by]
    return encode_mask(moved)


def write(path: Path, content: Any) -> Path:
    """Write JSON to a file."""
    path.write_text(json.dumps(content))
    return path
