"""Values of another type than ours in annotation files are understood, or reported and refused in one line."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from amodal.cli.main import main
from amodal.data.convert import convert
from amodal.data.datasets import read_dataset
from amodal.data.samples import ObjectSample
from amodal.data.statistics import compute_statistics
from amodal.data.validation.validate import validate
from amodal.errors import InputError
from amodal.inference.prompt_files import read_coco_file
from tests.data.written import FILES, canonical, coco, write

NO = [0, False, None, "0", "false", "False", "no", "", " 0 ", 0.0, "0.0"]
YES = [1, True, "1", "true", "TRUE", "yes", 1.0, "1.0"]
NEITHER = ["maybe", 2, -1, 0.5, [], {}, [0], "nan", "2"]


def objects(content: Any, folder: Path, name: str = "canonical") -> list[ObjectSample]:
    return list(read_dataset(name, write(folder, content)).images[0].objects)


def changed(name: str = "canonical", **fields: Any) -> dict[str, Any]:
    content = copy.deepcopy(FILES[name]())
    content["annotations"][0] |= fields
    return content


@pytest.mark.parametrize("field", ["iscrowd", "is_stuff", "amodal_unknown"])
@pytest.mark.parametrize(("values", "expected"), [(NO, False), (YES, True)])
def test_flags_are_understood(tmp_path: Path, field: str, values: list[Any], expected: bool) -> None:
    for value in values:
        obj = objects(changed(**{field: value}), tmp_path)[0]
        found = obj.amodal_rle is None if field == "amodal_unknown" else getattr(obj, field)
        assert found is expected, value


@pytest.mark.parametrize("field", ["iscrowd", "is_stuff", "amodal_unknown"])
@pytest.mark.parametrize("value", NEITHER, ids=repr)
def test_other_flags_are_reported_and_refused(tmp_path: Path, field: str, value: Any) -> None:
    path = write(tmp_path, changed(**{field: value}))
    with pytest.raises(InputError, match=rf"annotation 1: expected {field} to be 0 or 1, got"):
        list(read_dataset("canonical", path).images[0].objects)
    faults = [f for f in validate("canonical", path).faults if f.kind == "bad_record"]
    assert [fault.annotation_id for fault in faults] == [1]


@pytest.mark.parametrize("name", ["kins2019", "kins2020", "cocoa_cls", "d2sa", "coco"])
def test_flags_of_every_format(tmp_path: Path, name: str) -> None:
    assert [o.iscrowd for o in objects(changed(name, iscrowd="0"), tmp_path, name)] == [False, False]
    with pytest.raises(InputError, match="annotation 1: expected iscrowd to be 0 or 1"):
        objects(changed(name, iscrowd="maybe"), tmp_path, name)


def test_flags_of_regions(tmp_path: Path) -> None:
    content = FILES["cocoa"]()
    for value, expected in (("0", False), ("1", True), (None, False), (1.0, True)):
        content["annotations"][0]["regions"][0]["isStuff"] = value
        assert objects(content, tmp_path, "cocoa")[0].is_stuff is expected


def test_everything_as_text_is_the_same_dataset(tmp_path: Path) -> None:
    """Every number of a file as text, in all formats."""

    def as_text(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: as_text(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [as_text(v, key) for v in value]
        return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value

    for name, build in FILES.items():
        plain, text = build(), as_text(build())
        found = objects(text, tmp_path / name / "text", name)
        expected = objects(plain, tmp_path / name, name)
        assert [(o.id, o.visible_rle, o.amodal_rle, o.occluders, o.order) for o in found] == [
            (o.id, o.visible_rle, o.amodal_rle, o.occluders, o.order) for o in expected
        ]
        kinds = {f.kind for f in validate(name, tmp_path / name / "text" / "annotations.json").faults}
        assert kinds == {f.kind for f in validate(name, tmp_path / name / "annotations.json").faults}


IDS = {
    7: 7, "7": 7, " 7 ": 7, "7.0": 7, -3: -3, 0: 0, 2**53 + 1: 2**53 + 1, str(2**62 + 1): 2**62 + 1,
    2**63 - 1: 2**63 - 1,
}  # fmt: skip
NO_IDS = [2**63, -(2**63), 10**30, str(10**25), 1e300, 1.5, "seven", "7x", True, [7], {}, "nan", "1_0", "٧x"]


@pytest.mark.parametrize("value", IDS, ids=repr)
def test_ids_of_any_type_and_size_are_understood(tmp_path: Path, value: Any) -> None:
    content = changed(id=value, occluders=[2])
    content["annotations"][1]["occluders"] = [value]
    content["images"][0]["id"] = value
    for record in content["annotations"]:
        record["image_id"] = value
    path = write(tmp_path, content)
    dataset = read_dataset("canonical", path)
    assert dataset.images[0].id == IDS[value]
    assert dataset.images[0].objects[0].id == IDS[value]
    assert dataset.images[0].objects[1].occluders == (IDS[value],)
    assert not {f.kind for f in validate("canonical", path).faults} & {"bad_record", "unknown_occluder"}


@pytest.mark.parametrize("value", NO_IDS, ids=repr)
@pytest.mark.parametrize("place", ["id", "image_id", "category_id", "occluders", "image", "category"])
def test_other_ids_are_reported_and_refused(tmp_path: Path, place: str, value: Any) -> None:
    content = canonical()
    if place == "image":
        content["images"][0]["id"] = value
    elif place == "category":
        content["categories"][0]["id"] = value
    else:
        content["annotations"][0][place] = [value] if place == "occluders" else value
    path = write(tmp_path, content)
    with pytest.raises(InputError, match=r"to be an integer( of 64 bits)?, got"):
        list(read_dataset("canonical", path).images[0].objects)
    assert {f.kind for f in validate("canonical", path).faults} & {"bad_record", "bad_image_record"}


OPTIONAL = ("occluders", "iscrowd", "is_stuff", "annotator", "order", "order_group", "attributes", "bbox", "area")


@pytest.mark.parametrize("field", [*OPTIONAL, "visible_bbox", "occlude_rate"])
def test_optional_fields_may_be_missing_or_null(tmp_path: Path, field: str) -> None:
    missing = canonical()
    missing["annotations"][0].pop(field, None)
    for content in (changed(**{field: None}), missing):
        path = write(tmp_path, content)
        assert read_dataset("canonical", path).images[0].objects[0].visible_rle["counts"]
        assert "bad_record" not in {f.kind for f in validate("canonical", path).faults}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("order", "first"), ("order", 1.5), ("order", []), ("order_group", {}), ("annotator", {"name": "ann"}),
        ("annotator", ["ann"]), ("attributes", 0), ("attributes", "red"), ("occluders", 2), ("occluders", "2"),
        ("occluders", {"2": 1}), ("occluders", [None]), ("occluders", [[2]]), ("segmentation", "[[1,2]]"),
        ("segmentation", [None]), ("segmentation", [[1, 1, 5, 1, 5, True]]), ("segmentation", [[1, 1, 5, 1, 5, None]]),
        ("segmentation", 7), ("visible_mask", {"size": "20x30", "counts": "0"}),
        ("visible_mask", {"size": None, "counts": "0"}), ("visible_mask", {"size": [20, 30], "counts": [True]}),
        ("visible_mask", {"size": [20, 30], "counts": [600.5]}), ("visible_mask", {"size": [20, 30], "counts": None}),
        ("visible_mask", {"size": [20, 30], "counts": [2**63, 2**63, 600]}),
        ("visible_mask", {"size": [20, 30], "counts": [[600]]}), ("visible_mask", {"size": [20, 30], "counts": {}}),
        ("visible_mask", {"size": [20, 30], "counts": [2**62, 2**62, 2**62, 2**62 + 600]}),
    ],
)  # fmt: skip
def test_other_values_are_reported_and_refused(tmp_path: Path, field: str, value: Any) -> None:
    path = write(tmp_path, changed(**{field: value}))
    with pytest.raises(InputError, match="annotation 1: ") as error:
        list(read_dataset("canonical", path).images[0].objects)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    assert validate("canonical", path).num_errors


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("images", "height", "tall"), ("images", "height", None), ("images", "width", 30.5), ("images", "width", -30),
        ("images", "file_name", None), ("images", "file_name", ["a.png"]), ("images", "file_name", {}),
        ("categories", "name", None), ("categories", "name", ["car"]), ("categories", "name", {"en": "car"}),
    ],
)  # fmt: skip
def test_records_of_images_and_categories_are_checked(tmp_path: Path, section: str, field: str, value: Any) -> None:
    content = canonical()
    content[section][0][field] = value
    path = write(tmp_path, content)
    with pytest.raises(InputError):
        read_dataset("canonical", path)
    assert validate("canonical", path).num_errors


@pytest.mark.parametrize("key", ["id", "image_id", "segmentation", "iscrowd"])
def test_a_key_twice_in_one_record_is_refused(tmp_path: Path, key: str) -> None:
    text = json.dumps(canonical())
    twice = text.replace(f'"{key}": ', f'"{key}": 5, "{key}": ', 2)
    path = write(tmp_path, twice)
    for read in (read_dataset, validate):
        with pytest.raises(InputError, match=f"expected each key once, got '{key}' twice in the record at byte"):
            read("canonical", path)


def test_a_section_twice_is_refused(tmp_path: Path) -> None:
    text = json.dumps(canonical())
    path = write(tmp_path, text[:-1] + ', "images": []}')
    with pytest.raises(InputError, match="expected each member once, got 'images' twice"):
        read_dataset("canonical", path)


def test_members_of_unexpected_types_do_not_matter(tmp_path: Path) -> None:
    content = canonical() | {"category_details": "mine", "info": 7, "licenses": None}
    content["categories"][0]["supercategory"] = "vehicle"
    dataset = read_dataset("canonical", write(tmp_path, content))
    convert(dataset, "canonical", tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["categories"][0]["supercategory"] == "vehicle"


def test_prompts_read_the_same_values(tmp_path: Path) -> None:
    content = coco()
    content["annotations"][0] |= {"iscrowd": "0", "id": "1", "category_id": "4", "image_id": "5"}
    content["annotations"][1]["iscrowd"] = "true"
    content["categories"][1]["id"] = "4"
    content["images"][0] |= {"height": "20", "width": 30.0}
    file = read_coco_file(write(tmp_path, content))
    assert file.images[0].size == (20, 30)
    prompts = file.prompts(file.images[0], (20, 30))
    assert [(p.source_id, p.class_id, p.name) for p in prompts] == [(1, 4, "van")]
    content["annotations"][0]["iscrowd"] = "maybe"
    with pytest.raises(InputError, match="annotation '1': expected iscrowd to be 0 or 1, got 'maybe'"):
        read_coco_file(write(tmp_path, content))


@pytest.mark.parametrize(
    "field", ["iscrowd", "occluders", "bbox", "order", "attributes", "occlude_rate", "score", "id"]
)
def test_no_reader_fails_on_a_file_that_validates(tmp_path: Path, field: str) -> None:
    """Where `validate` finds no error, statistics and conversion work; otherwise they work or refuse in one line."""
    values = ["0", "x", 0.0, 1e30, 2**70, None, [], {}, True, [None]]
    num_refused = 0
    for value in values:
        path = write(tmp_path, changed(**{field: value}))
        try:
            dataset = read_dataset("canonical", path)
            compute_statistics(dataset)
            convert(dataset, "kins2020", tmp_path / "out.json")
        except InputError:
            num_refused += 1
            assert validate("canonical", path).num_errors, value
    assert num_refused < len(values)


def test_the_command_line_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = ["--format", "canonical", "--annotations", str(write(tmp_path, changed(iscrowd="maybe")))]
    assert main(["data", "validate", *name]) == 1
    assert main(["data", "convert", *name, "--to", "coco", "--out", str(tmp_path / "o.json")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("amodal: ")] == [lines[-1]] and "annotation 1" in lines[-1]
    assert not (tmp_path / "o.json").exists()
