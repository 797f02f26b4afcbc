from __future__ import annotations

import base64
import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from amodal.errors import InputError
from amodal.inference.exports import FORMATS, export_results, export_scene
from amodal.inference.exports.coco import from_coco_file, to_coco_file, to_coco_visible
from amodal.inference.exports.label_studio import LABEL_CONFIG, from_task, to_task, to_tasks
from amodal.inference.exports.layers import object_layer
from amodal.inference.exports.libraries import fiftyone_fields, to_fiftyone
from amodal.inference.results import ImageResult, Results
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from amodal.ops.occlusion import is_occluded
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


def one(scene: Scene, name: str = "a.png") -> Results:
    return Results.of([ImageResult(name, scene)])


def two_images() -> Results:
    """Results with names and ids as a COCO file has them: a dog in front of a bottle, and a bottle."""
    objects = make_scene(image=False).objects
    first = [
        replace(objects[0], phrase=None, name="bottle", class_id=44, source_id=901),
        replace(objects[1], phrase=None, name="dog", class_id=18, source_id=77),
    ]
    second = [replace(objects[2], name="bottle", class_id=44, source_id=12)]
    return Results.of(
        [ImageResult("val/a.jpg", Scene(first, (4, 8)), 7), ImageResult("b.jpg", Scene(second, (4, 8)), 3)]
    )


def same(a: Scene, b: Scene) -> bool:
    return a.size == b.size and all(
        np.array_equal(x.visible_mask, y.visible_mask)
        and np.array_equal(x.amodal_mask, y.amodal_mask)
        and x.label == y.label
        for x, y in zip(a.objects, b.objects, strict=True)
    )


@given(st.integers(0, 10**6))
def test_coco_and_label_studio_round_trips_are_exact(seed: int) -> None:
    scene = random_scene(seed)
    assert same(from_coco_file(to_coco_file(one(scene))), scene)
    assert same(from_task(to_tasks(one(scene))[0]).scene, scene)


def test_coco_tools_open_it(tmp_path: Path) -> None:
    scene = make_scene()
    for to, part in (("coco", "amodal_mask"), ("coco-visible", "visible_mask")):
        coco = COCO(export_scene(scene, to, tmp_path / to, "street.jpg") / "annotations.json")
        found = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
        assert [coco.cats[a["category_id"]]["name"] for a in found] == ["book", "cup", "object"]
        for annotation, obj in zip(found, scene.objects, strict=True):
            assert np.array_equal(coco.annToMask(annotation).astype(bool), getattr(obj, part))
    assert same(from_coco_file(to_coco_file(one(scene))), scene)
    assert "occluders" not in to_coco_visible(one(scene))["annotations"][0]


def test_ids_and_names_of_the_source_are_kept_in_coco_files() -> None:
    content = to_coco_file(two_images())
    assert [(i["id"], i["file_name"]) for i in content["images"]] == [(7, "val/a.jpg"), (3, "b.jpg")]
    assert content["categories"] == [{"id": 18, "name": "dog"}, {"id": 44, "name": "bottle"}]
    found = content["annotations"]
    assert [(a["id"], a["image_id"], a["category_id"]) for a in found] == [(901, 7, 44), (77, 7, 18), (12, 3, 44)]
    assert [a["occluders"] for a in found] == [[77], [], []]
    obj = from_coco_file(content, 7).objects[0]
    assert (obj.name, obj.class_id, obj.source_id) == ("bottle", 44, 901)


def test_ids_that_are_not_unique_are_replaced() -> None:
    first, second = two_images()
    objects = [replace(obj, source_id=901, class_id=1) for obj in first.scene]
    results = [first._replace(scene=Scene(objects, (4, 8))), second._replace(image_id=7)]
    content = to_coco_file(Results.of(results))
    assert [i["id"] for i in content["images"]] == [1, 2]
    assert [c["name"] for c in content["categories"]] == ["bottle", "dog", "object"]  # class 1 has two names
    assert [(a["id"], a["image_id"], a["category_id"]) for a in content["annotations"]] == [
        (1, 1, 1), (2, 1, 2), (3, 2, 1)
    ]  # fmt: skip
    assert content["annotations"][0]["occluders"] == [2]


