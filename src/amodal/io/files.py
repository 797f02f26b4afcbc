"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from amodal.errors import InputError


@contextmanager
def appearing(path: Path, what: str = "out") -> Iterator[Path]:
    """A name to write to, in the same folder and with the same suffix, which becomes `path` at the end.

    Args:
        path: file to appear; its folder is made.
        what: option the error speaks of.

    Raises:
        InputError: the file cannot be written.
    """
    temporary = path.with_name(f".writing_{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{what}: expected a file to write, got {str(path)!r} ({error.strerror})") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes, what: str = "out") -> Path:
    """Write a file by `appearing`; text as UTF-8. Returns `path`."""
    with appearing(path, what) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@contextmanager
def appearing_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to fill, which takes its place at the end.

    What a killed run has left is removed. `empty_folder` says whether the place is free.

    Args:
        folder: not there, or empty.
    """
    unfinished = folder.with_name(f".writing_{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def no_file(folder: Path, what: str = "out") -> Path:
    """The folder itself, there or not. Raises `InputError`, which speaks of the option `what`, if it is a file."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{what}: expected a folder, got the file {str(folder)!r}")
    return folder


def empty_folder(folder: Path, what: str) -> Path:
    """The folder itself. Raises `InputError`, which speaks of the option `what`, if it holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{what}: expected a new or empty folder, got {str(folder)!r}, which holds something")
    return folder
