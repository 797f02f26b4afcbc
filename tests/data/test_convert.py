"""Masks survive a round trip through every format, and information that a format cannot store is reported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from amodal.data.convert import TARGETS, convert
from amodal.data.datasets import read_dataset
from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.data.validation.validate import validate
from amodal.errors import InputError
from amodal.ops.arrays import Mask
from amodal.ops.rle import decode_mask, encode_mask, rle_box_xyxy, segmentation_to_rle
from tests.data import written
from tests.data.written import BACK, FILES, FRONT, SEEN, write, write_masks

Pair = tuple[Mask, Mask]
"""Visible and amodal mask."""

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def images(draw: st.DrawFn) -> list[list[Pair]]:
    """One to three images of 0 to 4 objects each; visible masks may be empty, amodal masks may not."""
    sizes = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3))
    return [draw(st.lists(pairs(size), min_size=i == 0, max_size=4)) for i, size in enumerate(sizes)]


@st.composite
def pairs(draw: st.DrawFn, size: tuple[int, int]) -> Pair:
    amodal = draw(arrays(bool, size))
    amodal[draw(st.integers(0, size[0] - 1)), draw(st.integers(0, size[1] - 1))] = True
    return amodal & draw(arrays(bool, size)), amodal


def sample(number: int, visible: Mask, amodal: Mask | None, **more: Any) -> ObjectSample:
    seen, whole = encode_mask(visible), None if amodal is None else encode_mask(amodal)
    box = None if whole is None else rle_box_xyxy(whole)
    return ObjectSample(number, 1 + number % 2, seen, whole, rle_box_xyxy(seen), box, **more)


def dataset_of(content: list[list[Pair]], folder: Path) -> AnnotatedDataset:
    made, number = [], 0
    for i, objects in enumerate(content):
        size = objects[0][0].shape if objects else (4, 5)
        name = f"{i}.png"
        things = tuple(sample(number + k, *pair) for k, pair in enumerate(objects, start=1))
        number += len(objects)
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(folder / name)
        made.append(ImageSample(10 + i, folder / name, *size, things, name))
    return AnnotatedDataset(tuple(made), {1: "cup", 2: "plate"}, "made")


def masks_of(dataset: AnnotatedDataset) -> list[list[tuple[int, int, Mask, Mask | None]]]:
    return [[(o.id, o.category_id, o.visible_mask(), o.amodal_mask()) for o in i.objects] for i in dataset.images]


def assert_same(found: Any, wanted: Any) -> None:
    assert [[o[:2] for o in image] for image in found] == [[o[:2] for o in image] for image in wanted]
    for image, other in zip(found, wanted, strict=True):
        for obj, like in zip(image, other, strict=True):
            for mask, same in zip(obj[2:], like[2:], strict=True):
                assert (mask is None) == (same is None)
                assert mask is None or (mask.shape == same.shape and np.array_equal(mask, same))


@pytest.mark.parametrize("target", ["canonical", "cocoa_cls", "kins2020"])
@QUICK
@given(content=images())
def test_both_masks_round_trip(tmp_path: Path, target: str, content: list[list[Pair]]) -> None:
    dataset = dataset_of(content, tmp_path)
    done = convert(dataset, target, tmp_path / "out.json")
    back = read_dataset(target, done.files[0], tmp_path)
    assert_same(masks_of(back), masks_of(dataset))
    assert [(i.id, i.file_name, i.size) for i in back.images] == [(i.id, i.file_name, i.size) for i in dataset.images]
    assert back.categories == dataset.categories
    report = validate(target, done.files[0], tmp_path)
    harmless = {"empty_visible", "duplicate_object", "empty_category"}
    assert set(report.kinds()) <= harmless, "the writer adds no fault"


@pytest.mark.parametrize("which", ["amodal", "visible"])
@QUICK
@given(content=images())
def test_one_mask_round_trips_through_coco(tmp_path: Path, which: Any, content: list[list[Pair]]) -> None:
    dataset = dataset_of(content, tmp_path)
    done = convert(dataset, "coco", tmp_path / "out.json", coco_masks=which)
    place = 3 if which == "amodal" else 2
    wanted = [[(*o[:2], o[place], None) for o in image] for image in masks_of(dataset)]
    assert_same(masks_of(read_dataset("coco", done.files[0], tmp_path)), wanted)


@settings(QUICK, max_examples=10)
@given(content=images())
def test_both_masks_round_trip_through_parquet(
    tmp_path_factory: pytest.TempPathFactory, content: list[list[Pair]]
) -> None:
    import pyarrow.parquet as parquet

    folder = tmp_path_factory.mktemp("parquet")
    dataset = dataset_of(content, folder)
    done = convert(dataset, "parquet", folder / "out", shard_bytes=1)
    assert len(done.files) == len(dataset.images), "one shard per image at this limit"
    rows = [row for file in done.files for row in parquet.read_table(file).to_pylist()]
    keys = ("id", "category_id")
    found = [
        [(*(o[k] for k in keys), decode_mask(o["visible_mask"]), decode_mask(o["amodal_mask"])) for o in row["objects"]]
        for row in rows
    ]
    assert_same(found, masks_of(dataset))


@QUICK
@given(content=images())
def test_masks_round_trip_through_formats_without_a_writer(
    tmp_path_factory: pytest.TempPathFactory, content: Any
) -> None:
    """KINS 2019 and D2SA with RLEs, and a folder of masks."""
    folder = tmp_path_factory.mktemp("read")
    dataset = dataset_of(content, folder)
    wanted = masks_of(dataset)
    files = json.loads(convert(dataset, "cocoa_cls", folder / "d2sa.json").files[0].read_text())
    assert_same(masks_of(read_dataset("d2sa", folder / "d2sa.json", folder)), wanted)
    for record in files["annotations"]:
        record["inmodal_seg"] = record.pop("visible_mask")
    (folder / "kins.json").write_text(json.dumps(files))
    assert_same(masks_of(read_dataset("kins2019", folder / "kins.json", folder)), wanted)
    for position, image in enumerate(wanted):
        names = {f"x_{o[0]}_visible": o[2] for o in image} | {f"x_{o[0]}_amodal": o[3] for o in image}
        path = write_masks(folder, f"{position}", names)
    found = [[o[2:] for o in image] for image in masks_of(read_dataset("masks", path, folder))]
    for image, other in zip(found, [[o[2:] for o in image] for image in wanted if image], strict=True):
        assert all(
            np.array_equal(a, b)
            for pair, like in zip(image, other, strict=True)
            for a, b in zip(pair, like, strict=True)
        )


POLYGON = st.lists(st.floats(0, 12, width=16), min_size=6, max_size=12).filter(lambda p: len(p) % 2 == 0)


@QUICK
@given(outlines=st.lists(st.tuples(POLYGON, arrays(bool, (10, 12))), min_size=1, max_size=4))
def test_cocoa_outlines_and_masks_are_read(tmp_path: Path, outlines: list[tuple[list[float], Mask]]) -> None:
    regions, wanted = [], []
    for polygon, noise in outlines:
        amodal = decode_mask(segmentation_to_rle([polygon], 10, 12))
        visible = amodal & noise
        region: dict[str, Any] = {"segmentation": polygon, "name": "thing", "isStuff": 0, "order": 1}
        if (amodal & ~visible).any():
            region |= {"visible_mask": encode_mask(visible), "invisible_mask": encode_mask(amodal & ~visible)}
        regions.append(region)
        wanted.append((visible, amodal))
    image = {"id": 1, "file_name": "a.png", "height": 10, "width": 12}
    content = {"images": [image], "annotations": [{"id": 3, "image_id": 1, "regions": regions}]}
    (tmp_path / "cocoa.json").write_text(json.dumps(content))
    for obj, pair in zip(read_dataset("cocoa", tmp_path / "cocoa.json").images[0].objects, wanted, strict=True):
        found = (obj.visible_mask(), obj.amodal_mask())
        assert all(mask is not None and np.array_equal(mask, same) for mask, same in zip(found, pair, strict=True))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", FILES)
def test_any_format_to_any_target(tmp_path: Path, name: str, target: str) -> None:
    dataset = read_dataset(name, write(tmp_path, FILES[name]()))
    if name == "coco" and target not in ("canonical", "parquet"):
        with pytest.raises(InputError, match=f"expected objects with amodal masks, as {target} needs them, got none"):
            convert(dataset, target, tmp_path / "out")
        assert not list(tmp_path.rglob("*.json*"))[1:], "nothing is written"
        return
    done = convert(dataset, target, tmp_path / "out")
    assert (done.num_images, done.num_objects, done.num_left_out) == (1, dataset.num_objects, 0)
    if target not in ("coco", "parquet"):
        assert_same(masks_of(read_dataset(target, done.files[0], tmp_path / "images")), masks_of(dataset))


@pytest.mark.parametrize("name", FILES)
def test_the_canonical_format_keeps_everything(tmp_path: Path, name: str) -> None:
    content = {"info": {"year": 2014}} | FILES[name]()
    if "categories" in content:
        content["categories"][0]["supercategory"] = "vehicle"
    dataset = read_dataset(name, write(tmp_path, content))
    done = convert(dataset, "canonical", tmp_path / "out.json")
    assert done.lost.to_json() == {}
    back = read_dataset("canonical", tmp_path / "out.json", tmp_path / "images")
    assert back.extras == dataset.extras and back.categories == dataset.categories
    assert dict(back.images[0].attributes) == dict(dataset.images[0].attributes)
    for obj, other in zip(back.images[0].objects, dataset.images[0].objects, strict=True):
        known = {"occluders": obj.occluders, "occluders_known": obj.occluders_known}
        assert obj == replace(other, **known), "only the occluders are added"


@pytest.mark.parametrize("name", ["kins2019", "kins2020", "cocoa", "cocoa_cls"])
def test_occluders_are_derived_where_they_are_not_stated(tmp_path: Path, name: str) -> None:
    content = FILES[name]()
    for target in ("canonical", "cocoa_cls", "kins2020"):
        done = convert(read_dataset(name, write(tmp_path, content)), target, tmp_path / "out.json")
        assert done.num_derived == 2, "cocoa: those of its second annotator"
        things = read_dataset(target, tmp_path / "out.json", tmp_path / "images").images[0].objects
        back, front = [things[i] for i in ((3, 2) if name == "cocoa" else (0, 1))]
        assert back.occluders == (front.id,) and front.occluders == () and back.occluders_known


def test_orders_are_computed_unless_the_source_has_them(tmp_path: Path) -> None:
    def records(name: str, target: str) -> list[dict[str, Any]]:
        convert(read_dataset(name, write(tmp_path, FILES[name]())), target, tmp_path / "out.json")
        found: list[dict[str, Any]] = json.loads((tmp_path / "out.json").read_text())["annotations"]
        return found

    assert [r["occl_depth"] for r in records("kins2019", "cocoa_cls")] == [1, 0]
    assert [(r["oco_id"], r["ico_id"]) for r in records("kins2019", "kins2020")] == [(0, 2), (0, 1)]
    assert [r["ico_id"] for r in records("kins2020", "kins2020")] == [2, 1]
    region = records("cocoa_cls", "cocoa_cls")[0]["amodal_region"]
    assert region == written.cocoa_cls()["annotations"][0]["amodal_region"]
    assert [r["amodal_region"]["order"] for r in records("cocoa", "cocoa_cls")] == [1, 4, 1, 4]
    assert [r["amodal_region"]["isStuff"] for r in records("cocoa", "cocoa_cls")] == [0, 1, 0, 1]


def test_an_object_that_overlaps_nothing_has_order_0(tmp_path: Path) -> None:
    dataset = dataset_of([[(FRONT, FRONT)]], tmp_path)
    convert(dataset, "kins2020", tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["annotations"][0]["ico_id"] == 0


def test_lost_information_is_reported(tmp_path: Path) -> None:
    dataset = read_dataset("cocoa", write(tmp_path, written.cocoa()))
    lost = {
        (target, which): convert(dataset, target, tmp_path / "out.json", coco_masks=which).lost.to_json()
        for target, which in (("cocoa_cls", "amodal"), ("kins2020", "amodal"), ("coco", "amodal"), ("coco", "visible"))
    }
    attributes = {"objects": 4, "names": ["author", "name", "size", "url"]}
    assert lost["cocoa_cls", "amodal"] == {"annotators": {"objects": 4}, "attributes": attributes}
    assert lost["kins2020", "amodal"] == lost["cocoa_cls", "amodal"] | {"stuff flags": {"objects": 2}}
    common = lost["kins2020", "amodal"] | {"order of the source": {"objects": 4}, "occluders": {"objects": 1}}
    assert lost["coco", "amodal"] == common | {"visible masks": {"objects": 2}}
    assert lost["coco", "visible"] == common | {"amodal masks": {"objects": 2}}


def test_objects_without_amodal_mask_are_left_out_and_counted(tmp_path: Path) -> None:
    whole, modal = sample(1, SEEN, BACK), sample(2, FRONT, None)
    image = ImageSample(1, tmp_path / "a.png", *written.SIZE, (replace(whole, occluders=(2,)), modal), "a.png")
    dataset = AnnotatedDataset((image,), {1: "cup", 2: "plate"}, "made")
    done = convert(dataset, "cocoa_cls", tmp_path / "out.json")
    assert (done.num_objects, done.num_left_out) == (1, 1)
    assert done.lost.to_json() == {"objects whose amodal mask is unknown": {"objects": 1}}
    done = convert(dataset, "canonical", tmp_path / "out.json")
    back = read_dataset("canonical", tmp_path / "out.json", tmp_path).images[0].objects[1]
    assert done.num_left_out == 0 and back.amodal_rle is None and not back.occluders_known
    assert validate("canonical", tmp_path / "out.json").num_errors == 0


def test_the_datasets_library_streams_the_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    import datasets

    dataset = read_dataset("cocoa", write(tmp_path, written.cocoa()))
    done = convert(dataset, "parquet", tmp_path / "out", split="val2014")
    assert [file.name for file in done.files] == ["val2014-00000-of-00001.parquet"]
    pattern = str(tmp_path / "out" / "data" / "*.parquet")
    row = next(iter(datasets.load_dataset("parquet", data_files=pattern, streaming=True)["train"]))
    assert np.array_equal(np.array(row["image"]), dataset.images[0].load())
    assert (row["image_id"], row["file_name"], row["height"], row["width"]) == (5, "a.png", 20, 30)
    assert json.loads(row["attributes"]) == {"license": "?", "data_captured": "2013-11-14"}
    back = row["objects"][1]
    assert np.array_equal(decode_mask(back["amodal_mask"]), BACK)
    assert (back["id"], back["category"], back["occluders"], back["is_stuff"]) == (7002, "car", [7001], True)
    assert (back["annotator"], back["order"], back["order_group"]) == ("ann", 4, 7)
    assert json.loads(back["attributes"])["name"] == "car"
    whole = datasets.load_dataset(str(tmp_path / "out"), streaming=True)
    assert list(whole) == ["val2014"], "the card names the split"
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["categories"][0] == {"id": 1, "name": "car"}


def test_parquet_needs_the_images(tmp_path: Path) -> None:
    dataset = read_dataset("canonical", write(tmp_path, written.canonical()))
    Image.new("RGB", (7, 7)).save(tmp_path / "images" / "a.png")
    with pytest.raises(InputError, match=r"expected size \(20, 30\) as annotated, got \(7, 7\)"):
        convert(dataset, "parquet", tmp_path / "out")
    (tmp_path / "images" / "a.png").write_text("no image")
    with pytest.raises(InputError, match="expected an image, got a file of another kind"):
        convert(dataset, "parquet", tmp_path / "out")
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(InputError, match="which does not exist"):
        convert(dataset, "parquet", tmp_path / "out")
    assert not (tmp_path / "out").exists(), "no unfinished files"


def test_unwritable_targets_raise(tmp_path: Path) -> None:
    dataset = read_dataset("canonical", write(tmp_path, written.canonical()))
    (tmp_path / "file").touch()
    for target in ("canonical", "parquet"):
        with pytest.raises(InputError, match="out: expected"):
            convert(dataset, target, tmp_path / "file" / "inner")
    convert(dataset, "parquet", tmp_path / "out")
    with pytest.raises(InputError, match="expected a new or empty folder"):
        convert(dataset, "parquet", tmp_path / "out")
    with pytest.raises(InputError, match="split: expected letters and digits"):
        convert(dataset, "parquet", tmp_path / "other", split="a/b")


def test_unknown_targets_raise(tmp_path: Path) -> None:
    dataset = read_dataset("canonical", write(tmp_path, written.canonical()))
    with pytest.raises(InputError, match="to: expected one of canonical, .* got 'voc'"):
        convert(dataset, "voc", tmp_path / "out")
    with pytest.raises(InputError, match="masks: expected amodal or visible, got 'both'"):
        convert(dataset, "coco", tmp_path / "out", coco_masks="both")


def test_a_failed_conversion_leaves_no_files(tmp_path: Path) -> None:
    content = written.canonical()
    content["annotations"][1]["visible_mask"]["counts"] = "1"
    (tmp_path / "out.json").write_text("old")
    with pytest.raises(InputError, match="annotation 2"):
        convert(read_dataset("canonical", write(tmp_path, content)), "kins2020", tmp_path / "out.json")
    assert (tmp_path / "out.json").read_text() == "old" and not list(tmp_path.glob(".*"))
