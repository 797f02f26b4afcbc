"""Sequences of images: a folder of images or the frames of a video, and writing videos."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from amodal.errors import InputError
from amodal.io.files import atomic_path
from amodal.io.images import ImageArray, load_image

IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
VIDEO_ENDINGS = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".gif"})
FOLDER_RATE = 10  # frames per second of a video that is made from a folder


@dataclass(frozen=True)
class Frames:
    """The frames of a folder of images or of a video.

    Attributes:
        source: folder of images or video file.
        names: file names of the images of a folder, in order; None for a video.
        total: number of frames; None if a video does not state it.
        rate: frames per second.
    """

    source: Path
    names: tuple[str, ...] | None
    total: int | None
    rate: Fraction

    def __iter__(self) -> Iterator[tuple[str, ImageArray]]:
        """Yield the name without suffix and the (H, W, 3) uint8 RGB pixels of each frame.

        Raises:
            InputError: a frame is damaged.
        """
        if self.names is not None:
            for name in self.names:
                yield Path(name).stem, load_image(self.source / name)
            return
        av = _av()
        try:
            with av.open(str(self.source)) as container:
                for index, frame in enumerate(container.decode(video=0)):
                    yield f"{index:06d}", frame.to_ndarray(format="rgb24")
        except av.error.FFmpegError as error:
            raise InputError(f"video {self.source}: expected a whole video, got a damaged one ({error})") from error


def is_frame_source(source: Path) -> bool:
    """Whether a path is a folder or a video instead of a single image."""
    return source.is_dir() or (source.is_file() and source.suffix.lower() in VIDEO_ENDINGS)


def open_frames(source: Path) -> Frames:
    """Open a folder of images or a video.

    Raises:
        InputError: the folder has no images or two images of the same stem, or the file is not a video.
    """
    if source.is_dir():
        names = sorted(p.name for p in source.iterdir() if p.suffix.lower() in IMAGE_ENDINGS)
        if not names:
            raise InputError(f"frames: expected a folder with images, got none in {str(source)!r}")
        if len({Path(name).stem for name in names}) < len(names):
            raise InputError(f"frames: expected images of different stems, got two of one in {str(source)!r}")
        return Frames(source, tuple(names), len(names), Fraction(FOLDER_RATE))
    av = _av()
    try:
        with av.open(str(source)) as container:
            stream = container.streams.video[0]
            return Frames(source, None, stream.frames or None, Fraction(stream.average_rate or FOLDER_RATE))
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
