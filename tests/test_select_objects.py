"""The benchmark script that selects objects which are alike."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from select_objects import is_selected, main

from amodal.data.datasets import read_dataset
from tests.evaluation.toy_predictions import toy


def test_hidden_and_convex_objects_are_selected() -> None:
    amodal = np.zeros((20, 20), bool)
    amodal[2:12, 2:12] = True
    visible = amodal.copy()
    visible[2:4] = False
    assert is_selected(visible, amodal, 0.19, 0.9) and not is_selected(visible, amodal, 0.21, 0.9)
    corner = amodal.copy()
    corner[2:10, 2:10] = False  # an L-shape of 36 pixels
    assert not is_selected(visible & corner, corner, 0.0, 0.9) and is_selected(visible & corner, corner, 0.0, 0.5)


def test_the_list_names_objects_of_the_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = toy(tmp_path, 2)[0], tmp_path / "objects.txt"
    arguments = ["--annotations", str(file), "--min-occlusion", "0.01", "--min-convexity", "0", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["select_objects.py", *arguments])
    main()
    hidden = [
        f"{image.id}_{obj.id}"
        for image in read_dataset("canonical", file).images
        for obj in image.objects
        if obj.amodal_mask().sum() > 1.02 * obj.visible_mask().sum()
    ]
    assert hidden and out.read_text().split() == hidden
    assert f"{len(hidden)} objects" in capsys.readouterr().out
