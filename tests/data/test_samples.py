"""Images are loaded only if their size is the annotated one, and splits are the same everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from amodal.data.samples import AnnotatedDataset, ImageSample
from amodal.data.splits import is_validation, select_split
from amodal.errors import InputError

DATASET = AnnotatedDataset(tuple(ImageSample(i, Path(f"{i:05d}.jpg"), 4, 4, ()) for i in range(2000)), {}, "coco")


def test_an_image_of_another_size_raises(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "x.png")
    assert ImageSample(1, tmp_path / "x.png", 6, 8, ()).load().shape == (6, 8, 3)
    with pytest.raises(InputError, match=r"x\.png: expected 8 x 6 as annotated, got 6 x 8"):
        ImageSample(1, tmp_path / "x.png", 8, 6, ()).load()


def test_the_default_file_name_is_the_last_part_of_the_path() -> None:
    assert ImageSample(1, Path("a/b.png"), 2, 2, ()).file_name == "b.png"
    assert ImageSample(1, Path("a/b.png"), 2, 2, (), "a/b.png").file_name == "a/b.png"


def test_splits_are_disjoint_and_complete() -> None:
    train, validation = (select_split(DATASET, side).images for side in ("train", "validation"))
    assert {i.id for i in train} | {i.id for i in validation} == set(range(2000))
    assert not {i.id for i in train} & {i.id for i in validation}
    assert len(validation) / 2000 == pytest.approx(0.1, abs=0.03)
    assert select_split(DATASET, "all") is DATASET


def test_the_split_depends_on_the_base_name_only() -> None:
    names = [f"{i:012d}.jpg" for i in range(60)]
    assert [is_validation(n) for n in names] == [is_validation(f"some/where/{n}") for n in names]
    # zlib.crc32 modulo 10,000 is 661 and 1,157: the validation split must not change between versions
    assert is_validation("00020.jpg") and not is_validation("00023.jpg")


def test_a_larger_share_contains_a_smaller_one() -> None:
    names = [f"{i}.png" for i in range(200)]
    assert not any(is_validation(n, 0) for n in names)
    assert all(is_validation(n, 1) for n in names)
    assert all(is_validation(n, 0.5) for n in names if is_validation(n, 0.2))


def test_an_unknown_split_raises() -> None:
    with pytest.raises(InputError, match="split: expected one of all, train, validation, got 'test'"):
        select_split(DATASET, "test")
