"""Folders that appear complete or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from amodal.errors import InputError
from amodal.io.files import atomic_folder


def test_a_folder_appears_at_the_end(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as writing:
        (writing / "a.txt").write_text("a")
        assert not (tmp_path / "out").exists()
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a.txt"]


def test_the_current_folder_can_be_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with atomic_folder(Path()) as writing:
        (writing / "a.txt").write_text("a")
    assert (tmp_path / "here" / "a.txt").is_file()


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match="out: expected a folder to write to, got .*file/out"),
        atomic_folder(tmp_path / "file" / "out"),
    ):
        pass


def test_nothing_stays_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())
