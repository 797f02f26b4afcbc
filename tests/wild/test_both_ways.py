"""What is written for other tools is read back, and masks are written in the form that a tool reads."""

from __future__ import annotations

import base64
import copy
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools.coco import COCO

from amodal.cli.main import main
from amodal.data.convert import convert
from amodal.data.datasets import guess_format, read_dataset
from amodal.data.samples import AnnotatedDataset
from amodal.data.validation.validate import validate
from amodal.errors import InputError
from amodal.inference.exports import export_results
from amodal.inference.exports.label_studio import rectangle_box
from amodal.inference.results import ImageResult, Results
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from amodal.ops.polygons import rle_polygons, segmentation_as
from amodal.ops.rle import decode_mask, encode_mask, segmentation_to_rle
from tests.data.written import BACK, FRONT, SIZE, canonical, write

RING = np.zeros(SIZE, bool)
RING[1:12, 2:20] = True
RING[3:9, 4:9] = False
RING[4:6, 12:15] = False
PARTS = np.zeros(SIZE, bool)
PARTS[0, 0] = PARTS[1, 1] = PARTS[19, 29] = True
PARTS[5:9, 5:9] = True


@given(arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_polygons_have_exactly_the_pixels_of_the_mask(mask: np.ndarray) -> None:
    rle = encode_mask(mask)
    polygons = rle_polygons(rle)
    assert all(len(polygon) >= 8 and len(polygon) % 2 == 0 for polygon in polygons)
    assert polygons == [] if not mask.any() else segmentation_to_rle(polygons, *mask.shape) == rle


def test_polygons_of_holes_and_parts() -> None:
    assert rle_polygons(encode_mask(BACK)) == [[3, 2, 15, 2, 15, 12, 3, 12]]
    assert len(rle_polygons(encode_mask(PARTS))) == 4
    assert len(rle_polygons(encode_mask(RING))) > 1
    for mask in (RING, PARTS):
        assert (decode_mask(segmentation_to_rle(rle_polygons(encode_mask(mask)), *SIZE)) == mask).all()


def test_uncompressed_runs_are_those_of_coco() -> None:
    mask = np.array([[0, 1], [1, 1]], bool)
    assert segmentation_as(encode_mask(mask), "counts") == {"size": [2, 2], "counts": [1, 3]}
    assert segmentation_as(encode_mask(~mask), "counts") == {"size": [2, 2], "counts": [0, 1, 3]}
    assert segmentation_as(encode_mask(mask), "rle") == encode_mask(mask)


def ringed() -> dict[str, Any]:
    content = canonical()
    content["annotations"][0] |= {"segmentation": encode_mask(RING), "visible_mask": encode_mask(RING & ~FRONT)}
    return content


FORMS = {"rle": (dict, str), "polygon": (list, None), "counts": (dict, list)}


@pytest.mark.parametrize("target", ["canonical", "cocoa_cls", "kins2020", "coco"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_masks_is_the_same_dataset(tmp_path: Path, target: str, form: str) -> None:
    path = write(tmp_path, ringed())
    arguments = ["data", "convert", "--annotations", str(path), "--to", target, "--masks", form]
    assert main([*arguments, "--out", str(tmp_path / "out.json")]) == 0
    written = json.loads((tmp_path / "out.json").read_text())["annotations"]
    kind, counts = FORMS[form]
    for record in written:
        for key in {"segmentation", "visible_mask", "invisible_mask", "a_segm", "i_segm"} & record.keys():
            assert isinstance(record[key], kind)
            assert counts is None or isinstance(record[key]["counts"], counts)
    found = read_dataset(target, tmp_path / "out.json", tmp_path / "images").images[0].objects
    expected = read_dataset("canonical", path).images[0].objects
    for a, b in zip(found, expected, strict=True):
        assert (a.visible_rle if target == "coco" else a.amodal_rle) == b.amodal_rle
        assert target == "coco" or a.visible_rle == b.visible_rle
    if target in ("coco", "canonical"):
        coco = COCO(str(tmp_path / "out.json"))
        assert coco.annToMask(coco.loadAnns([1])[0]).sum() == RING.sum()
    assert validate(target, tmp_path / "out.json", tmp_path / "images").num_errors == 0


def test_the_kind_and_the_form_of_masks_are_chosen_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "convert", "--annotations", str(write(tmp_path, ringed())), "--out", str(tmp_path / "o.json")]
    assert main([*arguments, "--to", "coco", "--masks", "visible", "--masks", "polygon"]) == 0
    record = json.loads((tmp_path / "o.json").read_text())["annotations"][0]
    assert (decode_mask(segmentation_to_rle(record["segmentation"], *SIZE)) == (RING & ~FRONT)).all()
    for masks, message in (
        (["polygons"], "masks: expected amodal or visible, and rle, polygon or counts, got 'polygons'"),
        (["rle", "counts"], "masks: expected one kind and one form of masks, got rle, counts"),
    ):
        assert main([*arguments, "--to", "coco", *(v for m in masks for v in ("--masks", m))]) == 2
        assert message in capsys.readouterr().err
    dataset = read_dataset("canonical", tmp_path / "annotations.json")
    with pytest.raises(InputError, match="masks: expected rle for parquet, got polygon"):
        convert(dataset, "parquet", tmp_path / "p", mask_form="polygon")
    with pytest.raises(InputError, match="masks: expected rle, polygon or counts, got 'x'"):
        convert(dataset, "coco", tmp_path / "p.json", mask_form="x")  # type: ignore[arg-type]


def scenes() -> Results:
    objects = [
        SceneObject.from_masks(RING & ~FRONT, RING | FRONT, name="car", class_id=3, source_id=31),
        SceneObject.from_masks(PARTS, PARTS, name="wine glass", class_id=4, source_id=17),
        SceneObject.from_masks(np.zeros(SIZE, bool), BACK, name="car", class_id=3, source_id=40),
    ]
    return Results.of([ImageResult("a.png", Scene(objects, SIZE)), ImageResult("b.jpg", Scene(objects[:1], SIZE))])


def same(dataset: AnnotatedDataset) -> bool:
    """Whether a dataset has the objects of `scenes`."""
    names = dataset.categories
    for image, result in zip(dataset.images, scenes(), strict=True):
        assert (image.file_name, image.size) == (result.name, SIZE)
        for obj, expected in zip(image.objects, result.scene, strict=True):
            amodal = obj.amodal_mask()
            assert amodal is not None and (amodal == expected.amodal_mask).all()
            assert (obj.visible_mask() == expected.visible_mask).all()
            assert (names[obj.category_id], obj.attributes["group_id"]) == (expected.name, expected.source_id)
    return True


@pytest.mark.parametrize("to", ["labelme", "cvat"])
@pytest.mark.parametrize("form", ["rle", "polygon"])
def test_labelme_and_cvat_are_read_back(tmp_path: Path, to: str, form: str) -> None:
    export_results(scenes(), to, tmp_path / "out", masks=form)
    annotations = tmp_path / "out" if to == "labelme" else tmp_path / "out" / "annotations.xml"
    assert guess_format(annotations) == to
    assert same(read_dataset(to, annotations))
    for name in ("a.png", "b.jpg"):
        Image.new("RGB", SIZE[::-1]).save(tmp_path / name)
    kinds = {f.kind for f in validate(to, annotations, tmp_path).faults}
    assert kinds <= {"empty_visible"}
    assert main(["data", "convert", "--annotations", str(annotations), "--to", "canonical",
                 "--out", str(tmp_path / "c.json")]) == 0  # fmt: skip
    assert len(read_dataset("canonical", tmp_path / "c.json").images[0].objects) == 3


@pytest.mark.parametrize("to", ["coco", "coco-visible"])
@pytest.mark.parametrize("form", FORMS)
def test_coco_is_exported_in_every_form(tmp_path: Path, to: str, form: str) -> None:
    export_results(scenes(), to, tmp_path / "out", masks=form)
    record = json.loads((tmp_path / "out" / "annotations.json").read_text())["annotations"][0]
    kind, counts = FORMS[form]
    assert isinstance(record["segmentation"], kind) and (
        counts is None or type(record["segmentation"]["counts"]) is counts
    )
    expected = next(iter(scenes())).scene.objects[0]
    mask = decode_mask(segmentation_to_rle(record["segmentation"], *SIZE))
    assert (mask == (expected.amodal_mask if to == "coco" else expected.visible_mask)).all()


@pytest.mark.parametrize(("to", "form"), [("yolo", "polygon"), ("csv", "rle"), ("cvat", "counts"), ("coco", "x")])
def test_a_form_that_a_format_does_not_have_is_refused(tmp_path: Path, to: str, form: str) -> None:
    with pytest.raises(InputError, match=f"masks: expected .* for {to}, got '{form}'"):
        export_results(scenes(), to, tmp_path / "out", masks=form)
    assert not (tmp_path / "out").exists()


def shape(**changes: Any) -> dict[str, Any]:
    own = {"label": "car", "points": [[3, 2], [15, 2], [15, 12], [3, 12]], "group_id": None, "shape_type": "polygon"}
    return own | {"flags": {}} | changes


def labelme(*shapes: Any, **changes: Any) -> dict[str, Any]:
    own = {"version": "5.0", "shapes": list(shapes), "imagePath": "a.png", "imageData": None}
    return own | {"imageHeight": SIZE[0], "imageWidth": SIZE[1]} | changes


def read_labelme(folder: Path, content: Any) -> Any:
    (folder / "labels").mkdir(exist_ok=True)
    (folder / "labels" / "a.json").write_text(json.dumps(content))
    return read_dataset("labelme", folder / "labels", folder)


def test_labelme_files_of_people_are_visible_masks(tmp_path: Path) -> None:
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "a.png")
    rectangle = shape(shape_type="rectangle", points=[[15, 12], [3, 2]], label=7, description="the left one")
    del rectangle["group_id"]
    dataset = read_labelme(tmp_path, labelme(shape(), rectangle, imageHeight=None))
    assert [dataset.categories[o.category_id] for o in dataset.images[0].objects] == ["car", "7"]
    for obj in dataset.images[0].objects:
        assert obj.amodal_rle is None and (obj.visible_mask() == BACK).all()


def test_shapes_of_one_group_are_united(tmp_path: Path) -> None:
    left = shape(points=[[3, 2], [9, 2], [9, 12], [3, 12]], group_id=5)
    right = shape(points=[[9, 2], [15, 2], [15, 12], [9, 12]], group_id="5")
    (obj,) = read_labelme(tmp_path, labelme(left, right, shape(group_id=5, description="amodal"))).images[0].objects
    assert (obj.visible_mask() == BACK).all() and obj.amodal_rle == obj.visible_rle


def png(mask: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


BAD_SHAPES = {
    "circle": shape(shape_type="circle", points=[[3, 2], [5, 5]]),
    "point": shape(shape_type="point", points=[[3, 2]]),
    "text": shape(points=[["a", "b"], [1, 2], [3, 4]]),
    "flat": shape(points=[3, 2, 15, 2]),
    "mask outside": shape(shape_type="mask", points=[[25, 2], [34, 9]], mask=png(np.ones((8, 10), bool))),
    "large mask": shape(shape_type="mask", points=[[0, 0], [9, 9]], mask=png(np.ones((400, 400), bool))),
    "mask of text": shape(shape_type="mask", points=[[0, 0], [9, 9]], mask="no base64!"),
    "mask of no image": shape(shape_type="mask", points=[[0, 0], [9, 9]], mask="aGVsbG8="),
    "no mask": shape(shape_type="mask", points=[[0, 0], [9, 9]]),
    "no label": shape(label=None),
    "group": shape(group_id="first"),
    "no shape": 7,
}


@pytest.mark.parametrize("name", BAD_SHAPES)
def test_other_shapes_of_labelme_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="^annotations ") as error:
        list(read_labelme(tmp_path, labelme(shape(), copy.deepcopy(BAD_SHAPES[name]))).images[0].objects)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


NO_LABELME = [
    7,
    [],
    {"shapes": 1},
    labelme(imageHeight="x"),
    labelme(imagePath=None),
    labelme(imageHeight=10**9, imageWidth=10**9),
    labelme(imagePath="../../a.png"),
]


@pytest.mark.parametrize("content", NO_LABELME)
def test_other_files_are_not_labelme(tmp_path: Path, content: Any) -> None:
    with pytest.raises(InputError):
        read_labelme(tmp_path, content)


CVAT = '<annotations><version>1.1</version><image id="0" name="a.png" width="30" height="20">{}</image></annotations>'
BOX = '<box label="car" xtl="3" ytl="2" xbr="15" ybr="12"/>'
POLYGON = '<polygon label="car" points="3.0,2.0;15,2;15,12;3,12"/>'


def read_cvat(folder: Path, content: str) -> Any:
    (folder / "annotations.xml").write_text(content)
    return read_dataset("cvat", folder / "annotations.xml")


def test_cvat_files_of_people_are_visible_masks(tmp_path: Path) -> None:
    dataset = read_cvat(tmp_path, CVAT.format(BOX + POLYGON + '<tag label="day"/>'))
    for obj in dataset.images[0].objects:
        assert obj.amodal_rle is None and (obj.visible_mask() == BACK).all()
    assert len(dataset.images[0].objects) == 2


@pytest.mark.parametrize("degrees", [0, 90, -90, 450, 180, 30, 45.5])
def test_turned_boxes_of_cvat_are_turned(tmp_path: Path, degrees: float) -> None:
    """CVAT turns a box clockwise about its centre; OpenCV draws the expected outline."""
    box = f'<box label="car" xtl="8" ytl="6" xbr="20" ybr="12" rotation="{degrees}"/>'
    (obj,) = read_cvat(tmp_path, CVAT.format(box)).images[0].objects
    corners = cv2.boxPoints(((14, 9), (12, 6), degrees))
    expected = decode_mask(segmentation_to_rle([[float(v) for v in corners.ravel()]], *SIZE))
    assert (obj.visible_mask() ^ expected).sum() <= 2 and expected.sum() > 60  # rounding of float32 corners


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, [30, 20, 90, 40]), ({"rotation": 0}, [30, 20, 90, 40]), ({"rotation": None}, [30, 20, 90, 40]),
        ({"rotation": 90}, [10, 20, 30, 80]), ({"rotation": "90"}, [10, 20, 30, 80]),
        ({"rotation": 180}, [0, 0, 30, 20]), ({"rotation": -90}, [30, 0, 50, 20]),
    ],
)  # fmt: skip
def test_turned_rectangles_of_label_studio_give_the_box_around_them(value: Any, expected: list[float]) -> None:
    """Label Studio turns a rectangle clockwise about its upper left corner; sizes are per cent of the image."""
    rectangle = {"x": 15, "y": 20, "width": 30, "height": 20} | value
    assert rectangle_box(rectangle, 200, 100) == pytest.approx(expected)


