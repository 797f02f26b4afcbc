"""Scenes as LabelMe files."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject

VERSION = "5.5.0"  # version of the LabelMe format; masks need 5.2 or later


def write_labelme(scene: Scene, image_name: str, folder: Path) -> None:
    """Write `<image>.json` with one shape of type `mask` per visible and per amodal mask.

    The two masks of an object share a `group_id`; `description` is `visible` or `amodal`.
    """
    shapes = [
        _shape(obj, index, part)
        for index, obj in enumerate(scene.objects)
        for part in ("visible", "amodal")
        if getattr(obj, f"{part}_in_window").any()
    ]
    content: dict[str, Any] = {
        "version": VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": image_name,
        "imageData": None if scene.image is None else _png(scene.image),
        "imageHeight": scene.size[0],
        "imageWidth": scene.size[1],
    }
    (folder / f"{Path(image_name).stem}.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def _shape(obj: SceneObject, index: int, part: str) -> dict[str, Any]:
    x0, y0, x1, y1 = obj.window
    return {
        "label": obj.phrase or "object",
        "description": part,
        "group_id": index,
        "flags": {},
        "shape_type": "mask",
        "points": [[x0, y0], [x1 - 1, y1 - 1]],  # both corners belong to the mask
        "mask": _png(getattr(obj, f"{part}_in_window").astype(np.uint8)),
    }


def _png(array: np.ndarray[Any, Any]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
