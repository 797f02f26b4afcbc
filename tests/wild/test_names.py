"""Names of images that are URLs, paths of other systems, or not unique: found below the folder, or refused."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from amodal.cli.main import main
from amodal.data.convert import convert
from amodal.data.datasets import read_dataset
from amodal.data.validation.validate import validate
from amodal.errors import InputError
from amodal.inference.batch import image_digest
from amodal.inference.exports.label_studio import from_task
from amodal.inference.prompt_files import read_coco_file
from amodal.inference.results import ImageResult, Results
from amodal.inference.scene import Scene
from amodal.io.image_names import ImageFinder, last_part
from amodal.io.images import load_image
from tests.data.written import canonical, coco, write
from tests.fuzz.mutations import CORPUS
from tests.wild.test_one_is_bad import one_task

LAST_PARTS = {
    "a.jpg": "a.jpg",
    "train/a.jpg": "a.jpg",
    "./train//a.jpg": "a.jpg",
    "/home/me/photos/a.jpg": "a.jpg",
    "C:\\Users\\me\\photos\\a.jpg": "a.jpg",
    "photos\\a.jpg": "a.jpg",
    "\\\\server\\share\\a.jpg": "a.jpg",
    "C:/photos/a.jpg": "a.jpg",
    "http://images.cocodataset.org/val2017/a.jpg": "a.jpg",
    "https://host/a%20b.jpg": "a b.jpg",
    "https://host/x/a.jpg?X-Amz-Signature=1/2&Expires=3#top": "a.jpg",
    "s3://bucket/photos/a.jpg": "a.jpg",
    "gs://bucket/a.jpg": "a.jpg",
    "file:///home/me/a.jpg": "a.jpg",
    "/data/local-files/?d=photos/a.jpg": "a.jpg",
    "http://localhost:8080/data/local-files/?d=photos%2Fa%20b.jpg": "a b.jpg",
    "/data/upload/3/1f2e3d4c-a.jpg": "1f2e3d4c-a.jpg",
    "a%20b.jpg": "a%20b.jpg",
    "what?.jpg": "what?.jpg",
}

FOREIGN = ["/etc/passwd", "../a.png", "x/../../a.png", "..\\a.png", "C:\\a.png", "C:a.png", "http://host/a.png",
           "file:///etc/passwd", "//server/a.png", "\\\\server\\a.png", "s3://bucket/a.png", "..", ".", "/", "a\0.png",
           "%2e%2e/%2e%2e/a.png/../../../b.png"]  # fmt: skip


@pytest.mark.parametrize("name", LAST_PARTS)
def test_the_last_part_of_a_name(name: str) -> None:
    assert last_part(name) == LAST_PARTS[name]


@pytest.mark.parametrize("name", ["", "/", "..", "a/..", "http://host/", "https://host", "C:\\", "a\0b"])
def test_names_without_a_file_name_are_refused(name: str) -> None:
    if name == "C:\\":
        assert last_part(name) == "C:"
        return
    with pytest.raises(InputError, match="expected a file name, got"):
        last_part(name)


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20)).save(folder / name)
    return folder


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("train/a.png", "train/a.png"),
        ("train\\a.png", "train/a.png"),
        ("train\\a.png", "train\\a.png"),  # a backslash is a letter on Linux
        ("a%20b.png", "a b.png"),
        ("a%20b.png", "a%20b.png"),
        ("train%5Ca.png", "train/a.png"),
        (unicodedata.normalize("NFD", "café.png"), unicodedata.normalize("NFC", "café.png")),
        (unicodedata.normalize("NFC", "café.png"), unicodedata.normalize("NFD", "café.png")),
    ],
)
def test_other_spellings_of_a_path_are_found(tmp_path: Path, name: str, file: str) -> None:
    touched(tmp_path, file)
    assert ImageFinder(tmp_path).find(name) == tmp_path / file


@pytest.mark.parametrize("name", LAST_PARTS)
def test_the_last_part_is_found_anywhere_below(tmp_path: Path, name: str) -> None:
    wanted = touched(tmp_path, "x/a.jpg", "y/a b.jpg", "y/a%20b.jpg", "what?.jpg", ".hidden/a.jpg", "__MACOSX/a.jpg")
    expected = {"1f2e3d4c-a.jpg": "a.jpg"}.get(LAST_PARTS[name], LAST_PARTS[name])  # the prefix of an upload
    assert ImageFinder(wanted, "name").find(name).name == expected
    assert ImageFinder(wanted, "name").find(name).is_file()


def test_equal_last_parts_are_not_guessed(tmp_path: Path) -> None:
    touched(tmp_path, "x/a.png", "y/a.png")
    with pytest.raises(InputError, match=r"expected one file 'a.png' below .*, got 2: x/a.png, y/a.png"):
        ImageFinder(tmp_path, "name").find("http://host/a.png")
    assert ImageFinder(tmp_path).find("y/a.png") == tmp_path / "y" / "a.png"


def named(name: Any) -> dict[str, Any]:
    content = canonical()
    content["images"][0]["file_name"] = name
    return content


@pytest.mark.parametrize("name", FOREIGN)
def test_names_that_leave_the_folder_are_refused_everywhere(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, named(name))
    touched(tmp_path, "a.png", "b.png")
    with pytest.raises(InputError, match=r"expected a path below the folder of the images, got .*--match name"):
        read_dataset("canonical", path)
    assert [f.kind for f in validate("canonical", path).faults if f.kind == "outside_folder"] == ["outside_folder"]
    out = tmp_path / "out"
    arguments = ["data", "convert", "--annotations", str(path), "--format", "canonical", "--to", "parquet"]
    assert main([*arguments, "--out", str(out)]) == 2
    assert not out.exists()


@pytest.mark.parametrize("name", ["/etc/passwd", "../../etc/passwd", "file:///etc/passwd", "..\\passwd"])
def test_prompts_and_names_matched_by_their_last_part_stay_in_the_folder(tmp_path: Path, name: str) -> None:
    content = coco()
    content["images"][0]["file_name"] = name
    found = read_coco_file(write(tmp_path, content))
    assert found.path_of(found.images[0], tmp_path / "images") == tmp_path / "images" / "passwd"
    path = write(tmp_path, named(name))
    dataset = read_dataset("canonical", path, match="name")
    assert dataset.images[0].path == tmp_path / "images" / "passwd"
    with pytest.raises(InputError, match="which does not exist"):
        convert(dataset, "parquet", tmp_path / "out")


def test_match_is_an_option_of_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, named("https://host/x/a.png?sig=%2F"))
    name = ["--annotations", str(path), "--format", "canonical", "--images", str(tmp_path / "images")]
    assert main(["data", "validate", *name]) == 1
    assert "outside_folder" in capsys.readouterr().out
    assert main(["data", "validate", *name, "--match", "name"]) == 0
    assert main(["data", "convert", *name, "--match", "name", "--to", "coco", "--out", str(tmp_path / "o.json")]) == 0
    assert main(["data", "stats", *name, "--match", "nose"]) == 2
    assert "match: expected path or name, got 'nose'" in capsys.readouterr().err


def test_match_is_an_option_of_evaluation_and_question_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, named("https://host/x/a.png?sig=%2F"))
    predictions = Path(shutil.copy(CORPUS / "predictions" / "two.json", tmp_path / "predictions.json"))
    questions = Path(shutil.copy(CORPUS / "questions" / "two.json", tmp_path / "questions.json"))
    answers = Path(shutil.copy(CORPUS / "answers" / "two.jsonl", tmp_path / "answers.jsonl"))
    name = ["--annotations", str(path)]
    for command in (
        ["evaluate", "masks", *name, "--predictions", str(predictions), "--json"],
        ["evaluate", "detections", *name, "--predictions", str(predictions), "--json"],
        ["evaluate", "answers", *name, "--questions", str(questions), "--predictions", str(answers), "--json"],
        ["evaluate", "panel", *name, "--predictions", f"a={predictions}", "--out", str(tmp_path / "panel.png")],
        ["reasonseg", "prompt", *name, "--format", "canonical"],
        ["reasonseg", "generate", *name, "--format", "canonical", "--out", str(tmp_path / "work")],
    ):
        assert main(command) == 2, command
        assert "expected a path below the folder of the images" in capsys.readouterr().err
        assert main([*command, "--match", "name"]) == 0, capsys.readouterr().err
        capsys.readouterr()


def test_converted_names_are_found_by_every_command(tmp_path: Path) -> None:
    """The way for commands and recipes without `--match`."""
    path, out = write(tmp_path, named("https://host/x/a.png?sig=%2F")), tmp_path / "found.json"
    (tmp_path / "images" / "deep").mkdir()
    (tmp_path / "images" / "a.png").rename(tmp_path / "images" / "deep" / "a.png")
    name = ["--annotations", str(path), "--format", "canonical", "--match", "name"]
    assert main(["data", "convert", *name, "--to", "canonical", "--out", str(out)]) == 0
    dataset = read_dataset("canonical", out)
    assert dataset.images[0].file_name == "deep/a.png" and dataset.images[0].load().shape == (20, 30, 3)


def test_validate_reports_every_image_that_is_not_found(tmp_path: Path) -> None:
    content = canonical()
    content["images"] += [content["images"][0] | {"id": 6 + i, "file_name": f"s3://b/{i}.png"} for i in range(3)]
    faults = validate("canonical", write(tmp_path, content), match="name").faults
    assert [(f.kind, f.image_id) for f in faults if f.kind == "missing_image"] == [
        ("missing_image", 6 + i) for i in range(3)
    ]


def test_two_images_of_one_last_part_are_refused(tmp_path: Path) -> None:
    content = canonical()
    content["images"][0]["file_name"] = "train/a.png"
    content["images"].append(content["images"][0] | {"id": 6, "file_name": "val/a.png"})
    path = write(tmp_path, content)
    with pytest.raises(InputError, match="expected names with different last parts, got 'train/a.png' and 'val/a.png'"):
        read_dataset("canonical", path, match="name")
    assert "ambiguous_image" in {f.kind for f in validate("canonical", path, match="name").faults}


def test_prompts_of_two_images_of_one_last_part_are_not_mixed_up(tmp_path: Path) -> None:
    content = coco()
    content["images"][0]["file_name"] = "train/a.png"
    content["images"].append(content["images"][0] | {"id": 6, "file_name": "val/a.png"})
    found = read_coco_file(write(tmp_path, content))
    folder = touched(tmp_path / "images", "a.png")
    assert not any(found.path_of(image, folder).is_file() for image in found.images)


def test_two_photographs_of_one_stem_are_ambiguous_masks(tmp_path: Path) -> None:
    touched(tmp_path, "photos/a.jpg", "photos/a.png", "masks/a/car_1_visible.png")
    Image.new("L", (30, 20), 255).save(tmp_path / "masks" / "a" / "car_1_visible.png")
    with pytest.raises(InputError, match=r"expected one image for the masks a, got a.jpg and a.png"):
        read_dataset("masks", tmp_path / "masks", tmp_path / "photos")
    (tmp_path / "masks" / "a").rename(tmp_path / "masks" / "a.png")
    assert read_dataset("masks", tmp_path / "masks", tmp_path / "photos").images[0].file_name == "a.png"


@pytest.mark.parametrize("url", [u for u in LAST_PARTS if not u.startswith(".")])
def test_tasks_are_named_by_their_url(url: str) -> None:
    task = one_task(1)
    del task["data"]["file_name"]
    task["data"]["image"] = url
    assert from_task(json.loads(json.dumps(task))).name == LAST_PARTS[url]


@pytest.mark.parametrize("name", ["a" * 300 + ".png", "\u00e9" * 300 + ".png", "a/" * 3000 + "a.png"])
def test_names_that_are_too_long_for_the_system_are_missing_files(tmp_path: Path, name: str) -> None:
    content = coco()
    content["images"][0]["file_name"] = name
    path = write(tmp_path, content)
    (image, *_) = read_dataset("coco", path).images
    with pytest.raises(InputError, match="image: expected a file"):
        image.load()
    assert "missing_image" in {fault.kind for fault in validate("coco", path, tmp_path).faults}
    file = read_coco_file(path)
    with pytest.raises(InputError, match="image: expected a file"):
        load_image(file.path_of(file.images[0], tmp_path))


@pytest.mark.parametrize("name", ["a" * 300 + ".png", "a/" * 3000 + "b.png"])
def test_a_name_that_is_too_long_fails_alone(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    content = coco()
    content["images"].append(content["images"][0] | {"id": 6, "file_name": name})
    content["annotations"].append(content["annotations"][1] | {"id": 3, "image_id": 6})
    path, out = write(tmp_path, content), tmp_path / "out"
    images = tmp_path / "images"
    assert main(["segment", str(images), "--annotations", str(path), "--model", "plug-small", "--out", str(out)]) == 3
    assert f"expected an image of {path.name}" in capsys.readouterr().err
    assert len(Scene.load(out / "a")) == 2
    long = read_coco_file(path).images[1]
    assert image_digest(read_coco_file(path).path_of(long, images)) == ""  # of `amodal batch`
    named = Results.of([ImageResult(name, Scene.load(out / "a"))])
    with pytest.raises(InputError, match="image: expected a file"):
        next(iter(named.with_images(images)))


def test_shapes_are_matched_by_the_last_part_as_other_records_are(tmp_path: Path) -> None:
    shapes = [{"label": "cup", "points": [[0, 0], [5, 0], [5, 5]]}]
    for number, name in enumerate(["x/a.png", "y/a.png"]):
        record = {"imagePath": name, "imageHeight": 8, "imageWidth": 8, "shapes": shapes}
        (tmp_path / f"{number}.json").write_text(json.dumps(record))
    photos = tmp_path / "photos"
    for folder in ("x", "y"):
        (photos / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(photos / folder / "a.png")
    assert validate("labelme", tmp_path, photos).num_errors == 0
    kinds = [fault.kind for fault in validate("labelme", tmp_path, photos, match="name").faults]
    assert kinds.count("ambiguous_image") == 2  # two files of this name
    (photos / "x" / "a.png").unlink()
    kinds = [fault.kind for fault in validate("labelme", tmp_path, photos, match="name").faults]
    assert kinds.count("ambiguous_image") == 1  # two images of one file
