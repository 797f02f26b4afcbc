"""`amodal data`: output, written files and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amodal.cli.data_draw import TILE, sheet, tile
from amodal.cli.main import main
from amodal.data.datasets import FORMATS, read_dataset
from amodal.data.relations import derive_occluders
from tests.data import written
from tests.data.toy import write_toy
from tests.data.written import FILES, write, write_masks


def run(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> Any:
    """Run `amodal data ... --json` and return the parsed output."""
    assert main(["data", *(str(a) for a in arguments), "--json"]) == code
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail and return its one-line error message."""
    assert main(["data", *(str(a) for a in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "Traceback" not in captured.err
    return captured.err


def test_formats(capsys: pytest.CaptureFixture[str]) -> None:
    listed = run(capsys, "formats")
    assert [f["name"] for f in listed] == [*FORMATS, "parquet"]
    assert all(f["files"] and f["masks"] and f["order"] for f in listed)
    assert {f["name"] for f in listed if f["write"]} == {"canonical", "cocoa_cls", "kins2020", "coco", "parquet"}
    assert main(["data", "formats"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for f in listed for name in f["files"]), "file names are not wrapped on narrow terminals"


@pytest.mark.parametrize("name", [*FILES, "masks"])
def test_inspect(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    if name == "masks":
        path = write_masks(tmp_path, "a", {"car_1_visible": written.SEEN, "car_1_amodal": written.BACK})
    else:
        path = write(tmp_path, FILES[name]())
    shown = run(capsys, "inspect", "--annotations", path)
    assert shown["format"] == name and shown["guessed"] and shown["num_images"] == 1
    assert shown["object"]["visible_pixels"] > 0 and shown["record"]["id"]
    assert main(["data", "inspect", "--annotations", str(path), "--format", name]) == 0
    assert f"format         {name}\n" in capsys.readouterr().out


def test_inspect_object_by_id(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(tmp_path, written.cocoa())
    shown = run(capsys, "inspect", "--annotations", path, "--object", 7002)["object"]
    assert (shown["category"], shown["occluders"], shown["is_stuff"]) == ("car", [7001], True)
    assert shown["occlusion_rate"] == pytest.approx(written.RATE)
    assert "expected an annotation id of the file" in error_of(capsys, "inspect", "--annotations", path, "--object", 9)
    empty = write(tmp_path, {"images": [], "annotations": []})
    assert run(capsys, "inspect", "--annotations", empty, "--format", "coco")["object"] is None


def test_validate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(tmp_path, written.canonical())
    assert run(capsys, "validate", "--annotations", path)["findings"] == []
    content = written.canonical()
    content["categories"].append({"id": 9, "name": "rider"})
    path = write(tmp_path, content)
    found = run(capsys, "validate", "--annotations", path, "--format", "canonical")
    assert (found["num_errors"], found["num_warnings"]) == (0, 1), "warnings only: exit code 0"
    content["annotations"][0]["occlude_rate"] = 0.9
    path = write(tmp_path, content)
    found = run(capsys, "validate", "--annotations", path, "--report", tmp_path / "report.json", code=1)
    assert found == json.loads((tmp_path / "report.json").read_text())
    assert found["kinds"] == {
        "rate_mismatch": {"severity": "error", "count": 1},
        "empty_category": {"severity": "warning", "count": 1},
    }
    assert found["findings"][0]["image_id"] == 5 and found["findings"][0]["annotation_id"] == 1
    assert main(["data", "validate", "--annotations", str(path)]) == 1
    printed = capsys.readouterr().out
    assert "rate_mismatch: image 5, annotation 1: occlude_rate: expected 0.3000" in printed
    assert "1 error, 1 warning" in printed


def test_outputs_replace_no_input(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_toy(tmp_path / "toy", 2)
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "a.json").write_text("{}")
    image = next((tmp_path / "toy" / "images").iterdir())
    kept = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    capsys.readouterr()
    given, labelme = ["--annotations", str(path)], ["--format", "labelme", "--annotations", str(labels)]
    for arguments, message in (
        (["stats", *given, "--plot", str(image)], "plot: expected another file than the input"),
        (["stats", *given, "--plot", str(tmp_path / "s.jpg")], "plot: expected a .png, .pdf or .svg file"),
        (["stats", *given, "--plot", str(image / "s.png")], "plot: expected a file to write, got a place inside"),
        (["validate", *given, "--report", str(image)], "report: expected a .json file"),
        (
            ["convert", *labelme, "--to", "canonical", "--out", str(labels)],
            "out: expected a place outside of the input",
        ),
        (["convert", *labelme, "--to", "canonical", "--out", str(labels / "a.json")], "out: expected a place outside"),
    ):
        assert main(["data", *arguments]) == 2
        captured = capsys.readouterr()
        assert message in captured.err and captured.err.count("\n") == 1 and captured.out == "", arguments
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == kept


def test_stats(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_toy(tmp_path / "toy", 2)
    assert run(capsys, "stats", "--annotations", path, "--plot", tmp_path / "s.png")["num_occluded"] == 2
    assert (tmp_path / "s.png").stat().st_size > 1000
    assert run(capsys, "stats", "--annotations", path, "--plot", tmp_path / "s.PDF")["plot"].endswith("s.PDF")
    assert main(["data", "stats", "--annotations", str(path)]) == 0
    captured = capsys.readouterr()
    assert "mean_occlusion_rate       12.5%" in captured.out and "20-30 %" in captured.out
    assert captured.err == "" and "━ 100%" not in captured.out


def test_convert(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(tmp_path, written.cocoa())
    out = tmp_path / "made" / "cls.json"
    done = run(capsys, "convert", "--format", "cocoa", "--annotations", path, "--to", "cocoa_cls", "--out", out)
    assert done["files"] == [str(out)] and done["num_objects"] == 4 and done["num_occluders_derived"] == 2
    assert done["not_held"]["annotators"] == {"objects": 4}
    assert run(capsys, "validate", "--annotations", out, "--images", tmp_path / "images")["num_errors"] == 0
    options = ["--annotations", str(path), "--to", "coco", "--masks", "visible", "--out", str(tmp_path / "folder")]
    assert main(["data", "convert", *options]) == 0
    assert "Cannot be stored in coco: amodal masks, 2 objects" in capsys.readouterr().out
    assert (tmp_path / "folder" / "annotations.json").is_file()


def test_draw(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_toy(tmp_path / "toy", 3)
    first, again = (
        run(capsys, "draw", "--annotations", path, "--out", tmp_path / name, "--count", 4, "--columns", 3)
        for name in ("a.png", "b.png")
    )
    assert first["objects"] == again["objects"] and len(first["objects"]) == 4
    with Image.open(tmp_path / "a.png") as sheet_image:
        assert sheet_image.width > 3 * TILE and sheet_image.height > 2 * TILE
    occluded = run(capsys, "draw", "--annotations", path, "--out", tmp_path / "c.jpg", "--occluded")["objects"]
    assert sorted(o["annotation_id"] for o in occluded) == [1, 3, 5]
    named = ["--object", 6, "--object", 1]
    drawn = run(capsys, "draw", "--annotations", path, "--out", tmp_path / "d.png", *named)["objects"]
    assert drawn == [{"image_id": 3, "annotation_id": 6}, {"image_id": 1, "annotation_id": 1}]


def test_only_objects_that_count_as_occluded_are_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """From 1 % of the object on, as everywhere else."""
    content = written.canonical()
    amodal = np.ones(written.SIZE, bool)  # 600 pixels
    for record, num_hidden in zip(content["annotations"], (5, 6), strict=True):
        visible = amodal.copy()
        visible[0, :num_hidden] = False
        record |= {"segmentation": written.rle(amodal), "visible_mask": written.rle(visible), "occluders": []}
        record |= {"bbox": [0, 0, 30, 20], "visible_bbox": [0, 0, 30, 20], "area": 600}
        record |= {"occlude_rate": num_hidden / 600}
    path = write(tmp_path, content)
    drawn = run(capsys, "draw", "--annotations", path, "--out", tmp_path / "a.png", "--occluded")["objects"]
    assert [obj["annotation_id"] for obj in drawn] == [2]
    content["annotations"].pop()
    path = write(tmp_path, content)
    assert "expected objects to draw, got none" in error_of(
        capsys, "draw", "--annotations", path, "--out", tmp_path / "b.png", "--occluded"
    )


def test_tiles_and_sheet(tmp_path: Path) -> None:
    dataset = read_dataset("canonical", write_toy(tmp_path / "toy", 1))
    image = derive_occluders(dataset.images[0])
    whole, alone = tile(dataset, image, image.objects[0]), tile(dataset, image, image.objects[1])
    assert whole.shape == alone.shape and not np.array_equal(whole, alone)
    assert sheet([whole] * 5, 2).shape[0] > 3 * TILE
    paper = np.array([250, 250, 248])
    assert (whole[:44] != paper).any(axis=2).sum() > 200, "the caption is drawn"


@pytest.mark.parametrize("command", ["inspect", "validate", "stats", "convert", "draw"])
def test_invalid_input_prints_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str) -> None:
    required = {"convert": ["--to", "canonical", "--out", tmp_path / "o.json"], "draw": ["--out", tmp_path / "o.png"]}
    extra = required.get(command, [])
    broken = write(tmp_path, '{"images": [', "broken.json")
    assert "expected JSON" in error_of(capsys, command, "--annotations", broken, *extra)
    nothing = tmp_path / "none.json"
    assert "does not exist" in error_of(capsys, command, "--annotations", nothing, *extra)
    good = write(tmp_path, written.kins2020())
    assert "expected one of" in error_of(capsys, command, "--annotations", good, "--format", "voc", *extra)
    unknown = write(tmp_path, {"images": [], "annotations": []}, "unknown.json")
    assert "resembles no known format" in error_of(capsys, command, "--annotations", unknown, *extra)
    folder = ["--images", tmp_path / "nowhere"]
    assert "images: expected a folder" in error_of(capsys, command, "--annotations", good, *folder, *extra)
    assert "the file looks like kins2020" in error_of(
        capsys, command, "--annotations", good, "--format", "kins2019", *extra
    )
    if command in ("stats", "convert", "draw"):
        content = written.kins2020()
        content["annotations"][0]["a_segm"] = [[1, 1, 5, 1, float("nan"), 4]]
        message = error_of(capsys, command, "--annotations", write(tmp_path, content), *extra)
        assert "annotation 1: segmentation: expected finite coordinates" in message
    assert not list(tmp_path.glob("o.*")), "no file is written"


def test_a_missing_image_prints_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(tmp_path, written.canonical())
    (tmp_path / "images" / "a.png").unlink()
    options = ["--annotations", path, "--out"]
    assert "does not exist" in error_of(capsys, "draw", *options, tmp_path / "o.png")
    assert "does not exist" in error_of(capsys, "convert", *options, tmp_path / "o", "--to", "parquet")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["annotations.json", "images"]


def test_invalid_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_toy(tmp_path / "toy", 1)
    draw = ["draw", "--annotations", path, "--out"]
    assert "expected a .png or .jpg" in error_of(capsys, *draw, tmp_path / "o.txt")
    assert "expected annotation ids of the file, got [77]" in error_of(
        capsys, *draw, tmp_path / "o.png", "--object", 77
    )
    assert "expected a file to write" in error_of(capsys, *draw, path / "o.png")
    convert = ["convert", "--annotations", path, "--to", "coco", "--out"]
    assert "expected another file than the input" in error_of(capsys, *convert, path)
    before = path.read_bytes()  # `annotations.json`, which a conversion into its folder would write
    assert "expected another file than the input" in error_of(capsys, *convert, path.parent)
    link = path.parent / "link.json"
    link.symlink_to(path)
    assert "expected another file than the input" in error_of(capsys, *convert, link)
    assert path.read_bytes() == before
    assert "masks: expected amodal or visible" in error_of(capsys, *convert, tmp_path / "o.json", "--masks", "x")
    options = ["convert", "--annotations", path, "--to", "kins2020", "--masks", "visible", "--out", tmp_path / "o.json"]
    assert "masks: expected amodal or visible with --to coco only, got visible" in error_of(capsys, *options)
    empty = write(tmp_path, {"images": [], "annotations": []})
    options = ["--annotations", empty, "--format", "coco", "--out", tmp_path / "o.png"]
    assert "expected objects to draw" in error_of(capsys, "draw", *options)
