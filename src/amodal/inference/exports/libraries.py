"""Scenes as objects of Python libraries: pandas (and CSV files), supervision and FiftyOne."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from amodal.errors import InputError
from amodal.inference.scene import Scene
from amodal.ops.boxes import mask_to_box

if TYPE_CHECKING:
    import pandas
    import supervision


def table_rows(scene: Scene, image_name: str) -> list[dict[str, Any]]:
    """One row per object: phrase, score, occlusion rate, areas, boxes and occluders.

    Args:
        scene: scene with N objects.
        image_name: value of the column `image`.
    """
    order = scene.occlusion_order()
    return [
        {
            "image": image_name,
            "object": index,
            "phrase": obj.phrase,
            "score": obj.score,
            "occlusion_rate": obj.occlusion_rate,
            "visible_area": int(np.count_nonzero(obj.visible_in_window)),
            "amodal_area": int(np.count_nonzero(obj.amodal_in_window)),
            **_box_columns("visible", obj.visible_box_xyxy),
            **_box_columns("amodal", obj.amodal_box_xyxy),
            "occluders": " ".join(str(front) for front, behind in order if behind == index),
        }
        for index, obj in enumerate(scene.objects)
    ]


def to_pandas(scene: Scene, image_name: str = "image.png") -> pandas.DataFrame:
    """`table_rows` as a data frame.

    Args:
        scene: scene with N objects.
        image_name: value of the column `image`.

    Raises:
        InputError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise InputError("pandas: expected the package, got none (pip install pandas)") from error
    return pd.DataFrame(table_rows(scene, image_name))


def write_csv(scene: Scene, image_name: str, folder: Path) -> None:
    """Write `objects.csv` with the rows of `table_rows`."""
    content = table_rows(scene, image_name)
    with (folder / "objects.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(content[0]) if content else ["image", "object"])
        writer.writeheader()
        writer.writerows(content)


def to_detections(scene: Scene, part: Literal["visible", "amodal"] = "amodal") -> supervision.Detections:
    """One detection of supervision per object; `data` holds occlusion rates and phrases.

    Args:
        scene: scene with N objects.
        part: which masks and boxes to use.

    Raises:
        InputError: another part, or supervision is not installed.
    """
    if part not in ("visible", "amodal"):
        raise InputError(f"part: expected 'visible' or 'amodal', got {part!r}")
    try:
        import supervision as sv
    except ImportError as error:
        raise InputError("supervision: expected the package, got none (pip install 'amodal[supervision]')") from error
    if not scene.objects:
        return sv.Detections.empty()
    masks = np.stack([getattr(obj, f"{part}_mask") for obj in scene.objects])
    return sv.Detections(
        xyxy=sv.mask_to_xyxy(masks).astype(np.float32),
        mask=masks,
        confidence=np.array([obj.score for obj in scene.objects], np.float32),
        class_id=np.arange(len(scene.objects)),
        data={
            "occlusion_rate": np.array([obj.occlusion_rate for obj in scene.objects]),
            "class_name": np.array([obj.phrase or "object" for obj in scene.objects]),
        },
    )


def to_fiftyone(scene: Scene, image_path: str | Path) -> Any:
    """A `fiftyone.Sample` with two fields of instance masks, `visible` and `amodal`.

    Args:
        scene: scene with N objects.
        image_path: file of the image, for the sample's `filepath`.

    Raises:
        InputError: FiftyOne is not installed.
    """
    try:
        import fiftyone as fo
    except ImportError as error:
        raise InputError("fiftyone: expected the package, got none (pip install fiftyone)") from error
    sample = fo.Sample(filepath=str(image_path))
    for part in ("visible", "amodal"):
        detections = [fo.Detection(**fields) for fields in fiftyone_fields(scene, part)]
        sample[part] = fo.Detections(detections=detections)
    return sample


def fiftyone_fields(scene: Scene, part: str) -> list[dict[str, Any]]:
    """Keyword arguments of one `fiftyone.Detection` per object with a mask.

    Args:
        scene: scene of an (H, W) image.
        part: `visible` or `amodal`.

    Returns:
        `bounding_box` is xywh relative to the image; `mask` is (h, w) bool inside that box.
    """
    H, W = scene.size
    fields = []
    for index, obj in enumerate(scene.objects):
        mask = getattr(obj, f"{part}_in_window")
        if not mask.any():
            continue
        left, top, right, bottom = (int(v) for v in mask_to_box(mask))
        x, y = obj.window[0] + left, obj.window[1] + top
        fields.append(
            {
                "label": obj.phrase or "object",
                "bounding_box": [x / W, y / H, (right - left) / W, (bottom - top) / H],
                "mask": mask[top:bottom, left:right],
                "confidence": obj.score,
                "index": index,
                "occlusion_rate": obj.occlusion_rate,
            }
        )
    return fields


def _box_columns(name: str, box: tuple[float, ...]) -> dict[str, float]:
    return {f"{name}_{corner}": value for corner, value in zip(("x0", "y0", "x1", "y1"), box, strict=True)}
