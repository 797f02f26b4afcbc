"""Where one of many is bad, or is no data at all, the rest is done, and the bad ones are listed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from amodal.cli.main import main
from amodal.data.datasets import guess_format, read_dataset
from amodal.data.validation.validate import validate
from amodal.inference.exports.label_studio import to_task
from amodal.inference.prompt_files import read_masks
from amodal.inference.results import ImageResult
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from amodal.io.files import visible_entries
from amodal.io.frames import list_images
from tests.data.written import BACK, SEEN, cocoa, write, write_masks

SYSTEM_FILES = ("._a.png", ".DS_Store", ".hidden.png", "Thumbs.db", "desktop.ini", "._a.json", ".a.json")


def clutter(folder: Path) -> None:
    """Leave what macOS, Windows and editors leave in folders."""
    for name in SYSTEM_FILES:
        (folder / name).write_bytes(b"\0\5\26\7 no image")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._a.png").write_bytes(b"\0\5\26\7")
    (folder / ".git").mkdir()
    Image.new("L", (30, 20)).save(folder / ".git" / "car_1_visible.png")


def test_system_files_are_no_images(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "b.PNG")
    clutter(tmp_path)
    assert [path.name for path in list_images(tmp_path)] == ["b.PNG"]
    assert [path.name for path in visible_entries(tmp_path)] == ["Thumbs.db", "b.PNG", "desktop.ini"]


def test_system_files_are_no_masks(tmp_path: Path) -> None:
    write(tmp_path, {})
    folder = write_masks(tmp_path, "a", {"car_1_visible": SEEN, "car_1_amodal": BACK})
    for path in (folder, folder / "a", tmp_path / "images"):
        clutter(path)
    assert guess_format(folder) == "masks"
    dataset = read_dataset("masks", folder)
    assert [(image.file_name, len(image.objects)) for image in dataset.images] == [("a.png", 1)]
    assert validate("masks", folder).faults == []


def test_system_files_are_no_masks_of_one_image(tmp_path: Path) -> None:
    folder = write_masks(tmp_path, "a", {"one": SEEN, "two": BACK}) / "a"
    clutter(folder)
    assert len(read_masks(folder, tmp_path / "a.png", (20, 30))) == 2


def test_system_files_are_no_records(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "records").mkdir()
    record = cocoa()["annotations"][0] | {"url": "http://x/a.png"}
    (tmp_path / "records" / "a.json").write_text(json.dumps(record))
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "a.png")
    clutter(tmp_path / "records")
    assert guess_format(tmp_path / "records") == "cocoa"
    assert len(read_dataset("cocoa", tmp_path / "records", tmp_path / "images").images) == 1


def one_task(number: int) -> dict[str, Any]:
    scene = Scene([SceneObject.from_masks(SEEN, BACK)], SEEN.shape)
    task = to_task(ImageResult(f"{number}.png", scene, number), f"/data/{number}.png")
    prediction = task.pop("predictions")[0]
    return task | {"id": number, "annotations": [{"result": prediction["result"], "updated_at": "2026-01-01"}]}


def result_of(task: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = task["annotations"][0]["result"]
    return found


def no_labels(task: dict[str, Any]) -> None:
    result_of(task)[0]["value"]["brushlabels"] = []


def unlabelled_stroke(task: dict[str, Any]) -> None:
    stroke = copy.deepcopy(result_of(task)[0]) | {"id": "q1", "type": "brush"}
    del stroke["value"]["brushlabels"]
    result_of(task).append(stroke)


BAD_TASKS = {
    "no label": (no_labels, "expected the label visible or amodal for region 'object0_visible', got []"),
    "unlabelled stroke": (unlabelled_stroke, "expected the label visible or amodal for region 'q1', got []"),
    "other label": (lambda t: result_of(t)[0]["value"].update(brushlabels=["x"]), "for region 'object0_visible'"),
    "no mask": (lambda t: result_of(t)[0]["value"].update(rle=[]), "region 'object0_visible': brush: expected"),
    "half": (lambda t: result_of(t).pop(0), "expected a visible region connected to region 'object0_amodal'"),
    "no value": (lambda t: result_of(t)[0].pop("value"), "expected Label Studio's brush regions"),
    "null": (lambda t: t["annotations"][0].update(result=None), "expected Label Studio's brush regions"),
    "no size": (lambda t: t["annotations"][0].update(result=[]), "expected regions, which state the size"),
    "text as size": (lambda t: result_of(t)[0].update(original_height="tall"), "expected original_height to be"),
    "id": (lambda t: t["data"].update(image_id="first"), "expected image_id to be an integer, got 'first'"),
}


@pytest.mark.parametrize("name", BAD_TASKS)
def test_a_bad_task_is_listed_and_the_others_are_collected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    change, message = BAD_TASKS[name]
    tasks = [one_task(1), one_task(2), one_task(3)]
    change(tasks[1])
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    arguments = ["label", "collect", str(tmp_path / "export.json"), "--out", str(tmp_path / "out.json")]
    assert main(arguments) == 3
    told = capsys.readouterr()
    assert told.err.startswith("amodal: task 2: ") and message in told.err and told.err.count("\n") == 2
    assert "2 objects in 2 images" in told.out
    content = json.loads((tmp_path / "out.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["1.png", "3.png"]
    assert main([*arguments, "--strict"]) == 2
    (tmp_path / "export.json").write_text(json.dumps(tasks[1:2]))
    assert main(arguments) == 2


def test_an_image_from_which_all_objects_were_removed_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its size is known from the prediction or from an earlier annotation."""
    predicted, corrected = one_task(2), one_task(3)
    predicted["predictions"] = [{"result": result_of(predicted)}]
    predicted["annotations"] = [{"result": []}]
    corrected["annotations"].append({"result": [], "updated_at": "2026-01-02"})
    (tmp_path / "export.json").write_text(json.dumps([one_task(1), predicted, corrected]))
    assert main(["label", "collect", str(tmp_path / "export.json"), "--out", str(tmp_path / "out.json")]) == 0
    assert "1 object in 3 images (2 without objects)" in capsys.readouterr().out
    content = json.loads((tmp_path / "out.json").read_text())
    assert [(i["id"], i["height"], i["width"]) for i in content["images"]] == [(1, 20, 30), (2, 20, 30), (3, 20, 30)]
