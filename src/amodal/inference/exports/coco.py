"""Scenes as COCO files, and COCO files as scenes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from amodal.errors import InputError
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from amodal.ops.rle import decode_mask, segmentation_to_rle

UNNAMED = "object"
"""Category of objects without a phrase."""


def to_coco_file(scene: Scene, image_name: str) -> dict[str, Any]:
    """The content of a canonical annotation file with one image, see `scenes_to_coco_file`."""
    return scenes_to_coco_file([(image_name, scene)])


def scenes_to_coco_file(scenes: Iterable[tuple[str, Scene]]) -> dict[str, Any]:
    """The content of a canonical annotation file (a superset of COCO) with one image per scene.

    The phrase of an object becomes its category; objects without a phrase get the category `object`.

    Args:
        scenes: pairs of the image's file name and its scene.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    names: list[str] = []
    for image_name, scene in scenes:
        H, W = scene.size
        images.append({"id": len(images) + 1, "file_name": image_name, "height": H, "width": W})
        annotations += scene.to_coco(len(images), len(annotations) + 1)
        names += [obj.label for obj in scene.objects]
    categories = sorted({*names, UNNAMED})
    for annotation, name in zip(annotations, names, strict=True):
        annotation["category_id"] = categories.index(name) + 1
    return {
        "info": {"description": "made with amodal"},
        "images": images,
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate(categories)],
        "annotations": annotations,
    }


def to_coco_visible(scene: Scene, image_name: str) -> dict[str, Any]:
    """The content of a plain COCO file with the visible masks, without amodal masks and occlusion order."""
    content = to_coco_file(scene, image_name)
    for annotation, obj in zip(content["annotations"], scene.objects, strict=True):
        annotation["segmentation"] = annotation.pop("visible_mask")
        annotation["bbox"] = annotation.pop("visible_bbox")
        annotation["area"] = int(np.count_nonzero(obj.visible_in_window))
        for key in ("occluders", "occlude_rate"):
            del annotation[key]
    return content


def from_coco_file(content: dict[str, Any], image_id: int | None = None) -> Scene:
    """Read the scene of one image from a canonical annotation file.

    Args:
        content: content of the file, from `to_coco_file` or elsewhere.
        image_id: which image to read; required if there are several.

    Raises:
        InputError: no such image, several images without `image_id`, or masks that cannot be read.
    """
    try:
        images = {image["id"]: image for image in content["images"]}
        if image_id is None and len(images) != 1:
            raise InputError(f"image_id: expected one of {len(images)} images to be named, got none")
        image = images[image_id] if image_id is not None else next(iter(images.values()))
        size = (int(image["height"]), int(image["width"]))
        names = {category["id"]: category["name"] for category in content.get("categories", [])}
        own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        objects = [_object(annotation, size, names) for annotation in own]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"annotations: expected a canonical annotation file, got {error!r:.100}") from error
    return Scene(objects, size)


def _object(annotation: dict[str, Any], size: tuple[int, int], names: dict[Any, str]) -> SceneObject:
    amodal, visible = (
        decode_mask(segmentation_to_rle(annotation[key], *size)) for key in ("segmentation", "visible_mask")
    )
    name = names.get(annotation.get("category_id"))
    return SceneObject.from_masks(
        visible,
        amodal,
        score=float(annotation.get("score", 1.0)),
        phrase=None if name == UNNAMED else name,
    )
