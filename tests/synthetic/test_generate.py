"""Datasets on disk: the same bytes however they were made, and complete or not there at all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amodal.data.datasets import read_dataset
from amodal.data.splits import is_validation
from amodal.errors import InputError
from amodal.ops.boxes import mask_to_box, xyxy_to_xywh
from amodal.synthetic.generate import synthesize
from amodal.synthetic.paste import PastedOccluders
from tests.synthetic.photographs import write_photographs

BOXES = [[(40 + 4 * (i % 5), 30, 100, 80 + 3 * (i % 6))] for i in range(40)]


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, Path]:
    return write_photographs(tmp_path / "photos", BOXES, ["cup", "plate", "fork"])


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_several_processes_write_the_same_pastes(tmp_path: Path, source: tuple[Path, Path]) -> None:
    synthesize("paste", 20, 3, tmp_path / "one", sources=[source], progress=False)
    synthesize("paste", 20, 3, tmp_path / "two", sources=[source], workers=2, progress=False)
    made = files(tmp_path / "one")
    assert made == files(tmp_path / "two")
    assert sorted(made) == ["annotations.json", *(f"images/{i:06d}.jpg" for i in range(20))]


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path: Path, source: tuple[Path, Path]) -> None:
    synthesize("paste", 3, 3, tmp_path / "few", sources=[source], progress=False)
    synthesize("paste", 5, 3, tmp_path / "more", sources=[source], progress=False)
    few, more = files(tmp_path / "few"), files(tmp_path / "more")
    assert all(more[name] == few[name] for name in few if name.startswith("images"))


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    out = tmp_path / "killed"
    code = (
        "from pathlib import Path; from amodal.synthetic.generate import synthesize\n"
        f"synthesize('scenes', 200, 5, Path({str(out)!r}), progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while len(list(out.glob(".parts/0*.json"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = len(list(out.glob(".parts/0*.json")))
    assert 4 <= finished < 200
    assert not (out / "annotations.json").exists()
    for part in sorted(out.glob(".parts/0*.json"))[8:]:  # a fast machine has drawn many: do not draw them all again
        part.unlink()
    settings = out / ".parts" / "settings.json"
    settings.write_text(settings.read_text().replace('"count": 200', '"count": 8'))
    for image in sorted(out.glob("images/*"))[8:]:
        image.unlink()
    synthesize("scenes", 8, 5, out, progress=False)
    synthesize("scenes", 8, 5, tmp_path / "straight", progress=False)
    assert files(out) == files(tmp_path / "straight")


def test_records_have_the_canonical_form(tmp_path: Path, source: tuple[Path, Path]) -> None:
    path = synthesize("paste", 6, 1, tmp_path / "set", sources=[source], progress=False)
    content: dict[str, Any] = json.loads(path.read_text())
    info = {"description": "amodal paste", "kind": "paste", "seed": 1, "split": "all", "count": 6}
    assert content["info"] == info
    assert [c["name"] for c in content["categories"]] == ["cup", "fork", "plate"]
    objects = {obj.id: obj for image in read_dataset("canonical", path).images for obj in image.objects}
    assert list(objects) == list(range(1, len(objects) + 1))
    for record in content["annotations"]:
        visible, amodal = objects[record["id"]].visible_mask(), objects[record["id"]].amodal_mask()
        assert amodal is not None
        assert record["bbox"] == list(xyxy_to_xywh(mask_to_box(amodal)))
        assert record["visible_bbox"] == list(xyxy_to_xywh(mask_to_box(visible)))
        assert record["area"] == amodal.sum()
        assert record["occlude_rate"] == pytest.approx(1 - visible.sum() / amodal.sum(), abs=1e-6)
        assert record["iscrowd"] == 0
        occluded = amodal & ~visible
        for number in record["occluders"]:
            assert (objects[number].visible_mask() & occluded).sum() >= 0.1 * occluded.sum()


def test_a_split_draws_from_its_photographs_only(tmp_path: Path) -> None:
    """Categories are named by the split of their photograph, so that a leak would show."""
    names = ["validation" if is_validation(f"{i}.png") else "train" for i in range(len(BOXES))]
    source = write_photographs(tmp_path / "photos", BOXES, names)
    for split in ("train", "validation"):
        path = synthesize("paste", 3, 0, tmp_path / split, sources=[source], split=split, progress=False)
        assert list(read_dataset("canonical", path).categories.values()) == [split]


def test_excluded_categories_are_not_written(tmp_path: Path, source: tuple[Path, Path]) -> None:
    path = synthesize(
        "paste", 3, 0, tmp_path / "set", sources=[source], exclude_categories=["fork"], progress=False
    )  # fmt: skip
    assert list(read_dataset("canonical", path).categories.values()) == ["cup", "plate"]
    with pytest.raises(InputError, match=r"exclude_categories: expected names of .*, got \['frok'\]"):
        synthesize("paste", 3, 0, tmp_path / "new", sources=[source], exclude_categories=["frok"], progress=False)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "photos"}, "kind: expected 'scenes' or 'paste', got 'photos'"),
        ({"count": 0}, "count: expected 1 or more, got 0"),
        ({"sources": []}, "annotations: expected photographs in COCO form for kind paste, got none"),
        ({"seed": -1}, "seed: expected 0 or more, got -1"),
        ({"workers": 0}, "workers: expected 1 or more, got 0"),
        ({"split": "test"}, "split: expected one of all, train, validation, got 'test'"),
        ({"kind": "scenes"}, "annotations: expected for kind paste only, got it for scenes"),
        (
            {"kind": "scenes", "sources": [], "split": "train"},
            "split: expected for kind paste only, got it for scenes",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    tmp_path: Path, source: tuple[Path, Path], changes: dict[str, Any], message: str
) -> None:
    settings = {"kind": "paste", "count": 1, "seed": 0, "out": tmp_path / "set", "sources": [source]}
    with pytest.raises(InputError, match=message):
        synthesize(**settings | changes, progress=False)
    assert not (tmp_path / "set").exists()


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path, source: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="expected a new or empty folder, got the file"):
        synthesize("scenes", 1, 0, source[0], progress=False)
    (tmp_path / "set" / ".parts").mkdir(parents=True)  # a run was killed before it wrote its settings
    synthesize("scenes", 1, 0, tmp_path / "set", progress=False)
    before = files(tmp_path / "set")
    with pytest.raises(InputError, match="expected a new or empty folder, got .* which holds files"):
        synthesize("scenes", 1, 0, tmp_path / "set", progress=False)
    assert files(tmp_path / "set") == before


def test_an_interrupted_run_ends_with_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthesize("scenes", 6, 5, tmp_path / "straight", workers=2, progress=False)
    with monkeypatch.context() as patch:  # interrupted after the images, before the annotation file
        patch.setattr("amodal.synthetic.generate.write_canonical", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            synthesize("scenes", 6, 5, tmp_path / "resumed", progress=False)
    (tmp_path / "resumed" / ".parts" / "000003.json").unlink()
    assert not (tmp_path / "resumed" / "annotations.json").exists()
    with pytest.raises(InputError, match="expected an interrupted run of"):
        synthesize("scenes", 6, 6, tmp_path / "resumed", progress=False)
    synthesize("scenes", 6, 5, tmp_path / "resumed", progress=False)
    assert files(tmp_path / "resumed") == files(tmp_path / "straight")


def test_written_truth_is_read_back(tmp_path: Path, source: tuple[Path, Path]) -> None:
    dataset = read_dataset("canonical", synthesize("paste", 4, 2, tmp_path / "set", sources=[source], progress=False))
    maker = PastedOccluders([read_dataset("coco", *source)])
    for index, image in enumerate(dataset.images):
        made = maker.render((2, index))
        ids = [obj.id for obj in image.objects]
        for read, obj in zip(image.objects, made.objects, strict=True):
            assert np.array_equal(read.visible_mask(), obj.visible_mask)
            assert np.array_equal(read.amodal_mask(), obj.amodal_mask)
            assert [ids.index(i) for i in read.occluders] == obj.occluders
            assert dataset.categories[read.category_id] == obj.category


@pytest.mark.parametrize("workers", [1, 2])
def test_a_photograph_that_is_gone_is_named(tmp_path: Path, source: tuple[Path, Path], workers: int) -> None:
    for photograph in source[1].iterdir():
        photograph.unlink()
    with pytest.raises(InputError, match="image: expected a file, got .*png', which does not exist"):
        synthesize("paste", 20, 0, tmp_path / "set", sources=[source], workers=workers, progress=False)
    assert not (tmp_path / "set" / "annotations.json").exists()
