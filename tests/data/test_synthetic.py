"""Generated pictures: exact truth, fair difficulty, the same bytes for the same seed."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from amodal.data.readers import read_dataset
from amodal.errors import InputError
from amodal.synthetic import scenes
from amodal.synthetic.generate import synthesize
from amodal.synthetic.paste import PastedOccluders
from amodal.synthetic.scenes import render_scene
from amodal.synthetic.shapes import THINGS
from amodal.synthetic.types import SyntheticImage


@pytest.fixture
def photographs(tmp_path: Path) -> tuple[Path, Path]:
    """Six plain photographs with one disc or box each, in COCO form."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    images, annotations = [], []
    for i in range(6):
        pixels = np.full((120, 160, 3), 60 + 20 * i, np.uint8)
        x, y, half = (int(v) for v in (rng.integers(50, 110), rng.integers(45, 75), rng.integers(25, 35)))
        cv2.rectangle(pixels, (x - half, y - half), (x + half, y + half), (200, 30 * i, 40), -1)
        cv2.imwrite(str(folder / f"{i}.png"), pixels)
        images.append({"id": i, "file_name": f"{i}.png", "height": 120, "width": 160})
        corners = [x - half, y - half, x + half, y - half, x + half, y + half, x - half, y + half]
        annotations.append({"id": i, "image_id": i, "category_id": 1 + i % 2, "segmentation": [corners], "iscrowd": 0})
    categories = [{"id": 1, "name": "box"}, {"id": 2, "name": "crate"}]
    file = tmp_path / "instances.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file, folder


def check_truth(picture: SyntheticImage) -> None:
    """What must hold of any generated picture."""
    assert picture.image.dtype == np.uint8
    covered = np.zeros(picture.image.shape[:2], int)
    for index, thing in enumerate(picture.objects):
        assert not (thing.visible_mask & ~thing.amodal_mask).any()
        covered += thing.visible_mask
        hidden = thing.amodal_mask & ~thing.visible_mask
        rate = hidden.sum() / thing.amodal_mask.sum()
        assert rate == 0 or 0.05 <= rate <= 0.75
        in_front = np.zeros_like(hidden)
        for occluder in thing.occluders:
            assert occluder > index, "objects are listed back to front"
            in_front |= picture.objects[occluder].visible_mask
        assert not (hidden & ~in_front).any()
        assert bool(thing.occluders) == bool(hidden.any())
    assert covered.max() <= 1, "visible masks are disjoint"


@pytest.mark.parametrize("seed", range(12))
def test_scenes_keep_their_promises(seed: int) -> None:
    picture = render_scene(seed)
    assert picture.image.shape == (256, 256, 3)
    assert 2 <= len(picture.objects) <= 8
    check_truth(picture)
    for thing in picture.objects:
        assert thing.visible_mask.sum() >= scenes.MIN_VISIBLE_PIXELS
        border = np.concatenate(
            [thing.amodal_mask[0], thing.amodal_mask[-1], thing.amodal_mask[:, 0], thing.amodal_mask[:, -1]]
        )
        assert border.any() or not thing.attributes["truncated"]


def test_same_seed_same_bytes_other_seed_other_picture() -> None:
    a, b, c = render_scene([3, 1]), render_scene([3, 1]), render_scene([3, 2])
    assert np.array_equal(a.image, b.image)
    assert not np.array_equal(a.image, c.image)


def test_there_are_many_kinds_and_all_occur() -> None:
    assert len(THINGS) >= 20
    seen = {thing.category for seed in range(60) for thing in render_scene(seed).objects}
    assert len(seen) >= 0.9 * len(THINGS)


def test_pasted_occluders_hide_a_known_part(photographs: tuple[Path, Path]) -> None:
    maker = PastedOccluders([read_dataset("coco", *photographs)])
    pictures = [maker.render((1, i)) for i in range(12)]
    for picture in pictures:
        check_truth(picture)
    hidden = [bool(picture.objects[0].occluders) for picture in pictures]
    assert sum(hidden) >= 6
    assert np.array_equal(maker.render((1, 3)).image, pictures[3].image)


def test_left_out_kinds_stay_out(photographs: tuple[Path, Path]) -> None:
    maker = PastedOccluders([read_dataset("coco", *photographs)], exclude_categories=["box"])
    assert maker.categories == ["crate"]
    with pytest.raises(InputError, match="expected complete instances to paste on, got none"):
        PastedOccluders([read_dataset("coco", *photographs)], exclude_categories=["box", "crate"])


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_same_seed_gives_the_same_files_however_made(tmp_path: Path) -> None:
    synthesize("scenes", 6, 5, tmp_path / "a", progress=False)
    synthesize("scenes", 6, 5, tmp_path / "b", workers=2, progress=False)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert sorted(files(tmp_path / "a"))[0] == "annotations.json"


def test_an_interrupted_run_ends_with_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthesize("scenes", 6, 5, tmp_path / "straight", progress=False)
    with monkeypatch.context() as patch:  # killed after the pictures, before the annotation file
        patch.setattr("amodal.synthetic.generate.write_canonical", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            synthesize("scenes", 6, 5, tmp_path / "killed", progress=False)
    (tmp_path / "killed" / ".parts" / "000003.json").unlink()
    assert not (tmp_path / "killed" / "annotations.json").exists()
    with pytest.raises(InputError, match="expected an interrupted run of"):
        synthesize("scenes", 6, 6, tmp_path / "killed", progress=False)
    synthesize("scenes", 6, 5, tmp_path / "killed", progress=False)
    assert files(tmp_path / "killed") == files(tmp_path / "straight")


def test_written_truth_is_read_back(tmp_path: Path, photographs: tuple[Path, Path]) -> None:
    path = synthesize("paste", 4, 2, tmp_path / "set", sources=[photographs], progress=False)
    dataset = read_dataset("canonical", path)
    maker = PastedOccluders([read_dataset("coco", *photographs)])
    for index, image in enumerate(dataset.images):
        picture = maker.render((2, index))
        assert len(image.objects) == len(picture.objects)
        ids = [thing.id for thing in image.objects]
        for read, made in zip(image.objects, picture.objects, strict=True):
            assert np.array_equal(read.visible_mask(), made.visible_mask)
            assert np.array_equal(read.amodal_mask(), made.amodal_mask)
            assert [ids.index(i) for i in read.occluders] == made.occluders
            assert dataset.categories[read.category_id] == made.category


@pytest.mark.parametrize(
    ("kind", "count", "message"),
    [("photos", 1, "kind: expected 'scenes' or 'paste'"), ("scenes", 0, "count: expected 1 or more, got 0"),
     ("paste", 1, "annotations: expected with --kind paste")],
)  # fmt: skip
def test_settings_that_do_not_fit(tmp_path: Path, kind: str, count: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        synthesize(kind, count, 0, tmp_path / "set", progress=False)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="expected a new or empty folder"):
        synthesize("scenes", 1, 0, tmp_path, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
