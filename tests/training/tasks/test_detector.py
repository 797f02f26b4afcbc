"""Which cells of a detector learn what, and a training of a detector as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amodal.errors import InputError
from amodal.inference.find import ObjectFinder
from amodal.models.bases.conv_prompt import ConvPromptFamily
from amodal.models.detector import Detections
from amodal.training.build import build
from amodal.training.loop import train
from amodal.training.recipe import Recipe, parse_recipe
from amodal.training.tasks.detector import DetectorTask, assign, match, paired_ious
from tests.data.toy import write_toy
from tests.models.families import ROWS, small_conv_prompt_config
from tests.training.tiny import TRAINING

FINE = 8 * 8  # cells of stride 8 of a 64 x 64 input, before those of stride 16


def detector_recipe(folder: Path, model: dict[str, Any] | None = None, **training: Any) -> Recipe:
    """A recipe with toy data and a small base with random weights."""
    if not (folder / "toy").is_dir():
        write_toy(folder / "toy")
        ConvPromptFamily().new_model(small_conv_prompt_config(), 1).save_pretrained(folder / "base")
    source = {"format": "canonical", "annotations": str(folder / "toy" / "annotations.json")}
    settings = {"base": str(folder / "base"), "image_size": 64, "channels": 8, "classes": ["Red"], "min_score": 0.01}
    return parse_recipe(
        {
            "task": "detector",
            "output": str(folder / "run"),
            "model": settings | (model or {}),
            "data": {"train": [source], "validation": [source]},
            "training": TRAINING | {"picture_objects": 0} | training,
        }
    )


def batch_of(
    boxes: list[list[float]], learned: list[bool] | None = None, all_annotated: bool = True
) -> dict[str, torch.Tensor]:
    """One image with these objects; those that are not learned are ignored."""
    is_learned = torch.tensor([learned or [True] * len(boxes)])
    return {
        "pixel_values": torch.zeros(1, 3, 64, 64),
        "boxes": torch.tensor([boxes], dtype=torch.float32),
        "classes": torch.zeros(1, len(boxes), dtype=torch.int64),
        "learned": is_learned,
        "ignored": ~is_learned,
        "all_annotated": torch.tensor([all_annotated]),
    }


def test_the_cells_around_the_centre_learn_an_object() -> None:
    objects, counted = assign(batch_of([[12, 12, 36, 36]]), 64)
    assert (objects[0, :FINE].view(8, 8) >= 0).nonzero().tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]
    assert (objects[0, FINE:] == -1).all()  # too small for the coarser maps
    assert counted.all()


def test_large_objects_are_learned_on_coarse_maps_and_small_ones_by_one_cell() -> None:
    objects, _ = assign(batch_of([[0, 0, 64, 64], [41, 41, 46, 46]]), 64)
    assert set(objects[0, FINE:].tolist()) == {0, -1}
    assert (objects[0, :FINE] == 1).sum() == 1
    assert objects[0, :FINE].view(8, 8)[5, 5] == 1  # the smaller of two objects


def test_unannotated_objects_are_not_background() -> None:
    box = [12.0, 12.0, 36.0, 36.0]
    _, everywhere = assign(batch_of([box]), 64)
    _, inside = assign(batch_of([box], all_annotated=False), 64)
    assert everywhere.all()
    rows = inside[0, :FINE].view(8, 8).nonzero()
    assert rows.min() == 1 and rows.max() == 4 and len(rows) == 16


def test_ignored_boxes_are_neither_objects_nor_background() -> None:
    objects, counted = assign(batch_of([[12, 12, 36, 36]], learned=[False]), 64)
    assert (objects == -1).all()
    assert len((~counted[0, :FINE]).nonzero()) == 16
    objects, counted = assign(batch_of([[12, 12, 36, 36], [8, 8, 40, 40]], learned=[True, False]), 64)
    assert counted[0, objects[0] == 0].all()  # an object inside an ignored box is learned


def test_pairs_of_boxes() -> None:
    a = torch.tensor([[0.0, 0, 4, 4], [0, 0, 2, 2]])
    b = torch.tensor([[0.0, 0, 4, 8], [4, 0, 6, 2]])
    iou, giou = paired_ious(a, b)
    assert iou.tolist() == [0.5, 0]
    assert giou.tolist() == pytest.approx([0.5, 0 - (12 - 8) / 12])


def test_each_object_is_found_once_by_the_best_detection() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10], [50, 50, 60, 60]])
    found = Detections(boxes, np.array([0.9, 0.8, 0.7, 0.6]), np.zeros(4, np.int64))
    truth = np.array([[21.0, 0, 30, 10], [0, 0, 10, 10]])
    assert match(found, truth).tolist() == [1, -1, 0, -1]
    assert match(found, np.zeros((0, 4))).tolist() == [-1] * 4


def test_scores_count_what_may_be_counted() -> None:
    class FixedDetector:
        def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return pixel_values

        def detections(self, cells: torch.Tensor, size: tuple[int, int], min_score: float) -> list[Detections]:
            assert size == (64, 64) and min_score == 0.5
            boxes = np.array([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]])
            return [Detections(boxes, np.array([0.9, 0.8, 0.7]), np.array([1, 0, 0]))]

    boxes = [[0.0, 0, 10, 10], [20, 20, 30, 30], [0, 50, 10, 60]]
    batch = batch_of(boxes, learned=[True, False, True]) | {"classes": torch.tensor([[1, 1, 2]])}
    scores = DetectorTask.scores(FixedDetector(), batch, 0.5)
    assert {name: (float(a), float(b)) for name, (a, b) in scores.items()} == {
        "recall": (1, 2), "precision": (1, 2), "named": (1, 1)
    }  # fmt: skip
    scores = DetectorTask.scores(FixedDetector(), batch | {"all_annotated": torch.tensor([False])}, 0.5)
    assert scores["precision"][1] == 0 and scores["recall"][1] == 2


def test_classes_that_are_not_known_have_no_loss(tmp_path: Path) -> None:
    setup = build(detector_recipe(tmp_path))
    batch = setup.train.collate([setup.train[(0, i, (i,))] for i in range(2)])
    assert set(batch["classes"][batch["learned"]].tolist()) == {0, 1}  # "green" is no class of the recipe
    losses = setup.task(setup.model, batch, torch.Generator())
    assert set(losses) == {"score", "box", "class"} and losses["class"] > 0
    unknown = batch | {"classes": torch.full_like(batch["classes"], -1)}
    assert setup.task(setup.model, unknown, torch.Generator())["class"] == 0
    empty = batch | {"learned": torch.zeros_like(batch["learned"])}
    assert all(torch.isfinite(loss) for loss in setup.task(setup.model, empty, torch.Generator()).values())


def test_training_learns_the_objects_and_the_base_finds_them(tmp_path: Path) -> None:
    recipe = detector_recipe(tmp_path, {"min_score": 0.3}, steps=120, learning_rate=0.01, validate_every=120)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"augmentation": None})})
    folder = train(recipe, progress=False)
    for file in folder.iterdir():
        (tmp_path / "base" / file.name).write_bytes(file.read_bytes())
    finder = ObjectFinder.from_pretrained(tmp_path / "base")
    assert finder.detector is not None
    image = build(recipe).train.sources[0].dataset.images[0]  # type: ignore[union-attr]
    boxes, labels = finder.find(image.load())
    truth = np.array([o.visible_box_xyxy for o in image.objects])
    found = Detections(boxes, np.ones(len(boxes)), np.zeros(len(boxes), np.int64))
    assert {0, 1} <= set(match(found, truth).tolist())
    assert set(labels) <= {None, "Red"}


def test_a_resumed_training_gives_the_same_head(tmp_path: Path) -> None:
    straight = train(detector_recipe(tmp_path), progress=False)
    whole = (straight / "detector.safetensors").read_bytes()
    recipe = detector_recipe(tmp_path).model_copy(update={"output": str(tmp_path / "again")})
    train(recipe, progress=False, stop_after=2)
    assert (train(recipe, progress=False) / "detector.safetensors").read_bytes() == whole


def test_a_training_starts_from_a_head_of_another_base_and_records_the_new_one(tmp_path: Path) -> None:
    folder = train(detector_recipe(tmp_path), progress=False)
    ConvPromptFamily().new_model(small_conv_prompt_config(), 2).save_pretrained(tmp_path / "other")
    recipe = detector_recipe(tmp_path, {"base": str(tmp_path / "other")}, steps=0)
    recipe = recipe.model_copy(update={"init": str(folder), "output": str(tmp_path / "moved")})
    moved = train(recipe, progress=False)
    assert (moved / "detector.safetensors").read_bytes() == (folder / "detector.safetensors").read_bytes()
    assert (moved / "detector.json").read_text() != (folder / "detector.json").read_text()


def test_gradient_checkpointing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gradient_checkpointing: expected false for task 'detector', got true"):
        build(detector_recipe(tmp_path, gradient_checkpointing=True))


def test_a_base_without_such_a_trunk_is_refused(tmp_path: Path) -> None:
    ROWS["sam"].model().save_pretrained(tmp_path / "sam")
    with pytest.raises(InputError, match="expected a convolutional promptable segmenter"):
        build(detector_recipe(tmp_path, {"base": str(tmp_path / "sam")}))
