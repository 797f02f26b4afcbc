from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amodal.cli.main import main
from amodal.data.datasets import read_dataset
from amodal.inference.exports.label_studio import from_task, to_tasks
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from tests.drawing import mask


def save_images(folder: Path) -> Path:
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.effect_noise((64, 48), 60).convert("RGB").save(folder / name)
    return folder


def boxes_file(folder: Path) -> Path:
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 48, "width": 64}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 8, 30, 30]}],
        "categories": [{"id": 1, "name": "object"}],
    }
    path = folder / "boxes.json"
    path.write_text(json.dumps(content))
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    return line


def test_corrected_predictions_become_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = save_images(tmp_path / "photos")
    tasks_file = tmp_path / "work" / "tasks.json"
    assert main(["label", "predict", str(images), "--out", str(tasks_file), "--boxes", str(boxes_file(tmp_path))]) == 0
    tasks = json.loads(tasks_file.read_text())
    assert [t["data"]["image"] for t in tasks] == ["/data/local-files/?d=a.png", "/data/local-files/?d=b.png"]
    assert len(from_task(tasks[0]).objects) == 1 and tasks_file.with_suffix(".xml").read_text().startswith("<View>")

    corrected = mask("##..", "####")
    scene = Scene([SceneObject.from_masks(mask("##..", "##.."), corrected, phrase="shoe")], (2, 4))
    tasks[0]["annotations"] = to_tasks(scene, "x")[0]["predictions"]
    export = tmp_path / "export.json"
    export.write_text(json.dumps(tasks))
    out = tmp_path / "corrected" / "annotations.json"
    capsys.readouterr()
    assert main(["label", "collect", str(export), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"images": 1, "objects": 1, "left_out": 1}
    dataset = read_dataset("canonical", out, images)
    (record,) = dataset.images
    assert record.file_name == "a.png" and np.array_equal(record.objects[0].amodal_mask(), corrected)
    assert dataset.categories[record.objects[0].category_id] == "shoe"


def test_without_boxes_the_objects_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = save_images(tmp_path / "photos")
    assert main(["label", "predict", str(images), "--out", str(tmp_path / "t.json"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)  # without a progress bar
    tasks = json.loads((tmp_path / "t.json").read_text())
    parts = [r for t in tasks for r in t["predictions"][0]["result"] if r["type"] == "brushlabels"]
    assert printed["images"] == len(tasks) == 2
    assert 2 * printed["objects"] == len(parts)


def test_invalid_inputs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, out = save_images(tmp_path / "photos"), str(tmp_path / "out.json")
    assert "folder: expected a folder" in refused(capsys, "label", "predict", str(tmp_path / "no"), "--out", out)
    both = ("--boxes", str(boxes_file(tmp_path)), "--detector", "x")
    assert "expected either --boxes or --detector" in refused(
        capsys, "label", "predict", str(images), "--out", out, *both
    )
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"images": 3}')
    assert "boxes: expected a COCO file" in refused(
        capsys, "label", "predict", str(images), "--out", out, "--boxes", str(wrong)
    )
    wrong.write_text('{"images": [], "annotations": [3]}')
    assert "boxes: expected a COCO file" in refused(
        capsys, "label", "predict", str(images), "--out", out, "--boxes", str(wrong)
    )
    wrong.write_text('{"images": 3}')
    assert "expected a list of tasks" in refused(capsys, "label", "collect", str(wrong), "--out", out)
    wrong.write_text("{")
    assert "expected a JSON file of Label Studio" in refused(capsys, "label", "collect", str(wrong), "--out", out)
    wrong.write_text('[{"data": {"image": "a"}}]')
    assert "expected annotated tasks, got none among 1" in refused(capsys, "label", "collect", str(wrong), "--out", out)
    assert not Path(out).exists()


def test_scenes_are_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    m = mask("##..", "##..")
    pixels = np.zeros((2, 4, 3), np.uint8)
    folder = Scene([SceneObject.from_masks(m, m)], (2, 4), pixels).save(tmp_path / "scene")
    Image.fromarray(pixels).save(tmp_path / "street.png")
    arguments = ["export", "scene", str(folder), "--to", "layers", "--out", str(tmp_path / "layers"), "--json"]
    assert "expected a scene with its image" in refused(capsys, *arguments)
    assert main([*arguments, "--image", str(tmp_path / "street.png")]) == 0
    files = json.loads(capsys.readouterr().out)
    assert [Path(f).name for f in files] == ["00_object_00.png", "01_background.png", "layers.json"]
