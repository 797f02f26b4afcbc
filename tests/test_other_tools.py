"""Tests with tools that `make install` leaves out: each tool gets an environment of its own.

`make test-tools` runs this file. It needs a package registry. A test that needs a tool has the marker
`@pytest.mark.tools("name of the package")`, and `pytest --tool NAME` selects it.
"""

from __future__ import annotations

import re
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ("fiftyone", "labelme", "supervision", "label-studio-sdk", "label-studio-ml", "wandb", "trackio")
REQUIREMENTS = {"label-studio-ml": "label-studio-ml @ git+https://github.com/HumanSignal/label-studio-ml-backend.git"}
"""What pip installs for a tool whose package on the registry is not the one that is meant."""


def environment_with(tool: str, folder: Path) -> Path:
    """Return the Python of a new environment that has the tool, and behind it everything of this environment.

    Several tools install the OpenCV build that needs a display. It is removed again, so that the headless build of
    this environment is found.
    """
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    outer = sysconfig.get_paths()["purelib"]
    inner = next((folder / "lib").glob("python*/site-packages"))
    (inner / "outer.pth").write_text(f"{outer}\nimport site; site.addsitedir({outer!r})\n")
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", REQUIREMENTS.get(tool, tool)], check=True)
    subprocess.run([*pip, "uninstall", "--yes", "opencv-python", "opencv-contrib-python"], check=False)
    return python


@pytest.mark.tools
@pytest.mark.parametrize("tool", TOOLS)
def test_tests_that_need_the_tool_pass_where_it_is_installed(tool: str, tmp_path: Path) -> None:
    python = environment_with(tool, tmp_path / "environment")
    result = subprocess.run(
        [str(python), "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--tool", tool],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": f"{python.parent}:/usr/bin:/bin", "HOME": str(tmp_path), "QT_QPA_PLATFORM": "offscreen"},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "skipped" not in result.stdout and "passed" in result.stdout, result.stdout


def test_every_tool_that_a_test_needs_has_an_environment() -> None:
    marked = re.compile(r'pytest\.mark\.tools\("([a-z-]+)"\)')
    files = [path for path in Path(__file__).parent.rglob("test_*.py") if path != Path(__file__)]
    named = {name for path in files for name in marked.findall(path.read_text())}
    assert named and named <= set(TOOLS)
