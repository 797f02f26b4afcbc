"""Scenes as LabelMe files."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from amodal.inference.scene import Scene, SceneObject

VERSION = "5.5.0"  # of LabelMe's file form; masks came with 5.2


def write(scene: Scene, image_name: str, folder: Path) -> None:
    """`<image>.json` with a shape of type `mask` for each visible and each amodal part.

    The two parts of an object share LabelMe's `group_id`; `description` says which is which.
    """
    shapes = [
        _shape(thing, index, part)
        for index, thing in enumerate(scene.objects)
        for part in ("visible", "amodal")
        if getattr(thing, f"{part}_in_window").any()
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


def _shape(thing: SceneObject, index: int, part: str) -> dict[str, Any]:
    x0, y0, x1, y1 = thing.window
    return {
        "label": thing.phrase or "object",
        "description": part,
        "group_id": index,
        "flags": {},
        "shape_type": "mask",
        "points": [[x0, y0], [x1 - 1, y1 - 1]],  # both corners belong to the mask
        "mask": _png(getattr(thing, f"{part}_in_window").astype(np.uint8)),
    }


def _png(array: np.ndarray[Any, Any]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