def test_a_class_without_a_name_is_named_after_its_number() -> None:
    obj = replace(make_scene().objects[2], class_id=17)
    content = to_coco_file(one(Scene([obj], (4, 8))))
    assert content["categories"] == [{"id": 17, "name": "class 17"}]


def test_all_categories_of_the_source_are_kept() -> None:
    categories = {18: "dog", 44: "bottle", 1: "person"}
    content = to_coco_file(replace(two_images(), categories=categories))
    assert content["categories"] == [{"id": n, "name": name} for n, name in categories.items()]


def test_yolo_labels_have_polygons_and_class_names(tmp_path: Path) -> None:
    folder = export_results(two_images(), "yolo", tmp_path / "yolo")
    text = (folder / "data.yaml").read_text()
    assert "overlap_mask=False" in text
    assert yaml.safe_load(text) == {"train": "images", "val": "images", "names": {0: "dog", 1: "bottle"}}
    assert sorted(p.name for p in (folder / "labels").iterdir()) == ["a.txt", "b.txt"]
    book, cup = (line.split() for line in (folder / "labels" / "a.txt").read_text().splitlines())
    assert (book[0], cup[0]) == ("1", "0")
    corners = np.array(book[1:], float).reshape(-1, 2) * (8, 4)
    assert np.allclose([corners.min(0), corners.max(0)], [[0, 1], [4, 4]], atol=0.25)
    known = replace(two_images(), categories={44: "bottle", 18: "dog", 1: "person"})
    folder = export_results(known, "yolo", tmp_path / "all")
    assert yaml.safe_load((folder / "data.yaml").read_text())["names"] == {0: "person", 1: "dog", 2: "bottle"}
    unnamed = [replace(obj, class_id=n, phrase=None) for n, obj in enumerate(make_scene().objects)]
    folder = export_results(one(Scene(unnamed, (4, 8))), "yolo", tmp_path / "unnamed")
    assert yaml.safe_load((folder / "data.yaml").read_text())["names"] == {0: "class 0", 1: "class 1", 2: "class 2"}


def test_every_format_writes_one_dataset_for_several_images(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (4, 8, 3), dtype=np.uint8)
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(pixels).save(images / name)
    folders = {to: export_results(two_images(), to, tmp_path / to, images) for to in FORMATS}
    root = ElementTree.parse(folders["cvat"] / "annotations.xml").getroot()
    assert [(i.attrib["id"], i.attrib["name"]) for i in root.findall("image")] == [("0", "val/a.jpg"), ("1", "b.jpg")]
    found = {(m.attrib["group_id"], m.attrib["label"]) for m in root.iter("mask")}
    assert found == {("901", "bottle"), ("77", "dog"), ("12", "bottle")}
    contents = [json.loads((folders["labelme"] / name).read_text()) for name in ("a.json", "b.json")]
    assert [c["imagePath"] for c in contents] == ["val/a.jpg", "b.jpg"] and contents[0]["imageData"]
    assert {(s["group_id"], s["label"]) for s in contents[0]["shapes"]} == {(901, "bottle"), (77, "dog")}
    tasks = json.loads((folders["label-studio"] / "tasks.json").read_text())
    assert [t["data"]["file_name"] for t in tasks] == ["val/a.jpg", "b.jpg"]
    with (folders["csv"] / "objects.csv").open() as file:
        rows = [(row["image"], row["name"], row["source_id"]) for row in csv.DictReader(file)]
    assert rows == [("val/a.jpg", "bottle", "901"), ("val/a.jpg", "dog", "77"), ("b.jpg", "bottle", "12")]
    assert sorted(p.name for p in folders["crops"].iterdir()) == ["a_00.png", "a_01.png", "b_00.png"]
    assert sorted(p.name for p in folders["layers"].iterdir()) == ["a", "b"]


