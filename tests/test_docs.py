"""The documents tell the truth: commands exist, recipes exist, nothing is left to fill in."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import typer

from amodal.cli.main import app

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def shell_lines(path: Path) -> list[str]:
    """Lines of the shell blocks of a document, or what a recipe's header says."""
    text = path.read_text()
    if path.suffix == ".yaml":
        return re.findall(r"^# Command: (.*)$", text, re.M)
    blocks = re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", text, re.M | re.S)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def commands() -> list[tuple[str, list[str]]]:
    """Every `amodal ...` line of the documents' shell blocks and the recipes' headers."""
    found = []
    for path in [*DOCUMENTS, *sorted((ROOT / "recipes").rglob("*.yaml"))]:
        for line in shell_lines(path):
            if line.startswith("amodal "):
                found.append((path.name, shlex.split(line, comments=True)[1:]))
    return found


def test_there_are_commands_to_check() -> None:
    assert len(commands()) > 8


@pytest.mark.parametrize(("document", "arguments"), commands())
def test_commands_parse(document: str, arguments: list[str]) -> None:
    command = typer.main.get_command(app)
    while isinstance(getattr(command, "commands", None), dict):
        if command.invoke_without_command and arguments[0].startswith("-"):
            break  # a group that is a command too
        command = command.commands[arguments[0]]
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

    from amodal.synthetic.scenes import render_scene

    Image.fromarray(render_scene(3, size=(400, 400)).image).save(tmp_path / "street.jpg")
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S):
        exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "street" / "overlay.png").is_file()


def test_the_site_builds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "index.html").is_file()


def test_every_document_is_in_the_sites_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text()
    for path in (ROOT / "docs").rglob("*.md"):
        assert f"{path.relative_to(ROOT / 'docs')}\n" in menu + "\n", path


@pytest.mark.slow
@pytest.mark.parametrize("document", ["index", "segment", "exports", "label"])
def test_how_tos_run(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their commands in turn, on drawn pictures, but for those that need a hub or wait for visitors."""
    from PIL import Image

    from amodal.cli.main import main
    from amodal.inference.exports.label_studio import to_tasks
    from amodal.inference.scene import Scene
    from amodal.io.frames import VideoWriter
    from amodal.synthetic.scenes import render_scene

    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "frames"):
        Path(folder).mkdir()
        Image.fromarray(render_scene(4, size=(128, 128)).image).save(Path(folder) / "one.png")
    Image.fromarray(render_scene(3, size=(400, 400)).image).save("street.jpg")
    with VideoWriter(Path("film.mp4"), Fraction(2)) as film:
        film.add(render_scene(5, size=(128, 128)).image)
    assert main(["segment", "street.jpg", "--box", "30,40,210,380", "--out", "street"]) == 0
    task = to_tasks(Scene.load("street"), "one.png")[0]
    Path("export.json").write_text(json.dumps([task | {"annotations": task["predictions"]}]))
    lines = [line for name, line in commands() if name == f"{document}.md"]
    for arguments in lines:
        if arguments[0] != "serve" and "--detector" not in arguments:
            assert main(arguments) == 0, arguments
