"""Images for benchmarks: a dataset that the user names, or temporary drawn scenes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amodal.synthetic.generate import synthesize

SEED = 7


@contextmanager
def annotations(given: Path | None, count: int) -> Iterator[Path]:
    """Yield the given annotation file, or that of `count` drawn scenes in a temporary folder."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "scenes"
        synthesize("scenes", count, SEED, out, progress=False)
        yield out / "annotations.json"
