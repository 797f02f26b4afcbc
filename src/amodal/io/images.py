"""Loading images as (H, W, 3) uint8 RGB arrays: the one place that opens image files and turns them upright."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from amodal.errors import InputError
from amodal.io.files import is_file
from amodal.io.pixel_depth import brightened, deep_content, to_eight_bits

ImageArray = npt.NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""

ImageSource = str | Path | Image.Image | npt.NDArray[np.uint8] | npt.NDArray[np.floating]

MAX_PIXELS = 400_000_000
"""A larger file is more likely an attack or a mistake than a photograph; 12,000 x 9,000 are 108 million pixels."""

_PLUGINS = (
    JpegImagePlugin.JpegImageFile,
    PngImagePlugin.PngImageFile,
    WebPImagePlugin.WebPImageFile,
    TiffImagePlugin.TiffImageFile,
    BmpImagePlugin.BmpImageFile,
    GifImagePlugin.GifImageFile,
)
"""Formats that are opened. Pillow has many more, and some of them start other programs or do not end."""

FORMATS = "JPEG, PNG, WebP, TIFF, BMP or GIF"
"""The formats of `_PLUGINS`, for people."""

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its orientation as EXIF counts it; 5 to 8 exchange its sides."""


def load_image(source: ImageSource) -> ImageArray:
    """Load an image as upright 8-bit RGB.

    Files may be JPEG, PNG, WebP, TIFF, BMP or GIF. Greyscale, palette and CMYK images are converted, more than 8 bits
    are scaled (`io.pixel_depth`), transparent pixels are blended with white, and the orientation of EXIF or XMP is
    applied.

    Args:
        source: path, PIL image, or array. An (H, W, 3) uint8 array is returned unchanged; (H, W), (H, W, 1) and
            (H, W, 4) arrays, and float arrays in [0, 1], are converted.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: the file is missing, empty, truncated or of another kind, or the array has another form.
    """
    if isinstance(source, np.ndarray):
        return _array_to_rgb(source)
    if not isinstance(source, (str, Path, Image.Image)):
        raise InputError(f"image: expected a path, a PIL image or an array, got {_advice(source)}")
    if isinstance(source, Image.Image):
        return _to_rgb(source)
    with opened_image(Path(source)) as image:
        return _to_rgb(image)


def path_of(source: ImageSource) -> Path | None:
    """The file that an image comes from, if it is known."""
    if isinstance(source, (str, Path)):
        return Path(source)
    name = getattr(source, "filename", None)
    return Path(name) if name else None


def image_size(path: Path) -> tuple[int, int]:
    """The (H, W) of the image that `load_image` returns.

    It is read without decoding the pixels, except those of a PNG file with metadata behind its pixels.

    Raises:
        InputError: the file is missing, empty or of another kind.
    """
    with opened_image(path) as image:
        if isinstance(image, PngImagePlugin.PngImageFile) and _metadata_follow(path):
            image.load()
        # The size of a TIFF file already has the orientation of its own tag, but not that of XMP.
        applied = isinstance(image, TiffImagePlugin.TiffImageFile) and ExifTags.Base.Orientation in image.tag_v2
        turned = not applied and orientation(image) >= 5
        return (image.width, image.height) if turned else (image.height, image.width)


def orientation(image: Image.Image) -> int:
    """The orientation of an image, 1 to 8 as EXIF counts it, from EXIF or otherwise from XMP; 1 if neither states it.

    Those of a PNG file count as far as they have been read: all of them once its pixels are loaded.
    """
    try:
        # PngImageFile.getexif would decode the pixels.
        stated = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, IndexError, struct.error):
        return 1  # damaged metadata of an image that is otherwise whole
    return stated if stated in _TRANSPOSITIONS else 1


def upright(image: Image.Image) -> Image.Image:
    """The image with its orientation applied."""
    image.load()
    return _turned(image, orientation(image))


def _turned(image: Image.Image, stated: int) -> Image.Image:
    transposition = _TRANSPOSITIONS.get(stated)
    return image if transposition is None else image.transpose(transposition)


