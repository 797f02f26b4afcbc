"""Loading images of any kind as (H, W, 3) uint8 RGB arrays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from amodal.errors import InputError

ImageArray = npt.NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""

ImageSource = str | Path | Image.Image | npt.NDArray[np.uint8] | npt.NDArray[np.floating]

# A larger file is more likely an attack or a mistake than a photograph; an image of 12,000 x 9,000 has 108 million
# pixels.
MAX_PIXELS = 400_000_000


def load_image(source: ImageSource) -> ImageArray:
    """Load an image as upright 8-bit RGB.

    Greyscale, palette, CMYK and 16-bit images are converted, transparent pixels are blended with white, and the EXIF
    orientation is applied.

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
    """The (H, W) of the image that `load_image` returns, read without decoding the pixels.

    Raises:
        InputError: the file is missing, empty or of another kind.
    """
    with opened_image(path) as image:
        # Pillow would decode a PNG file without orientation to look for one after its pixels.
        orientation = image.getexif().get(ExifTags.Base.Orientation) if "exif" in image.info else None
        turned = orientation in (5, 6, 7, 8)  # by 90 degrees, mirrored or not
        return (image.width, image.height) if turned else (image.height, image.width)


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file without decoding it; errors that occur inside the context become `InputError` too.

    Raises:
        InputError: the file is missing, empty, truncated or of another kind, or has more than `MAX_PIXELS`.
    """
    if path.is_dir():
        raise InputError(f"image: expected a file, got the folder {str(path)!r}")
    if not path.is_file():
        raise InputError(f"image: expected a file, got {str(path)!r}, which does not exist")
    if path.stat().st_size == 0:
        raise InputError(f"image {path}: expected an image, got an empty file")
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(
                    f"image {path}: expected at most {MAX_PIXELS} pixels, got {image.width} x {image.height}"
                )
            yield image
    except UnidentifiedImageError as error:
        raise InputError(f"image {path}: expected an image, got a file of another kind") from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"image {path}: expected a whole image, got a damaged one ({error})") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


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
        raise InputError(f"image: expected uint8, or floats in 0-1, got {array.dtype}")
    if array.shape[2] == 3:
        return array
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else _to_rgb(Image.fromarray(array))


def _advice(source: object) -> str:
    """What an unknown image source is, and how to pass it."""
    kind = type(source).__name__
    if isinstance(source, (list, tuple)):
        return f"a {kind}; pass one image, or several to segment_batch"
    if hasattr(source, "permute"):
        return f"a {kind}; pass tensor.permute(1, 2, 0).numpy() of an image in 0-1"
    return f"a {kind}"


def _to_rgb(image: Image.Image) -> ImageArray:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits or more
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        image = Image.fromarray(np.clip(values / top * 255, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image.convert("RGB"), dtype=np.uint8)
