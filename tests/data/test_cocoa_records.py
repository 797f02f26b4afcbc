"""Three genuine COCOA records: read, found without fault, masks and outlines in agreement."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from amodal.data.datasets import guess_format, read_dataset
from amodal.data.relations import derive_occluders
from amodal.data.validation.validate import validate

FOLDER = Path(os.environ.get("AMODAL_SAMPLE_DATA", Path(__file__).parents[2] / "data" / "photos")) / "cocoa"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the genuine records are not part of the repository")


def test_they_are_read() -> None:
    assert guess_format(FOLDER) == "cocoa"
    dataset = read_dataset("cocoa", FOLDER)
    assert [(i.file_name, i.id, len(i.objects)) for i in dataset.images] == [
        ("1.jpg", 188819, 2),
        ("2.jpg", 343254, 11),
        ("3.jpg", 6608, 19),
    ]
    assert all(image.load().shape[:2] == image.size for image in dataset.images)
    assert sum(thing.is_stuff for image in dataset.images for thing in image.objects) == 1
    assert "espresso cup" in dataset.categories.values(), "written with a blank at its end"


def test_outline_and_masks_agree() -> None:
    """`visible_mask` and `invisible_mask`, where they are present, make up the outlined region exactly."""
    compared = 0
    for image in read_dataset("cocoa", FOLDER).images:
        record = json.loads(image.path.with_suffix(".json").read_text())
        for thing, region in zip(image.objects, record["regions"], strict=True):
            amodal, visible = thing.amodal_mask(), thing.visible_mask()
            assert amodal is not None and amodal.sum() == region["area"]
            if "visible_mask" not in region:
                assert np.array_equal(visible, amodal) and region["occlude_rate"] == 0
                continue
            compared += 1
            hidden = coco_mask.decode(region["invisible_mask"]).astype(bool)
            assert np.array_equal(visible, coco_mask.decode(region["visible_mask"]).astype(bool))
            assert np.array_equal(visible | hidden, amodal) and not (visible & hidden).any()
    assert compared == 16


def test_they_have_no_fault() -> None:
    report = validate("cocoa", FOLDER)
    assert (report.num_images, report.num_objects, report.faults) == (3, 32, [])


def test_who_hides_whom_is_derived_and_follows_the_order() -> None:
    """The records lack `depth_constraint`; what is hidden is explained by the objects in front."""
    for image in read_dataset("cocoa", FOLDER).images:
        objects = {thing.id: thing for thing in derive_occluders(image).objects}
        for thing in objects.values():
            amodal = thing.amodal_mask()
            assert amodal is not None and thing.order is not None
            hidden = amodal & ~thing.visible_mask()
            assert bool(thing.occluders) == bool(hidden.any())
            fronts = [objects[number] for number in thing.occluders]
            assert all(front.order is not None and front.order < thing.order for front in fronts)
            covered = np.logical_or.reduce([front.visible_mask() for front in fronts] or [hidden])
            assert (hidden & covered).sum() >= 0.98 * hidden.sum()
