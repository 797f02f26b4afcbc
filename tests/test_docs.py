"""The documentation is correct: commands, recipes, links and named code exist, and Python in it runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import typer

from amodal.cli.main import app

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "amodal"
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
DOCUMENTS = [*(ROOT / name for name in PAGES), *sorted((ROOT / "docs").rglob("*.md"))]


def shell_lines(path: Path) -> list[str]:
    """Return the lines of a document's shell blocks, or the commands in a recipe's header."""
    text = path.read_text()
    if path.suffix == ".yaml":
        return re.findall(r"^# Command: (.*)$", text, re.M)
    blocks = re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", text, re.M | re.S)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub and MkDocs make them."""
    text = re.sub(r"^(`{3,}).*?^\1", "", path.read_text(), flags=re.M | re.S)
    words = (re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in re.findall(r"^#+ (.*)$", text, re.M))
    return {re.sub(r"[-\s]+", "-", each) for each in words}


def commands() -> list[tuple[str, list[str]]]:
    """Return every `amodal ...` command of the documents and the recipes' headers, with the file's name."""
    found = []
    for path in [*DOCUMENTS, *sorted((ROOT / "recipes").rglob("*.yaml"))]:
        for line in shell_lines(path):
            if line.startswith("amodal "):
                found.append((path.name, shlex.split(line, comments=True)[1:]))
    return found


def test_documents_contain_commands_to_check() -> None:
    assert len(commands()) > 8


@pytest.mark.parametrize(("document", "arguments"), commands())
def test_commands_parse(document: str, arguments: list[str]) -> None:
    command = typer.main.get_command(app)
    while isinstance(getattr(command, "commands", None), dict):
        command = command.commands[arguments[0]]
        arguments = arguments[1:]
    command.make_context("amodal", list(arguments), resilient_parsing=False)
    for path in (a for a in arguments if a.startswith("recipes/")):
        assert (ROOT / path).is_file(), f"{document}: {path}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_left_to_fill_in_and_links_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    assert "TODO" not in text
    for file, anchor in re.findall(r"\]\((?!http)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        target = path.parent / file if file else path
        assert target.exists(), file
        assert not anchor or anchor in anchors(target), f"{file}#{anchor}"


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\S+)", (ROOT / "README.md").read_text(), re.M):
        assert f"\n{target}:" in makefile
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("document", ["README.md", "docs/python.md"])
def test_python_of_the_pages_runs(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    from amodal.synthetic.scenes import render_scene

    drawn = render_scene(3, size=(400, 400))
    (tmp_path / "photos").mkdir()
    for name in ("street.jpg", "kitchen.jpg", "photos/one.jpg"):
        Image.fromarray(drawn.image).save(tmp_path / name)
    masks = np.stack([obj.visible_mask for obj in drawn.objects])
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.S):
        names = (names if document == "docs/python.md" else {}) | {"visible_masks": masks}
        exec(compile(block, document, "exec"), names)
    assert (tmp_path / "street" / "overlay.png").is_file()


@pytest.mark.slow
def test_site_builds_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "index.html").is_file()


def test_every_page_says_the_same_sentence_about_the_package() -> None:
    sentence = (
        "Amodal segmentation: predict the complete shape of every object, including the parts that other objects hide."
    )
    for name in (
        "README.md",
        "CITATION.cff",
        "pyproject.toml",
        "mkdocs.yml",
        "docs/index.md",
        "src/amodal/__init__.py",
    ):
        assert sentence in (ROOT / name).read_text(), name


def test_files_and_names_in_the_architecture_exist() -> None:
    """Each row of a walk names a file and, behind it, definitions of that file."""
    rows = re.findall(r"^\| \d+ \| `([\w/]+\.py)` \| ([^|]*) \|", (ROOT / "docs" / "architecture.md").read_text(), re.M)
    assert len(rows) > 30
    for file, names in rows:
        text = (SOURCE / file).read_text()
        for name in re.findall(r"`([\w.]+)`", names):
            for part in name.split("."):
                assert re.search(rf"^\s*(?:async def|def|class) {part}\b", text, re.M), f"{file}: {name}"


def test_every_document_is_in_the_menu_of_the_site() -> None:
    menu = (ROOT / "mkdocs.yml").read_text()
    for path in (ROOT / "docs").rglob("*.md"):
        assert f"{path.relative_to(ROOT / 'docs')}\n" in menu + "\n", path


@pytest.mark.slow
@pytest.mark.parametrize("document", ["index", "segment", "exports", "label"])
def test_commands_of_the_how_tos_run(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run their commands in order on drawn images, except those that need a hub or serve until stopped."""
    from PIL import Image

    from amodal.cli.main import main
    from amodal.inference.exports.label_studio import to_task
    from amodal.inference.results import ImageResult
    from amodal.inference.scene import Scene
    from amodal.io.frames import VideoWriter
    from amodal.synthetic.scenes import render_scene

    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "masks"):
        Path(folder).mkdir()
    mask = Image.new("1", (400, 400))
    mask.paste(1, (30, 40, 210, 380))
    for name in ("masks/0.png", "mask.png"):
        mask.save(name)
    Image.fromarray(render_scene(4, size=(128, 128)).image).save("photos/one.png")
    for name in ("street.jpg", "photos/street.jpg"):
        Image.fromarray(render_scene(3, size=(400, 400)).image).save(name)
    content = {
        "images": [{"id": 1, "file_name": "one.png"}, {"id": 2, "file_name": "street.jpg"}],
        "categories": [{"id": 1, "name": "shape"}],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [30, 40, 80, 80]} for i in (1, 2)],
    }
    Path("instances.json").write_text(json.dumps(content))
    with VideoWriter(Path("street.mp4"), Fraction(2)) as video:
        video.add(render_scene(5, size=(128, 128)).image)
    assert main(["segment", "street.jpg", "--box", "30,40,210,380", "--out", "street"]) == 0
    task = to_task(ImageResult("one.png", Scene.load("street")), "one.png")
    Path("export.json").write_text(json.dumps([task | {"annotations": task["predictions"]}]))
    lines = [line for name, line in commands() if name == f"{document}.md"]
    for arguments in lines:
        if arguments[0] != "serve" and not {"--detector", "--visible-from"} & set(arguments):
            assert main(arguments) == 0, arguments
