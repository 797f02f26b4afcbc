"""Scenes as Label Studio tasks for correction, and corrected tasks as scenes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from amodal.errors import InputError
from amodal.inference.results import ImageResult, Results
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from amodal.io.image_names import last_part
from amodal.io.images import MAX_PIXELS
from amodal.ops.arrays import Mask
from amodal.ops.boxes import turned
from amodal.ops.brush_rle import decode_brush, encode_brush
from amodal.ops.values import integer, number, optional_integer
from amodal.version import __version__

SOURCE_KEYS = ("name", "class_id", "source_id")

# Labelling interface of the tasks: two brushes; a relation connects the two masks of an object.
LABEL_CONFIG = """<View>
  <Image name="image" value="$image" zoom="true" zoomControl="true"/>
  <BrushLabels name="part" toName="image">
    <Label value="visible" background="#2f9e44"/>
    <Label value="amodal" background="#d6336c"/>
  </BrushLabels>
  <TextArea name="phrase" toName="image" perRegion="true" maxSubmissions="1" placeholder="What is it?"/>
  <Relations><Relation value="same object"/></Relations>
</View>
"""


def is_interface(file: Path) -> bool:
    """Whether a file is a labelling interface, such as that of an earlier run."""
    try:
        return file.read_bytes().lstrip().startswith(b"<View")
    except OSError:
        return False


class Tags(NamedTuple):
    """Names of the tags of a labelling interface; the defaults are those of `LABEL_CONFIG`.

    Attributes:
        part: the brush with the labels `visible` and `amodal`.
        image: the image.
        text: the text area of a region, or None if the interface has none.
    """

    part: str = "part"
    image: str = "image"
    text: str | None = "phrase"


def to_tasks(results: Results, prefix: str = "") -> list[dict[str, Any]]:
    """One task per image, see `to_task`.

    Args:
        results: scenes and the file names of their images.
        prefix: what comes before a file name in `data.image`, where Label Studio finds the images.
    """
    return [to_task(result, f"{prefix}{result.name}") for result in results]


def to_task(result: ImageResult, image: str) -> dict[str, Any]:
    """One task with a prediction: a visible and an amodal brush region per object, connected by a relation.

    `data` also has the file name and the ids and names of the source, which Label Studio keeps in its export.

    Args:
        result: scene with N objects, and the file name of its image.
        image: value of `data.image`, a URL or path that Label Studio can open.
    """
    regions: list[dict[str, Any]] = []
    for index, obj in enumerate(result.scene):
        regions += object_regions(obj, f"object{index}", f"object {index}")
        regions.append(object_relation(f"object{index}"))
    scores = [obj.score for obj in result.scene]
    prediction = {
        "model_version": f"amodal {__version__}",
        "score": float(np.mean(scores)) if scores else 0.0,
        "result": regions,
    }
    data: dict[str, Any] = {"image": image, "file_name": result.name, "image_id": result.image_id}
    data["objects"] = [{key: getattr(obj, key) for key in SOURCE_KEYS} for obj in result.scene]
    return {"data": data, "predictions": [prediction]}


def from_task(task: dict[str, Any]) -> ImageResult:
    """Read the scene of a corrected task from the JSON export of Label Studio, with the file name of its image.

    The newest annotation that was not cancelled is used, or the prediction if there is none. Visible
    and amodal regions are paired by their relation, otherwise by the object number in the ids from
    `to_task`. The ids of the source come from `data`; the text of a region is the name of an object that had one,
    otherwise its phrase.

    Args:
        task: one task of the export. An annotation without regions is an image without objects.

    Raises:
        InputError: a region without its label or its counterpart, or one that cannot be read; or an image without
            objects whose size the task does not state. The message names the task and, where there is one, the region.
    """
    try:
        result = _current_result(task)
        size = _size(task)
        regions = {r["id"]: r for r in result if _is_brush(r)}
        texts = {r["id"]: r["value"]["text"] for r in result if r.get("type") == "textarea"}
        sources = task.get("data", {}).get("objects") or []
        objects = [
            SceneObject.from_masks(
                _mask(regions[visible], size),
                _mask(regions[amodal_], size),
                **_source(sources, amodal_, _text(texts, visible, amodal_)),
            )
            for visible, amodal_ in _pairs(regions, result)
        ]
        image_id = optional_integer(task.get("data", {}).get("image_id"), "image_id")
        return ImageResult(_file_name(task), Scene(objects, size), image_id)
    except InputError as error:
        raise InputError(f"task {task.get('id')!r:.40}: {error}") from error
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        what = f"expected Label Studio's brush regions, got {error!r:.100}"
        raise InputError(f"task {task.get('id')!r:.40}: {what}") from error


def object_regions(obj: SceneObject, prefix: str, note: str, tags: Tags = Tags()) -> Iterator[dict[str, Any]]:
    """The visible and the amodal brush region of an object, and its name if it has one.

    Args:
        obj: object with both masks.
        prefix: beginning of the ids of the regions, by which `from_task` pairs regions without a relation.
        note: text that Label Studio shows with the regions.
        tags: names of the tags of the labelling interface.
    """
    H, W = obj.size
    shared = {"to_name": tags.image, "original_width": W, "original_height": H, "image_rotation": 0}
    for part in ("visible", "amodal"):
        value = {"format": "rle", "rle": encode_brush(getattr(obj, f"{part}_mask")), "brushlabels": [part]}
        region = {"id": f"{prefix}_{part}", "type": "brushlabels", "from_name": tags.part, "value": value}
        yield region | shared | {"score": obj.score, "meta": {"text": [note]}}
    if tags.text and (obj.name or obj.phrase):
        value = {"text": [obj.label]}
        yield {"id": f"{prefix}_amodal", "type": "textarea", "from_name": tags.text, "value": value} | shared


def rectangle_box(value: Mapping[str, Any], W: int, H: int) -> list[float]:
    """The box xyxy around a rectangle, which Label Studio turns clockwise about its upper left corner.

    Args:
        value: position and sides in per cent of the image's sides, and `rotation` in degrees.
        W: width of the image in pixels.
        H: height of the image in pixels.

    Raises:
        InputError: another rotation than a number.
    """
    x0, y0 = value["x"] * W / 100, value["y"] * H / 100
    x1, y1 = x0 + value["width"] * W / 100, y0 + value["height"] * H / 100
    degrees = number(value.get("rotation") or 0, "rotation")
    if not degrees:
        return [x0, y0, x1, y1]
    xs, ys = zip(*turned([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], (x0, y0), degrees), strict=True)
    return [max(min(xs), 0), max(min(ys), 0), min(max(xs), W), min(max(ys), H)]


def object_relation(prefix: str) -> dict[str, Any]:
    """The relation that connects the two regions of `object_regions`."""
    return {
        "type": "relation",
        "from_id": f"{prefix}_visible",
        "to_id": f"{prefix}_amodal",
        "direction": "bi",
        "labels": ["same object"],
    }


def _current_result(task: dict[str, Any]) -> list[dict[str, Any]]:
    annotations = [a for a in task.get("annotations") or [] if not a.get("was_cancelled")]
    if annotations:
        annotations.sort(key=lambda a: str(a.get("updated_at", "")))
        return list(annotations[-1]["result"])
    predictions = task.get("predictions") or []
    return list(predictions[-1]["result"]) if predictions else []


def _is_brush(region: dict[str, Any]) -> bool:
    """Whether a region is a brush stroke, with a label or (`brush`) without one."""
    return region.get("type") in ("brushlabels", "brush")


def _size(task: dict[str, Any]) -> tuple[int, int]:
    """(H, W) of the image of a task, which only the regions of its annotations and predictions state."""
    drafts = [*(task.get("annotations") or []), *(task.get("predictions") or [])]
    regions = [*_current_result(task), *(region for draft in drafts for region in draft.get("result") or [])]
    for region in regions:
        if region.get("original_height") is not None:
            size = (
                integer(region["original_height"], "original_height"),
                integer(region["original_width"], "original_width"),
            )
            if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
                raise InputError(f"expected an image of 1 to {MAX_PIXELS} pixels, got {size}")
            return size
    raise InputError("expected regions, which state the size of the image, got none")


def _part(key: str, region: dict[str, Any]) -> str:
    labels = region["value"].get("brushlabels") or []
    if len(labels) != 1 or labels[0] not in ("visible", "amodal"):
        raise InputError(f"expected the label visible or amodal for region {key!r:.40}, got {labels!r:.60}")
    return str(labels[0])


def _pairs(regions: dict[str, dict[str, Any]], result: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """(visible, amodal) region ids, in the order of the amodal regions."""
    partner: dict[str, str] = {}
    for relation in result:
        if relation.get("type") == "relation":
            partner[relation["from_id"]] = relation["to_id"]
            partner[relation["to_id"]] = relation["from_id"]
    parts = {key: _part(key, region) for key, region in regions.items()}
    used = set()
    for key, part in parts.items():
        if part != "amodal":
            continue
        visible = partner.get(key, key.replace("_amodal", "_visible"))
        if parts.get(visible) != "visible":
            raise InputError(f"expected a visible region connected to region {key!r:.40}, got none")
        used.add(visible)
        yield visible, key
    alone = sorted(key for key, part in parts.items() if part == "visible" and key not in used)
    if alone:
        raise InputError(f"expected an amodal region connected to region {alone[0]!r:.40}, got none")


def _mask(region: dict[str, Any], size: tuple[int, int]) -> Mask:
    try:
        return decode_brush(region["value"]["rle"], size)
    except InputError as error:
        raise InputError(f"region {region['id']!r:.40}: {error}") from error


def _source(sources: list[dict[str, Any]], region: str, text: str | None) -> dict[str, Any]:
    """Names and ids of the object of a region; an object whose name was corrected gets the class id of its new name."""
    number = re.fullmatch(r"object(\d+)_amodal", region)
    own = sources[int(number[1])] if number and int(number[1]) < len(sources) else {}
    if own.get("name") is None:
        return {"phrase": text, "class_id": own.get("class_id"), "source_id": own.get("source_id")}
    class_ids = {source["name"]: source["class_id"] for source in sources}
    return {"name": text, "class_id": class_ids.get(text), "source_id": own.get("source_id")}


def _file_name(task: dict[str, Any]) -> str:
    """The file name of the image of a task, or else the end of its URL."""
    data = task.get("data", {})
    url = str(data.get("image", ""))
    return str(data.get("file_name") or (last_part(url) if url else f"task_{task.get('id')}"))


def _text(texts: dict[str, Any], *keys: str) -> str | None:
    for key in keys:
        text = texts.get(key)
        if text:
            return str(text[0] if isinstance(text, list) else text)
    return None
