"""Which format a file has, by the keys of its first annotations."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from amodal.data.formats.source import Format
from amodal.io.json_stream import scan

LOOKED_AT = 50
"""Annotations; keys such as `invisible_mask` are missing where nothing is hidden."""


def guess_format(path: Path, formats: Mapping[str, Format]) -> str | None:
    """The format a file or folder seems to have, None if it resembles none.

    Raises:
        InputError: no such file, or broken JSON.
    """
    if path.is_dir():
        if any(path.glob("*.json")):
            first = guess_format(sorted(path.glob("*.json"))[0], formats)
            return first if first == "cocoa" else None
        return "masks" if any(path.glob("*/*.png")) else None
    entries = (e for e in scan(path) if e.section in ("annotations", "regions"))
    records = list(islice((e.record for e in entries if e.kind == "item"), LOOKED_AT))
    return recognise([record for record in records if isinstance(record, dict)], formats)


def recognise(records: list[dict[str, Any]], formats: Mapping[str, Format]) -> str | None:
    """The format of some annotations."""
    keys = frozenset[str]().union(*records)
    if not keys:
        return None
    if "isStuff" in keys and "segmentation" in keys:  # regions of a bare COCOA record
        return "cocoa"
    if formats["cocoa_cls"].marks & keys and any(isinstance(record.get("iscrowd"), bool) for record in records):
        return "d2sa"
    scores = {name: len(format_.marks & keys) for name, format_ in formats.items() if not format_.foreign & keys}
    best = max(scores, key=lambda name: scores[name], default=None)
    if best is not None and scores[best]:
        return best
    if "visible_mask" in keys:
        return "cocoa_cls"
    return "coco" if "segmentation" in keys else None
