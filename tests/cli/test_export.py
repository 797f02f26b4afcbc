"""`amodal export` turns whatever the other commands wrote into one dataset."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from amodal.cli.main import main
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from amodal.ops.rle import encode_mask
from tests.drawing import mask

SEEN, WHOLE = mask("##..", "...."), mask("###.", "....")


def save_scene(folder: Path, name: str | None = None, source_id: int | None = None) -> Path:
    obj = SceneObject.from_masks(SEEN, WHOLE, name="dog", class_id=18, source_id=source_id)
    return Scene([obj], (2, 4), image_path=None if name is None else Path(name)).save(folder)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["export", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["export", *arguments]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


@pytest.mark.parametrize("command", ["scenes", "scene"])
def test_one_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    folder = str(save_scene(tmp_path / "scene"))
    Image.fromarray(np.zeros((2, 4, 3), np.uint8)).save(tmp_path / "street.png")
    arguments = [command, folder, "--to", "layers", "--out", str(tmp_path / "layers")]
    assert "expected a scene with its image" in refused(capsys, *arguments)
    files = run(capsys, *arguments, "--image", str(tmp_path / "street.png"))
    assert [Path(f).name for f in files] == ["00_object_00.png", "01_background.png", "layers.json"]
    assert json.loads((tmp_path / "layers" / "layers.json").read_text())["image"] == "street.png"


def test_a_folder_of_scenes_becomes_one_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, source_id in (("a.jpg", 901), ("b.jpg", 12)):
        save_scene(tmp_path / "scenes" / name[0], f"photos/{name}", source_id)
    (file,) = run(capsys, "scenes", str(tmp_path / "scenes"), "--to", "coco", "--out", str(tmp_path / "coco"))
    content = json.loads(Path(file).read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.jpg", "b.jpg"]
    assert content["categories"] == [{"id": 18, "name": "dog"}]
    assert [annotation["id"] for annotation in content["annotations"]] == [901, 12]
    files = run(capsys, "scenes", str(tmp_path / "scenes"), "--to", "yolo", "--out", str(tmp_path / "yolo"))
    assert [str(Path(f).relative_to(tmp_path / "yolo")) for f in files] == ["data.yaml", "labels/a.txt", "labels/b.txt"]
    assert yaml.safe_load(Path(files[0]).read_text())["names"] == {0: "dog"}


def predictions(folder: Path) -> tuple[Path, Path]:
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 2, "width": 4}],
        "categories": [{"id": 18, "name": "dog"}],
        "annotations": [{"id": 901, "image_id": 7, "category_id": 18, "bbox": [0, 0, 2, 1]}],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    row = {
        "image_id": 7,
        "annotation_id": 901,
        "category_id": 18,
        "segmentation": encode_mask(WHOLE),
        "visible_segmentation": encode_mask(SEEN),
    }
    (folder / "predictions.json").write_text(json.dumps([row]))
    return folder / "predictions.json", folder / "instances.json"


@pytest.mark.parametrize("to", ["coco", "cvat", "labelme", "yolo", "label-studio"])
def test_predictions_become_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str) -> None:
    source, annotations = predictions(tmp_path)
    arguments = ["scenes", str(source), "--to", to, "--out", str(tmp_path / "out")]
    assert "annotations: expected the dataset of the predictions" in refused(capsys, *arguments)
    files = run(capsys, *arguments, "--annotations", str(annotations))
    text = "".join(Path(file).read_text() for file in files)
    assert "dog" in text
    if to == "yolo":
        assert "labels/a.txt" in " ".join(files)
    else:
        assert "a.jpg" in text and "901" in text


def test_mistakes_give_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = str(save_scene(tmp_path / "scene")), str(tmp_path / "out")
    assert "to: expected one of coco" in refused(capsys, "scenes", folder, "--to", "paint", "--out", out)
    assert "source: expected a scene folder or predictions" in refused(
        capsys, "scenes", str(tmp_path / "none"), "--to", "coco", "--out", out
    )
    assert "out: expected a new or empty folder" in refused(capsys, "scenes", folder, "--to", "coco", "--out", folder)
    assert not Path(out).exists()


def test_many_files_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(9):
        save_scene(tmp_path / "scenes" / str(number), f"{number}.jpg")
    assert main(["export", "scenes", str(tmp_path / "scenes"), "--to", "yolo", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"Written: 10 files in {tmp_path / 'out'}\n"
