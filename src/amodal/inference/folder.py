"""Segmenting a folder of images: one scene folder per image and one annotation file, resumed with the same options."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amodal.errors import InputError
from amodal.inference.batch import INPUTS, FailureHandler, image_digest, listed
from amodal.inference.exports.coco import CocoBuilder
from amodal.inference.prompt_files import CocoFile, CocoImage
from amodal.inference.prompts import ObjectPrompt, check_confidence, check_threshold
from amodal.inference.results import ANNOTATION_FILE, RUN_FILE, ImageResult
from amodal.inference.scene import Scene
from amodal.io.files import is_file, one_writer, require_no_input, write_atomic
from amodal.io.frames import VideoWriter, list_images, unique_stems
from amodal.io.images import ImageArray, image_size, load_image
from amodal.io.json_stream import read_json

if TYPE_CHECKING:
    from amodal.inference.segmenter import AmodalSegmenter

VIDEO_FILE = "overlay.mp4"


@dataclass
class ImageSegmenter:
    """Segments images by prompts, or finds their objects where there are none; loads the models on first use.

    Attributes:
        load: loads the segmenter.
        detector: as for `scene_finder`.
        texts: as for `scene_finder`.
        threshold: as for `AmodalSegmenter`.
        clean: as for `AmodalSegmenter`.
        confidence: as for `scene_finder`.

    Raises:
        InputError: texts without a detector, or an impossible threshold or confidence.
    """

    load: Callable[[], AmodalSegmenter]
    detector: str | None = None
    texts: Sequence[str] | None = None
    threshold: float | None = None
    clean: bool = True
    confidence: float | None = None

    def __post_init__(self) -> None:
        if self.texts and not self.detector:
            raise InputError("text: expected --detector together with --text, got no detector")
        if self.threshold is not None:
            check_threshold(self.threshold)
        check_confidence(self.confidence)

    @cached_property
    def segmenter(self) -> AmodalSegmenter:
        """The segmenter."""
        return self.load()

    @cached_property
    def find(self) -> Callable[[ImageArray], Scene]:
        """Finds and segments the objects of an image."""
        from amodal.inference.everything import (
            scene_finder,
        )  # imports PyTorch, which checks of the input need not wait for

        return scene_finder(self.segmenter, self.detector, self.texts, self.threshold, self.clean, self.confidence)

    def load_models(self, prompts: Sequence[ObjectPrompt] | None) -> None:
        """Load the models that a call with these prompts needs, unless they are loaded.

        Raises:
            InputError: an unknown model or detector.
        """
        if prompts is None:
            _ = self.find
        elif prompts:
            _ = self.segmenter

    def __call__(self, image: ImageArray, prompts: Sequence[ObjectPrompt] | None) -> Scene:
        """Segment an image.

        Args:
            image: (H, W, 3) uint8 RGB.
            prompts: one per object, possibly none; None to find the objects.

        Returns:
            Scene with its image.

        Raises:
            InputError: an unknown model or detector, or an image or prompts that cannot be segmented.
        """
        if prompts is None:
            return self.find(image)
        if not prompts:
            return Scene([], (image.shape[0], image.shape[1]), image)
        return self.segmenter.segment_batch([image], [prompts], threshold=self.threshold, clean=self.clean)[0]


@dataclass(frozen=True)
class FolderImages:
    """The images of a folder that are to be segmented.

    Attributes:
        paths: image files.
        coco: annotations whose objects are the prompts, or None to find the objects.
        entries: the image in `coco` of each file; None without `coco`.
        num_other: number of images of the folder that `coco` lacks.
    """

    paths: tuple[Path, ...]
    coco: CocoFile | None = None
    entries: tuple[CocoImage, ...] | None = None
    num_other: int = 0

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def result(self, index: int, scene: Scene) -> ImageResult:
        """The scene of an image with the file name and id of the annotations."""
        if self.entries is None:
            return ImageResult(self.paths[index].name, scene, index + 1)
        return ImageResult(self.entries[index].file_name, scene, self.entries[index].id)

    def record(self, index: int) -> dict[str, Any] | None:
        """The record of an image in the annotations, or None."""
        return None if self.entries is None else self.entries[index].record

    def prompts(self, index: int, on_fault: Callable[[str], None]) -> list[ObjectPrompt] | None:
        """The prompts of the objects of an image; None to find its objects.

        Args:
            index: number of the image.
            on_fault: called with what is wrong with each object that cannot be a prompt, which is left out.

        Raises:
            InputError: the image cannot be read, or has another size than in the annotations.
        """
        if self.coco is None or self.entries is None:
            return None
        size = image_size(self.paths[index])
        return self.coco.prompts(self.entries[index], size, lambda error: on_fault(str(error)))


def images_of_folder(folder: Path, coco: CocoFile | None, on_failure: FailureHandler) -> FolderImages:
    """The images of a folder, or those of a COCO file in it; images of the file that are missing are failures.

    Raises:
        InputError: the folder has no images, or none of the file.
    """
    files = list_images(folder, required=coco is None)
    if coco is None:
        return FolderImages(tuple(files))
    found: list[tuple[Path, CocoImage]] = []
    for image in coco.images:
        path = coco.path_of(image, folder)
        if is_file(path):
            found.append((path, image))
        else:
            on_failure(image.file_name, f"expected an image of {coco.path.name} in {folder}, got none")
    if not found:
        expected = f"images of {coco.path.name} in {str(folder)!r}"
        raise InputError(f"folder: expected {expected}, got none of {len(coco.images)}")
    used = {path for path, _ in found}
    paths, entries = tuple(path for path, _ in found), tuple(image for _, image in found)
    return FolderImages(paths, coco, entries, sum(path not in used for path in files))


@dataclass
class SceneFolders:
    """Scene folders inside `out`, which all come from a run with the same options.

    Attributes:
        out: folder of the run.
        options: what the scenes depend on; written to `run.json` with the first scene.
        names: names of the scene folders.
        overwrite: whether scenes of an earlier run are replaced.
        inputs: fingerprint of the image of each scene folder, where every scene has its own image.

    Raises:
        InputError: `out` has scenes that were made with other options or from other images.
    """

    out: Path
    options: dict[str, Any]
    names: Sequence[str]
    overwrite: bool = False
    inputs: dict[str, str] = field(default_factory=dict)
    _started: bool = field(default=False, init=False)
    _earlier: dict[str, str] = field(default_factory=dict, init=False)  # `inputs` of the earlier runs

    def __post_init__(self) -> None:
        saved = [name for name in self.names if (self.out / name / "scene.json").is_file()]
        if self.overwrite or not saved:
            return
        file = self.out / RUN_FILE
        try:
            found = read_json(file, "out")
            images = found.pop(INPUTS, {})
            other = [key for key in sorted(self.options | found) if found.get(key) != self.options.get(key)]
            self._earlier = images
            replaced = [name for name in saved if name in self.inputs and images.get(name) != self.inputs[name]]
        except (OSError, ValueError, TypeError, AttributeError):
            raise InputError(
                f"out {self.out}: expected scenes with their options in {RUN_FILE}, got scenes without; --overwrite "
                "segments them anew"
            ) from None
        if other:
            changes = ", ".join(f"{key} {_short(found.get(key))} -> {_short(self.options.get(key))}" for key in other)
            raise InputError(
                f"out {self.out}: expected the options of the scenes in it, got others ({changes}); --overwrite "
                "segments them anew"
            )
        if replaced:
            raise InputError(
                f"out {self.out}: expected the images of the scenes in it, got others for {listed(replaced)}; "
                "--overwrite segments them anew"
            )

    def load(self, name: str, size: tuple[int, int], file_name: str | None = None) -> Scene | None:
        """A scene that an earlier run saved, without its pixels; None if there is none of this image.

        Args:
            name: name of its folder.
            size: (H, W) of the image.
            file_name: file name of the image; not compared if None.
        """
        if self.overwrite or not (self.out / name / "scene.json").is_file():
            return None
        try:
            scene = Scene.load(self.out / name)
        except InputError:
            return None
        same = file_name is None or (scene.image_path is not None and scene.image_path.name == file_name)
        return scene if same and scene.size == size else None

    def save(self, name: str, scene: Scene) -> None:
        """Save a scene in the folder of this name."""
        if not self._started:
            if self.overwrite:  # so that an interrupted run is not resumed with scenes of other options
                for old in self.names:
                    (self.out / old / "scene.json").unlink(missing_ok=True)
            inputs = self._earlier | self.inputs
            content = self.options | ({INPUTS: inputs} if inputs else {})
            write_atomic(self.out / RUN_FILE, json.dumps(content, indent=1))
            self._started = True
        scene.save(self.out / name)


def segment_folder(
    images: FolderImages,
    out: Path,
    segment: ImageSegmenter,
    options: dict[str, Any],
    *,
    overwrite: bool = False,
    on_failure: FailureHandler,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> CocoBuilder:
    """Segment images into one scene folder each, and write all scenes into one annotation file.

    Scenes of an earlier run with the same options are reused.

    Args:
        images: images and their prompts.
        out: folder to write to.
        segment: segments one image.
        options: what the scenes depend on.
        overwrite: segment images again that have a scene.
        on_failure: called for each image that cannot be read or segmented and each object that cannot be a prompt,
            which are left out.
        progress: shows the progress of an iteration over the images.

    Returns:
        What the annotation file has.

    Raises:
        InputError: `out` has scenes with other options, an unknown model or detector, or what `on_failure` raises.
    """
    names = unique_stems((path.name for path in images.paths), (RUN_FILE, ANNOTATION_FILE, VIDEO_FILE))
    if images.coco is not None:
        require_no_input(out / ANNOTATION_FILE, [images.coco.path])
    digests = {name: image_digest(path) for name, path in zip(names, images.paths, strict=True)}
    inputs = {name: digest for name, digest in digests.items() if digest}
    with one_writer(out):
        return _segment_images(
            images, SceneFolders(out, options, names, overwrite, inputs), segment, on_failure, progress
        )


def _segment_images(
    images: FolderImages,
    folders: SceneFolders,
    segment: ImageSegmenter,
    on_failure: FailureHandler,
    progress: Callable[[Iterable[int]], Iterable[int]],
) -> CocoBuilder:
    out, names = folders.out, folders.names
    builder = CocoBuilder(None if images.coco is None else images.coco.categories)
    for index in progress(range(len(images))):
        path, name = images.paths[index], names[index]
        scene = segment_image(images, index, segment, on_failure, partial(folders.load, name, file_name=path.name))
        if scene is None:
            continue
        if scene.image is not None:  # it is not a saved one
            scene.image_path = path
            folders.save(name, scene)
        builder.add(images.result(index, scene), images.record(index))
    if builder.num_images:
        write_atomic(out / ANNOTATION_FILE, json.dumps(builder.content()))
    return builder


def segment_image(
    images: FolderImages,
    index: int,
    segment: ImageSegmenter,
    on_failure: FailureHandler,
    saved: Callable[[tuple[int, int]], Scene | None] = lambda size: None,
) -> Scene | None:
    """Segment one image of a folder by its prompts.

    Args:
        images: images and their prompts.
        index: number of the image.
        segment: segments the image.
        on_failure: called if the image cannot be read or segmented, and for each object that cannot be a prompt.
        saved: returns the scene of an earlier run, if there is one, from the (H, W) of the image.

    Returns:
        The scene, with the image unless it is a saved one; None if the image failed.

    Raises:
        InputError: an unknown model or detector, or what `on_failure` raises.
    """
    path = images.paths[index]
    prompts: list[ObjectPrompt] | None = None
    scene: Scene | None = None
    pixels: ImageArray | None = None
    faults: list[str] = []
    try:
        prompts = images.prompts(index, faults.append)
        scene = saved(image_size(path))
        pixels = load_image(path) if scene is None else None
    except InputError as error:
        faults.append(str(error))
    for fault in faults:
        on_failure(path.name, fault)
    if pixels is None:
        return scene
    segment.load_models(prompts)  # an unknown model ends the run and is no failure of this image
    try:
        return segment(pixels, prompts)
    except InputError as error:
        on_failure(path.name, str(error))
        return None


def segment_video(
    frames: Iterable[tuple[str, ImageArray]],
    rate: Fraction,
    out: Path,
    segment: ImageSegmenter,
    options: dict[str, Any],
    *,
    overwrite: bool = False,
) -> int:
    """Segment the frames of a video into one scene folder each, and write a video of the overlays.

    Scenes of an earlier run with the same options are reused. Objects are not tracked.

    Args:
        frames: name and pixels (H, W, 3) uint8 RGB of each frame.
        rate: frames per second.
        out: folder to write to.
        segment: segments one frame.
        options: what the scenes depend on.
        overwrite: segment frames again that have a scene.

    Returns:
        The number of frames.

    Raises:
        InputError: `out` has scenes with other options, or what `ImageSegmenter` raises.
    """
    num_frames = 0
    with one_writer(out), VideoWriter(out / VIDEO_FILE, rate) as video:
        saved = [file.parent.name for file in out.glob("*/scene.json") if file.parent.name.isdigit()]
        folders = SceneFolders(out, options, saved, overwrite)
        for name, pixels in frames:
            scene = folders.load(name, (pixels.shape[0], pixels.shape[1]))
            if scene is None:
                scene = segment(pixels, None)
                folders.save(name, scene)
            scene.image = pixels
            video.add(scene.draw())
            num_frames += 1
    return num_frames


def _short(value: Any) -> str:
    return f"{value!s:.40}"
