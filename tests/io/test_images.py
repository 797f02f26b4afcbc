"""Every kind of image is loaded as upright RGB, and every invalid one raises a one-line error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from amodal.errors import InputError
from amodal.io.images import image_size, load_image

GRADIENT = np.tile(np.arange(0, 250, 10, dtype=np.uint8), (20, 1))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "YCbCr"])
def test_modes_are_converted_to_rgb(tmp_path: Path, mode: str) -> None:
    suffix = {"CMYK": "tif", "YCbCr": "jpg"}.get(mode, "png")  # Pillow cannot read the YCbCr TIFF it writes
    Image.fromarray(GRADIENT).convert("RGB").convert(mode).save(tmp_path / f"x.{suffix}")
    pixels = load_image(tmp_path / f"x.{suffix}")
    assert pixels.shape == (20, 25, 3)
    assert pixels.dtype == np.uint8
    assert pixels[0, -1].mean() > pixels[0, 0].mean() + 100


def test_sixteen_bits_keep_their_range(tmp_path: Path) -> None:
    deep = GRADIENT.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "x.png")
    np.testing.assert_allclose(load_image(tmp_path / "x.png")[..., 0], GRADIENT, atol=1)


def test_transparency_is_blended_with_white(tmp_path: Path) -> None:
    Image.new("RGBA", (3, 3), (0, 0, 0, 0)).save(tmp_path / "x.png")
    assert (load_image(tmp_path / "x.png") == 255).all()


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(np.dstack([GRADIENT] * 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    image.save(tmp_path / "x.jpg", exif=exif)
    assert load_image(tmp_path / "x.jpg").shape == (25, 20, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", [None, 1, 3, 5, 6, 8])
def test_the_size_is_that_of_the_loaded_image(tmp_path: Path, suffix: str, orientation: int | None) -> None:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    path = tmp_path / f"x.{suffix}"
    # Pillow reads a rotated TIFF that it wrote only if it is compressed.
    Image.fromarray(GRADIENT).save(path, exif=exif, **{"compression": "tiff_lzw"} if suffix == "tif" else {})
    assert image_size(path) == load_image(path).shape[:2]
    assert image_size(path) == ((25, 20) if orientation in (5, 6, 8) else (20, 25))


def test_the_size_is_read_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(GRADIENT).save(tmp_path / "x.png")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    assert image_size(tmp_path / "x.png") == (20, 25)


def test_an_image_above_the_limit_of_pillow_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's own limit is lower than ours."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.fromarray(GRADIENT).save(tmp_path / "x.png")
    assert image_size(tmp_path / "x.png") == load_image(tmp_path / "x.png").shape[:2]
    assert Image.MAX_IMAGE_PIXELS == 100


def test_pil_images_and_arrays_are_accepted() -> None:
    assert load_image(Image.fromarray(GRADIENT)).shape == (20, 25, 3)
    array = np.zeros((4, 5, 3), np.uint8)
    assert load_image(array) is array


def test_grey_float_and_transparent_arrays_are_converted() -> None:
    grey = np.full((4, 5), 51, np.uint8)
    expected = np.full((4, 5, 3), 51, np.uint8)
    for array in (grey, grey[..., None], expected / 255, np.full((4, 5), 0.2), np.full((4, 5, 3), 0.2, np.float32)):
        np.testing.assert_array_equal(load_image(array), expected)
    transparent = np.dstack([expected, np.zeros((4, 5), np.uint8)])
    assert (load_image(transparent) == 255).all()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((3, 4, 5), np.uint8), "shape (3, 4, 5); transpose a channel-first array"),
        (np.zeros(4, np.uint8), "expected an (H, W, 3) array, got shape (4,)"),
        (np.full((4, 5, 3), 200.0), "expected float values in 0-1, got 200 to 200"),
        (np.full((4, 5, 3), np.nan), "expected float values in 0-1, got nan to nan"),
        (np.zeros((4, 5, 3), np.int64), "expected uint8, or floats in 0-1, got int64"),
        ([np.zeros((4, 5, 3), np.uint8)], "got a list; pass one image, or several to segment_batch"),
        (np.zeros((4, 5), np.uint16), "got uint16; scale it to 0-1 first"),
        (torch.zeros(3, 4, 5), "got a Tensor; pass tensor.permute(1, 2, 0).numpy()"),
        (torch.zeros(4, 5, 3), "got a Tensor; pass tensor.numpy()"),
        (7, "expected a path, a PIL image or an array, got a int"),
    ],
)
def test_other_sources_raise(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        load_image(source)


def test_invalid_files_raise(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="which does not exist"):
        load_image(tmp_path / "missing.png")
    with pytest.raises(InputError, match="expected a file, got the folder"):
        load_image(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(InputError, match="got an empty file"):
        load_image(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(InputError, match="got a file of another kind"):
        load_image(tmp_path / "text.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50, 3), np.uint8)).save(tmp_path / "x.png")
    whole = (tmp_path / "x.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="got a damaged one"):
        load_image(tmp_path / "half.png")
