"""Scoring answers from files, and comparing two reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amodal.cli.main import main
from amodal.data.datasets import read_dataset
from amodal.data.formats.canonical import canonical_record
from amodal.data.reason_seg import ReasonDataset, read_reason_seg
from amodal.data.samples import AnnotatedDataset
from amodal.errors import InputError
from amodal.evaluation.reason import evaluate_answers, evaluate_reason
from amodal.evaluation.reason_report import ReasonReport, compare_reason
from amodal.evaluation.report import as_text
from amodal.evaluation.scoring import Resampling
from amodal.ops.rle import encode_empty
from amodal.synthetic.generate import synthesize
from amodal.synthetic.questions import synthesize_questions
from tests.evaluation.oracle import Oracle, visible_only


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ReasonDataset:
    folder = tmp_path_factory.mktemp("asked")
    annotations = synthesize("scenes", 3, 5, folder / "scenes", progress=False)
    return read_reason_seg(synthesize_questions(annotations, folder / "q.json", progress=False), annotations)


@pytest.fixture(scope="module")
def oracle_file(dataset: ReasonDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers whose amodal masks are the visible ones."""
    path = tmp_path_factory.mktemp("given") / "answers.jsonl"
    evaluate_reason(Oracle(dataset, visible_only), dataset, name="oracle", answers=path, progress=False)
    return path


