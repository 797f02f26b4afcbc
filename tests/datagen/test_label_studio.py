"""Label Studio: tasks that its SDK accepts, unchanged masks, import of verdicts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amodal.datagen.review.label_studio import (
    export_label_studio,
    import_label_studio,
    labeling_config,
    labelled_masks,
    masks_changed,
)
from amodal.datagen.review.review import ReviewPolicy, submit
from amodal.datagen.store.records import Draft
from amodal.datagen.store.work_folder import WorkFolder
from amodal.errors import InputError
from amodal.ops.brush_rle import encode_brush
from amodal.ops.rle import decode_mask
from tests.datagen.toy_work import QUESTION, answer, execute_sql, toy_work

try:
    from label_studio_sdk.converter import brush
    from label_studio_sdk.label_interface import LabelInterface
    from label_studio_sdk.label_interface.objects import TaskValue
except ImportError:
    brush = None

needs_sdk = pytest.mark.tools("label-studio-sdk")

URL = "/data/local-files/?d=images/"
SHORT = "[The red square #1], behind [a green one #2]."


@pytest.fixture
def work(tmp_path: Path) -> Iterator[WorkFolder]:
    with toy_work(tmp_path) as manifest:
        yield manifest


def exported(work: WorkFolder, policy: ReviewPolicy | None = None) -> list[dict[str, Any]]:
    out = work.folder.parent / "tasks"
    export_label_studio(work, policy or ReviewPolicy(), out, image_url=URL)
    tasks: list[dict[str, Any]] = json.loads((out / "tasks-001.json").read_text())
    return tasks


def annotation(task: dict[str, Any], who: Any, verdict: str | None, **texts: str) -> dict[str, Any]:
    """The annotation that Label Studio stores when a person submits a task that starts from its prediction."""
    result = [dict(region) for region in task["predictions"][0]["result"] if region["from_name"] not in texts]
    for name, text in texts.items():
        value = {"text": [text]}
        result.append({"id": name, "from_name": name, "to_name": "image", "type": "textarea", "value": value})
    if verdict is not None:
        value = {"choices": [verdict]}
        result.append({"id": "v", "from_name": "verdict", "to_name": "image", "type": "choices", "value": value})
    return {"completed_by": who, "result": result, "was_cancelled": False, "lead_time": 3.5}


def imported(work: WorkFolder, *tasks: dict[str, Any]) -> dict[str, Any]:
    path = work.folder.parent / "annotated.json"
    path.write_text(json.dumps(tasks))
    return import_label_studio(work, ReviewPolicy(), path)


def test_content_of_tasks(work: WorkFolder) -> None:
    tasks = exported(work)
    folder = work.folder.parent / "tasks"
    assert sorted(path.name for path in folder.rglob("*")) == [
        "1.png",
        "2.png",
        "config.xml",
        "images",
        "tasks-001.json",
    ]
    assert (folder / "images" / "2.png").read_bytes() == (work.folder / "images" / "000001.png").read_bytes()
    assert [task["data"]["pair"] for task in tasks] == [1, 3, 2], "the pairs of an image are together"
    assert tasks[0]["data"] == {
        "image": "/data/local-files/?d=images/1.png",
        "objects": "#1 red, 25% hidden behind #2\n#2 green, not hidden",
        "pair": 1,
        "tries": 1,
        "question": QUESTION,
        "answer": SHORT,
        "earlier": "None yet.",
    }


def test_unmentioned_masks_can_be_left_out_and_files_stay_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amodal.datagen.review.label_studio.TASKS_PER_FILE", 2)
    with toy_work(
        tmp_path, pairs=5, drafts={1: Draft("Which?", "<p>It</p> {seg:2}."), 2: Draft("Which?", "None.")}
    ) as work:
        made = export_label_studio(work, ReviewPolicy(), tmp_path / "tasks", image_url=URL, mentioned_only=True)
    assert made["tasks"] == 5
    parts = [json.loads((tmp_path / "tasks" / f"tasks-00{n}.json").read_text()) for n in (1, 2, 3)]
    assert [len(part) for part in parts] == [2, 2, 1]
    labels = {
        task["data"]["pair"]: [r["id"] for r in task["predictions"][0]["result"] if r["type"] == "brushlabels"]
        for part in parts
        for task in part
    }
    both = ["1-visible", "1-whole", "2-visible", "2-whole"]
    assert labels == {1: ["2-visible", "2-whole"], 2: [], 3: both, 4: both, 5: both}


@needs_sdk
def test_the_sdk_accepts_the_configuration() -> None:
    for count in (1, 30):
        interface = LabelInterface(labeling_config(count))
        interface.validate()
        assert len(interface.get_control("masks").labels) == 2 * count
        assert interface.get_control("verdict").labels == ["accept", "fix", "reject"]
        assert {control.name for control in interface.controls} == {"masks", "question", "answer", "verdict", "note"}


@needs_sdk
def test_tasks_and_annotations_fit_the_configuration(work: WorkFolder) -> None:
    tasks = exported(work)
    interface = LabelInterface((work.folder.parent / "tasks" / "config.xml").read_text())
    for task in tasks:
        TaskValue.model_validate(task)
        assert interface.validate_task({"data": task["data"]})
        made = annotation(task, 7, "fix", question="Which?", note="n")
        for region in [*task["predictions"][0]["result"], *made["result"]]:
            assert interface.validate_region(region, return_errors=True) == []
            if region["type"] == "brushlabels":
                assert not interface.validate_region({**region, "value": {**region["value"], "brushlabels": ["9 x"]}})
        wrong = annotation(task, 7, "maybe")["result"][-1]
        assert not interface.validate_region(wrong)


@needs_sdk
def test_the_sdk_decodes_identical_masks(work: WorkFolder) -> None:
    for task in exported(work):
        pair = work.pairs.get(task["data"]["pair"])
        regions = [r for r in task["predictions"][0]["result"] if r["type"] == "brushlabels"]
        flat = [{**region, **region["value"]} for region in regions]
        layers = brush.decode_from_annotation("masks", flat)
        assert sorted(layers) == ["masks-1 visible-0", "masks-1 whole-0", "masks-2 visible-0", "masks-2 whole-0"]
        for number, record in enumerate(work.object_records(pair.image_id), start=1):
            for part, key in (("visible", "visible_mask"), ("whole", "segmentation")):
                layer = layers[f"masks-{number} {part}-0"]
                assert set(np.unique(layer)) == {0, 255}
                assert ((layer > 0) == decode_mask(record[key])).all()


def test_verdicts_are_imported(work: WorkFolder) -> None:
    one, three, two = exported(work)
    ada, bob = {"id": 1, "email": "ada@example.org"}, {"id": 2, "email": "bob@example.org"}
    better = "[The green one #2] lies on [the red #1]."
    one["annotations"] = [annotation(one, ada, "accept"), annotation(one, bob, "accept", question=QUESTION + " ")]
    two["annotations"] = [annotation(two, ada, "fix", answer=better, note="shorter"), annotation(two, 9, None)]
    three["annotations"] = [annotation(three, 9, "reject"), {**annotation(three, ada, "accept"), "was_cancelled": True}]
    assert imported(work, one, two, three) == {
        "taken": 4, "known": 0, "empty": 2, "refused": [], "masks_changed": [],
    }  # fmt: skip
    assert work.pairs.get(1).state == "accepted"
    (review,) = work.reviews.of_pair(2)
    assert (review.reviewer, review.verdict, review.question, review.note) == (
        "ada@example.org",
        "fix",
        None,
        "shorter",
    )
    assert review.answer == "<p>The green one</p> {seg:4} lies on <p>the red</p> {seg:3}."
    assert [(r.reviewer, r.verdict) for r in work.reviews.of_pair(3)] == [("annotator 9", "reject")]
    again = imported(work, one, two, three)
    assert (again["taken"], again["known"], again["refused"]) == (0, 4, [])


def test_verdicts_that_cannot_be_imported_are_reported(work: WorkFolder) -> None:
    one, three, two = exported(work)
    submit(work, 3, "ada", "accept", ReviewPolicy())
    one["annotations"] = [
        annotation(one, "ada", "accept", question="Edited?"),
        annotation(one, "bob", "fix"),
        annotation(one, "cyd", "fix", answer="[It #9] is."),
        annotation(one, "dee", "maybe"),
        annotation(one, None, "accept"),
    ]
    three["annotations"] = [annotation(three, "ada", "reject")]
    two["annotations"] = [annotation(two, "ada", "accept")]
    two["data"]["question"] = "Of another folder?"
    lost = {"data": {"pair": "x"}, "annotations": [], "id": 77}
    gone = {"data": {"pair": 99, "question": ""}, "annotations": []}
    result = imported(work, one, two, three, lost, gone)
    assert (result["taken"], result["known"]) == (0, 0)
    for line, message in zip(
        result["refused"],
        [
            "pair 1: expected fix where texts were edited, got accept by ada",
            "pair 1: fix: expected another question or answer, got the same texts",
            "pair 1: answer: expected objects #1 to #2, got #9",
            "pair 1: verdict: expected one of accept, fix, reject, got 'maybe'",
            "pair 1: expected the name of the annotator",
            "pair 2: expected a task of this work folder, got another question",
            "pair 3: expected the verdict ada gave before (accept), got another (reject)",
            "task 77: expected the number of a pair, got 'x'",
            "pair: expected one of the work folder, got id 99",
        ],
        strict=True,
    ):
        assert line.startswith(message), line
    assert work.reviews.all() == work.reviews.of_pair(3)


def test_changed_masks_are_reported_and_not_imported(work: WorkFolder) -> None:
    one, *_ = exported(work)
    before = work.object_records(1)
    made = annotation(one, "ada", "accept")
    drawn = np.zeros((64, 64), bool)
    drawn[3, 3] = True
    made["result"][0] = {**made["result"][0], "value": {**made["result"][0]["value"], "rle": encode_brush(drawn)}}
    one["annotations"] = [made]
    result = imported(work, one)
    assert (result["taken"], result["masks_changed"]) == (1, [1])
    assert work.object_records(1) == before
    (region, *_) = annotation(one, "ada", "accept")["result"]
    masks = labelled_masks(before)
    assert not masks_changed([region], masks)
    again = [*region["value"]["rle"], 0, 0]
    assert not masks_changed([{**region, "value": {**region["value"], "rle": again}}], masks), "other bytes, same bits"
    for change in ({"rle": [1, 2, 3]}, {"brushlabels": ["7 whole"]}, {"brushlabels": ["x"]}):
        assert masks_changed([{**region, "value": {**region["value"], **change}}], masks)


def test_a_tiebreak_task_shows_the_earlier_verdicts(work: WorkFolder) -> None:
    submit(work, 1, "ada", "accept", ReviewPolicy())
    submit(work, 1, "bob", "fix", ReviewPolicy(), answer=answer(1).replace("red", "crimson"), note="colour")
    work.pairs.set_state(2, "failed", "check", reason="leak: names it")
    tasks = {task["data"]["pair"]: task for task in exported(work, ReviewPolicy(include_failed=True))}
    assert tasks[1]["data"]["earlier"].splitlines() == [
        "accept", "fix: [The crimson square #1], behind [a green one #2].: colour",
    ]  # fmt: skip
    assert tasks[2]["data"]["earlier"] == "The automatic check: leak: names it"
    tasks[1]["annotations"] = [annotation(tasks[1], "cyd", "accept")]
    assert imported(work, tasks[1])["taken"] == 1
    assert work.pairs.get(1).state == "accepted"


def test_hostile_texts_and_names_stay_unchanged(tmp_path: Path) -> None:
    text = "<img src=x onerror=alert(1)> \" ' & $image"
    with toy_work(tmp_path, drafts={1: Draft(text, f"{text} {{seg:1}}")}) as work:
        execute_sql(work, "UPDATE categories SET name = ? WHERE id = 1", (text,))
        one, *_ = exported(work)
        assert one["data"]["question"] == text
        one["annotations"] = [annotation(one, "<b>eve</b>", "fix", question=f"{text}?")]
        assert imported(work, one)["refused"] == []
        assert work.reviews.of_pair(1)[0].question == f"{text}?"


def test_a_failed_export_writes_nothing(work: WorkFolder) -> None:
    folder = work.folder.parent
    (work.folder / "images" / "000001.png").unlink()
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError, match="image 2: expected the file"):
        exported(work)
    execute_sql(work, "UPDATE images SET file_name = '../../source/annotations.json' WHERE id = 2")
    with pytest.raises(InputError, match="image 2: expected an image inside the work folder"):
        exported(work)
    with pytest.raises(InputError, match="out: expected a new folder"):
        export_label_studio(work, ReviewPolicy(), work.folder, image_url=URL)
    for number in (1, 2, 3):
        submit(work, number, "ada", "accept", ReviewPolicy(reviewers=1))
    with pytest.raises(InputError, match="expected pairs that wait for people, got none"):
        exported(work)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "expected JSON, got broken text"),
        ("{}", "tasks with annotations, got another"),
        ('[{"data": {}}]', "tasks with annotations, got another"),
        ('[{"data": {}, "annotations": [{"result": [1]}]}]', "tasks with annotations, got another"),
        (None, "expected a file, got"),
    ],
)
def test_files_of_another_form_are_refused(work: WorkFolder, tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "annotated.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        import_label_studio(work, ReviewPolicy(), path)
