"""Saved results as scenes: a scene folder, a folder of scenes, a predictions file, or the files of `amodal batch`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from amodal.data.datasets import guess_format, image_folder, read_dataset
from amodal.errors import InputError
from amodal.inference.batch import PARTS, Row, read_parts
from amodal.inference.prompt_files import CocoFile, read_coco_file
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from amodal.io.files import is_file
from amodal.io.image_names import ImageFinder, last_part
from amodal.io.images import load_image
from amodal.io.json_stream import read_json, scan
from amodal.ops.rle import decode_mask, segmentation_to_rle
from amodal.ops.values import integer

RUN_FILE = "run.json"
"""File in a folder of scenes with the options that they were made with."""

ANNOTATION_FILE = "annotations.json"
"""File in a folder of scenes with all of them in canonical form."""


class ImageResult(NamedTuple):
    """The scene of one image.

    Attributes:
        name: file name of the image, as other tools will know it.
        scene: its objects.
        image_id: id of the image in the dataset that it comes from, or None.
    """

    name: str
    scene: Scene
    image_id: int | None = None


@dataclass(frozen=True)
class Results:
    """Scenes of several images, which are loaded one at a time, again in each iteration.

    Attributes:
        loaders: one function per image that loads its scene.
        categories: names by class id that the source states for all of its objects; None if it states none.
    """

    loaders: Sequence[Callable[[], ImageResult]]
    categories: dict[int, str] | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.loaders)

    def __iter__(self) -> Iterator[ImageResult]:
        """Load the scenes one after the other."""
        return (load() for load in self.loaders)

    @classmethod
    def of(cls, results: Iterable[ImageResult | Scene]) -> Results:
        """Results that are in memory; a scene gets the file name of its image, or `image_1.png`, ... without one."""
        named = [_named(result, number) for number, result in enumerate(results, 1)]
        return cls([partial(_itself, result) for result in named])

    def with_images(self, images: str | Path | None) -> Results:
        """The same results with the pixels of their images, where the files exist.

        Args:
            images: image file of a single scene, or folder of the images; the files that the scenes name if None.

        Raises:
            InputError: an image cannot be read or has another size than its scene.
        """
        images = None if images is None else Path(images)
        if images is not None and images.is_file() and len(self) > 1:
            raise InputError(f"image: expected a folder for {len(self)} images, got the file {str(images)!r}")
        if images is not None and not images.exists():
            raise InputError(f"image: expected a file or folder, got {str(images)!r}, which does not exist")
        return replace(self, loaders=[partial(_with_pixels, load, images) for load in self.loaders])


def read_results(source: str | Path, annotations: str | Path | None = None, format_: str | None = None) -> Results:
    """Open saved results.

    Args:
        source: folder of one scene, folder of scene folders, predictions file (JSON), or folder that `amodal batch`
            wrote. The last two have the ids of a dataset instead of file names, so they need `annotations`.
        annotations: annotation file of the dataset.
        format_: format of the annotation file; guessed if None.

    Raises:
        InputError: no results, no annotations for ids, or an image id that the annotations lack.
    """
    source = Path(source)
    if not source.exists():
        raise InputError(f"source: expected a scene folder or predictions, got {str(source)!r}, which does not exist")
    if source.is_dir() and (source / "scene.json").is_file():
        return Results([partial(_saved_scene, source)])
    if source.is_dir() and not any(source.glob(PARTS)):
        folders = sorted(path.parent for path in source.glob("*/scene.json"))
        if not folders:
            raise InputError(f"source: expected a folder with scenes or predictions, got none in {str(source)!r}")
        return _scenes_of_run(source, folders)
    if annotations is None:
        raise InputError(f"annotations: expected the dataset of the predictions in {str(source)!r}, got none")
    rows = read_parts(source) if source.is_dir() else _json_rows(source)
    return _predicted_scenes(source, rows, Path(annotations), format_)


class _Image(NamedTuple):
    name: str
    path: Path
    size: tuple[int, int] | None


def _scenes_of_run(source: Path, folders: Sequence[Path]) -> Results:
    """The scenes of a folder, with the image ids and categories of the annotations that they were made with, if any."""
    try:
        options = read_json(source / RUN_FILE, "source")
        coco = read_coco_file(source / ANNOTATION_FILE) if options.get("annotations") else None
    except (OSError, ValueError, AttributeError):  # scenes that were collected by hand, or a run that is not finished
        coco = None
    if coco is None:
        return Results([partial(_saved_scene, folder) for folder in folders])
    return Results([partial(_scene_of_run, folder, coco) for folder in folders], coco.names)


def _scene_of_run(folder: Path, coco: CocoFile) -> ImageResult:
    result = _saved_scene(folder)
    try:
        image = coco.image_of(result.scene.image_path or Path(result.name))
    except InputError:
        return result
    return result._replace(name=image.file_name, image_id=image.id)


def _saved_scene(folder: Path) -> ImageResult:
    scene = Scene.load(folder)
    return ImageResult(scene.image_path.name if scene.image_path else f"{folder.resolve().name}.png", scene)


def _json_rows(file: Path) -> Iterator[Row]:
    for entry in scan(file):
        if entry.section or not isinstance(entry.record, dict):
            raise InputError(f"source {file}: expected a list of predictions, got other content")
        yield entry.record


def _predicted_scenes(source: Path, rows: Iterable[Row], annotations: Path, format_: str | None) -> Results:
    images, categories = _images_of(annotations, format_)
    by_image: dict[int, list[Row]] = {}
    for index, row in enumerate(rows):
        try:
            image_id = integer(row.get("image_id"), "image_id")
        except InputError as error:
            raise InputError(f"{source}: record {index}: {error}") from error
        if image_id not in images:
            raise InputError(f"{source}: record {index}: expected the id of an image of {annotations}, got {image_id}")
        by_image.setdefault(image_id, []).append(row)
    if not by_image:
        raise InputError(f"source: expected predictions, got none in {str(source)!r}")
    loaders = [
        partial(_predicted_scene, source, image, image_id, by_image[image_id], categories)
        for image_id, image in images.items()
        if image_id in by_image
    ]
    return Results(loaders, categories)


def _images_of(annotations: Path, format_: str | None) -> tuple[dict[int, _Image], dict[int, str]]:
    """Images and categories of a dataset; of a plain COCO file also where its objects have no masks."""
    name = format_ or guess_format(annotations) or "coco"
    if name == "coco":
        coco, folder = read_coco_file(annotations), image_folder(annotations, None)
        return {i.id: _Image(i.file_name, coco.path_of(i, folder), i.size) for i in coco.images}, coco.names
    dataset = read_dataset(name, annotations)
    return {i.id: _Image(i.file_name, i.path, i.size) for i in dataset.images}, dataset.categories


def _predicted_scene(
    source: Path, image: _Image, image_id: int, rows: list[Row], categories: dict[int, str]
) -> ImageResult:
    try:
        size = image.size or _size(rows[0]["segmentation"])
        objects = [_predicted_object(row, size, categories) for row in rows]
    except (ValueError, KeyError, TypeError) as error:  # an InputError is a ValueError
        reason = error if isinstance(error, InputError) else f"expected predictions with masks, got {error!r:.80}"
        raise InputError(f"{source}: image {image.name}: {reason}") from error
    return ImageResult(image.name, Scene(objects, size, image_path=image.path), image_id)


def _predicted_object(row: Row, size: tuple[int, int], categories: dict[int, str]) -> SceneObject:
    """A prediction without a visible mask gets its amodal mask, as the models without a visible branch do."""
    amodal = decode_mask(segmentation_to_rle(row["segmentation"], *size))
    visible = row.get("visible_segmentation")
    score = row.get("score")
    category = row.get("category_id")
    return SceneObject.from_masks(
        amodal if visible is None else decode_mask(segmentation_to_rle(visible, *size)),
        amodal,
        score=1.0 if score is None else float(score),
        name=None if category is None else categories.get(category),
        class_id=category,
        source_id=row.get("annotation_id"),
    )


def _size(rle: Any) -> tuple[int, int]:
    H, W = rle["size"]
    return int(H), int(W)


def _image_below(folder: Path, name: str) -> Path:
    """The file of a name below a folder, or else of the last part of the name."""
    with suppress(InputError):
        whole = ImageFinder(folder).find(name)
        if is_file(whole):
            return whole
    return ImageFinder(folder).find(last_part(name))


def _named(result: ImageResult | Scene, number: int) -> ImageResult:
    if not isinstance(result, Scene):
        return result
    return ImageResult(result.image_path.name if result.image_path else f"image_{number}.png", result)


def _itself(result: ImageResult) -> ImageResult:
    return result


def _with_pixels(load: Callable[[], ImageResult], images: Path | None) -> ImageResult:
    result = load()
    scene, path, name = result.scene, result.scene.image_path, result.name
    if images is None:
        if scene.image is not None or path is None or not is_file(path):
            return result
    elif images.is_file():
        path, name = images, images.name
    else:
        path = _image_below(images, name)
    return result._replace(name=name, scene=replace(scene, image=load_image(path), image_path=path))
