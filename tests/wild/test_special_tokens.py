"""Special tokens of language models in questions and question files: refused in one line where they enter."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from amodal.app.demo import make_app
from amodal.app.images import DemoModels
from amodal.cli.main import main
from amodal.data.reason_seg import read_reason_seg
from amodal.errors import InputError, special_token
from amodal.models.aura.processing import AuraProcessor, check_question
from tests.data.toy import write_toy

SPECIAL = [
    "<image>", "<IMAGE>", "[SEG]", "[seg]", "<p>", "</p>", "<s>", "</s>", "<pad>", "<unk>", "<bos>", "<eos>",
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|image_pad|>", "<|begin_of_text|>", "<|reserved_special_token_7|>",
    "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<image_soft_token>", "<fake_token_around_image>",
    "<end_of_utterance>", "<row_1_col_2>", "<global-img>", "<img>", "<IMG_CONTEXT>", "<video>", "<tool_call>",
    "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "[CLS]", "[MASK]",
    "<｜User｜>", "<｜begin▁of▁sentence｜>", "＜image＞",
]  # fmt: skip
PLAIN = [
    "Is 3 < 5 and 7 > 6?",
    "What is <behind the cup> here?",
    "Which array[0] or [1, 2] is [left]?",
    "Where is a -> b, or a <- b?",
    "How big is x|y| <= 4?",
    "Email <me@example.org> about <https://example.org>?",
]


@pytest.mark.parametrize("token", SPECIAL)
def test_special_tokens_are_found_in_any_text(token: str) -> None:
    for text in (token, f"Where is the {token}?", f"a{token}b"):
        assert special_token(text) is not None, text
        with pytest.raises(InputError, match="special token"):
            check_question(text)


@pytest.mark.parametrize("text", PLAIN)
def test_other_text_in_brackets_is_plain(text: str) -> None:
    assert special_token(text) is None
    assert check_question(text) == text


def test_the_tokens_of_the_model_itself_are_refused() -> None:
    with pytest.raises(InputError, match="'~~end~~'"):
        check_question("Where is ~~end~~?", {"~~end~~"})
    processor = AuraProcessor.from_pretrained("aura-small")
    pixels = np.zeros((8, 8, 3), np.uint8)
    for token in processor.tokenizer.all_special_tokens:
        with pytest.raises(InputError, match="special token"):
            processor.first_turn(pixels, f"Where is {token}?")
        with pytest.raises(InputError, match="special token"):
            processor.later_turn(f"Where is {token}?")


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy"), count=1)


@pytest.mark.parametrize("token", ["<image>", "[SEG]", "<|im_end|>", "</s>"])
@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Where is {}?", "It is the <p>cup</p> {{seg:1}}."),
        ("Where is it?", "It is the {} <p>cup</p> {{seg:1}}."),
        ("Where is it?", "It is the <p>cup {}</p> {{seg:1}}."),
    ],
)
def test_question_files_are_refused_when_they_are_opened(
    annotations: Path, tmp_path: Path, token: str, question: str, answer: str
) -> None:
    record = {"id": 1, "image_id": 1, "question": question.format(token), "answer": answer.format(token)}
    path = tmp_path / "questions.json"
    path.write_text(json.dumps([record]))
    with pytest.raises(InputError, match="questions.json: question 1: expected"):
        read_reason_seg(path, annotations)


def test_ask_refuses_it_with_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(png())
    assert main(["ask", str(image), "Where is the <image>?"]) == 2
    assert capsys.readouterr().err == (
        "amodal: question: expected text without '<image>', which is a special token or looks like one\n"
    )


def test_the_server_refuses_it_with_status_422() -> None:
    models = DemoModels(cast("Any", None), cast("Any", None), assistant=object())  # no model is called
    with TestClient(make_app(models), base_url="http://127.0.0.1") as client:
        files, form = {"image": ("a.png", png())}, {"question": "Where is the <image>?"}
        refused = client.post("/api/ask", files=files, data=form)
        assert refused.status_code == 422 and "'<image>'" in refused.json()["error"]


def png() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (20, 10)).save(buffer, format="PNG")
    return buffer.getvalue()
