"""Outputs: resumed only for the same work, never an input, written by one run at a time, and whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amodal.cli.main import main
from amodal.data.convert import convert
from amodal.data.datasets import read_dataset
from amodal.errors import InputError
from amodal.inference import onnx
from amodal.inference.batch import read_parts
from amodal.io.files import (
    atomic_folder,
    atomic_path,
    content_digest,
    one_writer,
    require_no_input,
    write_atomic,
)
from tests.data.toy import write_toy
from tests.data.written import canonical, write
from tests.fuzz.mutations import CORPUS
from tests.inference.test_batch import without_ray  # noqa: F401  # a fixture

RECIPE = Path(__file__).parents[2] / "recipes" / "plug" / "small.yaml"

# --- resume means the same work ---


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(("a.png", "b.png")):
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(folder / name)
    return folder


def segment(photos: Path, out: Path, *more: str) -> int:
    return main(["segment", str(photos), "--annotations", str(write_prompts(photos)), "--out", str(out), *more])


def write_prompts(photos: Path, names: Sequence[str] = ("a.png", "b.png")) -> Path:
    """A COCO file with one box per image, beside the folder of the images."""
    annotations = photos.parent / "annotations.json"
    objects = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [5, 5, 20, 20], "iscrowd": 0, "area": 400} for n in (1, 2)
    ]
    content = {
        "images": [{"id": n, "file_name": name, "width": 60, "height": 40} for n, name in enumerate(names, 1)],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": objects,
    }
    annotations.write_text(json.dumps(content))
    return annotations


def test_a_replaced_image_is_refused_and_overwrite_segments_it(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert segment(photos, out) == 0
    first = (out / "b" / "scene.json").read_bytes()
    assert segment(photos, out) == 0  # the same work
    assert (out / "b" / "scene.json").read_bytes() == first
    Image.new("RGB", (60, 40), "red").save(photos / "b.png")  # another image of the same name and size
    capsys.readouterr()
    assert segment(photos, out) == 2
    error = capsys.readouterr().err
    assert "expected the images of the scenes in it, got others for b; --overwrite" in error and error.count("\n") == 1
    assert segment(photos, out, "--overwrite") == 0
    assert (out / "b" / "scene.json").read_bytes() != first


def test_other_options_are_refused(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert segment(photos, out) == 0
    for option, named in (
        (["--threshold", "0.7"], "threshold None -> 0.7"),
        (["--no-clean"], "clean True -> False"),
        (["--mode", "image"], "mode crop -> image"),
    ):
        assert segment(photos, out, *option) == 2
        assert named in capsys.readouterr().err


def test_a_model_of_the_same_name_with_other_weights_is_refused(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from amodal.models.increments import bundled_models

    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(bundled_models()["plug-small"], model)
    assert segment(photos, out, "--model", str(model)) == 0
    (model / "note.txt").write_text("retrained")
    assert segment(photos, out, "--model", str(model)) == 2
    assert "model_content" in capsys.readouterr().err


def batch(photos: Path, out: Path, *more: str) -> int:
    """Segment the images of `segment` with `amodal batch`."""
    return main(["batch", str(photos.parent / "annotations.json"), "--images", str(photos), "--out", str(out), *more])


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("place", ["b.png", "sub/b.png"])
def test_batch_adds_an_image_that_appears_later(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    out = tmp_path / "out"
    write_prompts(photos, names=("a.png", place))
    (photos / "b.png").rename(tmp_path / "elsewhere.png")
    assert batch(photos, out) == 3 and "b.png" in capsys.readouterr().err
    assert [row["image_id"] for row in read_parts(out)] == [1]
    (photos / place).parent.mkdir(exist_ok=True)
    (tmp_path / "elsewhere.png").rename(photos / place)
    assert batch(photos, out) == 0
    assert [row["image_id"] for row in read_parts(out)] == [1, 2]
    (photos / "a.png").unlink()  # its results stay
    assert batch(photos, out) == 0
    Image.new("RGB", (60, 40), "red").save(photos / place)
    capsys.readouterr()
    assert batch(photos, out) == 2
    error = capsys.readouterr().err
    assert "expected a new folder or the images of its results, got others for" in error and "b.png" in error


@pytest.mark.usefixtures("without_ray")
def test_batch_replaces_an_image_that_has_no_results(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_prompts(photos)
    (photos / "b.png").write_bytes(b"broken")
    assert batch(photos, out) == 3
    Image.new("RGB", (60, 40), "red").save(photos / "b.png")
    assert batch(photos, out) == 0 and batch(photos, out) == 0
    assert [row["image_id"] for row in read_parts(out)] == [1, 2]


@pytest.mark.usefixtures("without_ray")
def test_rows_of_one_image_in_a_parquet_file_are_one_image(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out, box = tmp_path / "table.parquet", tmp_path / "out", [5.0, 5.0, 25.0, 25.0]
    rows = [{"image_id": i, "path": f"photos/{i}.png", "boxes_xyxy": [box]} for i in ("a", "b", "a")]
    write_parquet(table, rows)
    for _ in range(2):
        assert main(["batch", str(table), "--out", str(out)]) == 0
        assert sorted(row["image_id"] for row in read_parts(out)) == ["a", "a", "b"]
    write_parquet(table, [*rows, {"image_id": "a", "path": "photos/b.png", "boxes_xyxy": [box]}])
    capsys.readouterr()
    assert main(["batch", str(table), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "row 3: expected one path per image_id, got" in error and error.count("\n") == 1


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("wrong", [{"boxes_xyxy": [5.0, 5.0, 25.0, 25.0]}, {"path": None}, {"image_id": 1.5}])
def test_a_wrong_row_of_a_parquet_file_is_named(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: dict[str, object]
) -> None:
    row: dict[str, object] = {"image_id": 1, "path": "photos/a.png", "boxes_xyxy": [[5.0, 5.0, 25.0, 25.0]]}
    write_parquet(tmp_path / "table.parquet", [row | wrong])
    assert main(["batch", str(tmp_path / "table.parquet"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert f"row 0: expected {next(iter(wrong))} to be" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def write_parquet(path: Path, rows: list[dict[str, object]]) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    parquet.write_table(arrow.Table.from_pylist(rows), path)


# --- input is never output ---


def test_an_input_is_no_output_also_through_links(tmp_path: Path) -> None:
    source, link, hard = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "c.json"
    source.write_text("{}")
    link.symlink_to(source)
    os.link(source, hard)
    (tmp_path / "folder").symlink_to(tmp_path)
    for output in (source, link, hard, tmp_path / "folder" / "a.json", tmp_path / "x" / ".." / "a.json"):
        with pytest.raises(InputError, match="out: expected another file than the input"):
            require_no_input(output, [None, source])
    assert require_no_input(tmp_path / "new.json", [source, None]) == tmp_path / "new.json"


def test_the_prompts_of_a_folder_are_not_replaced_by_its_results(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment(photos, photos.parent) == 2
    assert "out: expected another file than the input" in capsys.readouterr().err
    assert len(json.loads((photos.parent / "annotations.json").read_text())["annotations"]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["segment", "overlay.png", "--box", "5,5,30,30"],
        ["segment", "a.png", "--masks", "object_00_visible.png"],
        ["segment", "a.png", "--masks", "."],
        ["segment", "overlay.mp4"],
        ["ask", "overlay.png", "What is this?"],
    ],
)
def test_a_scene_replaces_no_file_that_it_is_made_of(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "overlay.png", "object_00_visible.png"):
        Image.new("L", (60, 40), 255).save(name)
    Path("overlay.mp4").write_bytes(b"video")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert main([*arguments, "--out", "."]) == 2
    assert "out: expected another file than the input" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("through_link", [False, True])
def test_no_command_replaces_a_file_that_it_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], through_link: bool
) -> None:
    """Annotations, images, predictions, questions and exports, each as the output of the commands that read it."""
    annotations = write(tmp_path, canonical())
    image, questions = tmp_path / "images" / "a.png", tmp_path / "questions.json"
    shutil.copy(CORPUS / "questions" / "two.json", questions)
    predictions = Path(shutil.copy(CORPUS / "predictions" / "two.json", tmp_path / "predictions.json"))
    export = tmp_path / "export.json"
    export.write_text("[]")
    drawn = tmp_path / "drawn.png"
    taken = tmp_path / "taken.jpg"
    for named_as_image in (drawn, taken):
        named_as_image.write_text(annotations.read_text())
    mask = ["evaluate", "masks", "--predictions", str(predictions), "--annotations", str(annotations)]
    answers = ["evaluate", "answers", "--questions", str(questions), "--annotations", str(annotations)]
    panel = ["evaluate", "panel", "--annotations", str(annotations), "--predictions"]
    draw, prompt = ["data", "draw", "--annotations"], ["reasonseg", "prompt", "--annotations", str(taken)]
    for command, option, output in [
        (mask, "--out", annotations), (mask, "--out", predictions),
        (answers, "--out", annotations), (answers, "--out", questions),
        ([*panel, f"a={predictions}"], "--out", image), ([*panel, f"a={drawn}"], "--out", drawn),
        ([*draw, str(annotations)], "--out", image), ([*draw, str(drawn)], "--out", drawn),
        (["data", "validate", "--annotations", str(annotations)], "--report", annotations),
        (["label", "collect", str(export)], "--out", export),
        (["label", "tasks", str(predictions), "--annotations", str(annotations)], "--out", predictions),
        (["label", "predict", str(image.parent), "--annotations", str(annotations)], "--out", annotations),
        (["label", "predict", str(image.parent), "--annotations", str(annotations)], "--out", image),
        (["label", "predict", str(image.parent)], "--out", image),
        (prompt, "--image-out", taken),
    ]:  # fmt: skip
        before = output.read_bytes()
        target = output
        if through_link:
            target = output.with_name(f"link{output.suffix}")
            target.unlink(missing_ok=True)
            target.symlink_to(output)
        assert main([*command, option, str(target)]) == 2, command
        line = capsys.readouterr().err.splitlines()[-1]
        assert f"{option[2:]}: expected another file than the input" in line, (command, line)
        assert output.read_bytes() == before


def test_the_interface_of_tasks_gets_a_file_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = write(tmp_path, canonical())
    assert main(["label", "tasks", str(annotations), "--annotations", str(annotations), "--out", "tasks.xml"]) == 2
    assert "out: expected a JSON file, got 'tasks.xml'" in capsys.readouterr().err


# --- one writer per output ---


@contextmanager
def another_run(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the lock of an output until it is killed."""
    code = (
        "import sys, time; from pathlib import Path; from amodal.io.files import one_writer\n"
        "with one_writer(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    try:
        assert run.stdout is not None and run.stdout.readline() == b"held\n"
        yield run
    finally:
        run.kill()
        run.wait()


def test_a_second_run_gets_one_line(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    (tmp_path / "link").symlink_to(tmp_path)
    with another_run(out):
        for path in (out, tmp_path / "link" / "out.json"):
            with pytest.raises(InputError, match="expected no other run that writes"), atomic_path(path):
                pass
        with one_writer(tmp_path / "another.json"):
            pass
    with one_writer(out), atomic_path(out) as temporary:  # the lock ends with its process, and a run may enter again
        temporary.write_text("x")
    assert out.read_text() == "x" and sorted(file.name for file in tmp_path.iterdir()) == ["link", "out.json"]


def write_gif(path: Path) -> None:
    """Write a video of two frames."""
    Image.new("RGB", (60, 40)).save(path, save_all=True, append_images=[Image.new("RGB", (60, 40), "red")])


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["segment", "a.png", "--box", "5,5,30,30"], "out"),
        (["segment", ".", "--annotations", "../annotations.json"], "out"),
        (["segment", "a.gif"], "out"),
        (["batch", "../annotations.json", "--images", "."], "out"),
        (["train", str(RECIPE)], "output"),
        (["evaluate", "masks", "--annotations", "../toy/annotations.json"], "out"),
        (["evaluate", "detections", "--annotations", "../toy/annotations.json"], "out"),
        (["evaluate", "masks", "--annotations", "../toy/annotations.json", "--model", "filled_box"], "out"),
        (["evaluate", "masks", "--annotations", "../toy/annotations.json", "--predictions", "../p.json"], "out"),
        (["evaluate", "answers", "--annotations", "../toy/annotations.json", "--questions", "../q.json"], "out"),
    ],
)
def test_every_command_that_takes_long_stops_before_its_work(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    what: str,
) -> None:
    pytest.importorskip("ray")
    pytest.importorskip("av")
    write_prompts(photos)
    write_gif(photos / "a.gif")
    write_toy(tmp_path / "toy", count=1)
    (tmp_path / "p.json").write_text("[]")
    (tmp_path / "q.json").write_text('[{"id": 1, "image_id": 1, "question": "Where?", "answer": "There {seg:1}."}]')
    monkeypatch.chdir(photos)
    for kind in ("segmenter.AmodalSegmenter", "assistant.AmodalAssistant"):
        loader = f"amodal.inference.{kind}.from_pretrained"
        monkeypatch.setattr(loader, lambda *_, **__: pytest.fail("it loads a model"))
    monkeypatch.setattr("amodal.evaluation.evaluator.evaluate_baseline", lambda *_, **__: pytest.fail("it scores"))
    monkeypatch.setattr("amodal.evaluation.evaluator.evaluate_predictions", lambda *_, **__: pytest.fail("it scores"))
    monkeypatch.setattr("amodal.training.loop.build", lambda *_: pytest.fail("it builds"))
    out = tmp_path / "out"
    place = ["--set", f"output={out}"] if what == "output" else ["--out", str(out)]
    with another_run(out):
        assert main([*arguments, *place]) == 2
    assert capsys.readouterr().err == f"amodal: {what} {out}: expected no other run that writes to it, got one\n"


