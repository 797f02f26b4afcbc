"""Samples load their picture only if it is the one that was annotated."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from amodal.data.samples import ImageSample
from amodal.errors import InputError


def test_a_picture_resized_since_annotation_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "x.png")
    assert ImageSample(1, tmp_path / "x.png", 6, 8, ()).load().shape == (6, 8, 3)
    with pytest.raises(InputError, match=r"x\.png: expected 8 x 6 as annotated, got 6 x 8"):
        ImageSample(1, tmp_path / "x.png", 8, 6, ()).load()


def test_the_file_name_is_the_paths_last_part_unless_given() -> None:
    assert ImageSample(1, Path("a/b.png"), 2, 2, ()).file_name == "b.png"
    assert ImageSample(1, Path("a/b.png"), 2, 2, (), "a/b.png").file_name == "a/b.png"
