"""Pictures to ask about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from amodal.datagen.select import Selection, Source, select
from amodal.datagen.store.manifest import Manifest
from amodal.synthetic.generate import synthesize
from tests.datagen.many import write_many


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Annotation file of twelve procedural scenes."""
    return synthesize("scenes", 12, 5, tmp_path_factory.mktemp("scenes") / "out", progress=False)


@pytest.fixture
def toy_work(tmp_path: Path) -> Callable[..., Manifest]:
    """Makes a work folder of so many pictures with a square behind another."""

    def make(count: int = 4, **selection: object) -> Manifest:
        annotations = write_many(tmp_path / "toy", count)
        chosen = Selection(**{"min_area": 1, **selection})
        return select([Source("canonical", annotations)], chosen, tmp_path / "work")

    return make