def test_a_video_has_the_lock_before_it_looks_at_old_scenes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that looked before could mix its frames with those that another run with other options just saved."""
    pytest.importorskip("av")
    write_gif(tmp_path / "a.gif")
    (tmp_path / "out" / "000000").mkdir(parents=True)
    (tmp_path / "out" / "000000" / "scene.json").write_text("{}")  # refused: no options beside it
    arguments = ["segment", str(tmp_path / "a.gif"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2 and "expected scenes with their options" in capsys.readouterr().err
    with another_run(tmp_path / "out"):
        assert main(arguments) == 2
    assert "expected no other run that writes to it" in capsys.readouterr().err


# --- whole or not there ---


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = write_atomic(tmp_path / "a", "old")

    def fail() -> None:
        with atomic_path(file) as temporary:
            temporary.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="out: expected a file to write, got .*No space left on device"):
        fail()
    assert file.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_appears_with_one_rename(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "f") as writing:
        (writing / "a").write_text("x")
        assert not (tmp_path / "f").exists()
    assert (tmp_path / "f" / "a").read_text() == "x"


def test_parquet_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    dataset = read_dataset("canonical", write_toy(tmp_path / "toy", count=3))
    seen: list[bool] = []

    def stop(*_: object) -> None:
        seen.append((tmp_path / "out").exists())
        raise KeyboardInterrupt

    from amodal.data.formats import parquet

    with monkeypatch.context() as patch:
        patch.setattr(parquet, "_write_description", stop)
        with pytest.raises(KeyboardInterrupt):
            convert(dataset, "parquet", tmp_path / "out")
    assert seen == [False] and not (tmp_path / "out").exists()
    done = convert(dataset, "parquet", tmp_path / "out", shard_bytes=1)
    assert len(done.files) == 3 and all(file.is_file() for file in done.files)
    with pytest.raises(InputError, match="expected a new or empty folder"):
        convert(dataset, "parquet", tmp_path / "out")


def test_an_onnx_export_with_files_of_another_one_is_refused(tmp_path: Path) -> None:
    for name in (onnx.ENCODER, onnx.DECODER, "config.json"):
        (tmp_path / name).write_text(name)
    files = {file.name: content_digest(file) for file in tmp_path.iterdir()}
    (tmp_path / onnx.MANIFEST).write_text(json.dumps(files))
    onnx._check_manifest(tmp_path)
    (tmp_path / onnx.ENCODER).write_text("a newer encoder")
    with pytest.raises(InputError, match=r"got another encoder.onnx than manifest.json states; export the model again"):
        onnx.OnnxPlug(tmp_path)
    for broken in ("", "[]", "{}", '{"encoder.onnx": 1}'):
        (tmp_path / onnx.MANIFEST).write_text(broken)
        with pytest.raises(InputError, match="expected a whole export with manifest.json"):
            onnx.OnnxPlug(tmp_path)


# --- interrupts ---


@pytest.mark.slow
def test_ctrl_c_is_one_line_with_exit_code_130(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "toy", count=400)
    command = [sys.executable, "-m", "amodal", "data", "convert", "--annotations", str(path), "--to", "coco", "--json"]
    run = subprocess.Popen([*command, "--out", str(tmp_path / "o.json")], stderr=subprocess.PIPE, text=True)
    while run.poll() is None and not (tmp_path / ".writing_o.json").exists():
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    _, error = run.communicate(timeout=60)
    assert run.returncode == 130 and error.strip() == "amodal: interrupted"
    assert not list(tmp_path.glob("*.json")) and not list(tmp_path.glob(".writing*"))


def test_an_interrupt_has_exit_code_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("amodal.cli.main.add_variables", lambda _: interrupt)
    assert main(["data", "formats"]) == 130
    assert capsys.readouterr().err == "amodal: interrupted\n"
