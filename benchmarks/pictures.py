"""Pictures for benchmarks: a dataset that is given, or scenes that are drawn for the occasion."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amodal.synthetic.generate import synthesize

SEED = 7


@contextmanager
def annotations(given: Path | None, count: int) -> Iterator[Path]:
    """The annotation file that was given; without one, of `count` scenes in a folder that goes away."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "scenes"
        synthesize("scenes", count, SEED, out, progress=False)
        yield out / "annotations.json"
