"""Images of a folder, and frames of a video, read and written."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amodal.errors import InputError
from amodal.io.frames import VideoWriter, is_video, list_images, open_video, unique_stems


def test_images_of_a_folder_are_listed_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "._a.jpg", ".hidden.png", ".DS_Store", "Thumbs.db", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["a.JPG", "b.png"]


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "._a.jpg").touch()
    with pytest.raises(InputError, match="folder: expected a folder with images, got none in"):
        list_images(tmp_path)
    with pytest.raises(InputError, match="folder: expected a folder of images, got"):
        list_images(tmp_path / "._a.jpg")


def test_every_image_gets_a_name_of_its_own() -> None:
    assert unique_stems(["a.jpg", "b.jpg"]) == ["a", "b"]
    assert unique_stems(["a.jpg", "a.png", "A.tif"]) == ["a", "a.png", "A.tif"]
    assert unique_stems(["train/a.jpg", "val/a.jpg", "x\\a.jpg"]) == ["a", "a.jpg", "a.jpg_2"]
    assert unique_stems(["run.json.png"], reserved=["run.json"]) == ["run.json.png"]


def test_sources_without_frames_are_refused(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_text("not a video")
    with pytest.raises(InputError, match="video: expected a video file"):
        open_video(tmp_path / "video.mp4")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"video: expected the package av, got none \(pip install 'amodal\[video\]'\)"):
        open_video(tmp_path / "video.mp4")


def test_a_written_video_can_be_read(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "video.mp4", Fraction(5)) as video:
        for grey in (20, 120, 220):
            video.add(np.full((33, 48, 3), grey, np.uint8))
    frames = open_video(tmp_path / "video.mp4")
    assert is_video(tmp_path / "video.mp4") and frames.rate == 5
    assert [name for name, _ in frames] == ["000000", "000001", "000002"]
    means = [image.mean() for _, image in frames]
    assert np.allclose(means, (20, 120, 220), atol=4)


def test_a_damaged_video_is_refused(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "video.mp4", Fraction(5)) as video:
        for seed in range(30):
            video.add(np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    frames = open_video(tmp_path / "video.mp4")
    (tmp_path / "video.mp4").write_bytes(b"gone")
    with pytest.raises(InputError, match="expected a whole video, got a damaged one"):
        list(frames)


def test_images_and_folders_are_no_videos(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    assert not is_video(tmp_path / "a.png") and not is_video(tmp_path)


def test_only_an_animated_gif_is_a_video(tmp_path: Path) -> None:
    black, red = Image.new("RGB", (6, 4)), Image.new("RGB", (6, 4), "red")
    black.save(tmp_path / "still.gif")
    black.save(tmp_path / "moving.GIF", save_all=True, append_images=[red])
    (tmp_path / "broken.gif").write_bytes(b"GIF89a")
    assert [is_video(tmp_path / name) for name in ("still.gif", "moving.GIF", "broken.gif")] == [False, True, False]
    # what is no video is an image, which is reported where it cannot be read
    assert [path.name for path in list_images(tmp_path)] == ["broken.gif", "still.gif"]
    (tmp_path / "still.gif").rename(tmp_path / "still.GIF")
    (tmp_path / "broken.gif").unlink()
    assert [path.name for path in list_images(tmp_path)] == ["still.GIF"]
    (tmp_path / "still.GIF").unlink()
    with pytest.raises(InputError, match="folder: expected a folder with images, got none in"):
        list_images(tmp_path)


def test_an_interrupted_video_is_removed(tmp_path: Path) -> None:
    def write() -> None:
        with VideoWriter(tmp_path / "video.mp4", Fraction(5)) as video:
            video.add(np.zeros((16, 16, 3), np.uint8))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert not list(tmp_path.iterdir())
