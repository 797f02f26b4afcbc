from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amodal.cli.main import main
from amodal.data.datasets import read_dataset
from amodal.errors import InputError
from amodal.inference.exports.label_studio import from_task, to_task
from amodal.inference.results import ImageResult
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from amodal.inference.segmenter import AmodalSegmenter
from tests.drawing import mask


def save_images(folder: Path) -> Path:
    folder.mkdir()
    for name in ("a.png", "b.png", "._a.png"):
        Image.effect_noise((64, 48), 60).convert("RGB").save(folder / name)
    return folder


def boxes_file(folder: Path) -> Path:
    content = {
        "images": [{"id": 5, "file_name": "a.png", "height": 48, "width": 64}, {"id": 6, "file_name": "b.png"}],
        "annotations": [{"id": 31, "image_id": 5, "category_id": 4, "bbox": [8, 8, 30, 30]}],
        "categories": [{"id": 4, "name": "shoe"}],
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
    assert [t["data"]["image"] for t in tasks] == [f"/data/local-files/?d=photos/{x}.png" for x in "ab"]
    (obj,) = from_task(tasks[0]).scene
    assert (obj.name, obj.class_id, obj.source_id) == ("shoe", 4, 31) and tasks_file.with_suffix(
        ".xml"
    ).read_text().startswith("<View>")

    corrected = mask("##..", "####")
    scene = Scene([SceneObject.from_masks(mask("##..", "##.."), corrected, phrase="shoe")], (2, 4))
    tasks[0]["annotations"] = to_task(ImageResult("x", scene), "x")["predictions"]
    export = tmp_path / "export.json"
    export.write_text(json.dumps(tasks))
    out = tmp_path / "corrected" / "annotations.json"
    capsys.readouterr()
    assert main(["label", "collect", str(export), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "images": 1,
        "objects": 1,
        "left_out": 1,
        "without_objects": 0,
        "failed": {},
    }
    dataset = read_dataset("canonical", out, images)
    (record,) = dataset.images
    assert (record.id, record.file_name, record.objects[0].id) == (5, "a.png", 31)
    assert np.array_equal(record.objects[0].amodal_mask(), corrected)
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
    assert "folder: expected a folder of images" in refused(
        capsys, "label", "predict", str(tmp_path / "no"), "--out", out
    )
    both = ("--boxes", str(boxes_file(tmp_path)), "--detector", "x")
    assert "expected either --annotations or --detector" in refused(
        capsys, "label", "predict", str(images), "--out", out, *both
    )
    assert "text: expected --detector together with --text" in refused(
        capsys, "label", "predict", str(images), "--out", out, "--text", "cup"
    )
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"images": 3}')
    assert "expected a COCO file, got a file without images and annotations and categories" in refused(
        capsys, "label", "predict", str(images), "--out", out, "--annotations", str(wrong)
    )
    wrong.write_text('{"images": [], "annotations": [3]}')
    assert "expected records in annotations, got 3" in refused(
        capsys, "label", "predict", str(images), "--out", out, "--boxes", str(wrong)
    )
    wrong.write_text('{"images": 3}')
    assert "expected a list of tasks" in refused(capsys, "label", "collect", str(wrong), "--out", out)
    wrong.write_text("{")
    assert "expected JSON, got broken text" in refused(capsys, "label", "collect", str(wrong), "--out", out)
    wrong.write_text('[{"data": {"image": "a"}}]')
    assert "expected annotated tasks, got none among 1" in refused(capsys, "label", "collect", str(wrong), "--out", out)
    assert not Path(out).exists()


def test_outputs_that_cannot_be_written_are_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = save_images(tmp_path / "photos")
    predict = ["label", "predict", str(images), "--boxes", str(boxes_file(tmp_path)), "--out"]
    (tmp_path / "folder").mkdir()
    (tmp_path / "tasks.xml").mkdir()
    (tmp_path / "cvat.xml").write_text("<annotations/>")
    (tmp_path / "file").write_text("x")
    for name, message in (
        ("folder", "out: expected a file to write, got the folder"),
        ("tasks.json", "out: expected a file to write, got the folder"),
        ("file/tasks.json", "out: expected a file to write, got a place inside the file"),
        ("cvat.json", "cvat.xml' is free for the interface, got another file there"),
    ):
        assert message in refused(capsys, *predict, str(tmp_path / name)), name
    assert (tmp_path / "cvat.xml").read_text() == "<annotations/>"
    assert {path.name for path in tmp_path.iterdir()} == {
        "photos", "boxes.json", "folder", "tasks.xml", "cvat.xml", "file",
    }  # fmt: skip
    for _ in range(2):  # the interface of an earlier call is replaced
        assert main([*predict, str(tmp_path / "good.json")]) == 0
    capsys.readouterr()
    for path in images.iterdir():
        path.write_text("broken")
    before = (tmp_path / "good.json").read_bytes()
    assert "folder: expected images that can be segmented, got none" in refused(
        capsys, *predict, str(tmp_path / "good.json")
    )
    assert (tmp_path / "good.json").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "annotated"),
    [
        ("a.png", True),
        ("below/c.png", True),
        ("rest.png", True),
        ("still.gif", True),
        ("a.png", False),
        ("still.gif", False),
    ],
)
def test_no_photograph_of_the_folder_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, annotated: bool
) -> None:
    """Nor one that only the annotations have, or only the folder; the command stops before a model is loaded."""
    images, file = save_images(tmp_path / "photos"), boxes_file(tmp_path)
    (images / "below").mkdir()
    for extra in ("below/c.png", "rest.png", "still.gif"):
        Image.new("RGB", (64, 48)).save(images / extra)
    content = json.loads(file.read_text())
    content["images"].append({"id": 7, "file_name": "below/c.png"})
    file.write_text(json.dumps(content))
    monkeypatch.setattr(AmodalSegmenter, "from_pretrained", lambda *_, **__: pytest.fail("it loads a model"))
    before = (images / name).read_bytes()
    options = ["--boxes", str(file)] if annotated else []
    line = refused(capsys, "label", "predict", str(images), "--out", str(images / name), *options)
    assert "out: expected another file than the input" in line and name in line
    assert (images / name).read_bytes() == before and not (images / name).with_suffix(".xml").exists()


