"""`amodal segment` for an image, a folder or a video, and `amodal batch` for a dataset."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from amodal.cli.options import (
    Clean,
    Confidence,
    DetectorName,
    DetectorTexts,
    Device,
    Dtype,
    Failures,
    JsonSummary,
    MatchBy,
    Mode,
    ModelName,
    Strict,
    Threshold,
    VisibleFrom,
    group_points,
    parse_numbers,
    parse_point,
    require_no_replaced_input,
)
from amodal.errors import InputError
from amodal.io.files import one_writer, require_folder
from amodal.io.words import counted
from amodal.models.names import DEFAULT_SEGMENTER

if TYPE_CHECKING:
    from amodal.inference.folder import ImageSegmenter
    from amodal.inference.prompts import ObjectPrompt
    from amodal.inference.scene import Scene
    from amodal.inference.segmenter import AmodalSegmenter
    from amodal.io.image_names import Match

COMBINATIONS = (
    "expected --box with --point (one box), --masks with --box (one box per mask), or --box, --point, --masks, "
    "--annotations or --detector alone"
)


@dataclass(frozen=True)
class PromptOptions:
    """What the command line says about the objects.

    Attributes:
        boxes: boxes X0,Y0,X1,Y1 in pixels.
        points: points X,Y with a label 0 or 1.
        masks: file or folder of visible masks, or None.
        annotations: COCO file, or None.
        detector: name of a detector, or None.

    Raises:
        InputError: prompts that cannot be combined.
    """

    boxes: list[list[float]]
    points: list[tuple[float, float, int]]
    masks: Path | None
    annotations: Path | None
    detector: str | None

    def __post_init__(self) -> None:
        given = self.given()
        one_box_with_points = given == ["--box", "--point"] and len(self.boxes) == 1
        if len(given) > 1 and not one_box_with_points and given != ["--box", "--masks"]:
            told = [f"{len(self.boxes)} x --box" if name == "--box" else name for name in given]
            raise InputError(f"prompts: {COMBINATIONS}, got {' and '.join(told)}")

    def given(self) -> list[str]:
        """Names of the options that were given."""
        options: dict[str, Any] = {
            "--box": self.boxes,
            "--point": self.points,
            "--masks": self.masks,
            "--annotations": self.annotations,
            "--detector": self.detector,
        }
        return [name for name, value in options.items() if value]

    def prompts(self, image: Path, size: tuple[int, int]) -> list[ObjectPrompt] | None:
        """The prompts of one image (H, W); None to find its objects.

        Raises:
            InputError: an impossible prompt, or annotations without objects of this image.
        """
        from amodal.inference.prompt_files import read_coco_file, read_masks
        from amodal.inference.prompts import check_box, check_box_of_mask, collect_prompts

        if self.annotations is not None:
            coco = read_coco_file(self.annotations)
            found = coco.prompts(coco.image_of(image), size)
            if not found:
                raise InputError(f"annotations {self.annotations}: expected objects in {image.name}, got none")
            return found
        if self.masks is not None:
            found = read_masks(self.masks, image, size)
            if not self.boxes:
                return found
            if len(self.boxes) != len(found):
                raise InputError(f"prompts: expected one --box per mask, got {len(self.boxes)} for {len(found)} masks")
            boxes = [check_box(box, size) for box in self.boxes]
            both = [replace(prompt, box_xyxy=box) for prompt, box in zip(found, boxes, strict=True)]
            for prompt in both:
                check_box_of_mask(prompt)
            return both
        if not self.boxes and not self.points:
            return None
        groups = [self.points] if self.boxes and self.points else group_points(self.points)
        return collect_prompts(
            size,
            boxes_xyxy=self.boxes or None,
            points_xy=[[point[:2] for point in group] for group in groups] or None,
            point_labels=[[point[2] for point in group] for group in groups] or None,
        )


def segment(
    image: Annotated[Path, typer.Argument(help="Image, folder of images, or video.")],
    box: Annotated[
        list[str] | None, typer.Option(help="Box of a visible part in pixels, X0,Y0,X1,Y1; may be repeated.")
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option(
            help="Point in pixels: X,Y on an object, or X,Y,0 not on it; may be repeated. Each X,Y is an object, and "
            "X,Y,0 belongs to the point before it; with one --box, all points belong to its object."
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Visible masks of the image, which are kept exactly: COCO file or JSON list of RLEs; PNG with one "
            "mask, or with one integer per object (0 is background); or a folder with one PNG mask per object."
        ),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(help="COCO file with masks or boxes of visible parts, for the image or for all of the folder."),
    ] = None,
    detector: DetectorName = None,
    text: DetectorTexts = None,
    confidence: Confidence = None,
    model: ModelName = DEFAULT_SEGMENTER,
    visible_from: VisibleFrom = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; default: <name>-amodal in the working folder.")
    ] = None,
    threshold: Threshold = None,
    clean: Clean = True,
    device: Device = "auto",
    dtype: Dtype = "auto",
    mode: Mode = "crop",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Segment all images again, also with other options.")
    ] = False,
    strict: Strict = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print scene.json; for a folder or video, a summary.")
    ] = False,
) -> None:
    """Segment objects, including the parts that other objects hide.

    Masks, boxes, points, annotations or a detector select the objects; without them, the detector of the model's
    base finds them, or a grid of points if it has none.

    Example: amodal segment photos --annotations instances.json --out amodal
    """
    boxes = [parse_numbers("box", value, "X0,Y0,X1,Y1") for value in box or []]
    points = [parse_point(value) for value in point or []]
    selection = PromptOptions(boxes, points, masks, annotations, detector)
    if confidence is not None and set(selection.given()) - {"--detector"}:
        raise InputError(f"confidence: expected without prompts only, got it with {' and '.join(selection.given())}")
    folder = require_folder(out or Path(f"{image.resolve().name if image.is_dir() else image.stem}-amodal"))

    from amodal.inference.folder import ImageSegmenter
    from amodal.io.files import content_digest, visible_entries
    from amodal.io.frames import is_video

    inputs = [image, annotations, *([] if masks is None else visible_entries(masks) if masks.is_dir() else [masks])]
    require_no_replaced_input(folder, inputs)

    def load() -> AmodalSegmenter:
        from amodal.inference.segmenter import AmodalSegmenter

        return AmodalSegmenter.from_pretrained(model, device=device, dtype=dtype, mode=mode, visible_from=visible_from)

    segmenter = ImageSegmenter(load, detector, text, threshold, clean, confidence)
    several = image.is_dir() or is_video(image)
    if several:
        allowed = ("--annotations", "--detector") if image.is_dir() else ("--detector",)
        wrong = [name for name in selection.given() if name not in allowed]
        if wrong:
            kind = "a folder" if image.is_dir() else "a video (objects are not tracked)"
            raise InputError(f"prompts: expected {' or '.join(allowed)} or none for {kind}, got {' and '.join(wrong)}")
        options: dict[str, Any] = {"model": model, "mode": mode, "dtype": dtype, "threshold": threshold}
        options |= {"clean": clean, "detector": detector, "text": text, "source": str(image.resolve())}
        options |= {"visible_from": visible_from, "confidence": confidence}
        from amodal.models.increments import model_contents

        options |= model_contents(model=model, visible_from=visible_from, detector=detector)
        if not image.is_dir():
            options["content"] = content_digest(image)
    if image.is_dir():
        if annotations is not None and annotations.is_file():
            options["annotations"] = content_digest(annotations)
        _segment_folder(image, annotations, folder, segmenter, options, overwrite, Failures(strict), as_json)
    elif several:
        _segment_video(image, folder, segmenter, options, overwrite, as_json)
    else:
        with one_writer(folder):
            scene = _segment_image(image, selection, segmenter)
            scene.save(folder)
        if as_json:
            typer.echo(json.dumps(scene.to_json()))
        else:
            _print_table(scene, folder)


def batch(
    dataset: Annotated[Path, typer.Argument(help="Annotation file, or a Parquet file of image paths and boxes.")],
    out: Annotated[Path, typer.Option(help="Folder for the Parquet files; an interrupted run is resumed.")],
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Format of the annotation file; default: guessed. In a coco file, masks are prompts where there are "
            "any, otherwise boxes; in other formats, the visible boxes are.",
        ),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images.")] = None,
    match: MatchBy = "path",
    model: ModelName = DEFAULT_SEGMENTER,
    visible_from: VisibleFrom = None,
    clean: Clean = True,
    mode: Mode = "crop",
    dtype: Dtype = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Number of segmenters that run in parallel.")] = 2,
    cpus: Annotated[int, typer.Option(min=1, help="CPU cores per segmenter.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs per segmenter; may be a fraction.")] = 0,
    strict: Strict = False,
    as_json: JsonSummary = False,
) -> None:
    """Segment the objects of a dataset in parallel.

    The workers run in Ray; the masks are written as Parquet files, which `evaluate`, `export` and `label` read.

    Example: amodal batch data/scenes-test/annotations.json --out predictions --workers 2
    """
    from amodal.data.datasets import guess_format, image_folder, read_dataset
    from amodal.data.samples import AnnotatedDataset
    from amodal.inference.batch import BatchPlan, segment_dataset
    from amodal.inference.prompt_files import CocoFile, read_coco_file

    plan = BatchPlan(
        model=model,
        visible_from=visible_from,
        mode=mode,
        dtype=dtype,
        workers=workers,
        cpus=cpus,
        gpus=gpus,
        clean=clean,
    )
    own = {"images": images is not None, "format": format_ is not None, "match": match != "path"}
    if dataset.suffix == ".parquet" and any(own.values()):
        name = next(name for name, given in own.items() if given)
        raise InputError(f"{name}: expected with an annotation file only, got it with {str(dataset)!r}")
    by = cast("Match", match)  # checked there
    source: Path | CocoFile | AnnotatedDataset = dataset
    if dataset.suffix != ".parquet":
        name = format_ or guess_format(dataset) or "coco"
        source = read_coco_file(dataset) if name == "coco" else read_dataset(name, dataset, images, by)
    failures = Failures(strict)
    folder = image_folder(dataset, images) if isinstance(source, CocoFile) else None
    segment_dataset(source, out, plan, images=folder, match=by, on_failure=failures.add, progress=not as_json)
    parts = len(list(out.glob("part-*.parquet")))
    if as_json:
        typer.echo(json.dumps({"folder": str(out), "parts": parts, "failed": failures.messages}))
    else:
        typer.echo(f"Written: {out} ({parts} files)")
    failures.exit()


def _segment_image(image: Path, selection: PromptOptions, segment: ImageSegmenter) -> Scene:
    from amodal.io.images import load_image

    pixels = load_image(image)  # check all inputs before the model is loaded, which takes a second
    scene = segment(pixels, selection.prompts(image, (pixels.shape[0], pixels.shape[1])))
    scene.image_path = image
    return scene


def _segment_folder(
    source: Path,
    annotations: Path | None,
    out: Path,
    segment: ImageSegmenter,
    options: dict[str, Any],
    overwrite: bool,
    failures: Failures,
    as_json: bool,
) -> None:
    """Write one scene per image and one annotation file; scenes of an earlier run are reused."""
    from amodal.inference.folder import images_of_folder, segment_folder
    from amodal.inference.prompt_files import read_coco_file
    from amodal.inference.results import ANNOTATION_FILE
    from amodal.io.progress import progress_bar

    coco = None if annotations is None else read_coco_file(annotations)
    images = images_of_folder(source, coco, failures.add)
    built = segment_folder(
        images,
        out,
        segment,
        options,
        overwrite=overwrite,
        on_failure=failures.add,
        progress=lambda items: progress_bar(items, "images", not as_json, len(images)),
    )
    file = out / ANNOTATION_FILE
    if as_json:
        content = {"folder": str(out), "annotations": str(file) if built.num_images else None}
        typer.echo(
            json.dumps(
                content | {"images": built.num_images, "objects": built.num_objects, "failed": failures.messages}
            )
        )
    elif built.num_images:
        found = f"{counted(built.num_objects, 'object')} in {counted(built.num_images, 'image')}"
        typer.echo(f"Written: {file} with {found}, and their scenes")
        if images.num_other and annotations is not None:
            other = counted(images.num_other, "image")
            typer.echo(f"Left out: {other} of the folder that {annotations.name} does not have")
    failures.exit()


def _segment_video(
    source: Path, out: Path, segment: ImageSegmenter, options: dict[str, Any], overwrite: bool, as_json: bool
) -> None:
    """Write one scene per frame and a video of the overlays; scenes of an earlier run are reused."""
    from amodal.inference.folder import VIDEO_FILE, segment_video
    from amodal.io.frames import open_video
    from amodal.io.progress import progress_bar

    frames = open_video(source)
    shown = progress_bar(frames, "frames", not as_json, frames.total)
    num_frames = segment_video(shown, frames.rate, out, segment, options, overwrite=overwrite)
    line = f"Written: {counted(num_frames, 'frame')} and {VIDEO_FILE} in {out} (objects are not tracked between frames)"
    typer.echo(json.dumps({"folder": str(out), "frames": num_frames}) if as_json else line)


def _print_table(scene: Scene, folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in ("object", "hidden", "visible box", "amodal box", "score"):
        table.add_column(name, justify="right")
    for index, obj in enumerate(scene.objects):
        label = obj.name or obj.phrase
        table.add_row(
            str(index) if label is None else f"{index} {label}",
            f"{obj.occlusion_rate:.0%}",
            _format_box(obj.visible_box_xyxy),
            _format_box(obj.amodal_box_xyxy),
            f"{obj.score:.2f}",
        )
    console = Console()
    console.print(table)
    if not scene.objects:
        console.print("No object found: give a box (--box X0,Y0,X1,Y1) or a point (--point X,Y)", soft_wrap=True)
    console.print(f"Written: {folder}/overlay.png, scene.json and three masks per object", soft_wrap=True)


def _format_box(box: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in box)
