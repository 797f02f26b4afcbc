"""Three real COCOA records are read and validated, and their masks and outlines agree."""

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
from amodal.ops.occlusion import MIN_OCCLUDER_SHARE

FOLDER = Path(os.environ.get("AMODAL_SAMPLE_DATA", Path(__file__).parents[2] / "data" / "photos")) / "cocoa"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the real records are not part of the repository")


def test_real_records_are_read() -> None:
    assert guess_format(FOLDER) == "cocoa"
    dataset = read_dataset("cocoa", FOLDER)
    assert [(i.file_name, i.id, len(i.objects)) for i in dataset.images] == [
        ("1.jpg", 188819, 2),
        ("2.jpg", 343254, 11),
        ("3.jpg", 6608, 19),
    ]
    assert all(image.load().shape[:2] == image.size for image in dataset.images)
    assert sum(obj.is_stuff for image in dataset.images for obj in image.objects) == 1
    assert "espresso cup" in dataset.categories.values(), "the name in the file ends with a blank"


def test_outline_and_masks_agree() -> None:
    """`visible_mask` and `invisible_mask`, where they are present, are the parts of the outlined region."""
    compared = 0
    for image in read_dataset("cocoa", FOLDER).images:
        record = json.loads(image.path.with_suffix(".json").read_text())
        for obj, region in zip(image.objects, record["regions"], strict=True):
            amodal, visible = obj.amodal_mask(), obj.visible_mask()
            assert amodal is not None and amodal.sum() == region["area"]
            if "visible_mask" not in region:
                assert np.array_equal(visible, amodal) and region["occlude_rate"] == 0
                continue
            compared += 1
            occluded = coco_mask.decode(region["invisible_mask"]).astype(bool)
            assert np.array_equal(visible, coco_mask.decode(region["visible_mask"]).astype(bool))
            assert np.array_equal(visible | occluded, amodal) and not (visible & occluded).any()
    assert compared == 16


def test_real_records_have_no_fault() -> None:
    report = validate("cocoa", FOLDER)
    assert (report.num_images, report.num_objects, report.faults) == (3, 32, [])


def test_derived_occluders_follow_the_order() -> None:
    """The records lack `depth_constraint`.

    The objects in front cover nearly all occluded pixels, and the occluders are those that cover a share of them.
    """
    for image in read_dataset("cocoa", FOLDER).images:
        objects = derive_occluders(image).objects
        for obj in objects:
            amodal = obj.amodal_mask()
            assert amodal is not None and obj.order is not None
            occluded = amodal & ~obj.visible_mask()
            fronts = [front for front in objects if front.order is not None and front.order < obj.order]
            covered = {front.id: front.visible_mask() & occluded for front in fronts}
            all_covered = np.logical_or.reduce([*covered.values(), np.zeros_like(occluded)])
            assert all_covered.sum() >= 0.98 * occluded.sum()
            least = max(MIN_OCCLUDER_SHARE * occluded.sum(), 1)
            assert {*obj.occluders} == {number for number, mask in covered.items() if mask.sum() >= least}
            assert bool(obj.occluders) == bool(occluded.any())