@pytest.mark.parametrize("form", ["absolute", "beside"])
def test_file_names_outside_the_folder_are_named_by_their_last_part(tmp_path: Path, form: str) -> None:
    """The task names what Label Studio finds in the folder; a name elsewhere cannot end the run after its work."""
    images, out = save_images(tmp_path / "photos"), tmp_path / "t.json"
    (images / "b.png").unlink()
    file = boxes_file(tmp_path)
    content = json.loads(file.read_text())
    name = str(images / "a.png") if form == "absolute" else "../photos/a.png"
    content["images"] = [{**content["images"][0], "file_name": name}]
    file.write_text(json.dumps(content))
    assert main(["label", "predict", str(images), "--out", str(out), "--boxes", str(file)]) == 0
    (task,) = json.loads(out.read_text())
    assert task["data"]["image"].endswith("a.png") and ".." not in task["data"]["image"]


def test_images_that_fail_are_reported_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, out = save_images(tmp_path / "photos"), tmp_path / "t.json"
    (images / "b.png").write_text("broken")
    arguments = ["label", "predict", str(images), "--out", str(out), "--boxes", str(boxes_file(tmp_path))]
    assert main([*arguments, "--json"]) == 3
    captured = capsys.readouterr()
    assert list(json.loads(captured.out)["failed"]) == ["b.png"] and len(json.loads(out.read_text())) == 1
    assert captured.err.startswith("amodal: b.png: image ") and captured.err.count("\n") == 2
    assert "b.png: image" in refused(capsys, *arguments, "--strict")
    Image.new("RGB", (8, 8)).save(images / "c.png")
    assert main(arguments) == 3
    assert capsys.readouterr().out.startswith("Left out: 1 image of the folder that boxes.json does not have")