@contextmanager
def opened_image(source: Path | bytes, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open an image without decoding it; errors that occur inside the context become `InputError` too.

    Args:
        source: file, or the content of one.
        max_pixels: largest number of pixels.

    Raises:
        InputError: the file is missing, empty, truncated or of another format than `FORMATS`, or has too many pixels.
    """
    name = "image" if isinstance(source, bytes) else f"image {source}"
    with BytesIO(source) if isinstance(source, bytes) else _opened_file(source) as file:
        try:
            with _identified(file, name) as image:
                if image.width * image.height > max_pixels:
                    size = f"{image.width} x {image.height}"
                    raise InputError(f"{name}: expected at most {max_pixels} pixels, got {size}")
                yield image
        except Image.DecompressionBombError as error:
            raise InputError(f"{name}: expected fewer pixels, got {error}") from error
        except (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, struct.error) as error:
            if isinstance(error, InputError):
                raise
            if "pixel mode" in str(error):
                expected = "expected pixels of integers, or of one channel of 32-bit floats"
                raise InputError(f"{name}: {expected}, got a TIFF file with others") from error
            raise InputError(f"{name}: expected a whole image, got a damaged one ({error})") from error


def _opened_file(path: Path) -> BinaryIO:
    if not is_file(path):
        what = f"the folder {str(path)!r}" if os.path.isdir(path) else f"{str(path)!r}, which does not exist"
        raise InputError(f"image: expected a file, got {what}")
    if path.stat().st_size == 0:
        raise InputError(f"image {path}: expected an image, got an empty file")
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"image {path}: expected a file that can be read, got {error.strerror}") from error


def _identified(file: BinaryIO, name: str) -> Image.Image:
    """The image of the one format whose first bytes the file has.

    `Image.open` is not called, because its limit of the number of pixels is a variable of the whole process.
    """
    prefix = file.read(16)
    for plugin in _PLUGINS:
        factory, accepts = Image.OPEN[plugin.format]
        if accepts is not None and accepts(prefix) is True:
            file.seek(0)
            image: Image.Image = factory(file, getattr(file, "name", ""))
            return image
    raise InputError(f"{name}: expected an image, got a file of another kind than {FORMATS}")


def _metadata_follow(path: Path) -> bool:
    """Whether a PNG file has texts or EXIF behind its pixels; only the heads of its chunks are read."""
    pixels = False
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            kind = head[4:]
            pixels |= kind == b"IDAT"
            if pixels and kind in (b"eXIf", b"iTXt", b"zTXt", b"tEXt"):
                return True
            file.seek(int.from_bytes(head[:4], "big") + 4, 1)  # the content and its checksum
    return False


def _array_to_rgb(array: npt.NDArray[Any]) -> ImageArray:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        advice = "; transpose a channel-first array" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise InputError(f"image: expected an (H, W, 3) array, got shape {array.shape}{advice}")
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):
            raise InputError(f"image: expected float values in 0-1, got {low:g} to {high:g}")
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise InputError(f"image: expected uint8, or floats in 0-1, got {array.dtype}; scale it to 0-1 first")
    if array.shape[2] == 3:
        return array
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else _to_rgb(Image.fromarray(array))


def _advice(source: Any) -> str:
    """What an unknown image source is, and how to pass it."""
    kind = type(source).__name__
    if isinstance(source, (list, tuple)):
        return f"a {kind}; pass one image, or several to segment_batch"
    if hasattr(source, "permute"):
        last = len(source.shape) == 3 and source.shape[-1] in (1, 3, 4)
        return f"a {kind}; pass tensor{'' if last else '.permute(1, 2, 0)'}.numpy() of an image in 0-1"
    return f"a {kind}"


def _to_rgb(image: Image.Image) -> ImageArray:
    name = getattr(image, "filename", "") or "image"
    content = deep_content(image)
    image.load()
    stated = orientation(image)
    if content is not None:
        image = brightened(image, content, str(name))
    image = to_eight_bits(_turned(image, stated), str(name))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image.convert("RGB"), dtype=np.uint8)
