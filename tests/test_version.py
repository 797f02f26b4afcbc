"""The commit that reports name."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from amodal.version import source_commit


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A package in a git checkout with one commit."""
    package = tmp_path / "checkout" / "src" / "amodal"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    git(tmp_path / "checkout", "init", "--quiet")
    git(tmp_path / "checkout", "add", ".")
    git(tmp_path / "checkout", "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "-m", "First")
    return package


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_of_a_checkout(checkout: Path) -> None:
    commit = source_commit(checkout)
    assert commit == git(checkout, "rev-parse", "HEAD")
    assert commit is not None and len(commit) == 40


def test_an_installed_package_has_no_commit_even_inside_another_repository(checkout: Path) -> None:
    installed = checkout.parents[1] / ".venv" / "lib" / "site-packages" / "amodal"
    installed.mkdir(parents=True)
    assert source_commit(installed) is None


def test_git_may_be_missing_or_fail(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty" / "src" / "amodal"
    empty.mkdir(parents=True)
    (tmp_path / "empty" / ".git").touch()  # not a repository that git can read
    assert source_commit(empty) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert source_commit(checkout) is None
