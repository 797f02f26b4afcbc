"""Files and folders that appear complete or not at all, with one writer, and never over an input."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from amodal.errors import InputError


@contextmanager
def one_writer(path: Path, what: str = "out") -> Iterator[None]:
    """Hold the lock of an output, so that no other run writes to it; a run that holds it already may enter again.

    The lock is a file in the system's folder for temporary files, so that nothing is left beside the output. It holds
    for the processes of one user on one machine, and ends with the process.

    Args:
        path: file or folder to write.
        what: name of the option in the error message.

    Raises:
        InputError: another run, or another thread, writes to it.
    """
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    try:
        with FileLock(_lock_folder() / name, timeout=0, is_singleton=True):
            yield
    except Timeout:
        raise InputError(f"{what} {path}: expected no other run that writes to it, got one") from None


def _lock_folder() -> Path:
    """The folder of the locks of this user.

    Raises:
        InputError: it belongs to somebody else, who could redirect the files in it.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"amodal-locks-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user:
        raise InputError(f"locks: expected a folder of this user, got {str(folder)!r} of somebody else")
    return folder


@contextmanager
def atomic_path(path: Path, what: str = "out") -> Iterator[Path]:
    """Yield a temporary path beside `path`, with the same suffix, and rename it to `path` at the end.

    Args:
        path: file to write; its folder is created.
        what: name of the option in the error message.

    Raises:
        InputError: the file cannot be written, or another run writes it.
    """
    with one_writer(path, what), _renamed(path, what) as temporary:
        yield temporary


def write_atomic(path: Path, content: str | bytes, what: str = "out") -> Path:
    """Write a whole file, text as UTF-8, which appears complete or not at all, and return `path`.

    It takes no lock, because it takes no time and may write many files; runs that write many hold the lock of a folder.

    Args:
        path: file to write; its folder is created.
        content: text or bytes.
        what: name of the option in the error message.

    Raises:
        InputError: the file cannot be written.
    """
    with _renamed(path, what) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@contextmanager
def _renamed(path: Path, what: str) -> Iterator[Path]:
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


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`, and rename it to `folder` at the end.

    Remains of a killed run are removed.

    Args:
        folder: folder that is missing or empty.

    Raises:
        InputError: the folder cannot be created, or another run writes it.
    """
    folder = folder.absolute()
    unfinished = folder.with_name(f".writing_{folder.name}")
    with one_writer(folder):
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


def require_no_input(output: Path, inputs: Iterable[Path | None], what: str = "out") -> Path:
    """Return the output, which is none of the inputs, also through links.

    Raises:
        InputError: it is one of them; the message names the option `what`.
    """
    for path in inputs:
        if path is not None and (output.resolve() == path.resolve() or (output.exists() and _same(output, path))):
            raise InputError(f"{what}: expected another file than the input {str(path)!r}, got {str(output)!r}")
    return output


def content_digest(path: Path) -> str:
    """Short fingerprint of the content of a file, or of all files in a folder with their names.

    Raises:
        InputError: a file cannot be read.
    """
    digest = hashlib.sha256()
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    try:
        for file in files:
            digest.update(b"" if file == path else os.fsencode(file.relative_to(path)) + b"\0")
            with file.open("rb") as content:
                while part := content.read(1 << 20):
                    digest.update(part)
    except OSError as error:
        raise InputError(f"file: expected one that can be read, got {str(path)!r} ({error.strerror})") from error
    return digest.hexdigest()[:16]


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Whether a path is a file; one with a name that is too long for the system, or that is out of reach, is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def visible_entries(folder: Path) -> list[Path]:
    """The files and folders in a folder in the order of their names, without those that only systems look at.

    These have names that begin with a dot, such as the `._photo.jpg` that macOS writes beside `photo.jpg`, and the
    folder `__MACOSX` of archives from macOS.
    """
    found = [path for path in folder.iterdir() if path.name[0] != "." and path.name != "__MACOSX"]
    return sorted(found, key=lambda path: path.name)


def require_file(file: Path, what: str = "out") -> Path:
    """Return the file, which may not exist yet, after a check that it could be written; for use before long work.

    Raises:
        InputError: it is a folder, or what should be a folder above it is a file; the message names the option `what`.
    """
    above = next(path for path in file.absolute().parents if path.exists())
    if file.is_dir() or not above.is_dir():
        kind = "the folder" if file.is_dir() else "a place inside the file"
        raise InputError(f"{what}: expected a file to write, got {kind} {str(file if file.is_dir() else above)!r}")
    return file


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
