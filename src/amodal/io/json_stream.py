"""Reading and writing large JSON files record by record, in memory that does not grow with the file."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from amodal.errors import InputError
from amodal.io.files import atomic_path

CHUNK_BYTES = 8 << 20
MAX_RECORD_BYTES = 64 << 20
"""Maximum size of one record; the largest real records (all regions of a COCOA image) are below 1 MiB."""

MAX_TOKEN_CHARACTERS = 16
"""Number of characters that is larger than that of any word or escape of JSON."""

_NOT_BLANK = re.compile(r"[^ \t\n\r]")


class _RepeatedKeyError(ValueError):
    """An object has a key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise _RepeatedKeyError(next(name for name, count in counts.items() if count > 1))
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def read_json(path: Path, what: str) -> Any:
    """Read a small JSON file whole.

    Args:
        path: the file.
        what: what the file is, for the error message.

    Raises:
        InputError: the file cannot be read, is broken or nested too deeply, or has a key twice in one object.
    """
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=_object)
    except OSError as error:
        raise InputError(f"{what}: expected a JSON file, got {str(path)!r} ({error.strerror})") from error
    except RecursionError as error:
        raise InputError(f"{what} {path}: expected JSON, got one that is nested too deeply") from error
    except _RepeatedKeyError as error:
        raise InputError(
            f"{what} {path}: expected each key once, got {str(error)!r:.40} twice in one object"
        ) from error
    except ValueError as error:
        raise InputError(f"{what} {path}: expected JSON, got broken text ({error})") from error


@dataclass(frozen=True)
class JsonEntry:
    """A member of the top-level object, or one item of a member that is a list.

    Attributes:
        section: name of the member; empty for the items of a top-level list.
        record: the parsed value; None for the entry that announces a list.
        offset: position of its first byte in the file.
        length: number of bytes.
        kind: `list` announces a list, whose items follow as `item`; `value` is a member of another type.
    """

    section: str
    record: Any
    offset: int
    length: int
    kind: str


def scan(path: Path) -> Iterator[JsonEntry]:
    """Yield the entries of a JSON file in one pass.

    Args:
        path: file whose top level is an object or a list.

    Raises:
        InputError: the file is missing, is broken JSON, has a top level of another type, or has a record of more than
            `MAX_RECORD_BYTES`.
    """
    if not path.is_file():
        fault = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"annotations: expected a file, got {str(path)!r}, which {fault}")
    with path.open("rb") as file:
        window = _Window(file, path)
        start = window.peek()
        if start == "[":
            window.skip(1)
            yield from _items(window, "")
        elif start == "{":
            window.skip(1)
            yield from _members(window)
        else:
            raise window.broken("expected { or [")
        if window.peek():
            raise window.broken("text after the end")


def _members(window: _Window) -> Iterator[JsonEntry]:
    if window.peek() == "}":
        window.skip(1)
        return
    sections: set[str] = set()
    while True:
        if window.peek() != '"':
            raise window.broken("expected a name in quotes")
        section = window.value()[0]
        if section in sections:
            raise window.broken(f"expected each member once, got {section!r:.40} twice")
        sections.add(section)
        window.expect(":")
        if window.peek() == "[":
            yield JsonEntry(section, None, window.offset, 1, "list")
            window.skip(1)
            yield from _items(window, section)
        else:
            yield JsonEntry(section, *window.value(), "value")
        if window.expect(",}") == "}":
            return


def _items(window: _Window, section: str) -> Iterator[JsonEntry]:
    if window.peek() == "]":
        window.skip(1)
        return
    while True:
        yield JsonEntry(section, *window.value(), "item")
        if window.expect(",]") == "]":
            return


