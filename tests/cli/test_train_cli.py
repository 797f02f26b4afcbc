"""`amodal train`: a run, another recipe for the same folder, and a fork."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from amodal.cli.main import main
from tests.training.tiny import tiny_recipe


def test_another_recipe_is_refused_and_a_fork_starts_a_new_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(tiny_recipe(tmp_path, steps=2).model_dump_json())
    command = ["train", str(file), "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == {"model": str(tmp_path / "run" / "model")}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert main([*command, "--set", "seed=1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "got seed 1 instead of 0; choose another output, or --fork NAME" in error
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert main([*command, "--set", "seed=1", "--fork", "second"]) == 0
    assert json.loads(capsys.readouterr().out) == {"model": str(tmp_path / "second" / "model")}
    assert main([*command, "--set", "seed=1", "--fork", "second"]) == 2
    assert "fork: expected the name of a new folder, got" in capsys.readouterr().err
    assert main(["train", str(tmp_path / "second" / "recipe.yaml"), "--json"]) == 0
