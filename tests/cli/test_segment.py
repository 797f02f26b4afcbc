"""`amodal segment`: prompts of every kind for one image, folders of photographs, and videos."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from amodal.cli.main import main
from amodal.data.datasets import read_dataset
from amodal.errors import InputError
from amodal.inference.find import ObjectFinder
from amodal.inference.prompts import ObjectPrompt
from amodal.inference.scene import Scene
from amodal.inference.segmenter import AmodalSegmenter
from amodal.io.frames import VideoWriter
from amodal.ops.rle import decode_mask, encode_mask

SIZE = (40, 60)


def block(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    full = np.zeros(SIZE, bool)
    full[y0:y1, x0:x1] = True
    return full


SEEN = block(5, 5, 25, 30)


def save_image(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    pixels[5:30, 5:25] = 200
    Image.fromarray(pixels).save(path)
    return path


def coco(*names: str) -> dict[str, Any]:
    """Per image a mask and a box, with ids that are not positions."""
    images = [{"id": 100 + i, "file_name": n, "height": 40, "width": 60, "license": 4} for i, n in enumerate(names)]
    annotations: list[dict[str, Any]] = []
    for image in images:
        own = {"image_id": image["id"], "category_id": 18, "segmentation": encode_mask(SEEN), "bbox": [5, 5, 20, 25]}
        annotations.append({"id": 9000 + len(annotations)} | own)
        own = {"image_id": image["id"], "category_id": 44, "bbox": [30, 10, 20, 20]}
        annotations.append({"id": 9000 + len(annotations)} | own)
    categories = [{"id": 18, "name": "dog", "supercategory": "animal"}, {"id": 44, "name": "bottle"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[list[ObjectPrompt]]:
    """The prompts that reach the segmenter, one list per image."""
    seen: list[list[ObjectPrompt]] = []
    segment_batch = AmodalSegmenter.segment_batch

    def record(self: AmodalSegmenter, images: Any, prompts: Any, **options: Any) -> list[Scene]:
        seen.extend(list(own) for own in prompts)
        return segment_batch(self, images, prompts, **options)

    monkeypatch.setattr(AmodalSegmenter, "segment_batch", record)
    return seen


def segment(*arguments: object) -> int:
    return main(["segment", *map(str, arguments)])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert segment(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1, captured
    return captured.err


# One image


@pytest.mark.parametrize("form", ["png", "folder", "list", "coco", "annotations"])
def test_the_visible_mask_is_the_given_one(tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    image, out = save_image(tmp_path / "a.png"), tmp_path / "out"
    masks = tmp_path / {"png": "m.png", "folder": "masks"}.get(form, "m.json")
    if form == "folder":
        masks.mkdir()
        Image.fromarray(SEEN).save(masks / "0.png")
    elif form == "png":
        Image.fromarray(SEEN).save(masks)
    else:
        write(masks, [encode_mask(SEEN)] if form == "list" else coco("a.png"))
    option = "--annotations" if form == "annotations" else "--masks"
    assert segment(image, option, masks, "--out", out) == 0
    scene = Scene.load(out)
    assert np.array_equal(scene[0].visible_mask, SEEN)
    assert (scene[0].amodal_mask >= SEEN).all()
    if form in ("coco", "annotations"):
        assert [(o.name, o.class_id, o.source_id) for o in scene] == [("dog", 18, 9000), ("bottle", 44, 9001)]
        assert "0 dog" in capsys.readouterr().out


def test_points_with_label_0_belong_to_the_point_before(tmp_path: Path, prompts: list[list[ObjectPrompt]]) -> None:
    image, out = save_image(tmp_path / "a.png"), tmp_path / "out"
    points = ["--point", "10,10", "--point", "40,20,1", "--point", "50,35,0", "--point", "2,2,0"]
    assert segment(image, *points, "--out", out) == 0
    (found,) = prompts
    assert [(p.points_xy.tolist(), p.point_labels.tolist()) for p in found] == [
        ([[10, 10]], [1]), ([[40, 20], [50, 35], [2, 2]], [1, 0, 0])
    ]  # fmt: skip


def test_points_belong_to_the_only_box(tmp_path: Path, prompts: list[list[ObjectPrompt]]) -> None:
    image, out = save_image(tmp_path / "a.png"), tmp_path / "out"
    points = ["--point", "50,35,0", "--point", "10,10", "--point", "20,20"]
    assert segment(image, "--box", "4,4,26,31", *points, "--out", out) == 0
    ((found,),) = prompts
    assert found.box_xyxy == (4, 4, 26, 31) and found.point_labels is not None
    assert found.point_labels.tolist() == [0, 1, 1]


def test_masks_with_boxes(
    tmp_path: Path, prompts: list[list[ObjectPrompt]], capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = save_image(tmp_path / "a.png"), tmp_path / "out"
    masks = write(tmp_path / "m.json", [encode_mask(SEEN), encode_mask(block(30, 5, 50, 30))])
    arguments = [image, "--masks", masks, "--out", out, "--box", "4,4,26,31"]
    assert "prompts: expected one --box per mask, got 1 for 2 masks" in refused(capsys, *arguments)
    assert "which covers 0% of it" in refused(capsys, *arguments, "--box", "4,4,26,31"), "the box of the other mask"
    assert segment(*arguments, "--box", "29,4,51,31") == 0
    assert [p.box_xyxy for p in prompts[0]] == [(4, 4, 26, 31), (29, 4, 51, 31)]


def test_masks_are_cleaned_unless_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, cleaned = save_image(tmp_path / "a.png"), []
    segment_batch = AmodalSegmenter.segment_batch

    def record(self: AmodalSegmenter, *args: Any, **options: Any) -> list[Scene]:
        cleaned.append(options["clean"])
        return segment_batch(self, *args, **options)

    monkeypatch.setattr(AmodalSegmenter, "segment_batch", record)
    for option in ([], ["--no-clean"], ["--clean"]):
        assert segment(image, "--box", "4,4,26,31", "--out", tmp_path / "out", *option) == 0
    assert segment(image, "--no-clean", "--out", tmp_path / "out") == 0  # objects found by a grid of points
    assert cleaned[:3] == [True, False, True] and not any(cleaned[3:])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--box", "1,1,9,9", "--box", "2,2,9,9", "--point", "3,3"], "2 x --box and --point"),
        (["--masks", "m.png", "--point", "3,3"], "--point and --masks"),
        (["--masks", "m.png", "--annotations", "c.json"], "--masks and --annotations"),
        (["--annotations", "c.json", "--box", "1,1,9,9"], "1 x --box and --annotations"),
        (["--detector", "x", "--box", "1,1,9,9", "--point", "3,3"], "1 x --box and --point and --detector"),
    ],
)
def test_prompts_that_cannot_be_combined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    line = refused(capsys, save_image(tmp_path / "a.png"), *arguments)
    assert line == (
        "amodal: prompts: expected --box with --point (one box), --masks with --box (one box per mask), or --box, "
        f"--point, --masks, --annotations or --detector alone, got {told}\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--point", "3"], "point: expected two numbers X,Y, got '3'"),
        (["--point", "3,3,2"], "point: expected the label 0 or 1 in X,Y,LABEL, got '3,3,2'"),
        (["--point", "3,3,0"], "point: expected a point on an object before one with label 0, got 3,3,0 first"),
        (["--box", "1,1,9,9", "--point", "3,3,0"], "expected at least one point with label 1, got only 0"),
        (["--point", "90,3"], "point: expected a point inside the 60 x 40 image"),
        (["--box", "0.1,0.1,0.9,0.9"], "which looks normalised"),
        (["--text", "cup"], "text: expected --detector together with --text"),
        (["--confidence", "0.5", "--box", "1,1,9,9"], "confidence: expected without prompts only, got it with --box"),
        (["--confidence", "1.5"], "confidence: expected a number in [0, 1], got 1.5"),
        (["--threshold", "2", "--box", "1,1,9,9"], "threshold: expected a number in (0, 1), got 2.0"),
    ],
)
def test_prompts_that_are_impossible(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    out = tmp_path / "out"
    assert message in refused(capsys, save_image(tmp_path / "a.png"), *arguments, "--out", out)
    assert not out.exists()


@pytest.mark.parametrize("arguments", [["--confidence", "1.5"], ["--threshold", "2"]])
def test_impossible_limits_are_refused_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr(AmodalSegmenter, "from_pretrained", lambda *args, **options: pytest.fail("loaded"))
    assert "expected a number in" in refused(capsys, save_image(tmp_path / "a.png"), *arguments)


def test_masks_that_are_impossible(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = save_image(tmp_path / "a.png")

    def line(content: Any, option: str = "--masks") -> str:
        if isinstance(content, np.ndarray):
            path = tmp_path / "mask.png"
            Image.fromarray(content).save(path)
        else:
            path = write(tmp_path / "masks.json", content)
        return refused(capsys, image, option, path, "--out", tmp_path / "out")

    assert "expected 60 x 40 pixels, like the image, got 6 x 4 pixels" in line(np.ones((4, 6), bool))
    assert "got an empty mask" in line(np.zeros(SIZE, bool))
    soft = (SEEN * 255).astype(np.uint8)
    soft[5] = np.arange(60)
    assert "compare the mask with a threshold first" in line(soft)
    assert "mask 0: mask: expected at least one pixel, got an empty mask" in line([encode_mask(block(0, 0, 0, 0))])
    assert "mask 0: segmentation: expected an RLE's counts" in line([{"size": [40, 60], "counts": "??a"}])
    without_id = coco("a.png")
    del without_id["annotations"][1]["id"]
    for option in ("--masks", "--annotations"):
        assert "expected the id of each record to be an integer, got None in" in line(without_id, option)
    assert "expected one image of the name 'a.png', got 1 image of other names" in line(coco("b.png"), "--annotations")
    nothing = coco("a.png") | {"annotations": []}
    assert "expected objects in a.png, got none" in line(nothing, "--annotations")
    assert not (tmp_path / "out").exists()


def test_the_precision_is_passed_to_the_segmenter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = save_image(tmp_path / "a.png")
    dtypes: list[torch.dtype] = []
    segment_batch = AmodalSegmenter.segment_batch

    def record(self: AmodalSegmenter, *args: Any, **kwargs: Any) -> list[Scene]:
        dtypes.append(self.dtype)
        return segment_batch(self, *args, **kwargs)

    monkeypatch.setattr(AmodalSegmenter, "segment_batch", record)
    command = [image, "--box", "5,5,30,30", "--out", tmp_path / "out", "--dtype"]
    for name in ("float32", "bfloat16"):
        assert segment(*command, name) == 0
    assert dtypes == [torch.float32, torch.bfloat16]
    assert "dtype: expected one of auto, float32, bfloat16, int8, got 'int9'" in refused(capsys, *command, "int9")


# A folder of photographs


def photos(folder: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        save_image(folder / name, seed)
    return folder


def test_a_folder_with_a_coco_file_becomes_an_amodal_coco_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = photos(tmp_path / "photos", "a.png", "b.jpg", "c.png"), tmp_path / "out"
    (folder / "._a.png").write_text("hidden")
    (folder / ".DS_Store").write_text("hidden")
    source = coco("b.jpg", "a.png")
    file = write(tmp_path / "instances.json", source)
    assert segment(folder, "--annotations", file, "--out", out) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and captured.out.splitlines() == [
        f"Written: {out / 'annotations.json'} with 4 objects in 2 images, and their scenes",
        "Left out: 1 image of the folder that instances.json does not have",
    ]
    assert "frames" not in captured.out
    assert sorted(p.name for p in out.iterdir()) == ["a", "annotations.json", "b", "run.json"]
    content = json.loads((out / "annotations.json").read_text())
    assert content["images"] == source["images"] and content["categories"] == source["categories"]
    kept = ("id", "image_id", "category_id")
    assert [[a[k] for k in kept] for a in content["annotations"]] == [
        [a[k] for k in kept] for a in source["annotations"]
    ]
    assert content["annotations"][0]["visible_mask"] == encode_mask(SEEN)
    dataset = read_dataset("canonical", out / "annotations.json", folder)
    assert dataset.categories == {18: "dog", 44: "bottle"} and dataset.num_objects == 4
    scene = Scene.load(out / "a")
    assert scene.image_path == folder / "a.png"
    assert np.array_equal(decode_mask(content["annotations"][2]["segmentation"]), scene[0].amodal_mask)


def test_a_folder_without_annotations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = photos(tmp_path / "photos", "a.png", "a.jpg"), tmp_path / "out"
    assert segment(folder, "--out", out, "--json") == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert captured.err == "" and summary["failed"] == {} and summary["images"] == 2
    assert sorted(p.name for p in out.iterdir()) == ["a", "a.png", "annotations.json", "run.json"]
    content = json.loads((out / "annotations.json").read_text())
    assert [(i["id"], i["file_name"]) for i in content["images"]] == [(1, "a.jpg"), (2, "a.png")]
    assert len(content["annotations"]) == summary["objects"]


def test_an_image_without_annotations_has_an_empty_scene(tmp_path: Path) -> None:
    folder, out, source = photos(tmp_path / "photos", "a.png", "b.png"), tmp_path / "out", coco("a.png", "b.png")
    source["annotations"] = source["annotations"][:2]
    assert segment(folder, "--annotations", write(tmp_path / "i.json", source), "--out", out) == 0
    assert len(Scene.load(out / "b")) == 0 and len(json.loads((out / "annotations.json").read_text())["images"]) == 2


def test_images_of_a_file_may_all_be_in_folders_below(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    photos(folder / "train", "a.png")
    source = coco("a.png")
    source["images"][0]["file_name"] = "train/a.png"
    file = write(tmp_path / "i.json", source)
    assert segment(folder, "--annotations", file, "--out", out) == 0
    assert len(Scene.load(out / "a")) == 2
    (folder / "train" / "a.png").unlink()
    assert "folder: expected images of i.json in" in refused(capsys, folder, "--annotations", file, "--out", out)


def test_what_fails_is_reported_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = photos(tmp_path / "photos", "a.png", "b.png", "small.png"), tmp_path / "out"
    whole = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (9, 9)).save(folder / "small.png")
    source = coco("a.png", "b.png", "small.png", "missing.png")
    source["annotations"][1]["bbox"] = [90, 10, 5, 5]
    file = write(tmp_path / "instances.json", source)
    arguments = [folder, "--annotations", file, "--out", out]
    assert "missing.png: expected an image of instances.json in" in refused(capsys, *arguments, "--strict")
    assert not out.exists()
    for _ in range(2):  # the second time, the scene of a.png is reused
        assert segment(*arguments, "--json") == 3
        captured = capsys.readouterr()
        failed = json.loads(captured.out)["failed"]
        assert list(failed) == ["missing.png", "a.png", "b.png", "small.png"]
        assert failed["a.png"][0].startswith("annotation 9001: box: expected a box inside")
        lines = captured.err.splitlines()
        assert len(lines) == 5 and all(line.startswith("amodal: ") for line in lines)
        assert "expected a whole image, got a damaged one" in lines[2]
        assert lines[-1] == "amodal: 4 failed and left out"
        content = json.loads((out / "annotations.json").read_text())
        assert [a["id"] for a in content["annotations"]] == [9000] and len(content["images"]) == 1
    (folder / "a.png").unlink()
    assert segment(*arguments, "--out", tmp_path / "nothing") == 3
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("annotated", [True, False])
def test_an_image_that_cannot_be_segmented_is_reported_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, annotated: bool
) -> None:
    folder, out = photos(tmp_path / "photos", "a.png", "b.png", "c.png"), tmp_path / "out"
    Image.new("RGB", SIZE[::-1], "white").save(folder / "b.png")
    message = "mask: expected an object, got none"

    def failing(method: Any) -> Any:
        def fail_on_white(self: Any, images: Any, *rest: Any, **options: Any) -> Any:
            if np.min(images) == 255:
                raise InputError(message)
            return method(self, images, *rest, **options)

        return fail_on_white

    monkeypatch.setattr(AmodalSegmenter, "segment_batch", failing(AmodalSegmenter.segment_batch))
    monkeypatch.setattr(ObjectFinder, "find", failing(ObjectFinder.find))
    file = write(tmp_path / "instances.json", coco("a.png", "b.png", "c.png"))
    arguments = [folder, "--out", out, *(["--annotations", file] if annotated else [])]
    for _ in range(2):  # the second time, the scenes of a.png and c.png are reused
        assert segment(*arguments, "--json") == 3
        captured = capsys.readouterr()
        assert json.loads(captured.out)["failed"] == {"b.png": [message]} and captured.err.count("\n") == 2
        content = json.loads((out / "annotations.json").read_text())
        assert [image["file_name"] for image in content["images"]] == ["a.png", "c.png"]
        assert not (out / "b").exists()
    strict = tmp_path / "strict"
    assert refused(capsys, *arguments, "--strict", "--out", strict) == f"amodal: b.png: {message}\n"
    assert (strict / "a").is_dir() and not (strict / "c").exists()


def test_an_object_that_fails_names_its_image_once_with_strict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = coco("a.png")
    source["annotations"][1]["bbox"] = [90, 10, 5, 5]
    folder, file = photos(tmp_path / "photos", "a.png"), write(tmp_path / "i.json", source)
    line = refused(capsys, folder, "--annotations", file, "--out", tmp_path / "out", "--strict")
    assert line.startswith("amodal: a.png: annotation 9001: box: expected")


def test_a_folder_is_resumed_with_the_same_options_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], prompts: list[list[ObjectPrompt]]
) -> None:
    folder, out = photos(tmp_path / "photos", "a.png", "b.png"), tmp_path / "out"
    file = write(tmp_path / "instances.json", coco("a.png", "b.png"))
    arguments = [folder, "--annotations", file, "--out", out]
    assert segment(*arguments) == 0 and len(prompts) == 2
    written = (out / "annotations.json").read_bytes()
    (out / "b" / "scene.json").unlink()
    assert segment(*arguments) == 0 and len(prompts) == 3
    assert (out / "annotations.json").read_bytes() == written
    line = refused(capsys, *arguments, "--no-clean", "--threshold", "0.4")
    assert line == (
        f"amodal: out {out}: expected the options of the scenes in it, got others (clean True -> False, threshold None "
        "-> 0.4); --overwrite segments them anew\n"
    )
    assert segment(*arguments, "--no-clean", "--overwrite") == 0 and len(prompts) == 5
    assert segment(*arguments, "--no-clean") == 0 and len(prompts) == 5
    other = coco("a.png", "b.png")
    other["annotations"][1]["bbox"] = [31, 10, 20, 20]
    write(file, other)
    assert "got others (annotations " in refused(capsys, *arguments, "--no-clean")
    stated = (out / "run.json").read_text()
    for content in ("[]", "3", '{"inputs": []}', '{"inputs": {"a": []}, "options"', "{"):
        (out / "run.json").write_text(content)
        assert "expected scenes with their options in run.json, got scenes without" in refused(capsys, *arguments)
    (out / "run.json").write_text(stated)
    (out / "run.json").unlink()
    assert "expected scenes with their options in run.json, got scenes without" in refused(capsys, *arguments)
    assert len(prompts) == 5


def test_scenes_of_images_that_were_away_for_a_run_are_kept(tmp_path: Path, prompts: list[list[ObjectPrompt]]) -> None:
    """A run without one of the images does not forget which image its scene was made from."""
    folder, out = photos(tmp_path / "photos", "a.png", "b.png", "c.png"), tmp_path / "out"
    arguments = [folder, "--annotations", write(tmp_path / "i.json", coco("a.png", "b.png", "c.png")), "--out", out]
    (folder / "c.png").rename(tmp_path / "c.png")
    assert segment(*arguments) == 3 and len(prompts) == 2
    (folder / "b.png").rename(tmp_path / "b.png")
    (tmp_path / "c.png").rename(folder / "c.png")
    assert segment(*arguments) == 3 and len(prompts) == 3
    (tmp_path / "b.png").rename(folder / "b.png")
    assert segment(*arguments) == 0 and len(prompts) == 3


def test_an_image_that_may_not_be_read_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = photos(tmp_path / "photos", "a.png", "b.png"), tmp_path / "out"
    opened = Path.open

    def refuse(path: Path, *args: Any, **options: Any) -> Any:  # as the system does; root may read all files
        if path.name == "b.png":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    arguments = [folder, "--annotations", write(tmp_path / "i.json", coco("a.png", "b.png")), "--out", out, "--json"]
    assert segment(*arguments) == 3
    summary = json.loads(capsys.readouterr().out)
    assert summary["images"] == 1 and list(summary["failed"]) == ["b.png"]


def test_another_image_of_the_same_name_is_segmented_again(tmp_path: Path, prompts: list[list[ObjectPrompt]]) -> None:
    folder, out = photos(tmp_path / "photos", "a.png"), tmp_path / "out"
    assert segment(folder, "--annotations", write(tmp_path / "i.json", coco("a.png")), "--out", out) == 0
    (out / "a" / "scene.json").write_text("{")  # damaged
    assert segment(folder, "--annotations", tmp_path / "i.json", "--out", out) == 0
    assert len(prompts) == 2 and len(Scene.load(out / "a")) == 2


def test_another_folder_does_not_get_the_masks_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], prompts: list[list[ObjectPrompt]]
) -> None:
    file, out = write(tmp_path / "i.json", coco("a.png")), tmp_path / "out"
    first, second = photos(tmp_path / "first", "a.png"), photos(tmp_path / "second", "a.png")
    assert segment(first, "--annotations", file, "--out", out) == 0
    assert "got others (source " in refused(capsys, second, "--annotations", file, "--out", out)
    assert segment(second, "--annotations", file, "--out", out, "--overwrite") == 0
    assert len(prompts) == 2


def test_an_interrupted_overwrite_leaves_no_old_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = photos(tmp_path / "photos", "a.png", "b.png"), tmp_path / "out"
    arguments = [folder, "--annotations", write(tmp_path / "i.json", coco("a.png", "b.png")), "--out", out]
    assert segment(*arguments) == 0
    segment_batch, calls = AmodalSegmenter.segment_batch, []

    def stop(self: AmodalSegmenter, *args: Any, **options: Any) -> list[Scene]:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("stopped")
        return segment_batch(self, *args, **options)

    monkeypatch.setattr(AmodalSegmenter, "segment_batch", stop)
    assert segment(*arguments, "--no-clean", "--overwrite") == 1
    assert (out / "a" / "scene.json").is_file() and not (out / "b" / "scene.json").exists()


@pytest.mark.parametrize("option", ["--model", "--visible-from", "--detector"])
def test_an_unknown_model_ends_the_run_at_once_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    folder, out = photos(tmp_path / "photos", "a.png", "b.png"), tmp_path / "out"
    file = write(tmp_path / "i.json", coco("a.png", "b.png"))
    prompts = [] if option == "--detector" else ["--annotations", file]
    line = refused(capsys, folder, *prompts, "--out", out, option, tmp_path / "none")
    assert line.startswith(f"amodal: {option[2:]} {tmp_path / 'none'}: expected a"), line
    assert not out.exists()


def test_folders_that_cannot_be_segmented(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = photos(tmp_path / "photos", "a.png"), tmp_path / "out"
    assert "prompts: expected --annotations or --detector or none for a folder, got --box" in refused(
        capsys, folder, "--box", "1,1,9,9", "--out", out
    )
    assert "annotations: expected a file, got" in refused(capsys, folder, "--annotations", tmp_path / "none.json")
    (tmp_path / "empty").mkdir()
    assert "folder: expected a folder with images, got none in" in refused(capsys, tmp_path / "empty", "--out", out)
    assert "out: expected a folder, got the file" in refused(capsys, folder, "--out", folder / "a.png")
    assert not out.exists()


def test_the_folder_of_results_is_named_after_the_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = photos(tmp_path / "my.photos", "a.png")
    monkeypatch.chdir(folder)
    assert segment(".", "--annotations", write(tmp_path / "i.json", coco("a.png"))) == 0
    assert (folder / "my.photos-amodal" / "annotations.json").is_file()


# A video


def test_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "street.mp4", tmp_path / "out"
    with VideoWriter(source, Fraction(2)) as video:
        for grey in (50, 100):
            video.add(np.full((*SIZE, 3), grey, np.uint8))
    command = [source, "--out", out]
    assert segment(*command, "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"folder": str(out), "frames": 2} and captured.err == ""
    assert sorted(p.name for p in out.iterdir()) == ["000000", "000001", "overlay.mp4", "run.json"]
    assert Scene.load(out / "000000").size == SIZE
    before = (out / "000000" / "scene.json").stat().st_mtime_ns
    assert segment(*command) == 0 and (out / "000000" / "scene.json").stat().st_mtime_ns == before
    assert capsys.readouterr().out.startswith(f"Written: 2 frames and overlay.mp4 in {out}")
    assert "expected the options of the scenes in it, got others (clean" in refused(capsys, *command, "--no-clean")
    assert segment(*command, "--no-clean", "--overwrite") == 0
    assert "none for a video (objects are not tracked), got --annotations" in refused(
        capsys, *command, "--annotations", "x.json"
    )
