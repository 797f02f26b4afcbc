"""A picture is always on the same side, and never on both."""

from __future__ import annotations

from pathlib import Path

import pytest

from amodal.data.samples import AnnotatedDataset, ImageSample
from amodal.data.splits import is_validation, select_split
from amodal.errors import InputError

PICTURES = AnnotatedDataset(tuple(ImageSample(i, Path(f"{i:05d}.jpg"), 4, 4, ()) for i in range(2000)), {}, "coco")


def test_sides_share_no_picture_and_lose_none() -> None:
    train, validation = (select_split(PICTURES, side).images for side in ("train", "validation"))
    assert {i.id for i in train} | {i.id for i in validation} == set(range(2000))
    assert not {i.id for i in train} & {i.id for i in validation}
    assert len(validation) / 2000 == pytest.approx(0.1, abs=0.03)
    assert select_split(PICTURES, "all") is PICTURES


def test_the_side_hangs_on_the_base_name_alone() -> None:
    names = [f"{i:012d}.jpg" for i in range(60)]
    assert [is_validation(n) for n in names] == [is_validation(f"some/where/{n}") for n in names]
    # zlib.crc32 modulo 10,000 is 661 and 1,157: a validation set must not move between versions
    assert is_validation("00020.jpg") and not is_validation("00023.jpg")


def test_the_share_moves_the_border() -> None:
    names = [f"{i}.png" for i in range(200)]
    assert not any(is_validation(n, 0) for n in names)
    assert all(is_validation(n, 1) for n in names)
    assert all(is_validation(n, 0.5) for n in names if is_validation(n, 0.2))


def test_another_split_is_refused() -> None:
    with pytest.raises(InputError, match="split: expected one of all, train, validation, got 'test'"):
        select_split(PICTURES, "test")
