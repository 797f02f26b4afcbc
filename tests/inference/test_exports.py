from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from amodal.errors import InputError
from amodal.inference.exports import FORMATS, export_scene
from amodal.inference.exports.coco import from_coco_file, to_coco_file, to_coco_visible
from amodal.inference.exports.label_studio import LABEL_CONFIG, from_task, to_tasks
from amodal.inference.exports.layers import object_layer, remove_front_objects
from amodal.inference.exports.libraries import fiftyone_fields, to_fiftyone
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from tests.drawing import mask


def make_scene(image: bool = True) -> Scene:
    """A cup in front of a book, and a bird apart from both."""
    cup = mask("........", ".##.....", ".##.....", "........")
    seen = mask("........", "#..#....", "#..#....", "####....")
    book = mask("........", "####....", "####....", "####....")
    bird = mask("......##", "......#.", "........", "........")
    pixels = np.random.default_rng(0).integers(0, 255, (4, 8, 3), dtype=np.uint8) if image else None
    objects = [
        SceneObject.from_masks(seen, book, score=0.5, phrase="book"),
        SceneObject.from_masks(cup, cup, score=0.75, phrase="cup"),
        SceneObject.from_masks(bird, bird),
    ]
    return Scene(objects, (4, 8), pixels)


def random_scene(seed: int) -> Scene:
    rng = np.random.default_rng(seed)
    amodal = rng.random((3, 9, 11)) < 0.5
    amodal[:, 4, 5] = True
    visible = amodal & (rng.random(amodal.shape) < 0.6)
    visible[:, 4, 5] = True
    return Scene([SceneObject.from_masks(v, a) for v, a in zip(visible, amodal, strict=True)], (9, 11))


def same(a: Scene, b: Scene) -> bool:
    return a.size == b.size and all(
        np.array_equal(x.visible_mask, y.visible_mask)
        and np.array_equal(x.amodal_mask, y.amodal_mask)
        and x.phrase == y.phrase
        for x, y in zip(a.objects, b.objects, strict=True)
    )


@given(st.integers(0, 10**6))
def test_coco_and_label_studio_round_trips_are_exact(seed: int) -> None:
    scene = random_scene(seed)
    assert same(from_coco_file(to_coco_file(scene, "a.png")), scene)
    assert same(from_task(to_tasks(scene, "a.png")[0]), scene)


def test_coco_tools_open_it(tmp_path: Path) -> None:
    scene = make_scene()
    for to, part in (("coco", "amodal_mask"), ("coco-visible", "visible_mask")):
        coco = COCO(export_scene(scene, to, tmp_path / to, "street.jpg") / "annotations.json")
        found = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
        assert [coco.cats[a["category_id"]]["name"] for a in found] == ["book", "cup", "object"]
        for annotation, obj in zip(found, scene.objects, strict=True):
            assert np.array_equal(coco.annToMask(annotation).astype(bool), getattr(obj, part))
    assert same(from_coco_file(to_coco_file(scene, "street.jpg")), scene)
    assert "occluders" not in to_coco_visible(scene, "a")["annotations"][0]


def test_one_image_of_several_must_be_named() -> None:
    content = to_coco_file(make_scene(), "a.png")
    content["images"].append(content["images"][0] | {"id": 2})
    with pytest.raises(InputError, match="image_id: expected one of 2 images to be named"):
        from_coco_file(content)
    assert len(from_coco_file(content, 1).objects) == 3
    with pytest.raises(InputError, match="annotations: expected a canonical annotation file"):
        from_coco_file({"images": 3})


@pytest.mark.tools("supervision")
@pytest.mark.parametrize("part", ["visible", "amodal"])
def test_supervision_has_masks_boxes_and_rates(part: str) -> None:
    import supervision as sv

    scene = make_scene()
    found = scene.to_detections(part)
    assert isinstance(found, sv.Detections) and len(found) == 3
    for index, obj in enumerate(scene.objects):
        assert np.array_equal(found.mask[index], getattr(obj, f"{part}_mask"))
    assert found.data["occlusion_rate"].tolist() == [t.occlusion_rate for t in scene.objects]
    assert found.data["class_name"].tolist() == ["book", "cup", "object"]
    assert len(Scene([], (4, 8)).to_detections()) == 0
    with pytest.raises(InputError, match="part: expected 'visible' or 'amodal'"):
        scene.to_detections("hidden")


