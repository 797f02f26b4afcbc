"""Files that a run writes besides its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from amodal.errors import InputError
from amodal.training import record as records
from amodal.training.loop import train
from amodal.training.record import (
    OCCLUDED_COLOUR,
    SHEET_CELL,
    SHEET_GAP,
    VISIBLE_COLOUR,
    check_trackers,
    draw_curves,
    draw_sheet,
    read_log,
    write_description,
)
from tests.training.tiny import tiny_recipe


def test_incomplete_lines_are_skipped_and_later_steps_are_dropped(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    out = tmp_path / "run"
    out.mkdir()
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (1, 2, 3)]
    (out / "log.jsonl").write_text("\n".join([*lines, '{"step": 4, "lo']))
    assert [line["step"] for line in read_log(out)] == [1, 2, 3]
    write_description(out, recipe, step=2)
    assert [line["step"] for line in read_log(out)] == [1, 2]
    assert not list(out.glob(".writing_*"))
    assert read_log(tmp_path / "nowhere") == []


def test_the_run_folder_names_versions_and_strategy(tmp_path: Path) -> None:
    train(tiny_recipe(tmp_path, steps=1), progress=False)
    versions = json.loads((tmp_path / "run" / "versions.json").read_text())
    assert versions["torch"] == torch.__version__
    assert (versions["strategy"], versions["processes"]) == ("NO", 1)


def test_curves_have_one_panel_each_for_losses_scores_and_learning_rate(tmp_path: Path) -> None:
    lines: list[dict[str, float]] = [
        {"step": s, "time": 0.0, "loss": 1 / s, "lr": 0.1, "samples_per_s": 3} for s in (1, 2)
    ]
    draw_curves([], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    draw_curves(lines, tmp_path / "losses.png")
    draw_curves([*lines, {"step": 2, "val_full": 0.5}], tmp_path / "all.png")
    one, two = (np.asarray(Image.open(tmp_path / name).convert("L")) for name in ("losses.png", "all.png"))
    third = one.shape[1] // 3
    changed = (one != two).any(axis=0)
    assert not changed[:third].any() and not changed[2 * third + 20 :].any()
    assert changed[third : 2 * third].any()
    assert not list(tmp_path.glob(".writing_*"))


def test_a_sheet_shows_truth_and_prediction_side_by_side() -> None:
    visible = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    visible[:, :, 8:24, 8:16] = True
    amodal = visible.clone()
    amodal[:, :, 8:24, 16:24] = True
    batch = {"pixel_values": torch.zeros(2, 3, 32, 32), "visible_masks": visible, "amodal_masks": amodal}
    nothing = torch.zeros(2, 1, 32, 32)
    sheet = draw_sheet(batch, nothing, amodal.float(), 0.3)
    assert sheet.shape == (2 * (SHEET_CELL + SHEET_GAP), 4 * (SHEET_CELL + SHEET_GAP), 3)
    cell, middle = SHEET_CELL // 32, SHEET_CELL // 2
    left, right = middle - 4 * cell, middle + 4 * cell

    def tint(column: int, x: int) -> list[int]:
        crop, drawn = (sheet[middle, c * (SHEET_CELL + SHEET_GAP) + x].astype(int) for c in (0, column))
        return [round((d - 0.45 * c) / 0.55) for d, c in zip(drawn, crop, strict=True)]

    for column, x, colour in (
        (1, left, VISIBLE_COLOUR),
        (1, right, OCCLUDED_COLOUR),
        (2, left, OCCLUDED_COLOUR),
        (2, right, OCCLUDED_COLOUR),
    ):
        assert np.abs(np.array(tint(column, x)) - colour).max() <= 2
    assert np.array_equal(sheet[2, 2], sheet[2, SHEET_CELL + SHEET_GAP + 2])  # pixels of the crop outside the masks


def test_all_sheets_show_the_same_objects(tmp_path: Path) -> None:
    train(tiny_recipe(tmp_path, "plug", picture_objects=3), progress=False)
    files = sorted((tmp_path / "run" / "pictures").iterdir())
    assert [file.name for file in files] == ["step_0000002.png", "step_0000004.png"]
    first, last = (np.asarray(Image.open(file)) for file in files)
    assert first.shape == (3 * (SHEET_CELL + SHEET_GAP), 4 * (SHEET_CELL + SHEET_GAP), 3)
    assert np.array_equal(first[:, : 2 * SHEET_CELL], last[:, : 2 * SHEET_CELL])  # crop and truth
    assert not np.array_equal(first, last)


def test_sheets_can_be_switched_off(tmp_path: Path) -> None:
    train(tiny_recipe(tmp_path, "plug", picture_objects=0, trackers=[], steps=1), progress=False)
    assert not (tmp_path / "run" / "pictures").exists()
    assert not (tmp_path / "run" / "logs").exists()


def test_a_tracker_that_is_not_installed_is_rejected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def find(name: str, *_: Any) -> Any:
        return None if name == "wandb" else object()

    monkeypatch.setattr(records.importlib.util, "find_spec", find)
    check_trackers(["tensorboard", "trackio"])
    with pytest.raises(
        InputError, match=r"training\.trackers: .* 'wandb' to be installed, got none; pip install 'amodal\[wandb\]'"
    ):
        train(tiny_recipe(tmp_path, trackers=["tensorboard", "wandb"]), progress=False)


@pytest.mark.parametrize("name", [pytest.param(t, marks=pytest.mark.tools(t)) for t in ("wandb", "trackio")])
def test_trackers_accept_values_and_images(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when trackio is imported
    train(tiny_recipe(tmp_path, "plug", trackers=[name], steps=2), progress=False)
    folder = tmp_path / ("trackio" if name == "trackio" else "run")
    assert any(file.suffix in (".wandb", ".db") for file in folder.rglob("*"))
