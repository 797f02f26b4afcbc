"""Bad input gives one clear line on stderr and exit code 2, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from amodal.cli.environment import with_option_names
from amodal.cli.main import app, main

SMALL_RECIPE = """
task: plug
output: {out}
model: {{base: vit-b{model}}}
data:
  train: [{{format: canonical, annotations: missing.json}}]
  validation: [{{format: canonical, annotations: missing.json}}]
training: {{steps: 2{training}}}
"""


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    Image.fromarray(np.full((60, 80, 3), 120, np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> str:
    """Run the command line, check that it refuses the input, and return its line on stderr."""
    before = sorted(folder.rglob("*"))
    code = main(list(arguments))
    captured = capsys.readouterr()
    assert code == 2, captured
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert sorted(folder.rglob("*")) == before, "nothing is written"
    return captured.err


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ("1,2,3", "expected four numbers X0,Y0,X1,Y1, got '1,2,3'"),
        ("a,b,c,d", "expected four numbers"),
        ("nan,2,30,40", "expected finite numbers"),
        ("30,2,10,40", "which is inverted"),
        ("10,10,10,40", "which has none"),
        ("200,10,300,40", "expected a box inside the 80 x 60 image"),
    ],
)
def test_boxes(capsys: pytest.CaptureFixture[str], image_file: Path, tmp_path: Path, box: str, message: str) -> None:
    out = str(tmp_path / "out")
    assert message in refused(capsys, tmp_path, "segment", str(image_file), "--box", box, "--out", out)


def test_images(capsys: pytest.CaptureFixture[str], image_file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    whole = image_file.read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    for name, message in {
        "missing.png": "does not exist",
        "empty.png": "empty file",
        "text.png": "another kind",
        "half.png": "damaged",
    }.items():
        out = str(tmp_path / "out")
        line = refused(capsys, tmp_path, "segment", str(tmp_path / name), "--box", "1,1,9,9", "--out", out)
        assert message in line


def test_models(capsys: pytest.CaptureFixture[str], image_file: Path, tmp_path: Path) -> None:
    common = ["segment", str(image_file), "--box", "1,1,30,30", "--out", str(tmp_path / "out")]
    assert "expected a bundled name" in refused(capsys, tmp_path, *common, "--model", "nonsense")
    assert "expected a bundled name" in refused(capsys, tmp_path, "info", "nonsense")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "plug"}')
    assert "got neither" in refused(capsys, tmp_path, *common, "--model", str(tmp_path / "model"))


def test_recipes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def recipe(model: str = "", training: str = "") -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(SMALL_RECIPE.format(out=tmp_path / "run", model=model, training=training))
        return str(path)

    assert "training.learning_rte: unknown key" in refused(
        capsys, tmp_path, "train", recipe(training=", learning_rte: 1.0")
    )
    assert "training.batch_size: expected" in refused(capsys, tmp_path, "train", recipe(training=", batch_size: many"))
    assert "model.lora_rnk: unknown key" in refused(capsys, tmp_path, "info", recipe(model=", lora_rnk: 3"))
    assert "expected key=value" in refused(capsys, tmp_path, "info", recipe(), "--set", "model.lora_rank")
    assert "does not exist" in refused(capsys, tmp_path, "train", str(tmp_path / "none.yaml"))
    assert "fork: expected a run with a checkpoint and a model in" in refused(
        capsys, tmp_path, "train", recipe(), "--fork", "second"
    )


def test_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "set")]
    make = ["data", "synthesize", "--count", "1", *out, "--kind"]
    assert "kind: expected one of scenes, paste, questions, got 'x'" in refused(capsys, tmp_path, *make, "x")
    assert "split: expected one of all, train, validation, got 'half'" in refused(
        capsys, tmp_path, *make, "paste", "--split", "half"
    )
    assert "count: expected" in refused(
        capsys, tmp_path, "data", "synthesize", "--kind", "scenes", "--count", "0", *out
    )
    (tmp_path / "broken.json").write_text("{")
    assert "expected JSON" in refused(
        capsys, tmp_path, "evaluate", "masks", "--annotations", str(tmp_path / "broken.json")
    )


def test_usage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "Missing argument" in refused(capsys, tmp_path, "segment")
    assert "No such option" in refused(capsys, tmp_path, "info", "x", "--colour")
    assert "No such command" in refused(capsys, tmp_path, "paint")


def test_any_other_error_gives_one_line_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, image_file: Path
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr("amodal.io.images.load_image", broken)
    assert main(["segment", str(image_file), "--box", "1,1,9,9"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "amodal: RuntimeError: the disk is on fire (set AMODAL_DEBUG=1 for the traceback)"
    ]


def test_mode(capsys: pytest.CaptureFixture[str], image_file: Path, tmp_path: Path) -> None:
    refusal = refused(capsys, tmp_path, "segment", str(image_file), "--box", "10,10,40,40", "--mode", "tiles")
    assert "mode: expected one of crop, image, got 'tiles'" in refusal


@pytest.mark.parametrize(
    ("arguments", "message", "told"),
    [
        (["serve"], "root_path: expected a path", "root-path: expected a path"),
        (["serve"], "allow_host, port: expected", "allow-host, port: expected"),
        (["evaluate", "masks"], "match_iou: expected max_objects", "match-iou: expected max_objects"),
        (["data", "synthesize"], "exclude_category a_b: expected", "exclude-category a_b: expected"),
        (["train"], "model.mask_threshold: expected", "model.mask_threshold: expected"),
        (["train"], "stop_after_this: expected", "stop_after_this: expected"),
        ([], "no name at all", "no name at all"),
        (["serve"], "", ""),
    ],
)
def test_messages_name_options_as_the_command_line_does(arguments: list[str], message: str, told: str) -> None:
    assert with_option_names(message, typer.main.get_command(app), arguments) == told
