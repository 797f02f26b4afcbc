"""Folders of images, and reading and writing videos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from amodal.errors import InputError
from amodal.io.files import atomic_path, visible_entries
from amodal.io.images import ImageArray, opened_image

IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
VIDEO_ENDINGS = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".gif"})
DEFAULT_RATE = 10  # frames per second of a video that does not state its rate


def list_images(folder: Path, *, required: bool = True) -> list[Path]:
    """List the image files of a folder in the order of their names; hidden files and other files are ignored.

    A GIF file is one of them unless it is animated.

    Args:
        folder: the folder; images in folders below it are not listed.
        required: whether there must be an image.

    Raises:
        InputError: not a folder, or a folder without images.
    """
    if not folder.is_dir():
        raise InputError(f"folder: expected a folder of images, got {str(folder)!r}")
    endings = IMAGE_ENDINGS | {".gif"}
    files = [path for path in visible_entries(folder) if path.suffix.lower() in endings and not is_video(path)]
    if not files and required:
        raise InputError(f"folder: expected a folder with images, got none in {str(folder)!r}")
    return files


def unique_stems(names: Iterable[str], reserved: Iterable[str] = ()) -> list[str]:
    """One name per file that no other file has, for results that belong to it.

    The first file of a stem gets the stem, and others of the same stem their whole name: `a.jpg` and `a.png` become
    `a` and `a.png`. Names that differ only in upper and lower case count as the same, as they do on some systems.

    Args:
        names: file names, possibly with folders, which are left out.
        reserved: names that no file may get.
    """
    taken = {name.casefold() for name in reserved}
    found = []
    for name in names:
        file = Path(name.replace("\\", "/"))
        numbered = (f"{file.name}_{number}" for number in range(2, 2 + len(taken) + 1))
        unique = next(n for n in (file.stem, file.name, *numbered) if n.casefold() not in taken)
        taken.add(unique.casefold())
        found.append(unique)
    return found


@dataclass(frozen=True)
class VideoFrames:
    """The frames of a video.

    Attributes:
        source: video file.
        total: number of frames; None if the video does not state it.
        rate: frames per second.
    """

    source: Path
    total: int | None
    rate: Fraction

    def __iter__(self) -> Iterator[tuple[str, ImageArray]]:
        """Yield the number, as six digits, and the (H, W, 3) uint8 RGB pixels of each frame.

        Raises:
            InputError: a frame is damaged.
        """
        av = _av()
        try:
            with av.open(str(self.source)) as container:
                for index, frame in enumerate(container.decode(video=0)):
                    yield f"{index:06d}", frame.to_ndarray(format="rgb24")
        except av.error.FFmpegError as error:
            raise InputError(f"video {self.source}: expected a whole video, got a damaged one ({error})") from error


def is_video(source: Path) -> bool:
    """Whether a path is a video file, by its ending; a GIF of one frame is an image."""
    ending = source.suffix.lower()
    if not source.is_file() or ending not in VIDEO_ENDINGS:
        return False
    if ending != ".gif":
        return True
    with suppress(InputError), opened_image(source) as image:
        return bool(getattr(image, "is_animated", False))
    return False


def open_video(source: Path) -> VideoFrames:
    """Open a video.

    Raises:
        InputError: the file is not a video, or the package av is not installed.
    """
    av = _av()
    try:
        with av.open(str(source)) as container:
            stream = container.streams.video[0]
            return VideoFrames(source, stream.frames or None, Fraction(stream.average_rate or DEFAULT_RATE))
    except (av.error.FFmpegError, IndexError) as error:
        raise InputError(f"video: expected a video file, got {str(source)!r} ({error})") from error


class VideoWriter:
    """Context manager that writes images as an MP4 video, which appears complete or not at all.

    Args:
        path: file to write.
        rate: frames per second.
    """

    def __init__(self, path: Path, rate: Fraction) -> None:
        self.path, self.rate = path, rate
        self.container: Any = None
        self._open = ExitStack()

    def __enter__(self) -> VideoWriter:
        return self

    def add(self, image: ImageArray) -> None:
        """Append an (H, W, 3) uint8 RGB image; an odd last row or column is dropped, as the codec needs even sides.

        Images of another size than the first one are resized to it.
        """
        av = _av()
        height, width = (side // 2 * 2 for side in image.shape[:2])
        if self.container is None:
            temporary = self._open.enter_context(atomic_path(self.path))
            self.container = self._open.enter_context(av.open(str(temporary), "w", format="mp4"))
            self.stream = self.container.add_stream("h264", rate=self.rate)
            self.stream.width, self.stream.height, self.stream.pix_fmt = width, height, "yuv420p"
            self._open.push(self._end)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
        if (width, height) != (self.stream.width, self.stream.height):
            frame = frame.reformat(self.stream.width, self.stream.height)
        self.container.mux(self.stream.encode(frame))

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def _end(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.container.mux(self.stream.encode(None))


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise InputError("video: expected the package av, got none (pip install 'amodal[video]')") from error
    return av
