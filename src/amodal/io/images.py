"""Any image a user has, as (H, W, 3) uint8 RGB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from amodal.errors import InputError

ImageSource = str | Path | Image.Image | npt.NDArray[np.uint8]

# Above this a file is more likely an attack or a mistake than a photograph; a 12,000 x 9,000
# picture has 108 million pixels.
MAX_PIXELS = 400_000_000


def load_image(source: ImageSource) -> npt.NDArray[np.uint8]:
    """Read an image and make it RGB, upright, eight bits.

    Greyscale, palette, CMYK and 16-bit images are converted, transparency is laid on white, and
    the EXIF orientation is applied.

    Args:
        source: path, PIL image, or array ((H, W, 3) uint8 is taken as it is).

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: no file, an empty, truncated or foreign file, or an array of another form.
    """
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8:
            raise InputError(f"image: expected an (H, W, 3) uint8 array, got {source.shape} {source.dtype}")
        return source
    if isinstance(source, Image.Image):
        return _to_rgb(source)
    with opened_image(Path(source)) as image:
        return _to_rgb(image)


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) that `load_image` gives, looked up without decoding the pixels.

    Raises:
        InputError: no file, or an empty or foreign one.
    """
    with opened_image(path) as image:
        # a PNG without orientation would be decoded to look for one behind its pixels
        orientation = image.getexif().get(ExifTags.Base.Orientation) if "exif" in image.info else None
        turned = orientation in (5, 6, 7, 8)  # by a quarter, mirrored or not
        return (image.width, image.height) if turned else (image.height, image.width)


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """An image file as it is stored, not decoded yet; what goes wrong with it inside is an `InputError` too.

    Raises:
        InputError: no file, an empty, truncated or foreign file, or more than `MAX_PIXELS`.
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


def _to_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits and more
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        image = Image.fromarray(np.clip(values / top * 255, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image.convert("RGB"), dtype=np.uint8)
