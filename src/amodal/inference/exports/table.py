"""Scenes as tables."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amodal.errors import InputError
from amodal.inference.scene import Scene

if TYPE_CHECKING:
    import pandas


def rows(scene: Scene, image_name: str) -> list[dict[str, Any]]:
    """One row an object: phrase, score, occlusion rate, areas, boxes, who stands in front."""
    order = scene.occlusion_order()
    return [
        {
            "image": image_name,
            "object": index,
            "phrase": thing.phrase,
            "score": thing.score,
            "occlusion_rate": thing.occlusion_rate,
            "visible_area": int(np.count_nonzero(thing.visible_in_window)),
            "amodal_area": int(np.count_nonzero(thing.amodal_in_window)),
            **_box("visible", thing.visible_box_xyxy),
            **_box("amodal", thing.amodal_box_xyxy),
            "occluders": " ".join(str(front) for front, behind in order if behind == index),
        }
        for index, thing in enumerate(scene.objects)
    ]


def to_pandas(scene: Scene, image_name: str = "image.png") -> pandas.DataFrame:
    """`rows` as a data frame. Raises `InputError` if pandas is not installed."""
    try:
        import pandas as pd
    except ImportError as error:
        raise InputError("pandas: expected the package, got none (pip install pandas)") from error
    return pd.DataFrame(rows(scene, image_name))


def write_csv(scene: Scene, image_name: str, folder: Path) -> None:
    """`objects.csv`."""
    content = rows(scene, image_name)
    with (folder / "objects.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(content[0]) if content else ["image", "object"])
        writer.writeheader()
        writer.writerows(content)


def _box(name: str, box: tuple[float, ...]) -> dict[str, float]:
    return {f"{name}_{corner}": value for corner, value in zip(("x0", "y0", "x1", "y1"), box, strict=True)}
