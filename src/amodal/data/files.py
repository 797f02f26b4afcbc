"""Files that appear complete or not at all."""

from __future__ import annotations

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