def test_the_cvat_sdk_reads_the_masks(tmp_path: Path) -> None:
    from cvat_sdk import masks

    scene = make_scene()
    root = ElementTree.parse(export_scene(scene, "cvat", tmp_path / "cvat", "a.png") / "annotations.xml").getroot()
    image = root.find("image")
    assert image is not None and image.attrib == {"id": "0", "name": "a.png", "width": "8", "height": "4"}
    elements = image.findall("mask")
    assert len(elements) == 6
    for element in elements:
        obj = scene.objects[int(element.attrib["group_id"]) - 1]
        left, top, width, height = (int(element.attrib[k]) for k in ("left", "top", "width", "height"))
        points = [int(run) for run in element.attrib["rle"].split(",")]
        points += [left, top, left + width - 1, top + height - 1]
        decoded = masks.decode_mask(points, image_width=8, image_height=4)
        part = element.findtext("attribute")
        assert np.array_equal(decoded, getattr(obj, f"{part}_mask"))
        assert masks.encode_mask(decoded) == points


def test_labelme_masks_are_at_their_corners(tmp_path: Path) -> None:
    scene = make_scene()
    content = json.loads((export_scene(scene, "labelme", tmp_path / "l", "street.jpg") / "street.json").read_text())
    assert content["imagePath"] == "street.jpg" and len(content["shapes"]) == 6
    for shape in content["shapes"]:
        (x0, y0), (x1, y1) = shape["points"]
        part = np.array(Image.open(io.BytesIO(base64.b64decode(shape["mask"])))).astype(bool)
        full = np.zeros((4, 8), bool)
        full[y0 : y1 + 1, x0 : x1 + 1] = part
        assert np.array_equal(full, getattr(scene.objects[shape["group_id"]], f"{shape['description']}_mask"))
    image = np.array(Image.open(io.BytesIO(base64.b64decode(content["imageData"]))))
    assert np.array_equal(image, scene.image)


@pytest.mark.tools("labelme")
def test_labelme_opens_the_file(tmp_path: Path) -> None:
    import labelme

    folder = export_scene(make_scene(), "labelme", tmp_path / "l", "street.png")
    opened = labelme.LabelFile(str(folder / "street.json"))
    assert len(opened.shapes) == 6


def test_fiftyone_boxes_are_relative_and_contain_the_masks() -> None:
    scene = make_scene()
    book = fiftyone_fields(scene, "amodal")[0]
    assert book["bounding_box"] == [0.0, 0.25, 0.5, 0.75] and book["mask"].shape == (3, 4)
    assert book["label"] == "book" and book["occlusion_rate"] == scene.objects[0].occlusion_rate


@pytest.mark.tools("fiftyone")
def test_a_fiftyone_sample_has_both_masks(tmp_path: Path) -> None:
    sample = to_fiftyone(make_scene(), tmp_path / "a.png")
    assert len(sample["visible"].detections) == len(sample["amodal"].detections) == 3


@pytest.mark.tools("label-studio-sdk")
def test_label_studio_validates_config_and_predictions() -> None:
    from label_studio_sdk.label_interface import LabelInterface

    config = LabelInterface(LABEL_CONFIG)
    config.validate()
    task = to_tasks(make_scene(), "https://example.org/a.png")[0]
    for region in task["predictions"][0]["result"]:
        if region["type"] == "brushlabels":  # the SDK reads brush runs as (value, count) pairs, even its own
            region["value"]["rle"] = [255, 1]
    assert config.validate_prediction(task["predictions"][0], return_errors=True) == []


