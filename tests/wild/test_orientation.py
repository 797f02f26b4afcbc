"""The size and the orientation of an image are one fact, wherever the file states it: in EXIF or in XMP."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from amodal.data.samples import ImageSample
from amodal.errors import InputError
from amodal.io.images import image_size, load_image

PIXELS = np.tile(np.arange(0, 250, 10, dtype=np.uint8), (20, 1))  # 20 x 25, dark on the left
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'
ELEMENT = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><tiff:Orientation>{}</tiff:Orientation></x:xmpmeta>'
DARK_SIDE = {1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "top", 7: "bottom", 8: "bottom"}


def write(path: Path, orientation: int, place: str) -> Path:
    """Write an image that states its orientation at a place: `exif`, `xmp`, `element` (of XMP), or `both`."""
    options: dict[str, Any] = {}
    if place in ("exif", "both"):
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    if place != "exif":
        # EXIF counts where both are there.
        text = (ELEMENT if place == "element" else XMP).format(3 if place == "both" else orientation)
        if path.suffix == ".png":
            info = PngImagePlugin.PngInfo()
            info.add_itxt("XML:com.adobe.xmp", text)
            options["pnginfo"] = info
        elif path.suffix == ".tif":
            options["tiffinfo"] = {700: text.encode()}
        else:
            options["xmp"] = text.encode()
    if path.suffix == ".tif":
        options["compression"] = "tiff_lzw"
    Image.fromarray(PIXELS).convert("RGB").save(path, **options)
    return path


def dark_side(pixels: np.ndarray) -> str:
    sides = {"left": pixels[:, 0], "right": pixels[:, -1], "top": pixels[0], "bottom": pixels[-1]}
    return min(sides, key=lambda name: sides[name].mean())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("place", ["exif", "xmp", "element", "both"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_size_and_pixels_agree(tmp_path: Path, suffix: str, place: str, orientation: int) -> None:
    path = write(tmp_path / f"x{suffix}", orientation, place)
    pixels = load_image(path)
    assert image_size(path) == pixels.shape[:2] == ((25, 20) if orientation >= 5 else (20, 25))
    assert dark_side(pixels) == DARK_SIDE[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("place", ["exif", "xmp"])
def test_size_and_pixels_of_tiff_agree(tmp_path: Path, place: str, orientation: int) -> None:
    path = write(tmp_path / "x.tif", orientation, place)
    pixels = load_image(path)
    assert image_size(path) == pixels.shape[:2] == ((25, 20) if orientation >= 5 else (20, 25))
    assert dark_side(pixels) == DARK_SIDE[orientation]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize("place", ["exif", "xmp"])
def test_metadata_behind_the_pixels_of_a_png_file_count(tmp_path: Path, place: str) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(PIXELS).save(path)
    exif = Image.Exif()
    exif[0x0112] = 6
    itxt = b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.format(6).encode()
    late = chunk(b"eXIf", exif.tobytes()[6:]) if place == "exif" else chunk(b"iTXt", itxt)
    content = path.read_bytes()
    path.write_bytes(content[:-12] + late + content[-12:])  # before IEND
    assert image_size(path) == load_image(path).shape[:2] == (25, 20)


@pytest.mark.parametrize("value", [0, 9, 255])
def test_an_unknown_orientation_is_none(tmp_path: Path, value: int) -> None:
    path = write(tmp_path / "x.jpg", value, "exif")
    assert image_size(path) == load_image(path).shape[:2] == (20, 25)


def test_damaged_metadata_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "x.webp"
    Image.fromarray(PIXELS).convert("RGB").save(path, exif=b"Exif\0\0broken")
    assert image_size(path) == load_image(path).shape[:2] == (20, 25)


def test_an_image_in_memory_is_turned_too(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jpg", 6, "xmp")
    with Image.open(path) as image:
        assert load_image(image).shape == (25, 20, 3)


def test_an_annotated_size_is_that_of_the_upright_image(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jpg", 6, "xmp")
    assert ImageSample(1, path, 25, 20, ()).load().shape == (25, 20, 3)
    with pytest.raises(InputError, match="expected 20 x 25 as annotated, got 25 x 20"):
        ImageSample(1, path, 20, 25, ()).load()
