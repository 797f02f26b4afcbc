"""Only the image formats that are named are opened, under whatever name a file has, and with a limit per call."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amodal.app.store import decode_image
from amodal.errors import InputError
from amodal.io.frames import list_images
from amodal.io.images import image_size, load_image, opened_image

PIXELS = np.tile(np.arange(0, 250, 10, dtype=np.uint8), (20, 1))
OPENED = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "TIFF": "tif", "BMP": "bmp", "GIF": "gif"}
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n{} loop\n"


def encoded(format_: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert("RGB").save(buffer, format=format_)
    return buffer.getvalue()


def refused_formats() -> dict[str, bytes]:
    return {
        "PostScript": POSTSCRIPT,
        **{name: encoded(name) for name in ("PPM", "ICO", "TGA", "PCX", "SGI", "IM", "MSP", "DDS", "EPS", "PDF")
           if name != "MSP"},
        "XBM": b"#define x_width 8\n#define x_height 1\nstatic char x_bits[] = {0x01};\n",
        "FITS": b"SIMPLE  =                    T".ljust(80) + b"END".ljust(2800),
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    }  # fmt: skip


@pytest.mark.parametrize("format_", OPENED)
@pytest.mark.parametrize("suffix", ["jpg", "png", "JPG", "txt"])
def test_named_formats_are_opened_whatever_the_name_of_the_file(tmp_path: Path, format_: str, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(encoded(format_))
    assert image_size(path) == load_image(path).shape[:2] == (20, 25)
    assert decode_image(path.read_bytes(), 10_000).shape == (20, 25, 3)


@pytest.mark.parametrize("name", refused_formats())
@pytest.mark.parametrize("suffix", ["jpg", "png", "eps"])
def test_other_formats_are_refused(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(refused_formats()[name])
    for read in (load_image, image_size):
        with pytest.raises(InputError, match="got a file of another kind than JPEG, PNG, WebP, TIFF, BMP or GIF"):
            read(path)
    with pytest.raises(InputError, match="got a file of another kind than"):
        decode_image(path.read_bytes(), 10_000)


@pytest.mark.parametrize("format_", OPENED)
def test_a_folder_has_images_of_every_format(tmp_path: Path, format_: str) -> None:
    for suffix in (OPENED[format_], OPENED[format_].upper()):
        (tmp_path / f"{suffix}.{suffix}").write_bytes(encoded(format_))
    assert sorted(path.name for path in list_images(tmp_path)) == sorted(path.name for path in tmp_path.iterdir())


def test_a_gif_of_several_frames_is_no_image_of_a_folder(tmp_path: Path) -> None:
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "still.gif")
    assert [path.name for path in list_images(tmp_path)] == ["still.gif"]


def test_a_phone_photograph_of_several_pictures_is_opened(tmp_path: Path) -> None:
    """MPO, which phones write with the suffix of JPEG."""
    image = Image.fromarray(PIXELS).convert("RGB")
    image.save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[image])
    assert load_image(tmp_path / "x.jpg").shape == (20, 25, 3)


@pytest.mark.parametrize("format_", OPENED)
def test_damaged_files_are_refused(tmp_path: Path, format_: str) -> None:
    whole = encoded(format_)
    for length in (1, 4, 20, len(whole) // 2):
        (tmp_path / "x").write_bytes(whole[:length])
        with pytest.raises(InputError):
            load_image(tmp_path / "x")


def test_the_limit_of_pixels_holds_per_call(tmp_path: Path) -> None:
    """Two threads with different limits do not disturb each other, and Pillow's own limit stays as it is."""
    path = tmp_path / "x.png"
    Image.fromarray(PIXELS).save(path)
    limit, refused = Image.MAX_IMAGE_PIXELS, []

    def open_small() -> None:
        try:
            with opened_image(path, 499):
                pass
        except InputError as error:
            refused.append(str(error))

    with opened_image(path, 500) as image:
        thread = threading.Thread(target=open_small)
        thread.start()
        thread.join()
        assert image.size == (25, 20)
    assert refused == [f"image {path}: expected at most 499 pixels, got 25 x 20"]
    assert limit == Image.MAX_IMAGE_PIXELS