def test_annotations_take_precedence_over_predictions() -> None:
    scene, other = make_scene(), random_scene(1)
    task = to_tasks(scene, "a.png")[0]
    newer, older, gone = (to_tasks(s, "a.png")[0]["predictions"][0] for s in (other, scene, scene))
    task["annotations"] = [
        newer | {"updated_at": "2026-02-02"},
        older | {"updated_at": "2026-01-01"},
        gone | {"updated_at": "2026-03-03", "was_cancelled": True},
    ]
    assert same(from_task(task), other)


def test_a_region_without_its_counterpart_is_named() -> None:
    task = to_tasks(make_scene(), "a.png")[0]
    result = task["predictions"][0]["result"]
    without = [r for r in result if r.get("id") != "object1_visible"]
    with pytest.raises(InputError, match="expected a visible region connected to region 'object1_amodal'"):
        from_task({"id": 7, "predictions": [{"result": without}]})
    without = [r for r in result if r.get("id") != "object1_amodal"]
    with pytest.raises(InputError, match="task 7: expected an amodal region connected to region 'object1_visible'"):
        from_task({"id": 7, "predictions": [{"result": without}]})
    with pytest.raises(InputError, match="task 7: expected brush regions, got none"):
        from_task({"id": 7})


def test_stacked_layers_give_the_image(tmp_path: Path) -> None:
    scene = make_scene()
    folder = export_scene(scene, "layers", tmp_path / "layers", "a.png")
    layers = json.loads((folder / "layers.json").read_text())["layers"]
    assert [layer["object"] for layer in layers] == [1, 2, 0, None]
    canvas = np.zeros((4, 8, 3), np.uint8)
    for layer in reversed(layers):
        rgba = np.array(Image.open(folder / layer["file"]))
        canvas[rgba[..., 3] == 255] = rgba[rgba[..., 3] == 255, :3]
    assert scene.image is not None and np.array_equal(canvas, scene.image)


def test_occluded_pixels_are_transparent() -> None:
    layer, book = object_layer(make_scene(), 0), make_scene().objects[0]
    assert (layer[book.occluded_mask, 3] == 0).all() and (layer[book.visible_mask, 3] == 255).all()


def test_front_objects_are_removed_first() -> None:
    scene = make_scene()
    assert scene.image is not None and np.array_equal(remove_front_objects(scene, 0), scene.image)
    changed = (remove_front_objects(scene, 1) != scene.image).any(-1)
    assert not changed[~scene.objects[1].visible_mask].any() and changed.any()


def test_objects_that_occlude_each_other_have_an_order() -> None:
    a = mask("##..", "##..")
    b = mask(".##.", ".##.")
    first = SceneObject.from_masks(mask("##..", "#..."), a)
    second = SceneObject.from_masks(mask("..#.", ".##."), b)
    assert sorted(Scene([first, second], (2, 4)).front_to_back()) == [0, 1]


def test_crops_have_the_size_of_the_amodal_box(tmp_path: Path) -> None:
    folder = export_scene(make_scene(), "crops", tmp_path / "crops", "a.png")
    assert Image.open(folder / "a_00.png").size == (4, 3)


def test_tables_name_occluders(tmp_path: Path) -> None:
    scene = make_scene()
    with (export_scene(scene, "csv", tmp_path / "csv", "a.png") / "objects.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["occluders"] for row in rows] == ["1", "", ""] and rows[0]["amodal_area"] == "12"
    frame = scene.to_pandas()
    assert frame["phrase"].tolist()[:2] == ["book", "cup"]


@pytest.mark.parametrize("to", sorted(FORMATS))
def test_a_scene_without_objects_is_written_too(to: str, tmp_path: Path) -> None:
    empty = Scene([], (4, 8), np.zeros((4, 8, 3), np.uint8))
    assert export_scene(empty, to, tmp_path / "out").is_dir()


def test_invalid_exports_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="to: expected one of coco"):
        export_scene(make_scene(), "photoshop", tmp_path / "out")
    with pytest.raises(InputError, match="scene: expected a scene with its image"):
        export_scene(make_scene(image=False), "layers", tmp_path / "out")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("kept")
    with pytest.raises(InputError, match="out: expected a new or empty folder"):
        export_scene(make_scene(), "csv", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
