"""Reading annotation files, and the one-line errors of invalid files."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amodal.data.datasets import read_dataset
from amodal.data.samples import ObjectSample
from amodal.errors import InputError
from amodal.ops.rle import encode_mask
from tests.data.toy import BACK_VISIBLE, write_toy
from tests.drawing import mask

SQUARE = [[1, 1, 5, 1, 5, 4, 1, 4]]
COCO: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "a/b.png", "height": 6, "width": 8},
        {"id": 3, "file_name": "c.png", "height": 2, "width": 4},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 2, "segmentation": SQUARE, "iscrowd": 0},
        {
            "id": 2,
            "image_id": 7,
            "category_id": 2,
            "segmentation": {"size": [6, 8], "counts": [0, 6, 42]},
            "iscrowd": 1,
        },
        {"id": 3, "image_id": 3, "category_id": 5, "segmentation": encode_mask(mask("....", "...."))},
        {"id": 4, "image_id": 99, "category_id": 2, "segmentation": SQUARE},
    ],
    "categories": [{"id": 2, "name": "cup"}, {"id": 5, "name": "plate"}],
}


def write(folder: Path, content: Any) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    path = folder / "instances.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def read_objects(format_name: str, path: Path) -> list[ObjectSample]:
    return [obj for image in read_dataset(format_name, path).images for obj in image.objects]


def test_coco_has_visible_masks_only(tmp_path: Path) -> None:
    dataset = read_dataset("coco", write(tmp_path, COCO))
    assert [image.id for image in dataset.images] == [7, 3]
    assert dataset.images[0].path == tmp_path / "images" / "a" / "b.png"
    assert dataset.images[0].size == (6, 8)
    assert dataset.categories == {2: "cup", 5: "plate"}
    assert dataset.num_objects == 3, "one more annotation has no listed image"
    square, crowd = dataset.images[0].objects
    assert square.visible_box_xyxy == (1, 1, 5, 4)
    assert square.visible_mask().sum() == 12
    assert square.amodal_mask() is None and square.amodal_box_xyxy is None
    assert (square.iscrowd, crowd.iscrowd) == (False, True)
    assert np.array_equal(np.flatnonzero(crowd.visible_mask().any(axis=0)), [0])


def test_canonical_has_both_masks(tmp_path: Path) -> None:
    dataset = read_dataset("canonical", write_toy(tmp_path / "toy", count=2))
    assert dataset.categories == {1: "red", 2: "green"}
    back, front = dataset.images[1].objects
    assert (back.id, front.id) == (3, 4)
    assert back.occluders == (4,) and front.occluders == ()
    assert back.visible_mask().sum() == BACK_VISIBLE
    amodal = back.amodal_mask()
    assert amodal is not None and amodal.sum() == 24 * 24
    assert back.amodal_box_xyxy == (7, 8, 31, 32)


def test_pycocotools_opens_the_canonical_file(tmp_path: Path) -> None:
    from pycocotools import coco as pycocotools

    coco = pycocotools.COCO(str(write_toy(tmp_path / "toy", count=2)))
    assert [coco.annToMask(a).sum() for a in coco.loadAnns(coco.getAnnIds(imgIds=[1]))] == [576, 576]


def set_in(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        place: Any = content
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("annotations"), "expected coco with lists 'images' and 'annotations', got other content"),
        (set_in("images", to={}), "got other content .no 'images'"),
        (set_in("annotations", 0, to=3), "expected 'annotations' to be a list of objects"),
        (lambda c: c["images"][0].pop("width"), "to have id, file_name, height, width, got 7 without width"),
        (lambda c: c["annotations"][1].pop("segmentation"), "got 2 without segmentation"),
        (lambda c: c["annotations"][1].pop("id"), "got one without id without id"),
        (lambda c: c["categories"][0].pop("name"), "expected each of 'categories' in coco to have id, name"),
        (set_in("images", 1, "id", to=7), "expected images of different ids, got 7 twice"),
        (set_in("images", 0, "height", to=0), r"expected image 7 to have 1 to \d+ pixels, got \(0, 8\)"),
        (set_in("images", 0, "width", to="wide"), "expected the width of each image to be an integer, got 'wide'"),
        (set_in("annotations", 0, "category_id", to="cup"), "expected the category_id of each annotation"),
        (set_in("images", 0, "height", to=9), r"annotation 2: .*expected an RLE of size \[9, 8\]"),
        (set_in("annotations", 0, "segmentation", to="x"), "annotation 1: segmentation: expected polygons or an RLE"),
    ],
)  # fmt: skip
def test_invalid_coco_files_raise(tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    content = copy.deepcopy(COCO)
    change(content)
    with pytest.raises(InputError, match=message) as caught:
        read_objects("coco", write(tmp_path, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "visible_mask",
            {"size": [64, 64], "counts": "0"},
            "annotation 1: segmentation: expected runs over 4096 pixels",
        ),
        ("occluders", ["front"], "annotation 1: expected each of occluders to be an integer, got"),
        ("attributes", [1], "annotation 1: expected attributes by name, got"),
    ],
)
def test_invalid_canonical_files_raise(tmp_path: Path, key: str, value: Any, message: str) -> None:
    path = write_toy(tmp_path / "toy", count=1)
    content = json.loads(path.read_text())
    content["annotations"][0][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_objects("canonical", path)


def test_missing_and_broken_files_raise(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="annotations: expected a file, got .*none.json', which does not exist"):
        read_dataset("coco", tmp_path / "none.json")
    with pytest.raises(InputError, match="annotations: expected a file, got .* which is a folder"):
        read_dataset("coco", tmp_path)
    with pytest.raises(InputError, match="expected JSON, got broken text"):
        read_dataset("coco", write(tmp_path, '{"images": ['))
    path = write(tmp_path, COCO)
    with pytest.raises(InputError, match="images: expected a folder, got .* which does not exist"):
        read_dataset("coco", path, tmp_path / "nowhere")
    with pytest.raises(InputError, match="images: expected a folder, got .* which is a file"):
        read_dataset("coco", path, path)
    with pytest.raises(InputError, match="format: expected one of .*canonical, masks, labelme, cvat, c2f, got 'voc'"):
        read_dataset("voc", path)
