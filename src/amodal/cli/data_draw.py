"""`amodal data draw`: a sheet of objects, each with what hides it and what it hides."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amodal.cli.data_source import Annotations, AsJson, FormatName, Images, open_dataset
from amodal.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
    from amodal.inference.scene import SceneObject

    Pixels = npt.NDArray[np.uint8]
    Chosen = tuple[ImageSample, ObjectSample]

TILE = 560
CAPTION = 44
GAP = 8
PAPER, INK = (250, 250, 248), (20, 20, 24)
CONTEXT = 1.6
"""Side of what is shown, relative to the box of the whole object."""


def draw(
    annotations: Annotations,
    out: Annotated[Path, typer.Option(help="Picture to write (.png or .jpg).")],
    format_: FormatName = None,
    images: Images = None,
    object_ids: Annotated[
        list[int] | None, typer.Option("--object", help="Annotation id; repeat for more. Random ones by default.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=200, help="Random objects to draw.")] = 12,
    occluded: Annotated[
        bool, typer.Option("--occluded", help="Only random objects of which something is hidden.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same objects.")] = 0,
    columns: Annotated[int, typer.Option(min=1, max=20, help="Objects side by side.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Draw objects: visible part solid, hidden part hatched, with those in front and behind.

    Example: amodal data draw --annotations data/scenes/annotations.json --occluded --out sheet.png
    """
    from PIL import Image

    from amodal.io.files import appearing

    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise InputError(f"out: expected a .png or .jpg file, got {str(out)!r}")
    dataset = open_dataset(annotations, format_, images)
    chosen = _named(dataset, object_ids) if object_ids else _random(dataset, count, seed, occluded)
    picture = Image.fromarray(sheet([tile(dataset, *each) for each in chosen], columns))
    with appearing(out) as temporary:
        picture.save(temporary)
    drawn = [{"image_id": image.id, "annotation_id": thing.id} for image, thing in chosen]
    typer.echo(json.dumps({"out": str(out), "objects": drawn}) if as_json else f"Written: {out} ({len(drawn)} objects)")


def tile(dataset: AnnotatedDataset, image: ImageSample, thing: ObjectSample) -> Pixels:
    """One object in its surroundings, (TILE + CAPTION, TILE, 3) uint8.

    Args:
        dataset: names the categories.
        image: with the occluders of its objects known.
        thing: object of it.

    Raises:
        InputError: the image cannot be read.
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from amodal.inference.draw import draw_scene
    from amodal.ops.boxes import crop_window

    x0, y0, x1, y1 = crop_window(np.array(thing.amodal_box_xyxy or thing.visible_box_xyxy), image.size, CONTEXT)
    related = list(_related(image, thing))
    objects = [_scene_object(other, (x0, y0, x1, y1)) for other, _ in related]
    labels = [f"{_name(dataset, other):.40}{role}" for other, role in related]
    drawn = Image.fromarray(draw_scene(np.ascontiguousarray(image.load()[y0:y1, x0:x1]), objects, labels))
    drawn.thumbnail((TILE, TILE))
    paper = Image.new("RGB", (TILE, TILE + CAPTION), PAPER)
    paper.paste(drawn, ((TILE - drawn.width) // 2, CAPTION + (TILE - drawn.height) // 2))
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(size=15)
    for line, text in enumerate(_caption(dataset, image, thing)):
        while pen.textlength(text, font=font) > TILE - 8:
            text = f"{text.removesuffix('...')[:-1]}..."
        pen.text((4, 3 + 19 * line), text, fill=INK, font=font)
    return np.array(paper)


def sheet(tiles: Sequence[Pixels], columns: int) -> Pixels:
    """Tiles side by side in rows, (h, w, 3) uint8."""
    import numpy as np

    H, W = tiles[0].shape[:2]
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    paper = np.full((rows * (H + GAP) + GAP, columns * (W + GAP) + GAP, 3), PAPER, np.uint8)
    for i, each in enumerate(tiles):
        y, x = GAP + i // columns * (H + GAP), GAP + i % columns * (W + GAP)
        paper[y : y + H, x : x + W] = each
    return paper


def _related(image: ImageSample, thing: ObjectSample) -> Iterator[tuple[ObjectSample, str]]:
    """The object, those in front of it and those behind, with what they are to it."""
    yield thing, ""
    for other in image.objects:
        if other.id in thing.occluders:
            yield other, ", in front"
        elif thing.id in other.occluders:
            yield other, ", behind"


def _name(dataset: AnnotatedDataset, thing: ObjectSample) -> str:
    return dataset.categories.get(thing.category_id, str(thing.category_id))


def _scene_object(thing: ObjectSample, window: tuple[int, ...]) -> SceneObject:
    from amodal.inference.scene import SceneObject

    x0, y0, x1, y1 = window
    visible, amodal = thing.visible_mask(), thing.amodal_mask()
    amodal = visible if amodal is None else amodal
    return SceneObject.from_masks(visible[y0:y1, x0:x1], amodal[y0:y1, x0:x1])


def _caption(dataset: AnnotatedDataset, image: ImageSample, thing: ObjectSample) -> tuple[str, str]:
    from amodal.ops.rle import rle_occlusion_rate

    stuff = ", stuff" if thing.is_stuff else ""
    if thing.amodal_rle is None:
        state = "whole object unknown"
    else:
        rate = rle_occlusion_rate(thing.visible_rle, thing.amodal_rle)
        behind = f", behind {', '.join(str(i) for i in thing.occluders)}" if thing.occluders else ""
        state = f"{rate:.1%} hidden{behind}"
    return f"{thing.id} {_name(dataset, thing)}{stuff}, image {image.id} {image.file_name}", state


def _named(dataset: AnnotatedDataset, numbers: Sequence[int]) -> list[Chosen]:
    from amodal.data.relations import with_occluders

    found: dict[int, Chosen] = {}
    for image in dataset.images:
        wanted = [thing.id for thing in image.objects if thing.id in numbers]
        if wanted:
            full = with_occluders(image)
            found |= {thing.id: (full, thing) for thing in full.objects if thing.id in wanted}
        if len(found) == len(set(numbers)):
            break
    missing = [number for number in numbers if number not in found]
    if missing:
        raise InputError(f"object: expected annotation ids of the file, got {missing}")
    return [found[number] for number in numbers]


def _random(dataset: AnnotatedDataset, count: int, seed: int, occluded: bool) -> list[Chosen]:
    import numpy as np

    from amodal.data.relations import with_occluders
    from amodal.ops.rle import rle_area, rle_occlusion_rate

    ends = np.cumsum([len(image.objects) for image in dataset.images])
    chosen: list[Chosen] = []
    for number in np.random.default_rng(seed).permutation(dataset.num_objects):
        position = int(np.searchsorted(ends, number, side="right"))
        image = dataset.images[position]
        place = int(number - ends[position])  # from the end of the image's objects
        thing = image.objects[place]
        whole = thing.amodal_rle
        if not rle_area(thing.visible_rle if whole is None else whole):
            continue
        if occluded and (whole is None or not rle_occlusion_rate(thing.visible_rle, whole)):
            continue
        full = with_occluders(image)
        chosen.append((full, full.objects[place]))
        if len(chosen) == count:
            break
    if not chosen:
        raise InputError("annotations: expected objects to draw, got none")
    return chosen
