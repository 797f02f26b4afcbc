"""Images of a folder and frames of a video, read and written."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amodal.errors import InputError
from amodal.io.frames import VideoWriter, is_frame_source, open_frames


def test_a_folder_of_images_is_read_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg"):
        Image.new("RGB", (6, 4), "red").save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    frames = open_frames(tmp_path)
    assert is_frame_source(tmp_path) and frames.total == 2
    assert [name for name, _ in frames] == ["a", "b"]
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="expected images of different stems"):
        open_frames(tmp_path)


def test_sources_without_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="frames: expected a folder with images"):
        open_frames(tmp_path)
    (tmp_path / "video.mp4").write_text("not a video")
    with pytest.raises(InputError, match="video: expected a video file"):
        open_frames(tmp_path / "video.mp4")


def test_a_written_video_can_be_read(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "video.mp4", Fraction(5)) as video:
        for grey in (20, 120, 220):
            video.add(np.full((33, 48, 3), grey, np.uint8))
    frames = open_frames(tmp_path / "video.mp4")
    assert is_frame_source(tmp_path / "video.mp4") and frames.rate == 5
    means = [image.mean() for _, image in frames]
    assert np.allclose(means, (20, 120, 220), atol=4)


def test_an_interrupted_video_is_removed(tmp_path: Path) -> None:
    def write() -> None:
        with VideoWriter(tmp_path / "video.mp4", Fraction(5)) as video:
            video.add(np.zeros((16, 16, 3), np.uint8))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert not list(tmp_path.iterdir())
