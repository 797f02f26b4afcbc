"""Scenes as Label Studio tasks to correct, and corrected tasks as scenes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

import amodal
from amodal.errors import InputError
from amodal.inference.scene import Scene, SceneObject
from amodal.ops.brush_rle import decode_brush, encode_brush

Mask = npt.NDArray[np.bool_]

# The interface that the tasks are made for: two brushes; a relation ties the parts of an object.
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


def to_tasks(scene: Scene, image_name: str) -> list[dict[str, Any]]:
    """One task whose prediction holds a visible and an amodal brush an object, tied by a relation.

    Args:
        scene: any scene.
        image_name: what `data.image` says: a URL or path that Label Studio can open.
    """
    result: list[dict[str, Any]] = []
    for index, thing in enumerate(scene.objects):
        result += _regions(thing, index)
    scores = [thing.score for thing in scene.objects]
    prediction = {
        "model_version": f"amodal {amodal.__version__}",
        "score": float(np.mean(scores)) if scores else 0.0,
        "result": result,
    }
    return [{"data": {"image": image_name}, "predictions": [prediction]}]


def from_task(task: dict[str, Any]) -> Scene:
    """The scene of a corrected task, as Label Studio's JSON export gives it.

    The newest annotation that was not cancelled counts; without one, the prediction. Parts are
    paired by their relation, else by the object number in the ids that `to_tasks` gave.

    Raises:
        InputError: no masks, or a part without its counterpart; the message names the region.
    """
    chosen = _chosen(task)
    regions = {r["id"]: r for r in chosen if r.get("type") == "brushlabels"}
    if not regions:
        raise InputError(f"task {task.get('id')}: expected brush regions, got none")
    first = next(iter(regions.values()))
    try:
        size = (int(first["original_height"]), int(first["original_width"]))
        phrases = {r["id"]: r["value"]["text"] for r in chosen if r.get("type") == "textarea"}
        objects = [
            SceneObject.from_masks(
                _mask(regions[visible], size), _mask(regions[amodal_], size), phrase=_phrase(phrases, visible, amodal_)
            )
            for visible, amodal_ in _pairs(task.get("id"), regions, chosen)
        ]
    except (KeyError, TypeError) as error:
        raise InputError(f"task {task.get('id')}: expected Label Studio's brush regions, got {error!r:.100}") from error
    return Scene(objects, size)


def _regions(thing: SceneObject, index: int) -> Iterator[dict[str, Any]]:
    H, W = thing.size
    shared = {"to_name": "image", "original_width": W, "original_height": H, "image_rotation": 0}
    for part in ("visible", "amodal"):
        value = {"format": "rle", "rle": encode_brush(getattr(thing, f"{part}_mask")), "brushlabels": [part]}
        region = {"id": f"object{index}_{part}", "type": "brushlabels", "from_name": "part", "value": value}
        yield region | shared | {"score": thing.score, "meta": {"text": [f"object {index}"]}}
    if thing.phrase:
        value = {"text": [thing.phrase]}
        yield {"id": f"object{index}_amodal", "type": "textarea", "from_name": "phrase", "value": value} | shared
    yield {
        "type": "relation",
        "from_id": f"object{index}_visible",
        "to_id": f"object{index}_amodal",
        "direction": "bi",
        "labels": ["same object"],
    }


def _chosen(task: dict[str, Any]) -> list[dict[str, Any]]:
    annotations = [a for a in task.get("annotations") or [] if not a.get("was_cancelled")]
    if annotations:
        annotations.sort(key=lambda a: str(a.get("updated_at", "")))
        return list(annotations[-1]["result"])
    predictions = task.get("predictions") or []
    return list(predictions[-1]["result"]) if predictions else []


def _pairs(task_id: Any, regions: dict[str, dict[str, Any]], result: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """(visible, amodal) region ids, in the order of the amodal regions."""
    partner: dict[str, str] = {}
    for relation in result:
        if relation.get("type") == "relation":
            partner[relation["from_id"]] = relation["to_id"]
            partner[relation["to_id"]] = relation["from_id"]
    parts = {key: region["value"]["brushlabels"][0] for key, region in regions.items()}
    used = set()
    for key, part in parts.items():
        if part != "amodal":
            continue
        visible = partner.get(key, key.replace("_amodal", "_visible"))
        if parts.get(visible) != "visible":
            raise InputError(f"task {task_id}: expected a visible part tied to region {key!r}, got none")
        used.add(visible)
        yield visible, key
    alone = sorted(key for key, part in parts.items() if part == "visible" and key not in used)
    if alone:
        raise InputError(f"task {task_id}: expected an amodal part tied to region {alone[0]!r}, got none")


def _mask(region: dict[str, Any], size: tuple[int, int]) -> Mask:
    return decode_brush(region["value"]["rle"], size)


def _phrase(phrases: dict[str, Any], *keys: str) -> str | None:
    for key in keys:
        text = phrases.get(key)
        if text:
            return str(text[0] if isinstance(text, list) else text)
    return None
