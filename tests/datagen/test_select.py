"""Selection: which images and objects enter a work folder, and on which side of the split."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amodal.data.datasets import read_dataset
from amodal.datagen.select import DatasetSource, ImageSelection, parse_split, preview, select
from amodal.datagen.store.work_folder import WorkFolder
from amodal.errors import InputError
from tests.datagen.toy_work import write_many

Works = Callable[..., WorkFolder]


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_records_equal_those_of_the_source(tmp_path: Path) -> None:
    path = write_many(tmp_path / "many", 3)
    source = json.loads(path.read_text())
    with select([DatasetSource("canonical", path)], ImageSelection(min_area=1), tmp_path / "work") as work:
        for record in source["annotations"]:
            kept = next(one for one in work.object_records(record["image_id"]) if one["id"] == record["id"])
            for key in ("segmentation", "visible_mask", "bbox", "visible_bbox", "occlude_rate", "occluders", "area"):
                assert kept[key] == record[key], key
        assert work.categories() == {1: "mug", 2: "book"}
        again = read_dataset("canonical", work.folder / "annotations.json")
        assert again.num_objects == 6
        assert [image.load().shape for image in again.images] == [(32, 32, 3)] * 3
        sample = work.sample(work.image(1))
        assert sample.objects[0].occluders == (2,) and sample.objects[1].occluders == ()


def test_filters(tmp_path: Path) -> None:
    path = write_many(tmp_path / "many", 2)
    sources = [DatasetSource("canonical", path)]

    def taken(**settings: object) -> list[int]:
        folder = tmp_path / f"work{len(list(tmp_path.iterdir()))}"
        with select(sources, ImageSelection(**settings), folder) as work:
            return [record["id"] for image in work.images() for record in work.object_records(image.id)]

    assert taken() == [1, 2, 3, 4]
    assert taken(categories=("book",)) == [2, 4]
    assert taken(min_area=250) == [2, 4], "192 pixels of the mug are visible"
    assert taken(max_occlusion=0.2) == [2, 4], "a quarter of the mug is occluded"
    assert taken(min_occlusion=0.2) == [1, 2, 3, 4]
    assert len(taken(max_images=1)) == 2
    for settings, message in (
        ({"min_occlusion": 0.3}, "2 images without an object that is occluded enough"),
        ({"max_objects": 1}, "2 images with too few or too many objects"),
        ({"min_area": 2000}, "4 objects with too few visible pixels"),
        ({"categories": ("dog",)}, "category: expected one of the dataset's, got dog"),
    ):
        before = sorted(tmp_path.iterdir())
        with pytest.raises(InputError, match=message):
            taken(**settings)
        assert sorted(tmp_path.iterdir()) == before, "nothing is left behind"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test_share": 1.5}, "test_share: expected a share"),
        ({"min_objects": 3, "max_objects": 2}, "max_objects: expected 3 or more"),
        ({"max_images": 0}, "max_images: expected 1 or more"),
        ({"seed": -1}, "seed: expected 0 or more"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageSelection(**settings)


def test_the_drawn_split_depends_on_the_file_name(tmp_path: Path) -> None:
    path = write_many(tmp_path / "many", 200)
    sides = {}
    for name, settings in (("a", {}), ("b", {"max_images": 60}), ("c", {"seed": 1})):
        with select([DatasetSource("canonical", path)], ImageSelection(**settings), tmp_path / name) as work:
            sides[name] = {image.file_name: image.split for image in work.images()}
    assert 40 < sum(side == "test" for side in sides["a"].values()) < 105, "about 36 % of 200"
    assert sides["b"].items() <= sides["a"].items()
    assert sides["c"] != sides["a"]


def test_official_splits_are_kept(tmp_path: Path) -> None:
    first = write_many(tmp_path / "one", 3)
    train = first.rename(first.with_name("COCO_amodal_train2014.json"))
    second = write_many(tmp_path / "two", 2)
    val = second.rename(second.with_name("COCO_amodal_val2014.json"))
    with select(
        [DatasetSource("canonical", train), DatasetSource("canonical", val)], ImageSelection(), tmp_path / "work"
    ) as work:
        assert [image.split for image in work.images()] == ["train"] * 3 + ["test"] * 2
        assert [image.id for image in work.images()] == [1, 2, 3, 4, 5], "ids of the second file are raised"
        assert [record["id"] for record in work.object_records(5)] == [9, 10]
        assert work.sample(work.image(5)).objects[0].occluders == (10,)
        assert len({image.file_name for image in work.images()}) == 5
    with select([DatasetSource("canonical", val, split="train")], ImageSelection(), tmp_path / "told") as work:
        assert {image.split for image in work.images()} == {"train"}
    sides = [DatasetSource("canonical", train), DatasetSource("canonical", train, split="test")]
    with pytest.raises(InputError, match="on one side, got it in train and in test"):
        select(sides, ImageSelection(), tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_a_split_in_the_records_is_kept(tmp_path: Path) -> None:
    path = write_many(tmp_path / "many", 4)
    edited(path, lambda content: [image.update(split="test") for image in content["images"]])
    with select([DatasetSource("canonical", path)], ImageSelection(), tmp_path / "work") as work:
        assert {image.split for image in work.images()} == {"test"}


def test_categories_of_several_sources_are_matched_by_name(tmp_path: Path) -> None:
    first, second = write_many(tmp_path / "one", 1), write_many(tmp_path / "two", 1)
    edited(second, lambda content: content.update(categories=[{"id": 1, "name": "book"}, {"id": 2, "name": "lamp"}]))
    with select(
        [DatasetSource("canonical", first), DatasetSource("canonical", second)], ImageSelection(), tmp_path / "work"
    ) as work:
        names = work.categories()
        found = [[names[record["category_id"]] for record in work.object_records(i)] for i in (1, 2)]
    assert found == [["mug", "book"], ["book", "lamp"]]


def test_modal_datasets_need_an_option(tmp_path: Path) -> None:
    def modal(content: dict[str, Any]) -> None:
        kept = ("id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd")
        content["annotations"] = [{key: one[key] for key in kept} for one in content["annotations"]]

    path = edited(write_many(tmp_path / "many", 1), modal)
    with pytest.raises(InputError, match="2 objects whose amodal mask is unknown"):
        select([DatasetSource("coco", path)], ImageSelection(), tmp_path / "work")
    with select([DatasetSource("coco", path)], ImageSelection(allow_modal=True), tmp_path / "work") as work:
        assert all(record["attributes"]["amodal_unknown"] for record in work.object_records(1))


def test_bad_folders_and_missing_images(tmp_path: Path) -> None:
    path = write_many(tmp_path / "many", 1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="expected a new or empty folder"):
        select([DatasetSource("canonical", path)], ImageSelection(), tmp_path / "full")
    with pytest.raises(InputError, match="expected at least one file"):
        select([], ImageSelection(), tmp_path / "work")
    (tmp_path / "many" / "images" / "000000.png").unlink()
    with pytest.raises(InputError, match="image: expected a file"):
        select([DatasetSource("canonical", path)], ImageSelection(), tmp_path / "work")
    assert not list(tmp_path.glob("*work*"))


def test_remains_of_a_killed_selection_are_removed(tmp_path: Path) -> None:
    path = write_many(tmp_path / "many", 1)
    (tmp_path / ".writing_work").mkdir()
    (tmp_path / ".writing_work" / "state.db").write_text("half")
    select([DatasetSource("canonical", path)], ImageSelection(), tmp_path / "work").close()
    assert not (tmp_path / ".writing_work").exists()


def test_preview(tmp_path: Path) -> None:
    dataset = read_dataset("canonical", write_many(tmp_path / "many", 3))
    assert preview(dataset, None, ImageSelection()).id == 1
    assert preview(dataset, 2, ImageSelection()).objects[0].occluders == (4,)
    with pytest.raises(InputError, match="expected image 9 with objects, got none"):
        preview(dataset, 9, ImageSelection())


def test_split_names() -> None:
    assert parse_split("auto") is None and parse_split(None) is None and parse_split("test") == "test"
    with pytest.raises(InputError, match="split: expected auto, train or test, got 'val'"):
        parse_split("val")
