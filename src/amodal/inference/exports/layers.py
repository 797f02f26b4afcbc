"""Scenes taken apart: transparent layers and object crops."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from amodal.errors import InputError
from amodal.inference.scene import Scene

Pixels = npt.NDArray[np.uint8]
HIDDEN_COLOUR = (255, 0, 255)  # of hidden pixels, which are transparent: seen only where alpha is taken off


def front_to_back(scene: Scene) -> list[int]:
    """Object indices such that what hides comes before what it hides.

    Objects that interlock are put in the order of how little of them is hidden.
    """
    behind = {i: {front for front, back in scene.occlusion_order() if back == i} for i in range(len(scene.objects))}
    order: list[int] = []
    while behind:
        free = [i for i, fronts in behind.items() if not fronts & behind.keys()]
        pick = min(free or behind, key=lambda i: (scene.objects[i].occlusion_rate, i))
        order.append(pick)
        del behind[pick]
    return order


def object_layer(scene: Scene, index: int) -> Pixels:
    """(H, W, 4) uint8: the object's visible pixels opaque, its hidden ones coloured but transparent.

    Raises:
        InputError: the scene has no image.
    """
    image = _image(scene)
    thing = scene.objects[index]
    layer = np.zeros((*scene.size, 4), np.uint8)
    visible = thing.visible_mask
    layer[thing.occluded_mask, :3] = HIDDEN_COLOUR
    layer[visible, :3] = image[visible]
    layer[visible, 3] = 255
    return layer


def background_layer(scene: Scene) -> Pixels:
    """(H, W, 4) uint8: the image with every visible part made transparent."""
    image = _image(scene)
    taken = np.zeros(scene.size, bool)
    for thing in scene.objects:
        taken |= thing.visible_mask
    return np.dstack([image, np.where(taken, 0, 255).astype(np.uint8)])


def peeled(scene: Scene, count: int) -> Pixels:
    """(H, W, 3) uint8: the picture without its `count` foremost objects; what they hid is grey stripes."""
    image = _image(scene).copy()
    y, x = np.ogrid[: scene.size[0], : scene.size[1]]
    stripes = np.where((x + y) // 4 % 2, 150, 175).astype(np.uint8)
    gone = np.zeros(scene.size, bool)
    for index in front_to_back(scene)[:count]:
        gone |= scene.objects[index].visible_mask
    image[gone] = stripes[gone][:, None]
    return image


def write_layers(scene: Scene, image_name: str, folder: Path) -> None:
    """`00_*.png` (foremost) to the background, and `layers.json` that names them in that order."""
    records = []
    for place, index in enumerate(front_to_back(scene)):
        thing = scene.objects[index]
        file = f"{place:02d}_object_{index:02d}.png"
        Image.fromarray(object_layer(scene, index), "RGBA").save(folder / file)
        records.append({"file": file, "object": index, "phrase": thing.phrase, "occlusion_rate": thing.occlusion_rate})
    file = f"{len(records):02d}_background.png"
    Image.fromarray(background_layer(scene), "RGBA").save(folder / file)
    records.append({"file": file, "object": None})
    content = {"image": image_name, "size": list(scene.size), "layers": records}
    (folder / "layers.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def write_crops(scene: Scene, image_name: str, folder: Path) -> None:
    """`<image>_<object>.png`: each object's layer cut to its amodal box."""
    for index, thing in enumerate(scene.objects):
        x0, y0, x1, y1 = thing.window
        crop = object_layer(scene, index)[y0:y1, x0:x1]
        Image.fromarray(crop, "RGBA").save(folder / f"{Path(image_name).stem}_{index:02d}.png")


def _image(scene: Scene) -> Pixels:
    if scene.image is None:
        raise InputError("scene: expected one with its image, got a scene loaded without it")
    return scene.image
