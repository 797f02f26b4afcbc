"""Work folders and scenes for the tests of datagen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from amodal.datagen.select import DatasetSource, ImageSelection, select
from amodal.datagen.store.work_folder import WorkFolder
from amodal.synthetic.generate import synthesize
from tests.datagen.toy_work import write_many


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Annotation file of procedural scenes; twelve or more have four objects or more."""
    return synthesize("scenes", 24, 5, tmp_path_factory.mktemp("scenes") / "out", progress=False)


@pytest.fixture
def toy_work(tmp_path: Path) -> Callable[..., WorkFolder]:
    """Makes a work folder with the given number of images of one square behind another."""

    def make(count: int = 4, **selection: object) -> WorkFolder:
        annotations = write_many(tmp_path / "toy", count)
        chosen = ImageSelection(**{"min_area": 1, **selection})
        return select([DatasetSource("canonical", annotations)], chosen, tmp_path / "work")

    return make
