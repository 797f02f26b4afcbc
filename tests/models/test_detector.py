"""The detection head and `DetectorModel`: boxes in pixels, files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from amodal.errors import InputError
from amodal.models.bases.conv_prompt import ConvPromptFamily
from amodal.models.detector import CONFIG, TENSORS, DetectorConfig, DetectorModel
from amodal.nn.detection_head import CellPredictions, DetectionHead, cell_centres
from tests.models.families import small_conv_prompt_config


def small_detector(**settings: object) -> DetectorModel:
    """A detector with random weights on a small trunk."""
    trunk = ConvPromptFamily().new_model(small_conv_prompt_config(), 1).vision_encoder.backbone
    options = {"classes": ["red", "green"], "image_size": 64, "channels": 8, "base_fingerprint": "abc"} | settings
    return DetectorModel(DetectorConfig(**options), trunk).eval()  # type: ignore[arg-type]


def cells_of(boxes: list[list[float]], scores: list[float], classes: list[list[float]]) -> CellPredictions:
    """Predictions of one image."""
    return CellPredictions(
        torch.tensor([scores]).logit(), torch.tensor([boxes], dtype=torch.float32), torch.tensor([classes]).log()
    )


def test_a_cell_predicts_the_edges_of_a_box_around_its_centre() -> None:
    head = DetectionHead([4, 8], [8, 16], 3, channels=8)
    cells = head([torch.randn(2, 4, 4, 6), torch.randn(2, 8, 2, 3)])
    assert cells.score_logits.shape == (2, 24 + 6) and cells.class_logits.shape == (2, 30, 3)
    first, coarse = cells.boxes[0, 0], cells.boxes[0, 24]  # untrained: two strides to each edge
    assert first.tolist() == [4 - 16, 4 - 16, 4 + 16, 4 + 16]
    assert coarse.tolist() == [8 - 32, 8 - 32, 8 + 32, 8 + 32]
    assert cell_centres((2, 3), 8)[4].tolist() == [12, 12]
    assert cells.score_logits.sigmoid().mean() < 0.1  # almost all cells are background


def test_detections_are_sorted_clipped_named_and_without_overlaps(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_detector(max_objects=3)
    boxes = [[10, 10, 30, 30], [-5, 40, 20, 70], [11, 10, 30, 30], [40, 40, 60, 60], [40, 2, 60, 20], [0, 0, 9, 9]]
    classes = [[0.1, 0.8, 0.1], [0.2, 0.4, 0.4], [0, 0, 1], [0.9, 0.1, 0], [0, 0, 1], [0, 0, 1]]
    cells = cells_of(boxes, [0.9, 0.95, 0.8, 0.5, 0.4, 0.1], classes)
    monkeypatch.setattr(model, "forward", lambda pixel_values: cells)
    (found,) = model.detect(torch.zeros(1, 3, 64, 64))
    assert found.boxes.tolist() == [[0, 40, 20, 64], [10, 10, 30, 30], [40, 40, 60, 60]]
    np.testing.assert_allclose(found.scores, [0.95, 0.9, 0.5], rtol=1e-5)
    assert [model.config.name_of(n) for n in found.classes.tolist()] == [None, "red", None]
    assert len(model.detect(torch.zeros(1, 3, 64, 64), 0.93)[0].boxes) == 1
    assert model.detect(torch.zeros(1, 3, 64, 64), 0.99)[0].boxes.shape == (0, 4)


def test_only_the_head_is_trained_and_saved(tmp_path: Path) -> None:
    model = small_detector()
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {"head"}
    model.save_pretrained(tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert sorted(p.name for p in folder.iterdir()) == [CONFIG, TENSORS]
    assert not any("trunk" in name for name in load_file(folder / TENSORS))
    loaded = DetectorModel.from_pretrained(folder, model.trunk, "abc").eval()
    assert vars(loaded.config) == vars(model.config)
    pixels = torch.randn(2, 3, 64, 96)
    for ours, theirs in zip(loaded(pixels), model(pixels), strict=True):
        assert torch.equal(ours, theirs)


def test_a_head_of_another_base_is_refused_unless_a_training_starts_from_it(tmp_path: Path) -> None:
    model = small_detector()
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="expected a base with fingerprint abc, which it was trained on, got def"):
        DetectorModel.from_pretrained(tmp_path, model.trunk, "def")
    assert DetectorModel.from_pretrained(tmp_path, model.trunk).config.base_fingerprint == "abc"


CONTENTS = {
    "not JSON": "{",
    "nested JSON": "[" * 100_000,
    "unknown key": json.dumps({"colour": 1}),
    "list": "[1]",
    "impossible width": json.dumps({"channels": 7}),
}


@pytest.mark.parametrize("damage", ["no config", "no tensors", "not a tensor file", *CONTENTS])
def test_damaged_files_are_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    model = small_detector()
    model.save_pretrained(tmp_path)
    config, tensors = tmp_path / CONFIG, tmp_path / TENSORS
    if damage.startswith("no "):
        (config if "config" in damage else tensors).unlink()
    elif damage == "not a tensor file":
        tensors.write_bytes(b"damaged")
    else:
        config.write_text(CONTENTS[damage])
    with pytest.raises(InputError, match=r"expected detector.json and detector.safetensors of a detector") as caught:
        DetectorModel.from_pretrained(tmp_path, model.trunk)
    assert "\n" not in str(caught.value)


def test_tensors_of_another_size_are_refused(tmp_path: Path) -> None:
    model = small_detector()
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / TENSORS)
    save_file(tensors | {"score.bias": torch.zeros(2)}, tmp_path / TENSORS)
    with pytest.raises(InputError, match=r"expected the tensors that detector.json describes, got others"):
        DetectorModel.from_pretrained(tmp_path, model.trunk)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 100}, "image_size: expected a multiple of 32"),
        ({"channels": 60}, "channels: expected a multiple of 8"),
        ({"classes": ["a", "a"]}, "different names"),
        ({"classes": "cup"}, "classes: expected a list of names, got 'cup'"),
        ({"classes": [1]}, "classes: expected a list of names"),
        ({"classes": None}, "classes: expected a list of names"),
        ({"image_size": "64"}, "image_size: expected an integer from 1, got '64'"),
        ({"image_size": 64.0}, "image_size: expected an integer"),
        ({"channels": True}, "channels: expected an integer"),
        ({"max_objects": 0}, "max_objects: expected an integer from 1, got 0"),
        ({"min_score": "0.5"}, "min_score: expected a number from 0 to 1, got '0.5'"),
        ({"min_score": float("nan")}, "min_score: expected a number from 0 to 1"),
        ({"max_overlap": 2}, "max_overlap: expected a number from 0 to 1, got 2"),
        ({"min_class_prob": None}, "min_class_prob: expected a number"),
        ({"base_fingerprint": 7}, "base_fingerprint: expected a text, got 7"),
    ],
)
def test_impossible_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DetectorConfig(**settings)  # type: ignore[arg-type]
