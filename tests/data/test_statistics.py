"""Statistics of datasets that are small enough to count by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from amodal.data.datasets import read_dataset
from amodal.data.statistics import compute_statistics, plot_statistics
from amodal.errors import InputError
from tests.data import written
from tests.data.toy import write_toy
from tests.data.written import write


def test_counts_of_a_small_dataset(tmp_path: Path) -> None:
    """Three images, each with a square of 24 x 24 that is occluded by a quarter and a square that is not occluded."""
    content = json.loads(
        json.dumps(compute_statistics(read_dataset("canonical", write_toy(tmp_path / "toy", 3))).to_json())
    )
    assert (content["num_images"], content["num_objects"], content["num_with_amodal_mask"]) == (3, 6, 6)
    assert (content["num_occluded"], content["num_occlusion_relations"]) == (3, 3)
    assert content["mean_occlusion_rate"] == pytest.approx(0.125)
    assert content["objects_per_image"] == {"mean": 2.0, "max": 2}
    assert content["visible_area"] == {"min": 432, "median": 504.0, "max": 576}
    assert content["image_sizes"] == [{"size": [64, 64], "images": 3}]
    assert {r["range"]: r["objects"] for r in content["occlusion_rates"] if r["objects"]} == {"0 %": 3, "20-30 %": 3}
    assert content["categories"]["red"] == {"objects": 3, "occluded": 3, "mean_occlusion_rate": pytest.approx(0.25)}


def test_stuff_annotators_and_derived_relations(tmp_path: Path) -> None:
    statistics = compute_statistics(read_dataset("cocoa", write(tmp_path, written.cocoa())))
    assert statistics.annotators == {"ann": 2, "bob": 2} and statistics.num_stuff == 2
    assert statistics.num_relations == 2, "one stated, one derived"
    assert list(statistics.categories) == ["car", "van"]


def test_modal_masks_have_no_rates(tmp_path: Path) -> None:
    content = compute_statistics(read_dataset("coco", write(tmp_path, written.coco()))).to_json()
    assert content["num_objects"] == 2 and content["num_with_amodal_mask"] == 0
    assert content["mean_occlusion_rate"] is None
    assert content["categories"]["car"]["mean_occlusion_rate"] is None


def test_borders_of_the_ranges(tmp_path: Path) -> None:
    """A rate of exactly 10 % belongs to the lower range, a rate of 100 % to the last range."""
    content = written.canonical()
    visible = written.BACK.copy()
    visible[2, 3:15] = False  # 12 of 120 pixels
    content["annotations"][0]["visible_mask"] = written.rle(visible)
    content["annotations"][1]["visible_mask"] = written.rle(written.BACK & ~written.BACK)
    ranges = dict(compute_statistics(read_dataset("canonical", write(tmp_path, content))).ranges())
    assert ranges["0-10 %"] == 1 and ranges["90-100 %"] == 1 and sum(ranges.values()) == 2


def test_an_empty_dataset(tmp_path: Path) -> None:
    content = compute_statistics(read_dataset("coco", write(tmp_path, {"images": [], "annotations": []}))).to_json()
    assert content["num_objects"] == 0 and content["objects_per_image"]["mean"] == 0


def test_the_plot(tmp_path: Path) -> None:
    statistics = compute_statistics(read_dataset("canonical", write_toy(tmp_path / "toy", 3)))
    plot_statistics(statistics, tmp_path / "made" / "stats.png")
    with Image.open(tmp_path / "made" / "stats.png") as image:
        assert image.width > 800
    with pytest.raises(InputError, match="plot: expected a .png, .pdf or .svg file"):
        plot_statistics(statistics, tmp_path / "stats.txt")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="plot: expected a file to write"):
        plot_statistics(statistics, tmp_path / "file" / "stats.png")
