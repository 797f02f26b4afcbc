"""Pasted photographs: which instances count as complete, how much is occluded, what is refused."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from amodal.data.datasets import read_dataset
from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.ops.arrays import Mask
from amodal.ops.occlusion import occlusion_rate
from amodal.ops.rle import encode_mask
from amodal.synthetic.paste import PastedOccluders, is_complete
from amodal.synthetic.scenes import SyntheticImage, SyntheticObject
from tests.synthetic.photographs import Box, write_photographs

CENTRE = (50, 40, 90, 80)


def photographs(folder: Path, count: int = 10, size: tuple[int, int] = (120, 160)) -> AnnotatedDataset:
    """One box per photograph, at varying places and of varying shapes; every tenth is `rare`."""
    unit = size[0] // 12
    boxes = [[(unit * (3 + i % 3), unit * (2 + i % 4), unit * (9 + i % 4), unit * (7 + i % 3))] for i in range(count)]
    return read_dataset("coco", *write_photographs(folder, boxes, ["rare"] + ["common"] * 9, size))


def instance(box: Box, number: int = 1, iscrowd: bool = False) -> ObjectSample:
    x0, y0, x1, y1 = box
    mask = np.zeros((120, 160), bool)
    mask[y0:y1, x0:x1] = True
    return ObjectSample(number, 1, encode_mask(mask), None, (x0, y0, x1, y1), iscrowd=iscrowd)


@pytest.mark.parametrize(
    ("box", "others", "complete"),
    [
        (CENTRE, [], True),
        ((1, 40, 41, 80), [], False),  # the border may cut it off
        ((2, 40, 42, 80), [], True),
        ((118, 78, 158, 118), [], True),
        ((118, 78, 159, 118), [], False),
        ((50, 40, 66, 57), [], False),  # 1.4 % of the image
        ((4, 4, 156, 96), [], False),  # 73 %
        (CENTRE, [(95, 40, 120, 80)], True),
        (CENTRE, [(91, 40, 120, 80)], False),  # a touching neighbour may occlude it
        (CENTRE, [(60, 50, 68, 58)], True),  # 4 % of it
        (CENTRE, [(60, 50, 70, 60)], False),  # 6 %
    ],
)
def test_complete_instances_are_recognised(box: Box, others: list[Box], complete: bool) -> None:
    obj = instance(box)
    objects = (obj, *(instance(other, i) for i, other in enumerate(others, 2)))
    assert is_complete(ImageSample(1, Path("x"), 120, 160, objects), obj) == complete


def test_a_crowd_is_not_an_instance() -> None:
    crowd = instance(CENTRE, iscrowd=True)
    assert not is_complete(ImageSample(1, Path("x"), 120, 160, (crowd,)), crowd)


def check(made: SyntheticImage) -> float:
    """Check what must hold for every image and return the target's occlusion rate."""
    front = np.zeros(made.image.shape[:2], bool)
    target, strips = target_of(made), strips_of(made)
    for index, obj in reversed(list(enumerate(made.objects))):  # the list goes from back to front
        assert np.array_equal(obj.visible_mask, obj.amodal_mask & ~front & ~strips)
        front |= obj.amodal_mask
        rate = occlusion_rate(obj.visible_mask, obj.amodal_mask)
        assert rate == 0 or 0.05 <= rate <= 0.75
        assert all(occluder > index for occluder in obj.occluders)
    assert max(made.image.shape[:2]) <= 384
    assert len(made.objects) >= 2
    assert all(obj.visible_mask.sum() >= 60 for obj in made.objects)
    assert [obj.attributes["pasted"] for obj in made.objects].count(False) == 1
    return occlusion_rate(target.visible_mask, target.amodal_mask)


def target_of(made: SyntheticImage) -> SyntheticObject:
    """The object that was in the photograph."""
    return next(obj for obj in made.objects if not obj.attributes["pasted"])


def strips_of(made: SyntheticImage) -> Mask:
    """Pixels that belong to an object, but are no visible part of any."""
    amodal = np.logical_or.reduce([obj.amodal_mask for obj in made.objects])
    return np.asarray(amodal & ~np.logical_or.reduce([obj.visible_mask for obj in made.objects]), bool)


def test_rates_spread_over_the_wanted_range(tmp_path: Path) -> None:
    maker = PastedOccluders([photographs(tmp_path / "a")])
    rates = np.array([check(maker.render((1, i))) for i in range(80)])
    assert 0.35 < (rates == 0).mean() < 0.75
    occluded = rates[rates > 0]
    assert 0.2 < occluded.mean() < 0.5
    assert occluded.min() < 0.2 and occluded.max() > 0.45


def test_categories_are_drawn_by_the_square_root_of_their_frequency(tmp_path: Path) -> None:
    maker = PastedOccluders([photographs(tmp_path / "a", count=20)])
    categories = Counter(obj.category for i in range(60) for obj in maker.render((2, i)).objects)
    assert 0.12 < categories["rare"] / categories.total() < 0.4, "one in ten, but drawn one time in four"