def test_an_image_that_cannot_be_segmented_is_reported_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = save_images(tmp_path / "photos"), tmp_path / "t.json"
    Image.new("RGB", (64, 48), "white").save(images / "a.png")
    segment_batch = AmodalSegmenter.segment_batch

    def fail_on_white(self: AmodalSegmenter, images: list[np.ndarray], *rest: object, **options: object) -> list[Scene]:
        if images[0].min() == 255:
            raise InputError("mask: expected an object, got none")
        return segment_batch(self, images, *rest, **options)

    monkeypatch.setattr(AmodalSegmenter, "segment_batch", fail_on_white)
    arguments = ["label", "predict", str(images), "--out", str(out), "--boxes", str(boxes_file(tmp_path))]
    assert main(arguments) == 3
    assert capsys.readouterr().err.splitlines()[0] == "amodal: a.png: mask: expected an object, got none"
    assert [task["data"]["file_name"] for task in json.loads(out.read_text())] == ["b.png"]
    out.unlink()
    assert "a.png: mask: expected an object, got none" in refused(capsys, *arguments, "--strict")
    assert "expected a bundled name" in refused(capsys, *arguments, "--model", "none")
    assert not out.exists()


def test_images_are_in_a_folder_below_the_root_of_label_studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Label Studio refuses its document root itself as a storage."""
    images = save_images(tmp_path / "photos")
    arguments = ["--out", str(tmp_path / "tasks.json"), "--boxes", str(boxes_file(tmp_path))]
    monkeypatch.chdir(images)
    assert main(["label", "predict", ".", *arguments]) == 0
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=photos/a.png"
    assert main(["label", "predict", ".", *arguments, "--url", "https://example.org/"]) == 0
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert tasks[0]["data"]["image"] == "https://example.org/a.png"
    Scene([], (2, 4), image_path=images / "a.png").save(tmp_path / "scenes" / "a")
    assert main(["label", "tasks", str(tmp_path / "scenes"), "--out", str(tmp_path / "tasks.json")]) == 0
    (task,) = json.loads((tmp_path / "tasks.json").read_text())
    assert task["data"]["image"] == "/data/local-files/?d=images/a.png"


@pytest.mark.parametrize("name", ["a/scene.json", "run.json", "annotations.json", "part-000000.parquet"])
def test_no_file_of_the_results_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    scenes = tmp_path / "scenes"
    Scene([], (2, 4), image_path=Path("a.png")).save(scenes / "a")
    out = scenes / name
    out.touch()
    before = out.read_bytes()
    for source in (scenes, out.parent) if name == "a/scene.json" else (scenes,):
        line = refused(capsys, "label", "tasks", str(source), "--out", str(out))
        assert "out: expected another file than the input" in line and name in line
    assert out.read_bytes() == before and not out.with_suffix(".xml").exists()
    (scenes / "part-000000.parquet").unlink(missing_ok=True)
    for _ in range(2):  # tasks beside the results are replaced
        assert main(["label", "tasks", str(scenes), "--out", str(scenes / "tasks.json")]) == 0


def test_saved_results_become_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    m = mask("##..", "##..")
    obj = SceneObject.from_masks(m, m, name="shoe", class_id=4, source_id=31)
    Scene([obj], (2, 4), image_path=Path("photos/a.png")).save(tmp_path / "scenes" / "a")
    out = tmp_path / "tasks.json"
    assert main(["label", "tasks", str(tmp_path / "scenes"), "--out", str(out), "--url", "s3://x/", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["objects"] == 1
    (task,) = json.loads(out.read_text())
    assert task["data"]["image"] == "s3://x/a.png" and from_task(task).scene[0].source_id == 31
    assert out.with_suffix(".xml").is_file()
