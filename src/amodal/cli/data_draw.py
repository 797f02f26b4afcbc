"""`amodal data draw`: a sheet of objects, each with its occluders and the objects it occludes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amodal.cli.options import Annotations, AsJson, FormatName, Images, MatchBy, open_dataset, require_no_image
from amodal.errors import InputError
from amodal.io.words import counted

if TYPE_CHECKING:
    from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
    from amodal.inference.scene_object import SceneObject
    from amodal.io.images import ImageArray
    from amodal.ops.arrays import Window

    Selection = tuple[ImageSample, ObjectSample]

TILE = 560
CAPTION = 44
GAP = 8
PAPER, INK = (250, 250, 248), (20, 20, 24)
CONTEXT = 1.6
"""Side of the drawn window relative to the side of the object's amodal box."""


def draw(
    annotations: Annotations,
    out: Annotated[Path, typer.Option(help="Image to write: .png or .jpg.")],
    format_: FormatName = None,
    images: Images = None,
    match: MatchBy = "path",
    object_ids: Annotated[
        list[int] | None, typer.Option("--object", help="Annotation id, may be repeated; default: random objects.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=200, help="Number of random objects.")] = 12,
    occluded: Annotated[
        bool, typer.Option("--occluded", help="Choose random objects among the occluded ones only.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same objects.")] = 0,
    columns: Annotated[int, typer.Option(min=1, max=20, help="Number of objects per row.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Draw objects with the visible part solid and the occluded part hatched, and their occluders.

    Example: amodal data draw --annotations data/scenes/annotations.json --occluded --out sheet.png
    """
    from PIL import Image

    from amodal.io.files import atomic_path, require_no_input

    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise InputError(f"out: expected a .png or .jpg file, got {str(out)!r}")
    require_no_input(out, [annotations])
    dataset = open_dataset(annotations, format_, images, match)
    require_no_image(out, dataset)
    chosen = _by_id(dataset, object_ids) if object_ids else _random(dataset, count, seed, occluded)
    drawn_sheet = Image.fromarray(sheet([tile(dataset, *each) for each in chosen], columns))
    with atomic_path(out) as temporary:
        drawn_sheet.save(temporary)
    drawn = [{"image_id": image.id, "annotation_id": obj.id} for image, obj in chosen]
    line = f"Written: {out} ({counted(len(drawn), 'object')})"
    typer.echo(json.dumps({"out": str(out), "objects": drawn}) if as_json else line)


def tile(dataset: AnnotatedDataset, image: ImageSample, obj: ObjectSample) -> ImageArray:
    """Draw one object with its surroundings and a caption, (TILE + CAPTION, TILE, 3) uint8 RGB.

    Args:
        dataset: dataset of the image, which has the category names.
        image: image whose objects have known occluders.
        obj: object of the image.

    Raises:
        InputError: the image cannot be read.
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from amodal.inference.draw import draw_scene
    from amodal.ops.boxes import crop_window

    x0, y0, x1, y1 = crop_window(np.array(obj.amodal_box_xyxy or obj.visible_box_xyxy), image.size, CONTEXT)
    related = list(_related(image, obj))
    objects = [_scene_object(other, (x0, y0, x1, y1)) for other, _ in related]
    labels = [f"{_name(dataset, other):.40}{role}" for other, role in related]
    drawn = Image.fromarray(draw_scene(np.ascontiguousarray(image.load()[y0:y1, x0:x1]), objects, labels))
    drawn.thumbnail((TILE, TILE))
    paper = Image.new("RGB", (TILE, TILE + CAPTION), PAPER)
    paper.paste(drawn, ((TILE - drawn.width) // 2, CAPTION + (TILE - drawn.height) // 2))
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(size=15)
    for line, text in enumerate(_caption(dataset, image, obj)):
        while pen.textlength(text, font=font) > TILE - 8:
            text = f"{text.removesuffix('...')[:-1]}..."
        pen.text((4, 3 + 19 * line), text, fill=INK, font=font)
    return np.array(paper)


def sheet(tiles: Sequence[ImageArray], columns: int) -> ImageArray:
    """Arrange tiles in rows of `columns`, (H, W, 3) uint8 RGB."""
    import numpy as np

    H, W = tiles[0].shape[:2]
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    paper = np.full((rows * (H + GAP) + GAP, columns * (W + GAP) + GAP, 3), PAPER, np.uint8)
    for i, each in enumerate(tiles):
        y, x = GAP + i // columns * (H + GAP), GAP + i % columns * (W + GAP)
        paper[y : y + H, x : x + W] = each
    return paper


def _related(image: ImageSample, obj: ObjectSample) -> Iterator[tuple[ObjectSample, str]]:
    """Yield the object, its occluders and the objects it occludes, each with its relation to the object as a label."""
    yield obj, ""
    for other in image.objects:
        if other.id in obj.occluders:
            yield other, ", in front"
        elif obj.id in other.occluders:
            yield other, ", behind"


def _name(dataset: AnnotatedDataset, obj: ObjectSample) -> str:
    return dataset.categories.get(obj.category_id, str(obj.category_id))


def _scene_object(obj: ObjectSample, window: Window) -> SceneObject:
    from amodal.inference.scene_object import SceneObject

    x0, y0, x1, y1 = window
    visible, amodal = obj.visible_mask(), obj.amodal_mask()
    amodal = visible if amodal is None else amodal
    return SceneObject.from_masks(visible[y0:y1, x0:x1], amodal[y0:y1, x0:x1])


def _caption(dataset: AnnotatedDataset, image: ImageSample, obj: ObjectSample) -> tuple[str, str]:
    from amodal.ops.occlusion import rle_occlusion_rate

    stuff = ", stuff" if obj.is_stuff else ""
    if obj.amodal_rle is None:
        state = "amodal mask unknown"
    else:
        rate = rle_occlusion_rate(obj.visible_rle, obj.amodal_rle)
        behind = f", behind {', '.join(str(i) for i in obj.occluders)}" if obj.occluders else ""
        state = f"{rate:.1%} occluded{behind}"
    return f"{obj.id} {_name(dataset, obj)}{stuff}, image {image.id} {image.file_name}", state


def _by_id(dataset: AnnotatedDataset, numbers: Sequence[int]) -> list[Selection]:
    from amodal.data.relations import derive_occluders

    found: dict[int, Selection] = {}
    for image in dataset.images:
        wanted = [obj.id for obj in image.objects if obj.id in numbers]
        if wanted:
            derived = derive_occluders(image)
            found |= {obj.id: (derived, obj) for obj in derived.objects if obj.id in wanted}
        if len(found) == len(set(numbers)):
            break
    missing = [number for number in numbers if number not in found]
    if missing:
        raise InputError(f"object: expected annotation ids of the file, got {missing}")
    return [found[number] for number in numbers]


def _random(dataset: AnnotatedDataset, count: int, seed: int, occluded: bool) -> list[Selection]:
    import numpy as np

    from amodal.data.relations import derive_occluders
    from amodal.ops.occlusion import is_occluded, rle_occlusion_rate
    from amodal.ops.rle import rle_area

    ends = np.cumsum([len(image.objects) for image in dataset.images])
    chosen: list[Selection] = []
    for number in np.random.default_rng(seed).permutation(dataset.num_objects):
        position = int(np.searchsorted(ends, number, side="right"))
        image = dataset.images[position]
        place = int(number - ends[position])  # negative: counted from the end of the image's objects
        obj = image.objects[place]
        amodal = obj.amodal_rle
        if not rle_area(obj.visible_rle if amodal is None else amodal):
            continue
        if occluded and (amodal is None or not is_occluded(rle_occlusion_rate(obj.visible_rle, amodal))):
            continue
        derived = derive_occluders(image)
        chosen.append((derived, derived.objects[place]))
        if len(chosen) == count:
            break
    if not chosen:
        raise InputError("annotations: expected objects to draw, got none")
    return chosen
