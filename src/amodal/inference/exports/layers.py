"""Scenes as transparent image layers and as crops of objects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from amodal.errors import InputError
from amodal.inference.results import ImageResult, Results
from amodal.inference.scene import Scene
from amodal.io.frames import unique_stems
from amodal.io.images import ImageArray

# Colour of occluded pixels. They are transparent, so it shows only if the alpha channel is removed.
OCCLUDED_COLOUR = (255, 0, 255)


def object_layer(scene: Scene, index: int) -> ImageArray:
    """The layer of one object.

    Returns:
        (H, W, 4) uint8 RGBA: visible pixels are opaque, occluded pixels coloured but transparent.

    Raises:
        InputError: the scene has no image.
    """
    image = _image(scene)
    obj = scene.objects[index]
    layer = np.zeros((*scene.size, 4), np.uint8)
    visible = obj.visible_mask
    layer[obj.occluded_mask, :3] = OCCLUDED_COLOUR
    layer[visible, :3] = image[visible]
    layer[visible, 3] = 255
    return layer


def background_layer(scene: Scene) -> ImageArray:
    """(H, W, 4) uint8 RGBA: the image with the visible masks of all objects made transparent."""
    image = _image(scene)
    taken = np.zeros(scene.size, bool)
    for obj in scene.objects:
        taken |= obj.visible_mask
    return np.dstack([image, np.where(taken, 0, 255).astype(np.uint8)])


def write_layers(results: Results, folder: Path) -> None:
    """Write one PNG file per layer, numbered from the front to the background, and the list `layers.json`.

    Of several images, each gets its own folder, which is named after it.
    """
    stems = unique_stems(result.name for result in results) if len(results) > 1 else [""]
    for stem, result in zip(stems, results, strict=True):
        (folder / stem).mkdir(exist_ok=True)
        _write_scene(result, folder / stem)


def _write_scene(result: ImageResult, folder: Path) -> None:
    image_name, scene, _ = result
    records = []
    for place, index in enumerate(scene.front_to_back()):
        obj = scene.objects[index]
        file = f"{place:02d}_object_{index:02d}.png"
        Image.fromarray(object_layer(scene, index), "RGBA").save(folder / file)
        records.append(
            {
                "file": file,
                "object": index,
                "phrase": obj.phrase,
                "name": obj.name,
                "occlusion_rate": obj.occlusion_rate,
            }
        )
    file = f"{len(records):02d}_background.png"
    Image.fromarray(background_layer(scene), "RGBA").save(folder / file)
    records.append({"file": file, "object": None})
    content = {"image": image_name, "size": list(scene.size), "layers": records}
    (folder / "layers.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def write_crops(results: Results, folder: Path) -> None:
    """Write `<image>_<object>.png`, the layer of each object cropped to its amodal box."""
    stems = unique_stems(result.name for result in results)
    for stem, (_, scene, _) in zip(stems, results, strict=True):
        for index, obj in enumerate(scene.objects):
            x0, y0, x1, y1 = obj.window
            crop = object_layer(scene, index)[y0:y1, x0:x1]
            Image.fromarray(crop, "RGBA").save(folder / f"{stem}_{index:02d}.png")


def _image(scene: Scene) -> ImageArray:
    if scene.image is None:
        raise InputError("scene: expected a scene with its image, got a scene loaded without it")
    return scene.image