class _Window:
    """A part of the file as text with one character per byte.

    Latin-1 maps each byte to one character, so positions in the text are positions in the file. The syntax of JSON is
    ASCII, and no byte of a longer UTF-8 character is ASCII. Values with other characters are parsed again as UTF-8.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._text, self._at, self._start, self._ended = "", 0, 0, False
        if file.read(3) == b"\xef\xbb\xbf":  # a byte order mark
            self._start = 3
        else:
            file.seek(0)

    @property
    def offset(self) -> int:
        """Position in the file of the next character."""
        return self._start + self._at

    def peek(self) -> str:
        """Return the next character that is not blank, or an empty string at the end."""
        while True:
            found = _NOT_BLANK.search(self._text, self._at)
            self._at = len(self._text) if found is None else found.start()
            if found is not None or not self._more():
                return self._text[self._at : self._at + 1]

    def skip(self, count: int) -> None:
        """Skip characters."""
        self._at += count

    def expect(self, characters: str) -> str:
        """Skip one of `characters` and return it."""
        found = self.peek()
        if not found or found not in characters:
            raise self.broken(f"expected {' or '.join(characters)}")
        self._at += 1
        return found

    def value(self) -> tuple[Any, int, int]:
        """Parse the next value; return it, the position of its first byte and its length."""
        self.peek()
        while True:
            try:
                record, end = _DECODER.raw_decode(self._text, self._at)
            except RecursionError as error:
                raise self.broken("nested too deeply") from error
            except _RepeatedKeyError as error:
                raise InputError(
                    f"annotations {self._path}: expected each key once, got {str(error)!r:.40} twice in the record at "
                    f"byte {self.offset}"
                ) from error
            except json.JSONDecodeError as error:
                if self._cut_off(error) and self._more():
                    continue
                self._at = error.pos
                raise self.broken(error.msg) from error
            except ValueError as error:  # an integer of thousands of digits
                raise self.broken("a number too long") from error
            if end + 3 <= len(self._text) or not self._more():  # "1", "1." and "1e-" may continue in the next chunk
                break
        start, self._at = self._at, end
        raw = self._text[start:end]
        if not raw.isascii():
            try:
                record = json.loads(raw.encode("latin-1"))
            except ValueError as error:
                raise self.broken("not UTF-8") from error
        return record, self._start + start, end - start

    def broken(self, what: str) -> InputError:
        """Return the error for text that is not JSON."""
        place = f"byte {self.offset}"
        return InputError(
            f"annotations {self._path}: expected JSON, got broken text ({what.removesuffix(' at')} at {place})"
        )

    def _cut_off(self, error: json.JSONDecodeError) -> bool:
        """Whether the text may be broken only because the chunk ends."""
        return error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - MAX_TOKEN_CHARACTERS

    def _more(self) -> bool:
        """Read the next chunk and drop the text already parsed; return False at the end of the file."""
        if self._ended:
            return False
        left = self._text[self._at :]
        if len(left) > MAX_RECORD_BYTES:
            limit = f"{MAX_RECORD_BYTES >> 20} MiB"
            raise InputError(
                f"annotations {self._path}: expected records of at most {limit}, got a longer one at byte {self.offset}"
            )
        chunk = self._file.read(max(CHUNK_BYTES, len(left)))
        self._ended = not chunk
        if chunk:
            self._start, self._text, self._at = self.offset, left + chunk.decode("latin-1"), 0
        return not self._ended


@contextmanager
def annotation_file(path: Path, members: dict[str, Any]) -> Iterator[Callable[[dict[str, Any], list[Any]], None]]:
    """Write a COCO-like file image by image; it appears complete or not at all.

    Args:
        path: file to write.
        members: top-level members besides `annotations` and `images`.

    Yields:
        A function that adds an image record with its annotation records.

    Raises:
        InputError: the file cannot be written.
    """
    images: list[dict[str, Any]] = []
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        first = "".join(f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in members.items())
        file.write("{" + first + '"annotations": [')
        separator = "\n"

        def add(image: dict[str, Any], annotations: list[Any]) -> None:
            nonlocal separator
            images.append(image)
            for record in annotations:
                file.write(separator + json.dumps(record))
                separator = ",\n"

        yield add
        file.write(f'\n],\n"images": {json.dumps(images)}}}\n')


def write_json_list(path: Path, records: Iterable[dict[str, Any]]) -> int:
    """Write a JSON list with one record per line, without holding it in memory, and return the number of records."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for count, record in enumerate(records, start=1):
            file.write(("[\n" if count == 1 else ",\n") + json.dumps(record, ensure_ascii=False))
        file.write("\n]\n" if count else "[]\n")
    return count
