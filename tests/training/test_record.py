"""What a run leaves beside its weights."""

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
from amodal.training.curves import draw_curves
from amodal.training.loop import train
from amodal.training.pictures import GAP, HIDDEN, SIDE, VISIBLE, draw_sheet
from amodal.training.record import check_trackers, describe, read_log
from tests.training.tiny import tiny_recipe


def test_a_line_cut_off_by_a_kill_is_left_out_and_later_steps_are_dropped(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    out = tmp_path / "run"
    out.mkdir()
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (1, 2, 3)]
    (out / "log.jsonl").write_text("\n".join([*lines, '{"step": 4, "lo']))
    assert [line["step"] for line in read_log(out)] == [1, 2, 3]
    describe(out, recipe, step=2)
    assert [line["step"] for line in read_log(out)] == [1, 2]
    assert not list(out.glob(".writing_*"))
    assert read_log(tmp_path / "nowhere") == []


def test_the_run_says_what_made_it(tmp_path: Path) -> None:
    train(tiny_recipe(tmp_path, steps=1), progress=False)
    versions = json.loads((tmp_path / "run" / "versions.json").read_text())
    assert versions["torch"] == torch.__version__
    assert (versions["strategy"], versions["processes"]) == ("NO", 1)


def test_curves_have_a_panel_each_for_losses_scores_and_rate(tmp_path: Path) -> None:
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


def test_a_sheet_shows_truth_and_answer_side_by_side() -> None:
    visible = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    visible[:, :, 8:24, 8:16] = True
    amodal = visible.clone()
    amodal[:, :, 8:24, 16:24] = True
    batch = {"pixel_values": torch.zeros(2, 3, 32, 32), "visible_masks": visible, "amodal_masks": amodal}
    nothing = torch.zeros(2, 1, 32, 32)
    sheet = draw_sheet(batch, nothing, amodal.float(), 0.3)
    assert sheet.shape == (2 * (SIDE + GAP), 4 * (SIDE + GAP), 3)
    cell, middle = SIDE // 32, SIDE // 2
    left, right = middle - 4 * cell, middle + 4 * cell

    def tint(column: int, x: int) -> list[int]:
        crop, drawn = (sheet[middle, c * (SIDE + GAP) + x].astype(int) for c in (0, column))
        return [round((d - 0.45 * c) / 0.55) for d, c in zip(drawn, crop, strict=True)]

    for column, x, colour in ((1, left, VISIBLE), (1, right, HIDDEN), (2, left, HIDDEN), (2, right, HIDDEN)):
        assert np.abs(np.array(tint(column, x)) - colour).max() <= 2
    assert np.array_equal(sheet[2, 2], sheet[2, SIDE + GAP + 2])  # outside the masks: the crop itself


def test_pictures_are_of_the_same_objects_all_along(tmp_path: Path) -> None:
    train(tiny_recipe(tmp_path, "plug", picture_objects=3), progress=False)
    files = sorted((tmp_path / "run" / "pictures").iterdir())
    assert [file.name for file in files] == ["step_0000002.png", "step_0000004.png"]
    first, last = (np.asarray(Image.open(file)) for file in files)
    assert first.shape == (3 * (SIDE + GAP), 4 * (SIDE + GAP), 3)
    assert np.array_equal(first[:, : 2 * SIDE], last[:, : 2 * SIDE])  # crop and truth
    assert not np.array_equal(first, last)


def test_pictures_can_be_left_out(tmp_path: Path) -> None:
    train(tiny_recipe(tmp_path, "plug", picture_objects=0, trackers=[], steps=1), progress=False)
    assert not (tmp_path / "run" / "pictures").exists()
    assert not (tmp_path / "run" / "logs").exists()


def test_a_tracker_that_is_not_installed_is_a_mistake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def find(name: str, *_: Any) -> Any:
        return None if name == "wandb" else object()

    monkeypatch.setattr(records.importlib.util, "find_spec", find)
    check_trackers(["tensorboard", "trackio"])
    with pytest.raises(
        InputError, match=r"training\.trackers: .* 'wandb' to be installed, got none; pip install 'amodal\[wandb\]'"
    ):
        train(tiny_recipe(tmp_path, trackers=["tensorboard", "wandb"]), progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_trackers_take_values_and_pictures(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip(name)
    train(tiny_recipe(tmp_path, "plug", trackers=[name], steps=2), progress=False)
    place = tmp_path / ("trackio" if name == "trackio" else "run")
    assert any(file.suffix in (".wandb", ".db") for file in place.rglob("*"))
