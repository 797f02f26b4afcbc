"""Images of any depth keep their contrast, and masks are read by what their mode means."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from amodal.app.store import decode_image
from amodal.cli.main import main
from amodal.data.datasets import read_dataset
from amodal.data.validation.validate import validate
from amodal.errors import InputError, InputWarning
from amodal.inference.prompt_files import read_masks
from amodal.io.images import load_image
from amodal.io.mask_images import read_mask_image
from tests.data.written import BACK, FRONT, SEEN

RAMP = np.tile(np.linspace(0, 1, 64), (8, 1))


def write(path: Path, values: np.ndarray, **options: Any) -> Path:
    Image.fromarray(values).save(path, **options)
    return path


GUESSED = {
    "float_0_1.tif": RAMP.astype(np.float32),
    "float_0_255.tif": (RAMP * 255).astype(np.float32),
    "float_signed.tif": (RAMP * 1000 - 300).astype(np.float32),
    "float_huge.tif": (RAMP * 1e9).astype(np.float32),
    "bits10.png": (RAMP * 1023).astype(np.uint16),
    "bits12.png": (RAMP * 4095).astype(np.uint16),
    "bits12.tif": (RAMP * 4095).astype(np.uint16),
    "bits14.tif": (RAMP * 16383).astype(np.uint16),
    "signed32.tif": (RAMP * 4000 - 2000).astype(np.int32),
    "large32.tif": (RAMP * 2_000_000_000).astype(np.int32),
    "int32_of_16_bits.tif": (RAMP * 65535).astype(np.int32),
}


@pytest.mark.parametrize("name", GUESSED)
def test_a_guessed_range_keeps_the_contrast_and_is_told(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, GUESSED[name])
    with pytest.warns(InputWarning, match=f"{name}: expected 8 bits per pixel, .* is taken as") as told:
        pixels = load_image(path)
    assert told[0].filename == __file__
    np.testing.assert_allclose(pixels[..., 0], RAMP * 255, atol=1.5)


def test_a_declared_range_is_used_without_a_word(tmp_path: Path) -> None:
    sixteen = write(tmp_path / "bits16.png", (RAMP * 65535).astype(np.uint16))
    declared = write(tmp_path / "declared.tif", (RAMP * 1000).astype(np.uint16), tiffinfo={281: 2000})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(load_image(sixteen)[..., 0], RAMP * 255, atol=1.5)
        np.testing.assert_allclose(load_image(declared)[..., 0], RAMP * 127.5, atol=1.5)


@pytest.mark.filterwarnings("ignore::amodal.errors.InputWarning")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_black(tmp_path: Path, bad: float) -> None:
    values = (RAMP * 700 - 300).astype(np.float32)
    values[0, 5] = bad
    pixels = load_image(write(tmp_path / "x.tif", values))
    assert pixels[0, 5, 0] == 0
    np.testing.assert_allclose(pixels[1:, :, 0], RAMP[1:] * 255, atol=1.5)


@pytest.mark.filterwarnings("ignore::amodal.errors.InputWarning")
@pytest.mark.parametrize("value", [-3.0, 0.0, np.nan])
def test_an_image_of_one_value_is_loaded(tmp_path: Path, value: float) -> None:
    assert load_image(write(tmp_path / "x.tif", np.full((4, 5), value, np.float32))).shape == (4, 5, 3)


def colours_of(bits: int, num_alpha: int = 0) -> np.ndarray:
    """(8, 64, 3 or 4) uint16 RGB ramps that differ per channel and use the lower bits only."""
    ramps = [RAMP * (2**bits - 1), RAMP[:, ::-1] * (2**bits - 1), RAMP * (2 ** (bits - 1))]
    return np.dstack([*ramps, *[np.full(RAMP.shape, 65535)] * num_alpha]).astype(np.uint16)


def write_colours(path: Path, colours: np.ndarray, tiff_orientation: int = 1) -> Path:
    if path.suffix == ".tif":
        import tifffile

        tag = [(274, "H", 1, tiff_orientation, True)]
        extra = {"extrasamples": ["unassalpha"]} if colours.shape[2] == 4 else {}
        tifffile.imwrite(path, colours, photometric="rgb", extratags=tag, **extra)
    else:
        import cv2

        cv2.imwrite(str(path), colours[..., [2, 1, 0, *range(3, colours.shape[2])]])
    return path


@pytest.mark.parametrize("num_alpha", [0, 1])
@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_colours_of_fewer_than_sixteen_bits_keep_their_contrast(
    tmp_path: Path, name: str, bits: int, num_alpha: int
) -> None:
    colours = colours_of(bits, num_alpha)
    path = write_colours(tmp_path / name, colours)
    with pytest.warns(
        InputWarning, match=f"{name}: expected 8 bits per pixel, .* is taken as 0 to {2**bits - 1}"
    ) as told:
        pixels = load_image(path)
    assert told[0].filename == __file__
    np.testing.assert_allclose(pixels, colours[..., :3] / (2**bits - 1) * 255, atol=1.5)
    with pytest.warns(InputWarning), Image.open(path) as opened:
        np.testing.assert_array_equal(load_image(opened), pixels)
    with pytest.warns(InputWarning):
        np.testing.assert_array_equal(decode_image(path.read_bytes()), pixels)


def test_grey_with_alpha_of_twelve_bits_keeps_its_contrast(tmp_path: Path) -> None:
    grey_png = io.BytesIO()
    write_png(grey_png, np.dstack([RAMP * 4095, np.full(RAMP.shape, 65535)]).astype(">u2"), colour_type=4)
    with pytest.warns(InputWarning, match="is taken as 0 to 4095"):
        pixels = decode_image(grey_png.getvalue())
    np.testing.assert_allclose(pixels[..., 0], RAMP * 255, atol=1.5)


def write_png(file: io.BytesIO, values: np.ndarray, colour_type: int) -> None:
    """A PNG file of 16 bits; OpenCV and Pillow write none with grey and alpha."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    file.write(b"\x89PNG\r\n\x1a\n")
    for kind, content in ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))


