"""Scenes as COCO files, and COCO files as scenes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from amodal.errors import InputError
from amodal.inference.results import ImageResult, Results
from amodal.inference.scene import Scene
from amodal.inference.scene_object import UNNAMED, SceneObject
from amodal.ops.polygons import MaskForm, segmentation_as
from amodal.ops.rle import decode_mask, rle_area, segmentation_to_rle

Record = dict[str, Any]


class CocoBuilder:
    """Collects the scenes of images for one canonical annotation file (a superset of COCO).

    Ids of the source are kept: image ids and annotation ids where all of them are known and different, and category ids
    where every object has a class id that belongs to one name. Otherwise images and annotations are numbered from 1,
    and so are the sorted names of the objects.

    Args:
        categories: category records of the source, which has the class of every object; None if it is not known.
    """

    def __init__(self, categories: Sequence[Record] | None = None) -> None:
        self.categories = None if categories is None else list(categories)
        self._images: list[Record] = []
        self._image_ids: list[int | None] = []
        self._annotations: list[Record] = []
        self._source_ids: list[int | None] = []
        self._classes: list[tuple[int | None, str]] = []

    @property
    def num_images(self) -> int:
        """Number of images so far."""
        return len(self._images)

    @property
    def num_objects(self) -> int:
        """Number of objects so far."""
        return len(self._annotations)

    def add(self, result: ImageResult, record: Record | None = None) -> None:
        """Add the scene of one image.

        Args:
            result: scene and file name of the image.
            record: the image's record in its source, whose other fields are kept.
        """
        H, W = result.scene.size
        number = self.num_images + 1
        self._images.append({"id": number} | (record or {}) | {"file_name": result.name, "height": H, "width": W})
        self._image_ids.append(result.image_id)
        self._annotations += result.scene.to_coco(number, self.num_objects + 1)
        self._source_ids += [obj.source_id for obj in result.scene]
        self._classes += [(obj.class_id, class_name(obj)) for obj in result.scene]

    def content(self) -> dict[str, Any]:
        """The content of the annotation file."""
        categories, category_ids = self._numbered_categories()
        renumbered, image_ids = _kept_ids(self._source_ids), _kept_ids(self._image_ids)
        annotations = []
        for annotation, category_id in zip(self._annotations, category_ids, strict=True):
            ids = {"id": renumbered[annotation["id"]], "image_id": image_ids[annotation["image_id"]]}
            occluders = [renumbered[number] for number in annotation["occluders"]]
            annotations.append(annotation | ids | {"category_id": category_id, "occluders": occluders})
        return {
            "info": {"description": "made with amodal"},
            "images": [image | {"id": image_ids[n]} for n, image in enumerate(self._images, start=1)],
            "categories": categories,
            "annotations": annotations,
        }

    def _numbered_categories(self) -> tuple[list[Record], list[int]]:
        """Category records, and the category id of each object."""
        numbers = [number for number, _ in self._classes if number is not None]
        all_numbered = len(numbers) == len(self._classes)
        if self.categories is not None and all_numbered and set(numbers) <= {c["id"] for c in self.categories}:
            return self.categories, numbers
        pairs = {(number, name) for number, name in self._classes if number is not None}
        if pairs and all_numbered and len({n for n, _ in pairs}) == len(pairs) == len({name for _, name in pairs}):
            return [{"id": number, "name": name} for number, name in sorted(pairs)], numbers
        names = sorted({UNNAMED, *(name for _, name in self._classes)})
        categories = [{"id": index + 1, "name": name} for index, name in enumerate(names)]
        return categories, [names.index(name) + 1 for _, name in self._classes]


def class_name(obj: SceneObject) -> str:
    """The name of an object's class: its label, or `class N` where only the number of the class is known."""
    unnamed = obj.label == UNNAMED and obj.class_id is not None and obj.name is None
    return f"class {obj.class_id}" if unnamed else obj.label


def object_numbers(scene: Scene, start: int) -> list[int]:
    """Numbers of the objects of a scene: their source ids if all have one of their own, otherwise from `start` on."""
    known = [obj.source_id for obj in scene if obj.source_id is not None]
    return known if len(set(known)) == len(scene) else list(range(start, start + len(scene)))


def to_coco_file(results: Results, form: str = "rle") -> dict[str, Any]:
    """The content of a canonical annotation file with the scenes of all images, see `CocoBuilder`.

    Args:
        results: scenes with the names of their images.
        form: form of the masks, one of `MaskForm`.
    """
    categories = results.categories
    named = None if categories is None else [{"id": number, "name": name} for number, name in categories.items()]
    builder = CocoBuilder(named)
    for result in results:
        builder.add(result)
    content = builder.content()
    for annotation in content["annotations"]:
        for key in ("segmentation", "visible_mask"):
            annotation[key] = segmentation_as(annotation[key], cast("MaskForm", form))
    return content


def to_coco_visible(results: Results, form: str = "rle") -> dict[str, Any]:
    """The content of a plain COCO file with the visible masks, without amodal masks and occlusion order."""
    content = to_coco_file(results)
    for annotation in content["annotations"]:
        annotation["segmentation"] = annotation.pop("visible_mask")
        annotation["bbox"] = annotation.pop("visible_bbox")
        annotation["area"] = rle_area(annotation["segmentation"])
        annotation["segmentation"] = segmentation_as(annotation["segmentation"], cast("MaskForm", form))
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


def _kept_ids(source_ids: Sequence[int | None]) -> dict[int, int]:
    """Ids by position, counted from 1: those of the source if all are known and different, otherwise the positions."""
    known = [number for number in source_ids if number is not None]
    if len(set(known)) == len(source_ids):
        return dict(enumerate(known, start=1))
    return {number: number for number in range(1, len(source_ids) + 1)}


def _object(annotation: dict[str, Any], size: tuple[int, int], names: dict[Any, str]) -> SceneObject:
    amodal, visible = (
        decode_mask(segmentation_to_rle(annotation[key], *size)) for key in ("segmentation", "visible_mask")
    )
    name = names.get(annotation.get("category_id"))
    return SceneObject.from_masks(
        visible,
        amodal,
        score=float(annotation.get("score", 1.0)),
        name=None if name == UNNAMED else name,
        class_id=annotation.get("category_id"),
        source_id=annotation.get("id"),
    )
