"""Tests with tools that `make install` leaves out: each tool gets an environment of its own."""

from __future__ import annotations

import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Tool, and the tests that skip where it is missing.
TOOLS = {
    "fiftyone": ["tests/inference/exports/test_exports.py::test_a_fiftyone_sample_holds_both_parts"],
    "labelme": ["tests/inference/exports/test_exports.py::test_labelme_opens_its_file"],
    "supervision": ["tests/inference/exports/test_exports.py::test_supervision_has_masks_boxes_and_rates"],
    "label-studio-sdk": [
        "tests/inference/exports/test_exports.py::test_label_studio_validates_config_and_predictions",
        "tests/ops/test_brush_rle.py",
        "tests/datagen/test_label_studio.py",
    ],
    "wandb": ["tests/training/test_record.py::test_trackers_take_values_and_pictures[wandb]"],
    "trackio": ["tests/training/test_record.py::test_trackers_take_values_and_pictures[trackio]"],
}


def environment_with(tool: str, folder: Path) -> Path:
    """Python of a new environment that has the tool, and behind it everything of this one.

    Several tools bring the OpenCV that needs a display's libraries; it is taken out again, so that
    the headless one of this environment is found.
    """
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    outer = sysconfig.get_paths()["purelib"]
    inner = next((folder / "lib").glob("python*/site-packages"))
    (inner / "outer.pth").write_text(f"{outer}\nimport site; site.addsitedir({outer!r})\n")
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", tool], check=True)
    subprocess.run([*pip, "uninstall", "--yes", "opencv-python", "opencv-contrib-python"], check=False)
    return python


@pytest.mark.slow
@pytest.mark.parametrize("tool", TOOLS)
def test_with_the_tool(tool: str, tmp_path: Path) -> None:
    python = environment_with(tool, tmp_path / "environment")
    result = subprocess.run(
        [str(python), "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *TOOLS[tool]],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": f"{python.parent}:/usr/bin:/bin", "HOME": str(tmp_path), "QT_QPA_PLATFORM": "offscreen"},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "skipped" not in result.stdout and "passed" in result.stdout, result.stdout
