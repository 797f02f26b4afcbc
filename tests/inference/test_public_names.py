"""`import amodal` is fast and offers the public names."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import amodal


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, amodal; amodal.__version__; print([m for m in ('torch', 'cv2', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("AmodalAssistant", "amodal.inference.assistant"),
        ("AmodalSegmenter", "amodal.inference.segmenter"),
        ("InputError", "amodal.errors"),
        ("Scene", "amodal.inference.scene"),
        ("SceneObject", "amodal.inference.scene"),
        ("evaluate", "amodal.evaluation.evaluator"),
        ("read_dataset", "amodal.data.datasets"),
        ("train", "amodal.training.loop"),
    ],
)
def test_public_names(name: str, module: str) -> None:
    assert getattr(amodal, name) is getattr(import_module(module), name)
    assert name in amodal.__all__


def test_version_and_listing() -> None:
    assert amodal.__version__[0].isdigit()
    assert set(amodal.__all__) <= set(dir(amodal))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'amodal' has no attribute 'Segmenter'"):
        _ = amodal.Segmenter
