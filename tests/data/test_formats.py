"""Every dataset format is read into the same samples, with all information of the source."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amodal.data.datasets import FORMATS, guess_format, read_dataset
from amodal.data.formats.cocoa import constraint_pairs
from amodal.data.samples import ObjectSample
from amodal.errors import InputError
from tests.data import written
from tests.data.written import BACK, BOTH_MASKS, FILES, FRONT, HIDDEN, SEEN, write, write_masks


def objects(format_name: str, path: Path) -> list[ObjectSample]:
    return [obj for image in read_dataset(format_name, path).images for obj in image.objects]


def amodal(obj: ObjectSample) -> Any:
    mask = obj.amodal_mask()
    assert mask is not None
    return mask


@pytest.mark.parametrize("name", BOTH_MASKS)
def test_both_masks_are_read(tmp_path: Path, name: str) -> None:
    dataset = read_dataset(name, write(tmp_path, FILES[name]()))
    assert dataset.format == name and dataset.categories == {1: "car", 4: "van"}
    back, front = dataset.images[0].objects
    assert (back.category_id, front.category_id) == (1, 4)
    assert np.array_equal(amodal(back), BACK) and np.array_equal(back.visible_mask(), SEEN)
    assert np.array_equal(amodal(front), FRONT) and np.array_equal(front.visible_mask(), FRONT)
    assert back.amodal_box_xyxy == (3, 2, 15, 12)
    assert dataset.images[0].load().shape == (20, 30, 3)


@pytest.mark.parametrize("name", [*FILES, "masks"])
def test_the_format_is_guessed(tmp_path: Path, name: str) -> None:
    if name == "masks":
        path = write_masks(tmp_path, "a", {"car_1_visible": SEEN})
    else:
        path = write(tmp_path, FILES[name]())
    assert guess_format(path) == name


def test_no_format_is_guessed_without_annotations(tmp_path: Path) -> None:
    assert guess_format(write(tmp_path, {"images": [], "annotations": []})) is None
    assert guess_format(write(tmp_path, {"images": [], "annotations": [{"id": 1}]})) is None
    assert guess_format(tmp_path / "images") is None


def test_kins2020_order(tmp_path: Path) -> None:
    back, front = objects("kins2020", write(tmp_path, written.kins2020()))
    assert (back.order, back.order_group, front.order, front.order_group) == (2, 0, 1, 0)
    assert back.attributes["ico_id"] == 2 and not back.occluders_known


def test_kins2019_image_attributes(tmp_path: Path) -> None:
    dataset = read_dataset("kins2019", write(tmp_path, written.kins2019()))
    assert set(dataset.images[0].attributes) == {"amodal_full"}
    assert dataset.images[0].attributes["amodal_full"]["size"] == [20, 30]


def test_cocoa_names_become_categories_and_annotators_are_kept(tmp_path: Path) -> None:
    dataset = read_dataset("cocoa", write(tmp_path, written.cocoa()))
    assert dataset.categories == {1: "car", 2: "van"}
    assert dataset.images[0].attributes == {"license": "?", "data_captured": "2013-11-14"}
    front, back, other_front, other_back = dataset.images[0].objects
    assert [obj.id for obj in dataset.images[0].objects] == [7001, 7002, 8001, 8002]
    assert [front.annotator, other_front.annotator] == ["ann", "bob"]
    assert np.array_equal(amodal(back), BACK) and np.array_equal(back.visible_mask(), SEEN)
    assert np.array_equal(amodal(front), FRONT) and np.array_equal(front.visible_mask(), FRONT), (
        "without masks, the object is fully visible"
    )
    assert (front.category_id, back.category_id) == (2, 1) and front.attributes["name"] == "Van "
    assert (front.is_stuff, back.is_stuff) == (False, True)
    assert (front.order, back.order, back.order_group, other_back.order_group) == (1, 4, 7, 8)
    assert back.occluders == (7001,) and back.occluders_known
    assert other_back.occluders == () and not other_back.occluders_known, "unknown without depth_constraint"
    assert back.attributes["size"] == 3


def test_an_empty_cocoa_constraint_states_that_nothing_is_occluded(tmp_path: Path) -> None:
    content = written.cocoa()
    content["annotations"][0]["depth_constraint"] = ""
    back = objects("cocoa", write(tmp_path, content))[1]
    assert back.occluders == () and back.occluders_known


def test_cocoa_visible_mask_follows_from_the_invisible_mask(tmp_path: Path) -> None:
    content = written.cocoa()
    del content["annotations"][0]["regions"][1]["visible_mask"]
    assert np.array_equal(objects("cocoa", write(tmp_path, content))[1].visible_mask(), SEEN)


@pytest.mark.parametrize(
    ("text", "message"),
    [("1>2", "as 'i-j,k-l'"), ("1-3", "two of 2 regions"), ("0-1", "two of 2"), ("2-2", "two of 2"), (7, "as 'i-j")],
)
def test_invalid_constraints_raise(tmp_path: Path, text: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        constraint_pairs(text, 2)
    content = written.cocoa()
    content["annotations"][0]["depth_constraint"] = text
    with pytest.raises(InputError, match=message):
        objects("cocoa", write(tmp_path, content))


def test_constraints() -> None:
    assert constraint_pairs("1-2, 3-1,", 3) == [(1, 2), (3, 1)]
    assert constraint_pairs("", 0) == []


def test_single_cocoa_records(tmp_path: Path) -> None:
    record = written.cocoa()["annotations"][0]
    path = write(tmp_path, record)
    assert guess_format(path) == "cocoa"
    image = read_dataset("cocoa", path).images[0]
    assert image.file_name == "a.png" and image.id == 5 and len(image.objects) == 2
    (tmp_path / "many").mkdir()
    for number, author in ((7, "ann"), (9, "eve")):
        text = json.dumps(record | {"id": number, "author": author})
        (tmp_path / "many" / f"{number}.json").write_text(text)
    dataset = read_dataset("cocoa", tmp_path / "many", tmp_path / "images")
    assert [o.id for o in dataset.images[0].objects] == [7001, 7002, 9001, 9002], "two annotators, one image"
    assert dataset.num_objects == 4 and dataset.images[0].attributes == {"url": "http://x/a.png"}


def test_invalid_single_cocoa_records_raise(tmp_path: Path) -> None:
    record = written.cocoa()["annotations"][0]
    with pytest.raises(InputError, match="without id"):
        read_dataset("cocoa", write(tmp_path, {k: v for k, v in record.items() if k != "id"}))
    with pytest.raises(InputError, match="expected JSON, got broken text"):
        read_dataset("cocoa", write(tmp_path, '{"regions": ['))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="expected a folder of JSON files"):
        read_dataset("cocoa", tmp_path / "empty")
    bare = record | {"regions": record["regions"][:1], "url": ""}
    (tmp_path / "empty" / "r.json").write_text(json.dumps(bare))
    with pytest.raises(InputError, match="does not say its size"):
        read_dataset("cocoa", tmp_path / "empty")


@pytest.mark.parametrize(
    ("regions", "message"),
    [({}, "regions of annotation 7 as a list"), ([1], "as a list of objects"), ([{}] * 1000, "fewer than 1000")],
)
def test_invalid_regions_raise(tmp_path: Path, regions: Any, message: str) -> None:
    content = written.cocoa()
    content["annotations"][0]["regions"] = regions
    with pytest.raises(InputError, match=message):
        read_dataset("cocoa", write(tmp_path, content))


def test_cocoa_cls_depth_and_stuff(tmp_path: Path) -> None:
    back, front = objects("cocoa_cls", write(tmp_path, written.cocoa_cls()))
    assert (back.order, front.order) == (1, 0)
    assert back.is_stuff and back.attributes["amodal_region"]["order"] == 4


def test_d2sa_file_without_annotations(tmp_path: Path) -> None:
    content = written.d2sa()
    del content["annotations"]
    path = write(tmp_path, content)
    assert read_dataset("d2sa", path).num_objects == 0 and guess_format(path) is None
    with pytest.raises(InputError, match="no 'annotations'"):
        read_dataset("cocoa_cls", path)


@pytest.mark.parametrize("name", FILES)
def test_a_mask_of_null_raises(tmp_path: Path, name: str) -> None:
    content = FILES[name]()
    key = {"kins2020": "a_segm", "cocoa": "regions"}.get(name, "segmentation")
    content["annotations"][0][key] = None
    with pytest.raises(InputError, match=f"without {key}"):
        read_dataset(name, write(tmp_path, content))


def test_coco_has_no_amodal_mask(tmp_path: Path) -> None:
    back, front = objects("coco", write(tmp_path, written.coco()))
    assert back.amodal_mask() is None and np.array_equal(front.visible_mask(), FRONT)


def test_a_folder_of_masks(tmp_path: Path) -> None:
    write(tmp_path, {})
    folder = write_masks(
        tmp_path,
        "a",
        {"wine glass_2_amodal": BACK, "wine glass_2_occluded": HIDDEN, "car_1_visible": FRONT},
    )
    write_masks(tmp_path, "b", {"car_07_visible": SEEN, "car_07_amodal": BACK})
    dataset = read_dataset("masks", folder)
    assert dataset.categories == {1: "car", 2: "wine glass"}
    assert [(i.id, i.file_name, len(i.objects)) for i in dataset.images] == [(1, "a.png", 2), (2, "b.jpg", 1)]
    car, glass = dataset.images[0].objects
    assert car.amodal_mask() is None and np.array_equal(car.visible_mask(), FRONT)
    assert np.array_equal(amodal(glass), BACK) and np.array_equal(glass.visible_mask(), SEEN)
    assert (car.id, glass.id, dataset.images[1].objects[0].id) == (1, 2, 3)
    assert dataset.images[1].objects[0].attributes == {"number": 7}


def test_folders_without_usable_masks_raise(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder of folders of masks"):
        read_dataset("masks", write(tmp_path, {}))
    with pytest.raises(InputError, match="expected masks NAME/CATEGORY_NUMBER_visible.png, got none"):
        read_dataset("masks", tmp_path)
    folder = write_masks(tmp_path, "a", {"car_1_amodal": BACK})
    with pytest.raises(InputError, match="expected a/car_1_visible.png, or _amodal.png with _occluded.png, got amodal"):
        read_dataset("masks", folder)
    (folder / "a" / "car_1_visible.png").write_text("no image")
    with pytest.raises(InputError, match="car_1_visible.png: expected an image, got a file of another kind"):
        objects("masks", folder)


@pytest.mark.parametrize("wrong", [name for name in FORMATS if name != "masks"])
@pytest.mark.parametrize("name", FILES)
def test_a_wrong_format_raises_or_reads_the_same(tmp_path: Path, name: str, wrong: str) -> None:
    """COCOA-cls, D2SA and the canonical format share their keys, so each can be read as the others."""
    path = write(tmp_path, FILES[name]())
    same = {"cocoa_cls", "d2sa", "canonical"}
    if wrong == name or {wrong, name} <= same:
        masks = [obj.visible_mask() for obj in objects(wrong, path)]
        assert np.array_equal(masks[:2], [FRONT, SEEN] if name == "cocoa" else [SEEN, FRONT])
    else:
        with pytest.raises(InputError, match=rf"the file looks like {name}\b"):
            read_dataset(wrong, path)


def test_records_of_both_kins_releases_in_one_file_raise(tmp_path: Path) -> None:
    content = written.kins2020()
    content["annotations"][1] |= {"inmodal_seg": written.kins2019()["annotations"][1]["inmodal_seg"]}
    with pytest.raises(InputError, match="got annotation 2 with inmodal_seg"):
        read_dataset("kins2020", write(tmp_path, content))


def test_polygons_of_two_points_are_skipped(tmp_path: Path) -> None:
    content = written.kins2019()
    content["annotations"][0]["segmentation"].append([1, 1, 2, 2])
    content["annotations"][1]["segmentation"] = [[1, 1, 2, 2]]
    back, front = objects("kins2019", write(tmp_path, content))
    assert np.array_equal(amodal(back), BACK) and not amodal(front).any()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 1, 5, 1, float("nan"), 4]], "annotation 1: segmentation: expected finite coordinates"),
        ([[1, 1, 5, 1, 5]], "expected polygons of three points or more"),
        ({"size": [20, 30], "counts": "0" * 10_000_000}, r"expected at most 4207 counts for \(20, 30\) pixels"),
        ({"size": [99999, 99999], "counts": "1"}, r"expected an RLE of size \[20, 30\]"),
        ("everything", "expected polygons or an RLE, got str"),
    ],
)
def test_invalid_masks_raise_on_access(tmp_path: Path, segmentation: Any, message: str) -> None:
    content = written.kins2019()
    content["annotations"][0]["segmentation"] = segmentation
    path = write(tmp_path, content)
    dataset = read_dataset("kins2019", path)
    with pytest.raises(InputError, match=message) as caught:
        dataset.images[0].objects[0]
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_huge_images_raise(tmp_path: Path) -> None:
    content = written.coco()
    content["images"][0] |= {"height": 10**6, "width": 10**6}
    with pytest.raises(InputError, match="expected image 5 to have 1 to 400000000 pixels"):
        read_dataset("coco", write(tmp_path, content))


def test_objects_are_read_on_access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = read_dataset("canonical", write(tmp_path, written.canonical()))
    calls: list[int] = []
    reader = FORMATS["canonical"].parse
    monkeypatch.setattr("amodal.data.index.to_sample", lambda *a: calls.append(1) or reader)
    assert dataset.num_objects == 2 and not calls
    assert dataset.images[0].objects[0] is reader and len(calls) == 2
    assert dataset.images[0].objects[1] is reader and len(calls) == 2, "the objects of the image are cached"


def test_a_dataset_can_be_pickled(tmp_path: Path) -> None:
    dataset = read_dataset("cocoa_cls", write(tmp_path, written.cocoa_cls()))
    assert dataset.images[0].objects[0].id == 1
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.images[0].objects == dataset.images[0].objects
    assert copy.images[0].objects[-1].id == 2 and [o.id for o in copy.images[0].objects[:1]] == [1]


def test_a_changed_file_raises(tmp_path: Path) -> None:
    path = write(tmp_path, written.coco())
    dataset = read_dataset("coco", path)
    path.write_text(path.read_text() + " ")
    with pytest.raises(InputError, match="expected the file as it was opened, got a changed one"):
        dataset.images[0].objects[0]


def test_ids_stored_as_text_or_floats(tmp_path: Path) -> None:
    content = written.coco()
    content["annotations"][0]["image_id"] = "5"
    content["images"][0]["id"] = 5.0
    assert read_dataset("coco", write(tmp_path, content)).num_objects == 2
    content["annotations"][0]["image_id"] = True
    with pytest.raises(InputError, match="image_id of each annotation to be an integer, got True"):
        read_dataset("coco", write(tmp_path, content))


def test_extras_of_a_dataset(tmp_path: Path) -> None:
    content = {"info": {"year": 2014}, "licenses": [{"id": 1}], "empty": []} | written.coco()
    content["categories"] = [{"id": 1, "name": "car", "supercategory": "vehicle"}, 3]
    with pytest.raises(InputError, match="'categories' to be a list of objects, got one int"):
        read_dataset("coco", write(tmp_path, content))
    del content["categories"][1]
    extras = read_dataset("coco", write(tmp_path, content)).extras
    assert extras["info"] == {"year": 2014} and extras["licenses"] == [{"id": 1}] and extras["empty"] == []
    assert extras["category_details"] == {"1": {"supercategory": "vehicle"}}