def test_a_rectangle_with_another_angle_is_refused() -> None:
    with pytest.raises(InputError, match="expected rotation to be a finite number, got 'left'"):
        rectangle_box({"x": 15, "y": 20, "width": 30, "height": 20, "rotation": "left"}, 200, 100)


BAD_XML = {
    "entities": '<!DOCTYPE a [<!ENTITY a "x">]>' + CVAT.format(BOX.replace("car", "&a;")),
    "outside": '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + CVAT.format(BOX.replace("car", "&a;")),
    "broken": CVAT.format("<box"),
    "other": "<html/>",
    "tracks": "<annotations><track/></annotations>",
    "no size": CVAT.format(BOX).replace('height="20"', ""),
    "large": CVAT.format(BOX).replace("20", "2000000000"),
    "outside folder": CVAT.format(BOX).replace("a.png", "/etc/passwd"),
    "ellipse": CVAT.format('<ellipse label="car" cx="5" cy="5" rx="2" ry="2"/>'),
    "no label": CVAT.format('<box xtl="3" ytl="2" xbr="15" ybr="12"/>'),
    "points": CVAT.format('<polygon label="car" points="3,2;15"/>'),
    "runs": CVAT.format('<mask label="car" rle="3, 2" left="0" top="0" width="3" height="3"/>'),
    "huge runs": CVAT.format('<mask label="car" rle="9000000000" left="0" top="0" width="300000" height="30000"/>'),
    "angle": CVAT.format(BOX.replace("/>", ' rotation="left"/>')),
    "mask outside": CVAT.format('<mask label="car" rle="0, 9" left="28" top="0" width="3" height="3"/>'),
}


@pytest.mark.parametrize("name", BAD_XML)
def test_other_files_are_not_cvat(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="^annotations ") as error:
        list(read_cvat(tmp_path, BAD_XML[name]).images[0].objects)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_the_row_major_runs_of_cvat(tmp_path: Path) -> None:
    mask = '<mask label="car" rle="1, 2, 1, 2" left="4" top="3" width="3" height="2"/>'
    (obj,) = read_cvat(tmp_path, CVAT.format(mask)).images[0].objects
    expected = np.zeros(SIZE, bool)
    expected[3:5, 4:7] = [[False, True, True], [False, True, True]]
    assert (obj.visible_mask() == expected).all()


def test_both_formats_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "formats", "--json"]) == 0
    assert {"labelme", "cvat"} <= {row["name"] for row in json.loads(capsys.readouterr().out) if row["read"]}
