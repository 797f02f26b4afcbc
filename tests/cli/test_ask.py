"""`amodal ask`: answers with the numbers of the overlay, conversations, and errors of one line."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from amodal.cli.main import main
from amodal.inference.scene import Scene
from amodal.models.aura.generation import Dialogue
from tests.cli.test_bad_input import refused
from tests.models.aura import ANSWER, random_image, small_aura


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    Image.fromarray(random_image()).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    small_aura(tmp_path).save_pretrained(tmp_path / "aura")
    return tmp_path / "aura"


@pytest.fixture
def _spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the untrained model answer `ANSWER` in the first turn and "There is none." later."""
    answer = Dialogue.answer

    def say(self: Dialogue, longest: int, *, given: Any = None, on_part: Any = None) -> Any:
        later = "</s>" in self.processor.tokenizer.decode(self.tokens[0])
        return answer(self, longest, given=given or ["There is none." if later else ANSWER], on_part=on_part)

    monkeypatch.setattr(Dialogue, "answer", say)


@pytest.mark.usefixtures("_spoken")
def test_an_answer_has_the_numbers_of_the_overlay(
    image_file: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code = main(["ask", str(image_file), "What could I drink from?", "--model", str(model), "--out", str(out)])
    shown = capsys.readouterr().out
    assert code == 0
    assert "You could use the mug [0], behind two books [1] [2]." in shown
    assert "3 objects" in shown
    lines = shown.splitlines()
    assert (
        len([line for line in lines if re.fullmatch(r"\[\d\] .*: \d+% occluded by the masks, \d+% predicted", line)])
        == 3
    )
    assert any(line.startswith("Not sure: confidence 0.0") for line in lines)  # the model was not trained
    scene = Scene.load(out)
    assert [obj.phrase for obj in scene.objects] == ["the mug", "two books", "two books"]
    assert scene.question == "What could I drink from?"
    assert (out / "overlay.png").is_file()
    assert len(list(out.glob("object_*_amodal.png"))) == 3


@pytest.mark.usefixtures("_spoken")
def test_json_is_the_scene(image_file: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    main(["ask", str(image_file), "What is it?", "--model", str(model), "--out", str(out), "--json"])
    content = json.loads(capsys.readouterr().out)
    assert content == json.loads((out / "scene.json").read_text())
    assert content["answer"] == "You could use the mug, behind two books."


@pytest.mark.usefixtures("_spoken")
def test_a_conversation_has_one_folder_per_turn(
    image_file: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = f"What could I drink from?\n\n{'x' * 1001}\nWhat else?\nexit\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(asked))
    out = tmp_path / "out"
    assert main(["ask", str(image_file), "--model", str(model), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert sorted(folder.name for folder in out.iterdir()) == ["turn_01", "turn_02"]
    assert Scene.load(out / "turn_02").objects == []
    assert "There is none." in shown
    assert "no objects" in shown
    assert "expected at most 1000 characters, got 1001" in re.sub(r"\s+", " ", shown)


def test_invalid_inputs_get_one_line(
    image_file: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "broken.png").write_bytes(b"not an image")
    folder, photo = tmp_path, str(image_file)
    monkeypatch.chdir(tmp_path)
    assert "question: expected words, got an empty one" in refused(capsys, folder, "ask", photo, " ")
    assert "question: expected at most 1000" in refused(capsys, folder, "ask", photo, "x" * 1001)
    assert "--json: expected a question" in refused(capsys, folder, "ask", photo, "--json")
    assert "out: expected a folder" in refused(capsys, folder, "ask", photo, "Q?", "--out", str(tmp_path / "file"))
    assert "expected an image" in refused(capsys, folder, "ask", str(tmp_path / "broken.png"), "Q?")
    assert "model: expected a bundled name" in refused(capsys, folder, "ask", photo, "Q?", "--model", "nothing")
    small = json.loads((model / "aura_processor.json").read_text()) | {"seg_token": "[MASK]"}
    (model / "aura_processor.json").write_text(json.dumps(small))
    assert "expected '[MASK]' to be one token" in refused(capsys, folder, "ask", photo, "Q?", "--model", str(model))