def test_names_and_ids_survive_label_studio() -> None:
    for before, task in zip(two_images(), to_tasks(two_images(), "http://x/"), strict=True):
        assert task["data"]["image"] == f"http://x/{before.name}"
        after = from_task(task)
        assert (after.name, after.image_id) == (before.name, before.image_id)
        for x, y in zip(before.scene, after.scene, strict=True):
            assert (x.name, x.class_id, x.source_id) == (y.name, y.class_id, y.source_id)


def test_a_corrected_name_has_the_class_id_of_its_new_name() -> None:
    task = to_tasks(two_images())[0]
    (text,) = (r for r in task["predictions"][0]["result"] if r["type"] == "textarea" and r["id"] == "object0_amodal")
    text["value"]["text"] = ["dog"]
    assert [(o.name, o.class_id) for o in from_task(task).scene] == [("dog", 18), ("dog", 18)]
    text["value"]["text"] = ["cat"]
    assert [(o.name, o.class_id) for o in from_task(task).scene] == [("cat", None), ("dog", 18)]


def test_a_task_without_our_data_is_named_after_its_image() -> None:
    task = to_task(ImageResult("x", make_scene()), "/data/local-files/?d=photos/a.png")
    task["data"] = {"image": task["data"]["image"]}
    assert from_task(task).name == "a.png" and from_task(task).image_id is None
    assert from_task(task | {"id": 5, "data": {}}).name == "task_5"


def test_one_image_of_several_must_be_named() -> None:
    content = to_coco_file(one(make_scene()))
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


@pytest.mark.parametrize("form", ["rle", "polygon"])
@pytest.mark.parametrize("num_hidden", [0, 1, 3, 4, 40])
def test_cvat_calls_an_object_occluded_where_everything_else_does(tmp_path: Path, form: str, num_hidden: int) -> None:
    """From 1 % of the object on; below it only a rim of pixels is missing."""
    amodal = np.ones((20, 20), bool)
    visible = amodal.copy()
    visible[0, :num_hidden] = visible[1, : max(num_hidden - 20, 0)] = False
    scene = Scene([SceneObject.from_masks(visible, amodal)], (20, 20))
    root = ElementTree.parse(export_results([scene], "cvat", tmp_path, masks=form) / "annotations.xml")
    flags = {element.attrib["occluded"] for element in root.iter("mask" if form == "rle" else "polygon")}
    assert flags == {str(int(num_hidden >= 4))} == {str(int(is_occluded(scene[0].occlusion_rate)))}


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
    task = to_tasks(one(make_scene()), "https://example.org/")[0]
    for region in task["predictions"][0]["result"]:
        if region["type"] == "brushlabels":  # the SDK reads brush runs as (value, count) pairs, even its own
            region["value"]["rle"] = [255, 1]
    assert config.validate_prediction(task["predictions"][0], return_errors=True) == []


def test_annotations_take_precedence_over_predictions() -> None:
    scene, other = make_scene(), random_scene(1)
    task = to_tasks(one(scene))[0]
    newer, older, gone = (to_tasks(one(s))[0]["predictions"][0] for s in (other, scene, scene))
    task["annotations"] = [
        newer | {"updated_at": "2026-02-02"},
        older | {"updated_at": "2026-01-01"},
        gone | {"updated_at": "2026-03-03", "was_cancelled": True},
    ]
    assert same(from_task(task).scene, other)


def test_a_region_without_its_counterpart_is_named() -> None:
    task = to_tasks(one(make_scene()))[0]
    result = task["predictions"][0]["result"]
    without = [r for r in result if r.get("id") != "object1_visible"]
    with pytest.raises(InputError, match="expected a visible region connected to region 'object1_amodal'"):
        from_task({"id": 7, "predictions": [{"result": without}]})
    without = [r for r in result if r.get("id") != "object1_amodal"]
    with pytest.raises(InputError, match="task 7: expected an amodal region connected to region 'object1_visible'"):
        from_task({"id": 7, "predictions": [{"result": without}]})
    with pytest.raises(InputError, match="task 7: expected regions, which state the size of the image, got none"):
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
