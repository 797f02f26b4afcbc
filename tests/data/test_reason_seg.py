"""Reading question files, and every error that they can have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amodal.data.datasets import read_dataset
from amodal.data.reason_seg import ReasonDataset, plain_text, read_reason_seg
from amodal.errors import MAX_QUESTION_LENGTH, InputError
from tests.data.toy import write_toy

GOOD: dict[str, Any] = {
    "id": 1,
    "image_id": 1,
    "question": "What is hidden?",
    "answer": "<p>The red square</p> {seg:1} is, behind <p>a green one</p> {seg:2}.",
}


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images: annotations 1 (red, behind) and 2 (green) on the first, 3 and 4 on the second."""
    return write_toy(tmp_path_factory.mktemp("toy"), count=2)


def read(annotations: Path, folder: Path, content: object) -> ReasonDataset:
    path = folder / "questions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_reason_seg(path, annotations)


def test_one_turn(annotations: Path, tmp_path: Path) -> None:
    dataset = read(annotations, tmp_path, [GOOD | {"kind": "hidden", "note": "ignored"}])
    (conversation,) = dataset.conversations
    (turn,) = conversation.turns
    assert (conversation.id, turn.kind, conversation.image.id) == (1, "hidden", 1)
    assert conversation.image.load().shape == (64, 64, 3)
    assert [obj.id for obj in turn.objects] == [1, 2]
    assert turn.phrases == ("The red square", "a green one")
    assert turn.text == "The red square is, behind a green one."
    assert turn.with_token("[SEG]") == "<p>The red square</p> [SEG] is, behind <p>a green one</p> [SEG]."
    assert dataset.categories == {1: "red", 2: "green"}


def test_several_turns_and_answers_without_objects(annotations: Path, tmp_path: Path) -> None:
    record = GOOD | {"question": ["And blue?", " Both,\n please. "], "answer": ["None is.", "{seg:2} then {seg:1}"]}
    record["kind"] = ["colour", None]
    dataset = read(annotations, tmp_path, [record, GOOD | {"id": "b", "image_id": 2, "answer": "No."}])
    first, second = dataset.conversations[0].turns
    assert dataset.num_turns == 3
    assert dataset.head(1).num_turns == 2
    assert first.objects == () and first.phrases == ()
    assert second.question == "Both, please."
    assert [obj.id for obj in second.objects] == [2, 1]
    assert second.phrases == (None, None)
    assert (first.kind, second.kind) == ("colour", None)
    both = read(annotations, tmp_path, [record | {"kind": "talk"}]).conversations[0].turns
    assert [turn.kind for turn in both] == ["talk", "talk"]


def test_a_phrase_names_all_placeholders_right_after_it(annotations: Path, tmp_path: Path) -> None:
    answer = "Here are <p>two  squares</p> {seg:1} {seg:2}."
    (turn,) = read(annotations, tmp_path, [GOOD | {"answer": answer}]).conversations[0].turns
    assert turn.phrases == ("two squares", "two squares")
    (turn,) = read(annotations, tmp_path, [GOOD | {"answer": answer.replace("} {", "} and {")}]).conversations[0].turns
    assert turn.phrases == ("two squares", None)


def test_a_dataset_can_be_passed_instead_of_a_file(annotations: Path, tmp_path: Path) -> None:
    path = tmp_path / "questions.json"
    path.write_text(json.dumps([GOOD]))
    assert read_reason_seg(path, read_dataset("canonical", annotations)) == read_reason_seg(str(path), str(annotations))


def test_plain_text_has_regular_punctuation() -> None:
    assert plain_text("<p>A mug</p> {seg:3}, and <p>a pear</p> {seg:4} ; no more {seg:5} !") == (
        "A mug, and a pear; no more!"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "It is {seg:9}."}, r"question 1: expected placeholders that name annotations, got \{seg:9\}"),
        ({"answer": "It is {seg:3}."}, r"expected annotations of image 1, got \{seg:3\} of image 2"),
        ({"answer": "{seg:1} and {seg:1} again"}, "one placeholder per mask, got 2 placeholders for 1 masks"),
        ({"answer": "It is {seg}."}, r"expected \{seg:ANNOTATION_ID\} for each object.* got '\{seg\}'"),
        ({"answer": "It is [SEG]."}, r"got '\[SEG\]'"),
        ({"answer": "It is <p>red</p>."}, "at most right before it, got '<p>'"),
        ({"answer": "It is <p>red {seg:1}."}, "at most right before it, got '<p>'"),
        ({"answer": "{seg:1}"}, "expected an answer in words, got '{seg:1}'"),
        ({"answer": ""}, "expected an answer in words, got ''"),
        ({"answer": 3}, "expected the answer as text, got int"),
        ({"question": " \n "}, "expected a question, got an empty one"),
        ({"question": "a" * (MAX_QUESTION_LENGTH + 1)}, "at most 1000 characters, got 1001"),
        ({"question": None}, "expected the question as text, got NoneType"),
        ({"question": "What is {seg:1}?"}, r"without placeholders and markup, got '\{seg:1\}'"),
        ({"question": ["a", "b"], "answer": ["c"]}, "as many answers as questions, got 2 questions and 1 answers"),
        ({"question": ["a"]}, "as many answers as questions"),
        ({"question": [], "answer": []}, "got 0 questions and 0 answers"),
        ({"image_id": 7}, "expected image_id of an image in the annotations, got 7"),
        ({"image_id": [1]}, r"expected image_id of an image in the annotations, got \[1\]"),
        ({"id": None}, "expected a number or text as id, got None"),
        ({"kind": 2}, "expected kind as text, or as a list with one per turn, got 2"),
        ({"kind": ["a", "b"]}, r"as a list with one per turn, got \['a', 'b'\]"),
    ],
)
def test_invalid_records_raise(annotations: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(annotations, tmp_path, [GOOD | changes])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected at least one question, got an empty list"),
        ({"questions": []}, "expected a list of questions, got other content"),
        ([1], "expected a list of questions, got other content"),
        ("[{", "expected JSON, got broken text"),
        ([GOOD, GOOD | {"id": "1"}], "question 1: expected questions of different ids, got the same twice"),
        ([{"id": 4}], "question 4: expected id, image_id, question and answer, got no image_id, question, answer"),
        ([{}], "question at position 0: expected id"),
    ],
)
def test_invalid_files_raise(annotations: Path, tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(annotations, tmp_path, content)


def test_a_missing_file_or_a_folder_raises(annotations: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"questions: expected a file, got .*nothing\.json', which does not exist"):
        read_reason_seg(tmp_path / "nothing.json", annotations)
    with pytest.raises(InputError, match="which is a folder"):
        read_reason_seg(tmp_path, annotations)


def test_an_empty_amodal_mask_raises(tmp_path: Path) -> None:
    path = write_toy(tmp_path, count=1)
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = {"size": [64, 64], "counts": [64 * 64]}
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"expected a mask for each placeholder, got \{seg:1\}, whose amodal mask is"):
        read(path, tmp_path, [GOOD])
