"""`import amodal` is quick, and the promised names are there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import amodal


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, amodal; amodal.__version__; print([m for m in ('torch', 'cv2', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names() -> None:
    from amodal.inference.assistant import AmodalAssistant
    from amodal.inference.scene import Scene, SceneObject
    from amodal.inference.segmenter import AmodalSegmenter

    assert (amodal.AmodalSegmenter, amodal.Scene, amodal.SceneObject) == (AmodalSegmenter, Scene, SceneObject)
    assert amodal.AmodalAssistant is AmodalAssistant
    assert amodal.__version__[0].isdigit()
    assert set(amodal.__all__) <= set(dir(amodal))


def test_other_names() -> None:
    with pytest.raises(AttributeError, match="module 'amodal' has no attribute 'Segmenter'"):
        _ = amodal.Segmenter
