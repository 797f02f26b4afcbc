"""Saved scenes and predictions are read back with the names and ids of their images and objects."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amodal.errors import InputError
from amodal.inference.exports import export_results
from amodal.inference.results import ImageResult, Results, read_results
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from amodal.ops.rle import encode_mask
from tests.drawing import mask

SEEN, WHOLE = mask("##..", "...."), mask("###.", "....")


def make_scene(image_path: Path | None = None, image: np.ndarray | None = None) -> Scene:
    obj = SceneObject.from_masks(SEEN, WHOLE, name="dog", class_id=18, source_id=901, score=0.5)
    return Scene([obj], (2, 4), image, image_path=image_path)


def dataset(folder: Path, masks: bool = False) -> Path:
    """A plain COCO file with boxes, or with masks."""
    shape: dict[str, Any] = {"bbox": [0, 0, 2, 1]} | ({"segmentation": encode_mask(SEEN)} if masks else {})
    content = {
        "images": [
            {"id": 3, "file_name": "b.png", "height": 2, "width": 4},
            {"id": 7, "file_name": "val/a.png", "height": 2, "width": 4},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 44, "name": "bottle"}],
        "annotations": [{"id": 901, "image_id": 7, "category_id": 18, "iscrowd": 0, "area": 2} | shape],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


ROW = {
    "image_id": 7,
    "annotation_id": 901,
    "category_id": 18,
    "segmentation": encode_mask(WHOLE),
    "visible_segmentation": encode_mask(SEEN),
    "score": 0.5,
}


def check(result: ImageResult) -> None:
    (obj,) = result.scene
    assert np.array_equal(obj.visible_mask, SEEN) and np.array_equal(obj.amodal_mask, WHOLE)
    assert (obj.name, obj.class_id, obj.source_id, obj.score) == ("dog", 18, 901, 0.5)


def test_one_scene_and_a_folder_of_scenes(tmp_path: Path) -> None:
    make_scene(Path("photos/a.jpg")).save(tmp_path / "one")
    (result,) = read_results(tmp_path / "one")
    assert result.name == "a.jpg" and result.image_id is None
    check(result)
    make_scene().save(tmp_path / "two")
    results = read_results(tmp_path)
    assert [result.name for result in results] == ["a.jpg", "two.png"] and len(results) == 2
    assert results.categories is None


def test_a_folder_of_scenes_has_the_categories_and_image_ids_of_its_annotations(tmp_path: Path) -> None:
    for name in ("a", "c"):
        make_scene(Path(f"photos/{name}.png")).save(tmp_path / name)
    file = dataset(tmp_path).rename(tmp_path / "annotations.json")
    (tmp_path / "run.json").write_text(json.dumps({"annotations": "0123"}))
    results = read_results(tmp_path)
    assert results.categories == {18: "dog", 44: "bottle"}
    assert [(r.name, r.image_id) for r in results] == [("val/a.png", 7), ("c.png", None)]
    (tmp_path / "run.json").write_text(json.dumps({"annotations": None}))
    assert read_results(tmp_path).categories is None
    (tmp_path / "run.json").write_text(json.dumps({"annotations": "0123"}))
    file.write_text("{")
    assert read_results(tmp_path).categories is None


@pytest.mark.parametrize("masks", [False, True])
def test_a_predictions_file_with_its_dataset(tmp_path: Path, masks: bool) -> None:
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps([ROW]))
    results = read_results(path, dataset(tmp_path, masks))
    (result,) = results
    assert (result.name, result.image_id) == ("val/a.png", 7) and results.categories == {18: "dog", 44: "bottle"}
    check(result)


def test_the_files_of_a_batch(tmp_path: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    (tmp_path / "out").mkdir()
    parquet.write_table(arrow.Table.from_pylist([ROW]), tmp_path / "out" / "part-000000.parquet")
    (result,) = read_results(tmp_path / "out", dataset(tmp_path))
    check(result)


def test_keys_that_a_prediction_may_lack(tmp_path: Path) -> None:
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps([{"image_id": 7, "segmentation": encode_mask(WHOLE)}]))
    (result,) = read_results(path, dataset(tmp_path))
    obj = result.scene[0]
    assert np.array_equal(obj.visible_mask, WHOLE) and obj.score == 1
    assert (obj.name, obj.class_id, obj.source_id) == (None, None, None)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "source: expected predictions, got none in"),
        ([3], "expected a list of predictions, got other content"),
        ({"a": 1}, "expected a list of predictions, got other content"),
        ([ROW | {"image_id": 8}], "record 0: expected the id of an image of .*, got 8"),
        (
            [ROW | {"segmentation": encode_mask(np.ones((3, 3), bool))}],
            "image val/a.png: segmentation: expected an RLE",
        ),
        ([{"image_id": 7}], "image val/a.png: expected predictions with masks, got KeyError"),
        ([ROW | {"score": 3}], "image val/a.png: score"),
    ],
)
def test_broken_predictions_are_refused(tmp_path: Path, rows: Any, message: str) -> None:
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(InputError, match=message):
        list(read_results(path, dataset(tmp_path)))


def test_sources_without_results_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="source: expected a scene folder or predictions, got .*does not exist"):
        read_results(tmp_path / "none")
    with pytest.raises(InputError, match="source: expected a folder with scenes or predictions, got none in"):
        read_results(tmp_path)
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps([ROW]))
    with pytest.raises(InputError, match="annotations: expected the dataset of the predictions in .*, got none"):
        read_results(path)


def test_images_are_loaded_by_name(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    named = Results.of([ImageResult("val/a.png", make_scene())])
    for images in (tmp_path, tmp_path / "a.png"):
        (result,) = named.with_images(images)
        assert result.scene.image is not None and np.array_equal(result.scene.image, pixels)
    (result,) = named.with_images(None)
    assert result.scene.image is None
    (result,) = Results.of([ImageResult("a.png", make_scene(tmp_path / "a.png"))]).with_images(None)
    assert result.scene.image is not None
    scene = replace(make_scene(tmp_path / "a.png"), answer="A cup.", confidence=0.5, visible_from="sam")
    (result,) = Results.of([ImageResult("a.png", scene)]).with_images(None)
    assert result.scene.to_json() == scene.to_json()  # all but the pixels stays
    own = np.zeros((2, 4, 3), np.uint8)
    (result,) = Results.of([ImageResult("a.png", make_scene(tmp_path / "a.png", own))]).with_images(None)
    assert result.scene.image is own
    with pytest.raises(InputError, match="image: expected a file, got .* which does not exist"):
        list(Results.of([ImageResult("c.png", make_scene())]).with_images(tmp_path))
    with pytest.raises(InputError, match="image: expected a file or folder, got .* which does not exist"):
        named.with_images(tmp_path / "none")
    with pytest.raises(InputError, match="image: expected a folder for 2 images, got the file"):
        Results.of([*named, *named]).with_images(tmp_path / "a.png")


def test_a_list_of_scenes_is_exported(tmp_path: Path) -> None:
    scenes = [make_scene(tmp_path / "photos" / "a.jpg"), make_scene()]
    content = json.loads((export_results(scenes, "coco", tmp_path / "out") / "annotations.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.jpg", "image_2.png"]
    saved = scenes[0].save(tmp_path / "scene")
    export_results(read_results(str(saved)), "csv", str(tmp_path / "table"))


@pytest.mark.parametrize(("image_id", "read"), [("7", True), (7.0, True), ([7], False), (None, False), (8, False)])
def test_ids_of_images_as_numbers_or_text(tmp_path: Path, image_id: Any, read: bool) -> None:
    file = tmp_path / "predictions.json"
    file.write_text(json.dumps([ROW | {"image_id": image_id}]))
    if read:
        check(next(iter(read_results(str(file), str(dataset(tmp_path))))))
        return
    with pytest.raises(InputError, match="record 0: expected "):
        read_results(file, dataset(tmp_path))
