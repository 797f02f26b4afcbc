"""Scenes as `supervision.Detections`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from amodal.errors import InputError
from amodal.inference.scene import Scene

if TYPE_CHECKING:
    import supervision


def to_detections(scene: Scene, part: Literal["visible", "amodal"] = "amodal") -> supervision.Detections:
    """One detection an object; occlusion rate and phrase travel in `data`.

    Args:
        scene: any scene.
        part: whose masks and boxes.

    Raises:
        InputError: another part, or the package is not installed.
    """
    if part not in ("visible", "amodal"):
        raise InputError(f"part: expected 'visible' or 'amodal', got {part!r}")
    try:
        import supervision as sv
    except ImportError as error:
        raise InputError("supervision: expected the package, got none (pip install 'amodal[supervision]')") from error
    if not scene.objects:
        return sv.Detections.empty()
    masks = np.stack([getattr(thing, f"{part}_mask") for thing in scene.objects])
    return sv.Detections(
        xyxy=sv.mask_to_xyxy(masks).astype(np.float32),
        mask=masks,
        confidence=np.array([thing.score for thing in scene.objects], np.float32),
        class_id=np.arange(len(scene.objects)),
        data={
            "occlusion_rate": np.array([thing.occlusion_rate for thing in scene.objects]),
            "class_name": np.array([thing.phrase or "object" for thing in scene.objects]),
        },
    )