@pytest.mark.filterwarnings("ignore::amodal.errors.InputWarning")
@pytest.mark.parametrize("turn", range(1, 9))
def test_dark_colours_are_turned_as_all_others(tmp_path: Path, turn: int) -> None:
    dark, bright = colours_of(12), (colours_of(12) * 16).astype(np.uint16)
    found = []
    for name, colours in (("dark", dark), ("bright", bright)):
        tif = write_colours(tmp_path / f"{name}.tif", colours, turn)
        plain = write_colours(tmp_path / f"{name}.png", colours).read_bytes()
        exif = Image.Exif()
        exif[0x0112] = turn
        chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        turned = tmp_path / f"{name}_turned.png"
        turned.write_bytes(plain[:33] + chunk + plain[33:])  # behind the head of the PNG
        found.append([load_image(tif), load_image(turned)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs.astype(int), atol=2)


def test_colours_of_sixteen_bits_are_loaded_without_a_word(tmp_path: Path) -> None:
    for name in ("x.png", "x.tif"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert load_image(write_colours(tmp_path / name, colours_of(16))).max() == 255


def test_dark_colours_of_an_unusual_form_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    path = write_colours(tmp_path / "x.png", colours_of(12))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: None)
    with pytest.warns(
        InputWarning, match="x.png: expected colours that use their 16 bits, got a nearly black image"
    ) as told:
        assert load_image(path).max() < 64
    assert told[0].filename == __file__


def test_the_command_line_tells_a_guessed_range_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # restores what `main` sets
    path = write(tmp_path / "x.tif", np.tile(np.linspace(0, 1, 64, dtype=np.float32), (48, 1)))
    with pytest.warns(InputWarning, match="is taken as 0 to 1") as told:
        assert main(["segment", str(path), "--box", "20,10,40,30", "--out", str(tmp_path / "o")]) == 0
    line = warnings.formatwarning(told[0].message, told[0].category, told[0].filename, told[0].lineno)
    assert line.startswith("amodal: warning: ") and line.count("\n") == 1


def grey(mask: np.ndarray) -> np.ndarray:
    return mask.astype(np.uint8) * 255


def palette(mask: np.ndarray, colours: list[int]) -> Image.Image:
    image = Image.fromarray(mask.astype(np.uint8), "P")
    image.putpalette(colours)
    return image


MASKS = {
    "grey": lambda m: Image.fromarray(grey(m)),
    "one": lambda m: Image.fromarray(m.astype(np.uint8)),
    "bits1": lambda m: Image.fromarray(grey(m)).convert("1"),
    "bits16": lambda m: Image.fromarray(m.astype(np.uint16) * 65535),
    "grey_alpha": lambda m: Image.merge("LA", [Image.fromarray(grey(m)), Image.new("L", m.shape[::-1], 255)]),
    "colours": lambda m: Image.fromarray(np.dstack([grey(m)] * 3)),
    "opaque": lambda m: Image.fromarray(np.dstack([grey(m)] * 3 + [grey(m | True)])),
    "clear": lambda m: Image.fromarray(np.dstack([grey(m)] * 3 + [grey(m & False)])),
    "cut_out_of_black": lambda m: Image.fromarray(np.dstack([grey(m & False)] * 3 + [grey(m)])),
    "cut_out_of_white": lambda m: Image.fromarray(np.dstack([grey(m | True)] * 3 + [grey(m)])),
    "palette": lambda m: palette(m, [0, 0, 0, 255, 255, 255]),
    "palette_white_first": lambda m: palette(~m, [255, 255, 255, 0, 0, 0]),
    "palette_red": lambda m: palette(m, [0, 0, 0, 128, 0, 0]),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("suffix", [".png", ".PNG"])
def test_every_way_to_store_a_mask_gives_the_same_mask(tmp_path: Path, name: str, suffix: str) -> None:
    for part, mask in (("visible", SEEN), ("amodal", BACK)):
        (tmp_path / "masks" / "a").mkdir(parents=True, exist_ok=True)
        MASKS[name](mask).save(tmp_path / "masks" / "a" / f"car_1_{part}{suffix}", format="PNG")
    Image.new("RGB", SEEN.shape[::-1]).save(tmp_path / "a.jpg")
    obj = read_dataset("masks", tmp_path / "masks", tmp_path).images[0].objects[0]
    amodal = obj.amodal_mask()
    assert amodal is not None and (amodal == BACK).all() and (obj.visible_mask() == SEEN).all()
    prompt = read_masks(tmp_path / "masks" / "a" / f"car_1_visible{suffix}", tmp_path / "a.jpg", (20, 30))[0]
    assert prompt.visible == obj.visible_rle
    assert validate("masks", tmp_path / "masks", tmp_path).num_errors == 0


def test_a_palette_with_black_first_is_a_map_of_objects(tmp_path: Path) -> None:
    values = BACK.astype(np.uint8)
    values[FRONT] = 7
    image = Image.fromarray(values, "P")
    image.putpalette([0, 0, 0, *range(1, 60)])
    image.save(tmp_path / "map.png")
    assert [p.source_id for p in read_masks(tmp_path / "map.png", tmp_path / "a.jpg", (20, 30))] == [1, 7]


def test_a_map_of_several_colours_is_refused(tmp_path: Path) -> None:
    colours = np.zeros((20, 30, 3), np.uint8)
    colours[BACK] = (255, 0, 0)
    colours[FRONT] = (0, 255, 0)
    path = write(tmp_path / "map.png", colours)
    with pytest.raises(InputError, match="expected one value per object, got several colours"):
        read_masks(path, tmp_path / "a.jpg", (20, 30))
    assert (read_mask_image(path) == (BACK | FRONT)).all()


@pytest.mark.parametrize("name", ["mask.tif", "mask_nan.tif"])
def test_floats_are_a_mask_where_they_are_not_zero(tmp_path: Path, name: str) -> None:
    values = BACK.astype(np.float32)
    values[0, 0] = np.nan if "nan" in name else 0
    assert (read_mask_image(write(tmp_path / name, values)) == BACK).all()


def test_a_turned_mask_is_read_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(grey(BACK)).save(tmp_path / "m.png", exif=exif)
    assert (read_mask_image(tmp_path / "m.png") == np.rot90(BACK, -1)).all()


@pytest.mark.parametrize(("channels", "kind"), [(1, np.float64), (3, np.float32)])
def test_kinds_of_pixels_that_cannot_be_read_are_named(tmp_path: Path, channels: int, kind: type) -> None:
    """The file is whole; it is not called damaged."""
    path = tmp_path / "a.tif"
    assert cv2.imwrite(str(path), np.ones((9, 12, channels), kind))
    with pytest.raises(InputError, match="one channel of 32-bit floats, got a TIFF file with others"):
        load_image(path)
