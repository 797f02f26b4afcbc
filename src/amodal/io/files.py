"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from amodal.errors import InputError


@contextmanager
def atomic_path(path: Path, what: str = "out") -> Iterator[Path]:
    """Yield a temporary path beside `path`, with the same suffix, and rename it to `path` at the end.

    Args:
        path: file to write; its folder is created.
        what: name of the option in the error message.

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


def write_atomic(path: Path, content: str | bytes, what: str = "out") -> Path:
    """Write a whole file, text as UTF-8, which appears complete or not at all, and return `path`.

    Args:
        path: file to write; its folder is created.
        content: text or bytes.
        what: name of the option in the error message.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic_path(path, what) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`, and rename it to `folder` at the end.

    Remains of a killed run are removed.

    Args:
        folder: folder that is missing or empty.

    Raises:
        InputError: the folder cannot be created.
    """
    folder = folder.absolute()
    unfinished = folder.with_name(f".writing_{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"out: expected a folder to write to, got {str(folder)!r} ({error.strerror})") from error
    try:
        yield unfinished
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def visible_entries(folder: Path) -> list[Path]:
    """The files and folders in a folder in the order of their names, without those that only systems look at.

    These have names that begin with a dot, such as the `._photo.jpg` that macOS writes beside `photo.jpg`, and the
    folder `__MACOSX` of archives from macOS.
    """
    found = [path for path in folder.iterdir() if path.name[0] != "." and path.name != "__MACOSX"]
    return sorted(found, key=lambda path: path.name)


def require_folder(folder: Path, what: str = "out") -> Path:
    """Return the folder, which may not exist yet.

    Raises:
        InputError: it is a file; the message names the option `what`.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{what}: expected a folder, got the file {str(folder)!r}")
    return folder


def require_empty_folder(folder: Path, what: str) -> Path:
    """Return the folder, which is missing or empty.

    Raises:
        InputError: it is a file or has content; the message names the option `what`.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{what}: expected a new or empty folder, got {str(folder)!r}, which is not empty")
    return folder
