"""From the name of an image in an annotation file to its file, which is always below the folder of the images."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal, get_args
from urllib.parse import parse_qs, unquote, urlsplit

from amodal.errors import InputError
from amodal.io.files import is_file

Match = Literal["path", "name"]
"""How names are matched with files: as paths below the folder, or by their last part alone, anywhere below it."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DRIVE = re.compile(r"[A-Za-z]:")
_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the names of uploaded files."""


@dataclass(frozen=True)
class ImageFinder:
    """Finds the files that the names in an annotation file mean.

    Attributes:
        folder: folder of the images.
        match: see `Match`.

    Raises:
        InputError: an unknown way to match.
    """

    folder: Path
    match: Match = "path"

    def __post_init__(self) -> None:
        if self.match not in get_args(Match):
            raise InputError(f"match: expected path or name, got {self.match!r:.40}")

    def find(self, name: str) -> Path:
        """The file of a name; a file below the folder that does not exist if there is none.

        Other spellings of a name count where the name itself is no file: backslashes, percent-encoding, and the
        composed and decomposed forms of Unicode.

        Raises:
            InputError: a path outside the folder, a URL or a path with a drive, unless names are matched by their last
                part; then, if several files have this last part.
        """
        if self.match == "name":
            return self._by_last_part(name)
        if not _is_below(name):
            raise InputError(
                f"expected a path below the folder of the images, got {name!r:.80} (--match name takes the last part "
                "of each name; `amodal data convert --match name` writes names that all commands find)"
            )
        if name.isascii() and "\\" not in name and "%" not in name:
            return self.folder / name
        spellings = [spelling for spelling in _spellings(name) if _is_below(spelling)]
        paths = [self.folder / spelling for spelling in spellings]
        return next((path for path in paths if is_file(path)), paths[0])

    def name_of(self, path: Path, name: str) -> str:
        """The name with which every command finds a file that `find` returned for `name`."""
        return name if self.match == "path" else path.relative_to(self.folder).as_posix()

    def _by_last_part(self, name: str) -> Path:
        last = last_part(name)
        found = self._files.get(folded(last), []) or self._files.get(folded(_UPLOAD.sub("", last, count=1)), [])
        if len(found) > 1:
            listed = ", ".join(str(path.relative_to(self.folder)) for path in found[:3])
            raise InputError(f"expected one file {last!r:.80} below {self.folder}, got {len(found)}: {listed}")
        return found[0] if found else self.folder / last

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        """All files below the folder by their folded names; hidden ones are left out."""
        found: dict[str, list[Path]] = {}
        for place, folders, names in os.walk(self.folder):
            folders[:] = sorted(name for name in folders if name[0] != "." and name != "__MACOSX")
            for name in sorted(names):
                if name[0] != ".":
                    found.setdefault(folded(name), []).append(Path(place, name))
        return found


def last_part(name: str) -> str:
    """The file name in a name: a path of any system, or a URL with or without a signature.

    Raises:
        InputError: there is none.
    """
    path = name
    if _URL.match(name) or name.startswith("/data/local-files/"):
        url = urlsplit(name)
        path = parse_qs(url.query).get("d", [""])[0] or unquote(url.path)  # `d`: Label Studio's local files
    last = PurePosixPath(path.replace("\\", "/")).name
    if last in ("", ".", "..") or "\0" in last:
        raise InputError(f"expected a file name, got {name!r:.80}")
    return last


def folded(name: str) -> str:
    """A name in composed Unicode, whatever form its system writes."""
    return unicodedata.normalize("NFC", name)


def _is_below(name: str) -> bool:
    """Whether a name is a path below a folder, on every system."""
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.name or "\0" in name or path.is_absolute() or _DRIVE.match(name) or _URL.match(name):
        return False
    return ".." not in path.parts


def _spellings(name: str) -> Iterator[str]:
    """A name in the ways in which systems write it, the most literal one first."""
    for spelling in (name, name.replace("\\", "/"), unquote(name), unquote(name).replace("\\", "/")):
        yield spelling
        yield unicodedata.normalize("NFC", spelling)
        yield unicodedata.normalize("NFD", spelling)
