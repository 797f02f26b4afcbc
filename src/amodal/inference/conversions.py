"""Objects of a scene in the forms of other Python libraries: pandas, supervision, YOLO labels, HTML."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from amodal.errors import InputError
from amodal.inference.scene_object import SceneObject
from amodal.io.images import ImageArray
from amodal.ops.arrays import Mask, Points

if TYPE_CHECKING:
    import pandas
    import supervision

Part = Literal["visible", "amodal"]
MAX_HTML_SIDE = 900
"""Longest side in pixels of the drawing in a notebook."""


def table_rows(
    objects: Sequence[SceneObject], occlusion_order: Sequence[tuple[int, int]], image_name: str
) -> list[dict[str, Any]]:
    """One row per object: names, ids, score, occlusion rate, areas, boxes and occluders.

    Args:
        objects: N objects of one image.
        occlusion_order: pairs (front, behind) of object indices.
        image_name: value of the column `image`.
    """
    return [
        {
            "image": image_name,
            "object": index,
            "name": obj.name,
            "phrase": obj.phrase,
            "class_id": obj.class_id,
            "source_id": obj.source_id,
            "tracker_id": obj.tracker_id,
            "score": obj.score,
            "occlusion_rate": obj.occlusion_rate,
            "visible_area": int(np.count_nonzero(obj.visible_in_window)),
            "amodal_area": int(np.count_nonzero(obj.amodal_in_window)),
            **_box_columns("visible", obj.visible_box_xyxy),
            **_box_columns("amodal", obj.amodal_box_xyxy),
            "occluders": " ".join(str(front) for front, behind in occlusion_order if behind == index),
        }
        for index, obj in enumerate(objects)
    ]


def to_pandas(rows: list[dict[str, Any]]) -> pandas.DataFrame:
    """The rows of `table_rows` as a data frame.

    Raises:
        InputError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise InputError("pandas: expected the package, got none (pip install pandas)") from error
    return pd.DataFrame(rows)


def to_detections(objects: Sequence[SceneObject], part: Part) -> supervision.Detections:
    """One detection of supervision per object.

    `class_id` is the class of each object: its own, or the position of its name among the sorted names. `data` holds
    `class_name`, `occlusion_rate`, both masks (`visible_mask`, `amodal_mask`, each (H, W) bool) and the `source_id`.

    Args:
        objects: N objects of one image.
        part: which masks and boxes the detections themselves have.

    Raises:
        InputError: another part, or supervision is not installed.
    """
    if part not in ("visible", "amodal"):
        raise InputError(f"part: expected 'visible' or 'amodal', got {part!r}")
    try:
        import supervision as sv
    except ImportError as error:
        raise InputError("supervision: expected the package, got none (pip install 'amodal[supervision]')") from error
    if not objects:
        return sv.Detections.empty()
    masks = {name: np.stack([getattr(obj, f"{name}_mask") for obj in objects]) for name in ("visible", "amodal")}
    trackers = [obj.tracker_id for obj in objects]
    return sv.Detections(
        xyxy=sv.mask_to_xyxy(masks[part]).astype(np.float32),
        mask=masks[part],
        confidence=np.array([obj.score for obj in objects], np.float32),
        class_id=class_ids(objects),
        tracker_id=None if None in trackers else np.array(trackers),
        data={
            "class_name": np.array([obj.label for obj in objects]),
            "occlusion_rate": np.array([obj.occlusion_rate for obj in objects]),
            "visible_mask": masks["visible"],
            "amodal_mask": masks["amodal"],
            "source_id": np.array([-1 if obj.source_id is None else obj.source_id for obj in objects]),
        },
    )


def class_ids(objects: Sequence[SceneObject], classes: Sequence[str] | None = None) -> npt.NDArray[np.int64]:
    """(N,) class number of each object.

    Args:
        objects: N objects.
        classes: names by class number; if None, the objects' own class ids where all have one, otherwise the
            positions of their names among the sorted names.

    Raises:
        InputError: an object's name is not among `classes`.
    """
    if classes is None and all(obj.class_id is not None for obj in objects):
        return np.array([obj.class_id for obj in objects], np.int64)
    names = sorted({obj.label for obj in objects}) if classes is None else list(classes)
    unknown = sorted({obj.label for obj in objects} - set(names))
    if unknown:
        raise InputError(f"classes: expected the name of every object, got none for {', '.join(unknown)}")
    return np.array([names.index(obj.label) for obj in objects], np.int64)


def to_yolo(
    objects: Sequence[SceneObject], size: tuple[int, int], part: Part, classes: Sequence[str] | None
) -> list[str]:
    """One line of a YOLO segmentation label file per object with a mask: `class x1 y1 x2 y2 ...`.

    Coordinates are shares of the image's sides. YOLO knows one polygon per object: separate parts are joined by
    bridges of no width, as ultralytics does for COCO, and holes are filled. Amodal masks overlap, so ultralytics
    needs `overlap_mask: False` to train on them.

    Args:
        objects: objects of one image.
        size: (H, W) of the image.
        part: which mask.
        classes: names by class number, see `class_ids`.

    Raises:
        InputError: another part, or a name that is not among `classes`.
    """
    if part not in ("visible", "amodal"):
        raise InputError(f"part: expected 'visible' or 'amodal', got {part!r}")
    lines = []
    for obj, class_id in zip(objects, class_ids(objects, classes), strict=True):
        mask = getattr(obj, f"{part}_in_window")
        if not mask.any():
            continue
        points = (_outline(mask) + np.array(obj.window[:2])) / np.array([size[1], size[0]])
        lines.append(" ".join([str(class_id), *(f"{value:.6f}" for value in points.clip(0, 1).ravel())]))
    return lines


def to_html(drawing: ImageArray | None, rows: Sequence[dict[str, Any]]) -> str:
    """The drawing of a scene, if there is one, and a small table of its objects as HTML."""
    parts = []
    if drawing is not None:
        image = Image.fromarray(drawing)
        image.thumbnail((MAX_HTML_SIDE, MAX_HTML_SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        parts.append(f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode("ascii")}">')
    columns = ("object", "name", "phrase", "score", "occlusion_rate", "occluders")
    head = "".join(f"<th>{column.replace('_', ' ')}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{_cell(row[column])}</td>" for column in columns) + "</tr>" for row in rows)
    return "".join(parts) + f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else html.escape("" if value is None else str(value))


def _outline(mask: Mask) -> Points:
    """(n, 2) outer outline (x, y) of a mask (h, w) in pixel edges; several parts are joined by bridges of no width."""
    large = np.kron(np.pad(mask, 1), np.ones((2, 2), np.uint8)).astype(np.uint8)  # corners of pixels become distinct
    contours, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    pieces = [contour[:, 0].astype(np.float64) for contour in sorted(contours, key=len, reverse=True)]
    joined = pieces[0]
    for piece in pieces[1:]:
        gaps = np.abs(joined[:, None] - piece[None]).sum(-1)
        at, start = np.unravel_index(gaps.argmin(), gaps.shape)
        loop = np.concatenate([piece[start:], piece[: start + 1]])
        joined = np.concatenate([joined[: at + 1], loop, joined[at:]])
    return (joined + 0.5) / 2 - 1


def _box_columns(name: str, box: tuple[float, ...]) -> dict[str, float]:
    return {f"{name}_{corner}": value for corner, value in zip(("x0", "y0", "x1", "y1"), box, strict=True)}