@pytest.fixture(scope="module")
def asked(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[str], AnnotatedDataset, ReasonDataset]:
    """Arguments that name the annotations and the questions, and both."""
    folder = tmp_path_factory.mktemp("few")
    annotations = synthesize("scenes", 2, 5, folder / "scenes", progress=False)
    questions = synthesize_questions(annotations, folder / "q.json", progress=False)
    arguments = ["--annotations", str(annotations), "--questions", str(questions)]
    return arguments, read_dataset("canonical", annotations), read_reason_seg(questions, annotations)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def write_lines(path: Path, lines: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("teacher_forced", [False, True])
def test_a_file_scores_as_the_model_that_wrote_it(dataset: ReasonDataset, tmp_path: Path, teacher_forced: bool) -> None:
    path = tmp_path / "answers.jsonl"
    of_model = evaluate_reason(
        Oracle(dataset, visible_only), dataset, answers=path, teacher_forced=teacher_forced, progress=False,
        resampling=Resampling(20),
    )  # fmt: skip
    of_file = evaluate_answers(path, dataset, resampling=Resampling(20), progress=False)
    assert of_file.options.pop("num_missing") == 0
    assert of_file == of_model


def test_answers_of_another_program(dataset: ReasonDataset, oracle_file: Path, tmp_path: Path) -> None:
    """Only ids and masks: the same metrics of the masks, and none of words and names."""
    own = evaluate_answers(oracle_file, dataset, progress=False)
    masks = ("segmentation", "visible_segmentation")
    lines = [
        {"id": line["id"], "turns": [
            {"objects": [{key: obj[key] for key in masks} for obj in turn["objects"]]} for turn in line["turns"]
        ]}
        for line in reversed(lines_of(oracle_file))
    ]  # fmt: skip
    report = evaluate_answers(write_lines(tmp_path / "other.jsonl", lines), dataset, progress=False)
    assert own.metrics.keys() - report.metrics.keys() == {"set_F1", "set_exact", "BLEU", "chrF"}
    assert report.metrics == {name: own.metrics[name] for name in report.metrics}
    assert report.options["model"] == "other.jsonl" and report.options["mode"] == "free"
    assert report.options["device"] is report.options["union_visible"] is None
    few = evaluate_answers(write_lines(tmp_path / "few.jsonl", lines[1:]), dataset, progress=False)
    assert few.options["num_missing"] == 1
    assert few.metrics["num_predicted"] < report.metrics["num_predicted"]
    assert few.metrics["num_answers"] == report.metrics["num_answers"]
    forced = evaluate_answers(tmp_path / "other.jsonl", dataset, teacher_forced=True, progress=False)
    assert forced.options["mode"] == "teacher_forced" and "no_object_accuracy" not in forced.metrics


@pytest.mark.parametrize(
    ("kept", "dropped"), [("segmentation", "visible_segmentation"), ("visible_segmentation", "segmentation")]
)
def test_a_method_with_one_kind_of_mask(
    dataset: ReasonDataset, oracle_file: Path, tmp_path: Path, kept: str, dropped: str
) -> None:
    lines = lines_of(oracle_file)
    for line in lines:
        for turn in line["turns"]:
            for obj in turn["objects"]:
                del obj[dropped]
    path = write_lines(tmp_path / "half.jsonl", lines)
    report = evaluate_answers(path, dataset, resampling=Resampling(20), progress=False)
    kind, other = ("amodal", "visible") if kept == "segmentation" else ("visible", "amodal")
    both = evaluate_answers(oracle_file, dataset, progress=False)
    assert report.metrics[f"gIoU_{kind}"] == both.metrics[f"gIoU_{kind}"]
    assert not any(other in name for name in (*report.metrics, *report.intervals, *report.by_occlusion[0]))
    assert report.options["matching"].startswith(f"Hungarian on {kind}")
    assert ("own visible mask" in report.baselines) == (kind == "visible")
    assert kind in as_text(report.tables(), 200)
    with pytest.raises(InputError, match=f"expected objects with both masks in .*, got {kind} ones"):
        evaluate_answers(path, dataset, union_visible=True, progress=False)


def test_masks_of_a_file_can_be_united(dataset: ReasonDataset, oracle_file: Path, tmp_path: Path) -> None:
    lines = lines_of(oracle_file)
    for line in lines:
        for obj in (obj for turn in line["turns"] for obj in turn["objects"]):
            obj["segmentation"] = encode_empty(obj["segmentation"]["size"])
    path = write_lines(tmp_path / "empty.jsonl", lines)
    assert evaluate_answers(path, dataset, progress=False).metrics["cIoU_amodal"] == 0
    united = evaluate_answers(path, dataset, union_visible=True, progress=False)
    assert united.metrics == evaluate_answers(oracle_file, dataset, progress=False).metrics
    assert united.options["union_visible"] is True


def test_predictions_of_images_answer_every_question(dataset: ReasonDataset, tmp_path: Path) -> None:
    """A method without language shows all objects of the image, whatever was asked."""
    images = {c.image.id: c.image for c in dataset.conversations}
    records = [
        {
            "image_id": i,
            "category_id": o.category_id,
            "segmentation": o.amodal_rle,
            "visible_segmentation": o.visible_rle,
        }
        for i, image in images.items()
        for o in image.objects
    ]
    path = write_lines(tmp_path / "p.json", [])
    path.write_text(json.dumps([*records, records[0] | {"image_id": 9999}]))  # an image without questions
    report = evaluate_answers(path, dataset, progress=False)
    assert report.metrics["mIoU_amodal"] == report.metrics["answered_with_object"] == 1
    expected = [len(t.objects) / len(c.image.objects) for c in dataset.conversations for t in c.turns]
    assert report.metrics["gIoU_amodal"] == report.metrics["gIoU_visible"] == pytest.approx(np.mean(expected))
    for record in records:
        del record["visible_segmentation"]
    path.write_text(json.dumps(records))
    assert "gIoU_visible" not in evaluate_answers(path, dataset, progress=False).metrics


def test_images_without_a_question_are_left_out_of_every_form(
    asked: tuple[list[str], AnnotatedDataset, ReasonDataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Canonical files were refused, and JSON lists were not."""
    arguments, annotated, questions = asked
    few = replace(questions, conversations=tuple(c for c in questions.conversations if c.image.id == 1))
    whole = json.loads(Path(arguments[1]).read_text())
    for annotation in whole["annotations"]:
        annotation["id"] += 100
    coco = tmp_path / "coco.json"
    coco.write_text(json.dumps(whole))
    records = [
        {"image_id": image.id, "category_id": obj.category_id, "segmentation": obj.amodal_rle}
        | {"visible_segmentation": obj.visible_rle}
        for image in annotated.images
        for obj in image.objects
    ]
    path = tmp_path / "list.json"
    path.write_text(json.dumps(records))
    expected = evaluate_answers(path, few, progress=False)
    assert expected.metrics["mIoU_amodal"] == 1
    for known in (None, annotated):
        found = evaluate_answers(coco, few, annotations=known, progress=False)
        assert (found.metrics, found.by_occlusion) == (expected.metrics, expected.by_occlusion)
    own = [record for record in json.loads(Path(arguments[3]).read_text()) if record["image_id"] == 1]
    (tmp_path / "q.json").write_text(json.dumps(own))
    command = ["evaluate", "answers", *arguments[:3], str(tmp_path / "q.json"), "--json", "--resamples", "0"]
    for given in (path, coco):
        assert main([*command, "--predictions", str(given)]) == 0
        assert json.loads(capsys.readouterr().out)["metrics"] == expected.metrics
    whole["images"][1]["file_name"] = "other.png"
    coco.write_text(json.dumps(whole))
    assert evaluate_answers(coco, few, progress=False).metrics == expected.metrics
    with pytest.raises(
        InputError, match="expected the file name of an annotated image, got 'other.png', which names no"
    ):
        evaluate_answers(coco, few, annotations=annotated, progress=False)
    assert main([*command, "--predictions", str(coco)]) == 2
    assert "got 'other.png', which names none" in capsys.readouterr().err


def test_an_image_without_a_question_is_not_taken_for_another_of_its_name(
    asked: tuple[list[str], AnnotatedDataset, ReasonDataset], tmp_path: Path
) -> None:
    """Two folders have a file of the same name, and the questions are about one of them."""
    _, annotated, questions = asked
    images = tuple(replace(i, file_name=f"{i.id}/a.png") for i in annotated.images)
    turns = tuple(replace(c, image=images[0]) for c in questions.conversations if c.image.id == 1)
    records = [
        canonical_record(n, n, 1, o.visible_rle, o.amodal_rle) for n, o in enumerate([images[0].objects[0]] * 2, 1)
    ]
    content = {
        "images": [{"id": n, "file_name": f"{n}/a.png"} for n in (1, 2)],
        "categories": [],
        "annotations": records,
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    both, few = replace(annotated, images=images), replace(questions, conversations=turns)
    report = evaluate_answers(tmp_path / "coco.json", few, annotations=both, progress=False)
    assert report.metrics["num_predicted"] == few.num_turns  # one object per question


def test_wrong_files_raise(dataset: ReasonDataset, oracle_file: Path, tmp_path: Path) -> None:
    first = next(line for line in lines_of(oracle_file) if line["turns"][0]["objects"])
    obj, rest = first["turns"][0]["objects"][0], first["turns"][1:]

    def line(**changes: Any) -> dict[str, Any]:
        return first | {"turns": [{"objects": [obj | changes]}, *rest]}

    for content, message in (
        ([first, first], "line 2: expected each conversation once, got .* twice"),
        ([first | {"id": "none"}], "line 1: expected the id of a conversation in the question file, got 'none'"),
        ([first | {"turns": [*first["turns"], {"objects": []}]}], "line 1: expected turns as a list of"),
        ([first | {"turns": None}], "line 1: expected turns as a list of ., got None"),
        ([first | {"turns": [{}, *rest]}], "line 1: expected a turn with a list of objects, got {}"),
        ([first | {"turns": [{"objects": [3]}, *rest]}], "line 1: expected an object with masks, got 3"),
        ([line(segmentation={"size": [1, 1], "counts": "1"})], "line 1: segmentation: expected an RLE of size"),
        ([line(occlusion_rate=2)], r"line 1: expected an occlusion_rate in \[0, 1\], got 2"),
        ([line(phrase=[])], "line 1: expected phrase to be a text"),
        ([3], "line 1: expected a JSON object, got '3'"),
    ):
        with pytest.raises(InputError, match=f"predictions .*: {message}"):
            evaluate_answers(write_lines(tmp_path / "a.jsonl", content), dataset, progress=False)
    half = {key: value for key, value in obj.items() if key != "visible_segmentation"}
    for objects, message in (
        ([obj, half], "expected visible_segmentation in all objects or in none, got 1 of 2"),
        ([{"phrase": "a"}], "expected objects with a segmentation or a visible_segmentation, got none"),
    ):
        turns = [{"objects": objects}, *({"objects": []} for _ in rest)]
        path = write_lines(tmp_path / "a.jsonl", [first | {"turns": turns}])
        with pytest.raises(InputError, match=message):
            evaluate_answers(path, dataset, progress=False)
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="expected JSON Lines in UTF-8"):
        evaluate_answers(tmp_path / "a.jsonl", dataset, progress=False)
    (tmp_path / "a.jsonl").write_text("[" * 100_000)
    with pytest.raises(InputError, match="line 1: expected a JSON object"):
        evaluate_answers(tmp_path / "a.jsonl", dataset, progress=False)
    for missing, fault in ((tmp_path / "no.jsonl", "does not exist"), (tmp_path / "folder.jsonl", "is a folder")):
        (tmp_path / "folder.jsonl").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=f"predictions: expected a file, got .*, which {fault}"):
            evaluate_answers(missing, dataset, progress=False)


# The comparison of two reports


def test_two_reports_are_compared(dataset: ReasonDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = evaluate_reason(Oracle(dataset, visible_only), dataset, name="a", progress=False)
    second = evaluate_reason(Oracle(dataset), dataset, name="b", progress=False)
    first.save_folder(tmp_path / "a")
    second.save(tmp_path / "b.json")
    assert ReasonReport.load(tmp_path / "a") == first
    assert main(["evaluate", "compare", str(tmp_path / "a"), str(tmp_path / "b.json"), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["models"] == ["a", "b"] and content["num_answers"] == dataset.num_turns
    rows = {(row["answers"], row["metric"]): row for row in content["rows"]}
    row = rows["all", "gIoU_amodal"]
    assert row["difference"] == pytest.approx(1 - first.metrics["gIoU_amodal"]) and row["difference"] > 0
    assert {kind for kind, _ in rows} == {"all", *(r["kind"] for r in first.by_kind)}
    assert main(["evaluate", "compare", str(tmp_path / "a"), str(tmp_path / "b.json")]) == 0
    assert "gIoU_amodal_with_objects" in capsys.readouterr().out  # not cut off at 80 columns


def test_reports_that_cannot_be_compared(
    dataset: ReasonDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    free = evaluate_reason(Oracle(dataset), dataset, progress=False)
    fewer = evaluate_reason(Oracle(dataset), dataset.head(3), progress=False)
    forced = evaluate_reason(Oracle(dataset), dataset, teacher_forced=True, progress=False)
    with pytest.raises(InputError, match="compare: expected the same questions in both reports, got .* and 3 answers"):
        compare_reason(free, fewer)
    with pytest.raises(InputError, match=r"the same mode in both reports, got 'free' and .* \(--allow mode\)"):
        compare_reason(free, forced)
    assert compare_reason(free, forced, ["mode"]).different == ("mode",)
    with pytest.raises(InputError, match="allow: expected one of mode, union_visible, clean, got 'threshold'"):
        compare_reason(free, forced, ["threshold"])
    free.save(tmp_path / "free.json")
    (tmp_path / "masks.json").write_text('{"protocol": "strict"}')
    assert main(["evaluate", "compare", str(tmp_path / "free.json"), str(tmp_path / "masks.json")]) == 2
    out, err = capsys.readouterr()
    assert "expected a report of `amodal evaluate answers`, got" in err and len(err.splitlines()) == 1 and not out
