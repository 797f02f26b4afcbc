"""Every kind of fault is found, and a valid file has none."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amodal.data.datasets import FORMATS
from amodal.data.index import DatasetFault
from amodal.data.validation.validate import ERRORS, WARNINGS, ValidationReport, severity, validate
from amodal.errors import InputError
from tests.data import written
from tests.data.toy import write_toy
from tests.data.written import BACK, FILES, FRONT, SEEN, rle, write, write_masks

Content = dict[str, Any]
NOTHING = np.zeros(written.SIZE, bool)


def valid(name: str) -> Content:
    """A valid file of the format, without the second annotator of `cocoa` and the amodal box of `coco`."""
    content = copy.deepcopy(FILES[name]())
    if name == "cocoa":
        del content["annotations"][1]
    if name == "coco":
        del content["annotations"][0]["bbox"]
    return content


def found(name: str, path: Path) -> list[DatasetFault]:
    return validate(name, path).faults


@pytest.mark.parametrize("name", FILES)
def test_a_valid_file_has_no_fault(tmp_path: Path, name: str) -> None:
    report = validate(name, write(tmp_path, valid(name)))
    assert report.faults == []
    assert (report.num_images, report.num_objects, report.num_errors, report.num_warnings) == (1, 2, 0, 0)


def test_valid_masks_and_synthetic_files_have_no_fault(tmp_path: Path) -> None:
    write(tmp_path, {})
    assert found("masks", write_masks(tmp_path, "a", {"car_1_visible": SEEN, "car_1_amodal": BACK})) == []
    assert found("canonical", write_toy(tmp_path / "toy")) == []


def on(index: int, **changes: Any) -> Callable[[Content], None]:
    """Change an annotation; None removes a key."""

    def change(content: Content) -> None:
        record = content["annotations"][index]
        record |= changes
        for key in [key for key, value in changes.items() if value is None]:
            del record[key]

    return change


def region(**changes: Any) -> Callable[[Content], None]:
    return lambda content: content["annotations"][0]["regions"][1].update(changes)


def image(**changes: Any) -> Callable[[Content], None]:
    return lambda content: content["images"][0].update(changes)


def add(section: str, record: Any) -> Callable[[Content], None]:
    return lambda content: content[section].append(record)


SPILLED = SEEN.copy()
SPILLED[0:2, 0:3] = True
MORE = BACK.copy()
MORE[12, 3:9] = True
OTHER_IMAGE = written.IMAGE | {"id": 6, "file_name": "b.png"}
A_BACK, A_FRONT = written.canonical()["annotations"]

FAULTS: list[tuple[str, str, Callable[[Content], None], int | None]] = [
    ("area_mismatch", "canonical", on(0, area=60), 1),
    ("bad_box", "canonical", on(0, bbox=[3, 2, 12]), 1),
    ("bad_box", "canonical", on(0, visible_bbox=[3, 2, -12, 10]), 1),
    ("bad_image_record", "canonical", image(height="tall"), None),
    ("bad_image_record", "canonical", add("images", OTHER_IMAGE | {"width": 0}), None),
    ("bad_polygon", "kins2019", on(0, segmentation=[[3, 2, 15, float("nan"), 15, 12]]), 1),
    ("bad_polygon", "kins2019", on(0, segmentation=[[3, 2, 15, "two", 15, 12]]), 1),
    ("bad_polygon", "kins2019", on(0, segmentation=[[3, 2, 15, 2, 15]]), 1),
    ("bad_polygon", "kins2019", on(0, segmentation=[[0, 0, 1e9, 0, 1e9, 1e9]]), 1),
    ("bad_record", "canonical", on(0, occluders=["two"]), 1),
    ("bad_record", "canonical", on(0, attributes=[1]), 1),
    ("bad_record", "canonical", add("annotations", 7), None),
    ("bad_record", "canonical", on(0, id="first"), None),
    ("bad_record", "canonical", on(0, category_id=1.5), None),
    ("bad_record", "cocoa", lambda c: c["annotations"][0].update(depth_constraint="1-9"), 7),
    ("bad_record", "cocoa", lambda c: c["annotations"][0].update(regions=7), None),
    ("bad_record", "canonical", add("categories", {"id": "x", "name": "bus"}), None),
    ("bad_segmentation", "canonical", on(0, segmentation="whole"), 1),
    ("bad_segmentation", "canonical", on(0, segmentation={"size": [20, 30]}), 1),
    ("box_mismatch", "canonical", on(0, bbox=[3, 2, 20, 10]), 1),
    ("box_mismatch", "kins2020", on(1, i_bbox=[9, 6, 12, 3]), 2),
    ("box_outside_image", "canonical", on(0, bbox=[3, 2, 40, 10]), 1),
    ("broken_rle", "canonical", on(0, visible_mask={"size": [20, 30], "counts": "1"}), 1),
    ("broken_rle", "canonical", on(0, visible_mask={"size": [20, 30], "counts": "0" * 100_000}), 1),
    ("broken_rle", "canonical", on(0, visible_mask={"size": [20, 30], "counts": [5, "x"]}), 1),
    ("degenerate_polygon", "kins2019", on(0, segmentation=[written.BACK_POLYGON, [1, 1, 2, 2]]), 1),
    ("duplicate_annotation_id", "canonical", on(1, id=1), 1),
    ("duplicate_category_id", "canonical", add("categories", {"id": 4, "name": "bus"}), None),
    ("duplicate_category_name", "canonical", lambda c: c["categories"][0].update(name="van"), None),
    ("duplicate_file_name", "canonical", add("images", OTHER_IMAGE | {"file_name": "a.png"}), None),
    ("duplicate_image_id", "canonical", add("images", dict(written.IMAGE)), None),
    ("duplicate_object", "canonical", add("annotations", A_FRONT | {"id": 9}), 9),
    ("empty_amodal", "canonical", on(1, segmentation=rle(NOTHING), visible_mask=rle(NOTHING)), 2),
    ("empty_category", "canonical", add("categories", {"id": 7, "name": "rider"}), None),
    ("empty_visible", "canonical", on(0, visible_mask=rle(NOTHING)), 1),
    ("image_size", "canonical", image(height=40), None),
    ("invisible_mismatch", "cocoa_cls", on(0, invisible_mask=rle(BACK)), 1),
    ("missing_image", "canonical", image(file_name="gone.png"), None),
    ("missing_key", "canonical", on(0, visible_mask=None), 1),
    ("missing_key", "canonical", lambda c: c["annotations"][0].update(segmentation=None), 1),
    ("missing_key", "cocoa", lambda c: c["annotations"][0]["regions"][0].pop("segmentation"), 7001),
    ("missing_key", "canonical", lambda c: c["images"][0].pop("width"), None),
    ("missing_key", "cocoa_cls", add("annotations", written.coco()["annotations"][1] | {"id": 9}), 9),
    ("mixed_formats", "kins2020", on(1, inmodal_seg=rle(FRONT)), 2),
    ("no_categories", "canonical", lambda c: c.pop("categories"), None),
    ("no_objects", "canonical", lambda c: c.update(annotations=[]), None),
    ("occluder_hides_nothing", "canonical", on(1, occluders=[1]), 2),
    ("order_contradiction", "canonical", lambda c: [on(i, order=o, order_group=0)(c) for i, o in ((0, 1), (1, 2))], 1),
    ("outside_image", "kins2019", on(0, segmentation=[[3, 2, 60, 2, 60, 12, 3, 12]]), 1),
    ("outside_folder", "canonical", image(file_name="../a.png"), None),
    ("rate_mismatch", "canonical", on(0, occlude_rate=0.9), 1),
    ("rate_mismatch", "cocoa", region(occlude_rate=0), 7002),
    ("rate_mismatch", "canonical", on(0, occlude_rate="half"), 1),
    ("rle_size", "canonical", on(0, visible_mask=rle(SEEN.T.copy())), 1),
    ("swapped_masks", "canonical", on(0, segmentation=rle(SEEN), visible_mask=rle(BACK)), 1),
    ("unknown_category", "canonical", on(0, category_id=99), 1),
    ("unknown_image", "canonical", on(0, image_id=99), None),
    ("unknown_occluder", "canonical", on(0, occluders=[77]), 1),
    ("unknown_occluder", "canonical", on(0, occluders=[1]), 1),
    ("visible_outside_amodal", "canonical", on(0, visible_mask=rle(SPILLED)), 1),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name", "change", "number"), FAULTS)
def test_a_fault_is_found(
    tmp_path: Path, kind: str, name: str, change: Callable[[Content], None], number: int | None
) -> None:
    content = valid(name)
    change(content)
    faults = [fault for fault in found(name, write(tmp_path, content)) if fault.kind == kind]
    assert faults, f"{kind} not found"
    assert number is None or faults[0].annotation_id == number
    assert all(fault.message and "\n" not in fault.message and len(fault.message) < 300 for fault in faults)


def test_every_kind_of_fault_is_tested() -> None:
    elsewhere = {"unreadable_image", "images_not_checked", "ambiguous_image"}
    assert {kind for kind, *_ in FAULTS} | elsewhere == set(ERRORS) | set(WARNINGS)
    assert not set(ERRORS) & set(WARNINGS)


def test_all_faults_of_one_file_are_found_at_once(tmp_path: Path) -> None:
    """Twenty kinds of faults in one file, each in its own records."""
    content: Content = {"images": [], "annotations": [], "categories": valid("canonical")["categories"]}
    wanted = []
    for i, (kind, name, change, _) in enumerate(FAULTS):
        alone = valid("canonical")
        if name != "canonical" or kind in ("no_objects", "no_categories") or kind in wanted:
            continue
        change(alone)
        if len(alone["images"]) > 1 or alone["categories"] != valid("canonical")["categories"]:
            continue
        ids = {1: 10 * i + 1, 2: 10 * i + 2}
        for record in alone["annotations"]:
            if not isinstance(record, dict):
                continue
            record["id"] = ids.get(record.get("id"), record.get("id"))
            record["image_id"] = i if record.get("image_id") == 5 else record.get("image_id")
            if isinstance(record.get("occluders"), list):
                record["occluders"] = [ids.get(number, number) for number in record["occluders"]]
        alone["images"][0] |= {"id": i, "file_name": alone["images"][0]["file_name"].replace("a.png", f"{i}.png")}
        content["images"] += alone["images"]
        content["annotations"] += alone["annotations"]
        wanted.append(kind)
    path = write(tmp_path, content)
    for i in range(len(FAULTS)):
        Image.fromarray(np.zeros((*written.SIZE, 3), np.uint8)).save(tmp_path / "images" / f"{i}.png")
    kinds = validate("canonical", path).kinds()
    assert len(wanted) >= 20 and set(wanted) <= set(kinds)


def test_wrong_pixels_are_counted(tmp_path: Path) -> None:
    content = valid("canonical")
    on(0, visible_mask=rle(SPILLED))(content)
    on(1, segmentation=rle(FRONT & ~BACK), visible_mask=rle(FRONT))(content)
    pixels = {fault.kind: fault.pixels for fault in found("canonical", write(tmp_path, content))}
    assert pixels["visible_outside_amodal"] == 6
    assert pixels["swapped_masks"] == (FRONT & BACK).sum()
    content = valid("cocoa_cls")
    on(0, invisible_mask=rle(BACK))(content)
    assert {f.pixels for f in found("cocoa_cls", write(tmp_path, content))} == {SEEN.sum()}


def test_tolerances(tmp_path: Path) -> None:
    """Differences that rounding and rasterising cause are no faults."""
    content = valid("kins2019")
    on(0, bbox=[2.4, 1.2, 13.1, 10.9], area=118.5)(content)
    assert found("kins2019", write(tmp_path, content)) == []
    content = valid("kins2019")
    thin = [3, 2, 15, 2, 15, 12, 3, 12, 3, 7.5, -1.5, 7.4]
    on(0, segmentation=[thin], bbox=[-1.5, 2, 16.5, 10])(content)
    assert "box_mismatch" not in {f.kind for f in found("kins2019", write(tmp_path, content))}, (
        "the tip extends the box"
    )


def test_images(tmp_path: Path) -> None:
    path = write(tmp_path, valid("canonical"))
    (tmp_path / "images" / "a.png").write_text("no image")
    assert [(f.kind, f.image_id) for f in found("canonical", path)] == [("unreadable_image", 5)]
    (tmp_path / "images" / "a.png").unlink()
    assert [(f.kind, f.image_id) for f in found("canonical", path)] == [("missing_image", 5)]
    (tmp_path / "images").rmdir()
    assert [f.kind for f in found("canonical", path)] == ["images_not_checked"]
    report = validate("canonical", path, tmp_path)
    assert [(f.kind, f.image_id) for f in report.faults] == [("missing_image", 5)]
    with pytest.raises(InputError, match="images: expected a folder"):
        validate("canonical", path, tmp_path / "nowhere")


def test_the_size_of_a_rotated_photograph_is_the_loaded_one(tmp_path: Path) -> None:
    path = write(tmp_path, valid("canonical"))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", written.SIZE).save(tmp_path / "images" / "a.png", exif=exif)
    assert found("canonical", path) == []
    Image.new("RGB", written.SIZE[::-1]).save(tmp_path / "images" / "a.png", exif=exif)
    assert [f.kind for f in found("canonical", path)] == ["image_size"]


def test_an_occluded_mask_without_amodal_mask(tmp_path: Path) -> None:
    write(tmp_path, {})
    folder = write_masks(tmp_path, "a", {"car_1_visible": SEEN, "car_2_occluded": FRONT})
    assert [f.kind for f in found("masks", folder)] == ["missing_key"]


def test_content_of_another_kind_raises(tmp_path: Path) -> None:
    for name in FORMATS:
        other = {"masks": "expected a folder of folders of masks", "cvat": "expected XML, got broken text"}
        other |= {"c2f": "expected c2f_seg_train_list.txt"}
        message = other.get(name, "expected JSON, got broken text")
        with pytest.raises(InputError, match=message):
            validate(name, write(tmp_path, "{", f"{name}.json"))
    with pytest.raises(InputError, match="no 'images'"):
        validate("canonical", write(tmp_path, {"annotations": []}))


def test_the_report() -> None:
    faults = [
        DatasetFault("empty_category", "w"),
        DatasetFault("rle_size", "e", 3, 4),
        DatasetFault("swapped_masks", "e", 3, 5, 12),
    ]
    report = ValidationReport("canonical", "x.json", 1, 2, faults)
    assert (report.num_errors, report.num_warnings) == (2, 1)
    assert list(report.kinds()) == ["rle_size", "swapped_masks", "empty_category"]
    content = json.loads(json.dumps(report.to_json()))
    assert content["kinds"]["rle_size"] == {"severity": "error", "count": 1}
    assert content["findings"][2] == {
        "kind": "swapped_masks", "severity": "error", "image_id": 3, "annotation_id": 5, "message": "e", "pixels": 12,
    }  # fmt: skip
    assert severity("empty_category") == "warning"
