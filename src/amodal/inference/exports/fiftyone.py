"""Scenes as FiftyOne samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from amodal.errors import InputError
from amodal.inference.scene import Scene
from amodal.ops.boxes import mask_to_box


def to_sample(scene: Scene, image_path: str | Path) -> Any:
    """A `fiftyone.Sample` with two fields of instance masks, `visible` and `amodal`.

    Args:
        scene: any scene.
        image_path: the photograph, for the sample's `filepath`.

    Raises:
        InputError: the package is not installed.
    """
    try:
        import fiftyone as fo
    except ImportError as error:
        raise InputError("fiftyone: expected the package, got none (pip install fiftyone)") from error
    sample = fo.Sample(filepath=str(image_path))
    for part in ("visible", "amodal"):
        found = [fo.Detection(**fields) for fields in detections(scene, part)]
        sample[part] = fo.Detections(detections=found)
    return sample


def detections(scene: Scene, part: str) -> list[dict[str, Any]]:
    """Fields of FiftyOne's detections: relative xywh boxes, masks (h, w) bool inside them."""
    H, W = scene.size
    found = []
    for index, thing in enumerate(scene.objects):
        mask = getattr(thing, f"{part}_in_window")
        if not mask.any():
            continue
        left, top, right, bottom = (int(v) for v in mask_to_box(mask))
        x, y = thing.window[0] + left, thing.window[1] + top
        found.append(
            {
                "label": thing.phrase or "object",
                "bounding_box": [x / W, y / H, (right - left) / W, (bottom - top) / H],
                "mask": mask[top:bottom, left:right],
                "confidence": thing.score,
                "index": index,
                "occlusion_rate": thing.occlusion_rate,
            }
        )
    return found