def test_large_photographs_shrink(tmp_path: Path) -> None:
    maker = PastedOccluders([photographs(tmp_path / "a", size=(300, 600))])
    images = [maker.render((3, i)) for i in range(6)]
    assert max(made.image.shape for made in images) == (192, 384, 3)  # the others are cut by the frame
    for made in images:
        check(made)


def test_unoccluded_targets_have_neighbours_behind_them(tmp_path: Path) -> None:
    """A model that only sees occluded objects completes what is complete already."""
    maker = PastedOccluders([photographs(tmp_path / "a")])
    images = [maker.render((6, i)) for i in range(60)]
    free = [made for made in images if not target_of(made).occluders]
    behind = [made for made in free if made.objects[0].attributes["pasted"] and made.objects[0].occluders]
    assert len(behind) > 0.3 * len(free) > 5
    for made in behind:
        assert 0.05 <= occlusion_rate(made.objects[0].visible_mask, made.objects[0].amodal_mask) <= 0.75


def test_the_frame_cuts_some_targets(tmp_path: Path) -> None:
    maker = PastedOccluders([photographs(tmp_path / "a")])
    images = [maker.render((7, i)) for i in range(60)]
    cut = [made for made in images if made.image.shape[:2] != (120, 160)]
    assert 3 <= len(cut) <= 30
    for made in cut:
        amodal = target_of(made).amodal_mask
        assert amodal[0].any() or amodal[-1].any() or amodal[:, 0].any() or amodal[:, -1].any()


def test_thin_strips_hide_parts_of_the_target_without_being_objects(tmp_path: Path) -> None:
    """Pixels of a target that no object covers are hidden by strips."""
    maker = PastedOccluders([photographs(tmp_path / "a")])
    with_strips = [i for i in range(80) if strips_of(maker.render((8, i))).any()]
    assert 2 <= len(with_strips) <= 20


def test_pixels_away_from_what_was_pasted_stay(tmp_path: Path) -> None:
    """Colours blend in a narrow band and shadows reach a little further; beyond them the photograph is unchanged."""
    maker = PastedOccluders([photographs(tmp_path / "a")])
    for i in range(8):
        made = maker.render((4, i))
        touched = np.zeros(made.image.shape[:2], bool)
        for obj in (o for o in made.objects if o.attributes["pasted"]):
            x, y, w, h = cv2.boundingRect(obj.amodal_mask.astype(np.uint8))
            reach = 6 + max(w, h) // 4
            touched[max(y - reach, 0) : y + h + reach, max(x - reach, 0) : x + w + reach] = True
        target = target_of(made).amodal_mask
        for region in (target & ~touched, ~target & ~touched):
            assert len(np.unique(made.image[region].reshape(-1, 3), axis=0)) <= 1


def test_images_depend_on_the_seed_alone(tmp_path: Path) -> None:
    dataset = photographs(tmp_path / "a")
    first, second = PastedOccluders([dataset]), PastedOccluders([dataset])
    for i in range(3):
        first.render((9, i))
    assert np.array_equal(first.render((5, 1)).image, second.render([5, 1]).image)
    assert np.array_equal(first.render(5).image, second.render([5]).image)


def test_what_cannot_be_pasted_is_refused(tmp_path: Path) -> None:
    speck = read_dataset("coco", *write_photographs(tmp_path / "a", [[(6, 6, 13, 13)]] * 2, ["speck"], (20, 20)))
    with pytest.raises(InputError, match="expected instances that fit over each other, got none"):
        PastedOccluders([speck]).render(0)
    with pytest.raises(InputError, match=r"exclude_categories: expected names of .*, got \['spek'\]"):
        PastedOccluders([speck], ["spek"])
    with pytest.raises(InputError, match="expected complete instances to paste on, got none"):
        PastedOccluders([speck], ["speck"])
    cut = read_dataset("coco", *write_photographs(tmp_path / "b", [[(0, 6, 13, 13)]], ["cut"], (20, 20)))
    with pytest.raises(InputError, match="expected complete instances to paste on, got none"):
        PastedOccluders([cut])


def test_photographs_that_are_gone_or_resized_are_refused(tmp_path: Path) -> None:
    dataset = photographs(tmp_path / "a")
    for image in dataset.images:
        cv2.imwrite(str(image.path), np.zeros((60, 80, 3), np.uint8))
    with pytest.raises(InputError, match="expected 120 x 160 as annotated, got 60 x 80"):
        PastedOccluders([dataset]).render(0)
    for image in dataset.images:
        image.path.unlink()
    with pytest.raises(InputError, match="which does not exist"):
        PastedOccluders([dataset]).render(0)


@pytest.mark.skipif("AMODAL_SAMPLE_DATA" not in os.environ, reason="needs a folder of COCO data sets")
def test_real_photographs() -> None:
    folders = sorted(p.parent for p in Path(os.environ["AMODAL_SAMPLE_DATA"]).glob("*/instances.json"))
    datasets = [read_dataset("coco", folder / "instances.json", folder / "images") for folder in folders]
    maker = PastedOccluders(datasets)
    assert datasets and len(maker.categories) > 1
    for i in range(20):
        check(maker.render((6, i)))
