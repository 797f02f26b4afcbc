"""A small world for evaluation tests: two pictures, two objects each, and predictions of known score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from amodal.data.readers import read_dataset
from amodal.data.samples import AnnotatedDataset
from amodal.ops.rle import decode_mask, encode_mask
from tests.data.toy import write_toy


def toy(folder: Path, count: int = 2) -> tuple[Path, AnnotatedDataset]:
    """Annotation file and dataset of `count` pictures; ids start at 1, the odd ones are partly hidden."""
    path = write_toy(folder / "toy", count)
    return path, read_dataset("canonical", path)


def perfect(dataset: AnnotatedDataset) -> list[dict[str, Any]]:
    """Records of a predictions file that is right everywhere."""
    return [
        {
            "image_id": image.id,
            "annotation_id": thing.id,
            "category_id": thing.category_id,
            "segmentation": thing.amodal_rle,
            "visible_segmentation": thing.visible_rle,
            "score": 0.9,
        }
        for image in dataset.images
        for thing in image.objects
    ]


def shifted(rle: dict[str, Any], by: int) -> dict[str, Any]:
    """A mask moved to the right, what leaves the image is lost."""
    mask = decode_mask(rle)
    moved = np.zeros_like(mask)
    moved[:, by:] = mask[:, : mask.shape[1] - by]
    return encode_mask(moved)


def write(path: Path, content: Any) -> Path:
    """JSON into a file."""
    path.write_text(json.dumps(content))
    return path
