"""Scenes as CSV files and as samples of FiftyOne."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from amodal.errors import InputError
from amodal.inference.conversions import table_rows
from amodal.inference.results import Results
from amodal.inference.scene import Scene
from amodal.ops.boxes import mask_to_box


def write_csv(results: Results, folder: Path) -> None:
    """Write `objects.csv` with the rows of `table_rows` of all images."""
    rows = [row for name, scene, _ in results for row in table_rows(scene.objects, scene.occlusion_order(), name)]
    with (folder / "objects.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["image", "object"])
        writer.writeheader()
        writer.writerows(rows)


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
                "label": obj.label,
                "bounding_box": [x / W, y / H, (right - left) / W, (bottom - top) / H],
                "mask": mask[top:bottom, left:right],
                "confidence": obj.score,
                "index": index,
                "occlusion_rate": obj.occlusion_rate,
            }
        )
    return fields
