"""The documents tell the truth: commands exist, recipes exist, nothing is left to fill in."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from amodal.cli.main import app

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[tuple[str, list[str]]]:
    """Every `amodal ...` line in a code block of the documents and recipes' headers."""
    found = []
    for path in [*DOCUMENTS, *sorted((ROOT / "recipes").rglob("*.yaml"))]:
        for line in path.read_text().splitlines():
            match = re.match(r"(?:# Command: )?(amodal [a-z].*)", line)
            if match:
                found.append((path.name, shlex.split(match[1], comments=True)[1:]))
    return found


def test_there_are_commands_to_check() -> None:
    assert len(commands()) > 8


@pytest.mark.parametrize(("document", "arguments"), commands())
def test_commands_parse(document: str, arguments: list[str]) -> None:
    command = typer.main.get_command(app)
    while isinstance(getattr(command, "commands", None), dict):
        if command.invoke_without_command and arguments[0].startswith("-"):  # type: ignore[attr-defined]
            break  # a group that is a command too
        command = command.commands[arguments[0]]  # type: ignore[attr-defined]
        arguments = arguments[1:]
    command.make_context("amodal", list(arguments), resilient_parsing=False)
    for path in (a for a in arguments if a.startswith("recipes/")):
        assert (ROOT / path).is_file(), f"{document}: {path}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_nothing_is_left_to_fill_in_and_links_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    assert "TODO" not in text
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (path.parent / link).exists(), link


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\S+)", (ROOT / "README.md").read_text(), re.M):
        assert f"\n{target}:" in makefile
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    from amodal.data.synthetic.scenes import render_scene

    Image.fromarray(render_scene(3, size=(400, 400)).image).save(tmp_path / "street.jpg")
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S):
        exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "street" / "overlay.png").is_file()
