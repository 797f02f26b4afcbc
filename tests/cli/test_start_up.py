"""The command line starts without importing the heavy modules that only its commands need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import amodal.cli

HEAVY = {
    "accelerate", "cv2", "datasets", "fastapi", "gradio", "matplotlib", "numpy", "onnx", "onnxruntime", "openai",
    "pandas", "peft", "PIL", "pyarrow", "pycocotools", "ray", "scipy", "skia", "torch", "transformers",
}  # fmt: skip
MODULES = sorted(path.stem for path in Path(amodal.cli.__file__).parent.glob("*.py") if path.stem != "__init__")


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a new interpreter has imported after running `code`."""
    program = f"import sys, json\n{code}\nprint('\\n' + json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_modules_of_the_command_line_import_nothing_heavy() -> None:
    assert "main" in MODULES
    found = loaded_by("\n".join(f"import amodal.cli.{name}" for name in MODULES))
    assert not found & HEAVY


@pytest.mark.parametrize("arguments", [["--help"], ["segment", "--help"], ["data", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    found = loaded_by(f"from amodal.cli.main import main\nassert main({arguments!r}) == 0")
    assert "typer" in found
    assert not found & HEAVY
