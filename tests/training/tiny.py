"""Recipes that train in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from amodal.models.bases.sam import new_sam
from amodal.training.recipe import Recipe, parse_recipe
from tests.data.toy import write_toy
from tests.models.conftest import small_sam_config

SAM: dict[str, Any] = {"image_size": 32, "output_channels": 16}
"""Sizes of the model of task `sam`, whose trunk is a whole EfficientNet-Lite0 nevertheless."""
TRAINING: dict[str, Any] = {
    "steps": 4,
    "batch_size": 4,
    "warmup_steps": 1,
    "precision": "no",
    "workers": 0,
    "log_every": 1,
    "validate_every": 2,
    "validation_objects": 4,
    "checkpoint_every": 2,
}


def tiny_recipe(
    folder: Path,
    task: str = "sam",
    model: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    **training: Any,
) -> Recipe:
    """A recipe with toy data in `folder`; the task `plug` gets a base with random weights."""
    annotations = folder / "toy" / "annotations.json"
    if not annotations.is_file():
        write_toy(folder / "toy")
    source = {"format": "canonical", "annotations": str(annotations)}
    settings = SAM if task == "sam" else {"base": str(tiny_base(folder)), "image_size": 32, "num_points": 16}
    if task == "plug":
        settings |= {"lora_rank": 2, "refine_channels": 8}
    return parse_recipe(
        {
            "task": task,
            "output": str(folder / "run"),
            "model": settings | (model or {}),
            "data": {"train": [source], "validation": [source], "num_prompts": 2} | (data or {}),
            "training": TRAINING | training,
        }
    )


def tiny_base(folder: Path) -> Path:
    """Write a small SAM with random weights."""
    if not (folder / "base").is_dir():
        new_sam(small_sam_config(32)).save_pretrained(folder / "base")
    return folder / "base"
