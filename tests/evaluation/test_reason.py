"""Scoring assistants of known quality on questions about scenes."""

from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from amodal.cli.main import main
from amodal.data.reason_seg import ReasonDataset, read_reason_seg
from amodal.errors import InputError
from amodal.evaluation.answers import read_answers
from amodal.evaluation.reason import category_name, evaluate_reason, iou_by_occlusion
from amodal.evaluation.report import as_text
from amodal.evaluation.scoring import Resampling
from amodal.inference.assistant import AmodalAssistant, Reply
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from amodal.metrics.reason import MaskPair, score_answer
from amodal.models.aura import AuraModel
from amodal.ops.masks import convex_hull_mask
from amodal.ops.rle import rle_area, rle_difference
from amodal.synthetic.generate import synthesize
from amodal.synthetic.questions import synthesize_questions
from tests.evaluation.oracle import Oracle, reply_with, scene_objects, silent, visible_only, with_amodal_masks
from tests.models.aura import small_aura


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ReasonDataset:
    folder = tmp_path_factory.mktemp("asked")
    annotations = synthesize("scenes", 6, 5, folder / "scenes", progress=False)
    return read_reason_seg(synthesize_questions(annotations, folder / "q.json", progress=False), annotations)


def test_true_answers_score_1(dataset: ReasonDataset) -> None:
    report = evaluate_reason(Oracle(dataset), dataset, name="oracle", progress=False)
    perfect = [f"{m}IoU_{k}{u}" for m in "gc" for k in ("amodal", "visible") for u in ("", "_union")]
    perfect += ["set_F1", "set_exact", "no_object_accuracy", "answered_with_object", "gIoU_amodal_with_objects"]
    assert report.baselines["own visible mask"]["gIoU_amodal"] < report.metrics["gIoU_amodal"]
    assert {name: report.metrics[name] for name in perfect} == pytest.approx(dict.fromkeys(perfect, 1.0))
    assert report.metrics["occlusion_rate_error"] == 0
    assert report.metrics["BLEU"] == pytest.approx(100) and report.metrics["chrF"] == pytest.approx(100)
    assert report.metrics["num_answers"] == dataset.num_turns
    assert report.options["mode"] == "free" and report.options["model"] == "oracle"
    assert report.options["text"]["BLEU"].startswith("nrefs:1|")


def test_saying_nothing_is_correct_where_no_object_answers(dataset: ReasonDataset) -> None:
    metrics = evaluate_reason(Oracle(dataset, silent), dataset, progress=False).metrics
    empty = sum(not t.objects for c in dataset.conversations for t in c.turns)
    assert metrics["gIoU_amodal"] == metrics["set_F1"] == pytest.approx(empty / dataset.num_turns)
    assert metrics["no_object_accuracy"] == 1
    assert metrics["cIoU_amodal"] == metrics["answered_with_object"] == metrics["gIoU_amodal_with_objects"] == 0
    assert "occlusion_rate_error" not in metrics


def test_visible_masks_as_amodal_masks(dataset: ReasonDataset) -> None:
    report = evaluate_reason(Oracle(dataset, visible_only), dataset, progress=False)
    turns = [t for c in dataset.conversations for t in c.turns]
    rates = [[o.occlusion_rate for o in scene_objects(t)] for t in turns]
    expected = np.mean([np.mean([1 - r for r in row]) if row else 1 for row in rates])
    assert report.metrics["gIoU_amodal"] == pytest.approx(expected)
    assert report.metrics["gIoU_visible"] == 1
    assert report.metrics["occlusion_rate_error"] == pytest.approx(np.mean([r for row in rates for r in row]))
    for row in report.by_occlusion:
        within = [r for rs in rates for r in rs if row["above"] < r <= row["up_to"] or (row["up_to"] == 0 == r)]
        assert row["num_objects"] == len(within)
        if within:
            assert row["mIoU_amodal"] == pytest.approx(1 - np.mean(within))
            assert row["mIoU_visible"] == 1


def test_each_baseline_scores_like_a_model_of_its_kind(dataset: ReasonDataset) -> None:
    baselines = evaluate_reason(Oracle(dataset), dataset, progress=False).baselines

    def hulls(reply: Reply) -> Reply:
        return with_amodal_masks(reply, convex_hull_mask)

    changes = {"says nothing": silent, "own visible mask": visible_only, "hull of own visible mask": hulls}
    assert baselines.keys() == changes.keys()
    for name, change in changes.items():
        own = evaluate_reason(Oracle(dataset, change), dataset, progress=False).metrics
        assert baselines[name] == {metric: own[metric] for metric in own if "amodal" in metric}


def test_metrics_per_kind_of_question(dataset: ReasonDataset) -> None:
    rows = evaluate_reason(Oracle(dataset), dataset, progress=False).by_kind
    assert sum(row["num_answers"] for row in rows) == dataset.num_turns
    assert {row["kind"] for row in rows} == {t.kind for c in dataset.conversations for t in c.turns}


def test_teacher_forcing_gives_the_true_words(dataset: ReasonDataset) -> None:
    oracle = Oracle(dataset)
    free = evaluate_reason(Oracle(dataset), dataset, progress=False)
    forced = evaluate_reason(oracle, dataset, teacher_forced=True, progress=False)
    assert forced.options["mode"] == "teacher_forced"
    assert free.metrics.keys() - forced.metrics.keys() == {
        "set_F1", "set_exact", "no_object_accuracy", "answered_with_object", "BLEU", "chrF",
    }  # fmt: skip
    known = {tuple(t.question for t in c.turns): c for c in dataset.conversations}
    assert len(oracle.told) == len(dataset.conversations)
    for answers, questions in zip(oracle.told, oracle.heard, strict=True):
        turns = known[questions].turns
        assert answers == [turn.with_token("<mask>") for turn in turns]
        assert [a.count("<mask>") for a in answers] == [len(t.objects) for t in turns]


def test_batches_hold_few_images_and_similar_lengths(dataset: ReasonDataset) -> None:
    oracle = Oracle(dataset)
    evaluate_reason(oracle, dataset, batch_size=2, progress=False)
    lengths = [len(questions) for questions in oracle.heard]
    image_of = {tuple(t.question for t in c.turns): c.image.id for c in dataset.conversations}
    images = list(dict.fromkeys(c.image.id for c in dataset.conversations))
    start = 0
    for pair in zip(images[::2], images[1::2], strict=True):
        count = sum(c.image.id in pair for c in dataset.conversations)
        assert {image_of[q] for q in oracle.heard[start : start + count]} == set(pair)
        assert lengths[start : start + count] == sorted(lengths[start : start + count])
        start += count
    assert start == len(dataset.conversations)


def test_free_mode_gives_no_true_words(dataset: ReasonDataset) -> None:
    oracle = Oracle(dataset)
    evaluate_reason(oracle, dataset, max_conversations=5, batch_size=2, progress=False)
    assert oracle.told == [None] * 5
    assert oracle.batches == [2, 2, 1]


def test_a_stopped_run_is_resumed(dataset: ReasonDataset, tmp_path: Path) -> None:
    path, whole = tmp_path / "new" / "answers.jsonl", dataset.head(9)
    straight = evaluate_reason(Oracle(dataset, visible_only), whole, progress=False)
    stopped = Oracle(dataset, visible_only, stop_after=4)
    with pytest.raises(KeyboardInterrupt):
        evaluate_reason(stopped, whole, batch_size=2, answers=path, progress=False)
    assert len(path.read_text().splitlines()) == 1 + 4
    path.write_text(path.read_text()[:-30])  # killed while it wrote
    rest = Oracle(dataset, visible_only)
    assert evaluate_reason(rest, whole, answers=path, progress=False) == straight
    assert len(rest.heard) == 9 - 3
    again = Oracle(dataset)
    assert evaluate_reason(again, whole, answers=path, progress=False) == straight
    assert again.heard == []
    lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    assert sorted(line["id"] for line in lines) == sorted(c.id for c in whole.conversations)
    (first,) = [line for line in lines if line["id"] == whole.conversations[0].id]
    assert first["turns"][0]["text"] == first["turns"][0]["true_text"] == whole.conversations[0].turns[0].text


def test_a_run_that_was_cut_off_anywhere_in_a_line_is_resumed(dataset: ReasonDataset, tmp_path: Path) -> None:
    """Also inside a character of several bytes."""
    path, few = tmp_path / "answers.jsonl", dataset.head(2)

    def in_french(reply: Reply) -> Reply:
        return replace(reply, text=f"é€𝄞 {reply.text}")

    straight = evaluate_reason(Oracle(dataset, in_french), few, answers=path, progress=False)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    start = len(whole) - len(lines[-1])
    inside = [whole.index(letter.encode(), start) + 1 for letter in ("é", "€", "𝄞")]
    for end in (start, *inside, inside[-1] + 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        rest = Oracle(dataset, in_french)
        assert evaluate_reason(rest, few, answers=path, progress=False) == straight
        assert len(rest.heard) == 1 and path.read_bytes() == whole
    path.write_bytes(whole.replace("é".encode(), b"\xe9"))  # a whole line in another encoding
    with pytest.raises(InputError, match="expected answers of an evaluation, got another file"):
        evaluate_reason(Oracle(dataset), few, answers=path, progress=False)


def test_a_second_run_with_the_same_answers_file_is_refused(dataset: ReasonDataset, tmp_path: Path) -> None:
    path, second = tmp_path / "answers.jsonl", Oracle(dataset)

    class Slow(Oracle):
        def converse(self, *arguments: Any, **options: Any) -> list[list[Reply]]:
            with (
                ThreadPoolExecutor(1) as pool,
                pytest.raises(InputError, match="answers .*: expected no other run that"),
            ):
                pool.submit(evaluate_reason, second, dataset.head(2), answers=path, progress=False).result()
            return super().converse(*arguments, **options)

    report = evaluate_reason(Slow(dataset), dataset.head(2), answers=path, progress=False)
    assert second.heard == [] and report.metrics["gIoU_amodal"] == 1
    evaluate_reason(second, dataset.head(2), answers=path, progress=False)  # the lock ends with the run


def test_answers_of_another_run_raise(dataset: ReasonDataset, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    evaluate_reason(Oracle(dataset), dataset.head(2), answers=path, progress=False)
    for change in ({"name": "other"}, {"teacher_forced": True}, {"max_conversations": 1}):
        with pytest.raises(InputError, match="expected answers of the same questions, model and options, got others"):
            evaluate_reason(Oracle(dataset), dataset.head(2), answers=path, progress=False, **change)
    path.write_text(path.read_text().splitlines()[0] + "\n{}\n")
    with pytest.raises(InputError, match="line 2: expected the id of a conversation in the question file, got None"):
        evaluate_reason(Oracle(dataset), dataset.head(2), answers=path, progress=False)
    path.write_text("no JSON")
    with pytest.raises(InputError, match="expected answers of an evaluation, got another file"):
        evaluate_reason(Oracle(dataset), dataset.head(2), answers=path, progress=False)
    with pytest.raises(InputError, match="answers: expected a file to write, got"):
        evaluate_reason(Oracle(dataset), dataset.head(2), answers=path / "below", progress=False)


def test_replies_of_another_form_raise(dataset: ReasonDataset) -> None:
    def small(reply: Reply) -> Reply:
        pixel = np.ones((2, 2), bool)
        return replace(reply, scene=Scene([SceneObject.from_masks(pixel, pixel, phrase="a")], (2, 2)))

    (first,) = [next(c for c in dataset.conversations if c.turns[0].objects)]
    asked = replace(dataset, conversations=(first,))
    with pytest.raises(ValueError, match=r"masks: expected all of size"):
        evaluate_reason(Oracle(dataset, small), asked, progress=False)
    for given, message in (([], "one list per conversation, got 0 for 1"), ([[]], "one per question, got 0 for 1")):
        assistant = SimpleNamespace(converse=lambda conversations, answers, given=given: given)
        with pytest.raises(ValueError, match=f"replies: expected {message}"):
            evaluate_reason(assistant, asked, progress=False)


def test_invalid_numbers_and_a_missing_package_raise(dataset: ReasonDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("batch_size", "max_conversations"):
        with pytest.raises(InputError, match=f"{name}: expected 1 or more, got 0"):
            evaluate_reason(Oracle(dataset), dataset, progress=False, **{name: 0})
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    oracle = Oracle(dataset)
    with pytest.raises(InputError, match=r"expected sacrebleu, got none: pip install 'amodal\[reason\]'"):
        evaluate_reason(oracle, dataset, progress=False)
    assert oracle.heard == []


@pytest.mark.parametrize(
    ("phrase", "kind"),
    [
        ("the left mug", "mug"),
        ("The Wine Glass", "wine glass"),
        ("a glass of wine", "glass of wine"),
        ("the car", "car"),
        ("the carpet", "carpet"),
        (None, "?"),
        ("...", "?"),
    ],
)
def test_category_names_in_phrases(phrase: str | None, kind: str) -> None:
    assert category_name(phrase, ["mug", "wine glass", "car", "glass"] if kind != "glass of wine" else ["mug"]) == kind


def test_the_longest_category_name_wins() -> None:
    assert category_name("the wine glass", ["glass", "wine glass"]) == "wine glass"


def test_an_unnamed_object_lowers_the_score_of_the_names(dataset: ReasonDataset) -> None:
    def nameless(reply: Reply) -> Reply:
        return reply_with(reply, [replace(obj, phrase=None) for obj in reply.scene.objects])

    metrics = evaluate_reason(Oracle(dataset, nameless), dataset, progress=False).metrics
    assert metrics["set_F1"] == pytest.approx(metrics["num_without_object"] / metrics["num_answers"])
    assert metrics["gIoU_amodal"] == 1


def test_report_as_file_and_as_tables(dataset: ReasonDataset, tmp_path: Path) -> None:
    from rich.console import Console

    report = evaluate_reason(Oracle(dataset), dataset, progress=False)
    content = json.loads(report.save(tmp_path / "new" / "report.json").read_text())
    assert content == json.loads(json.dumps(report.to_json()))
    keys = {"protocol", "options", "metrics", "intervals", "by_occlusion", "by_kind", "baselines", "version", "commit"}
    assert content.keys() == keys
    assert content["protocol"] == "reason"
    console = Console(record=True, width=200)
    for table in report.tables():
        console.print(table)
    text = console.export_text()
    for part in ("reason, free:", "gIoU_amodal", "no_object_accuracy", "it_hides", "hull of own", "100.000", "> 70 %"):
        assert part in text
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="out: expected a file to write, got"):
        report.save(tmp_path / "file" / "report.json")
    with pytest.raises(InputError, match="out: expected a folder, got the file"):
        report.save_folder(tmp_path / "file")
    report.save_folder(tmp_path / "folder")
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == ["report.json", "table.txt"]
    assert "no_object_accuracy" in (tmp_path / "folder" / "table.txt").read_text()


def test_the_masks_of_an_assistant_are_cleaned_on_request_only(dataset: ReasonDataset) -> None:
    class Assistant(Oracle):
        """Has the attributes of `AmodalAssistant` that evaluation reads and sets."""

        clean, union_visible, device, dtype = True, True, "cpu", "torch.bfloat16"
        model = SimpleNamespace(state_dict=dict)
        seen: ClassVar[list[tuple[bool, bool]]] = []

        def keeping_features(self, num_images: int) -> AbstractContextManager[None]:
            return nullcontext()

        def converse(self, conversations: Any, *, answers: Any = None) -> list[list[Reply]]:
            self.seen.append((self.clean, self.union_visible))
            return super().converse(conversations, answers=answers)

    few = dataset.head(1)
    for options, expected in (
        ({}, (False, True)),
        ({"clean": True}, (True, True)),
        ({"union_visible": False}, (False, False)),
    ):
        assistant = Assistant(dataset)
        report = evaluate_reason(assistant, few, progress=False, **options)
        assert set(Assistant.seen) == {expected}
        assert (report.options["clean"], report.options["union_visible"]) == expected
        assert report.options["dtype"] == "bfloat16"
        assert assistant.clean and assistant.union_visible  # as before
        Assistant.seen.clear()
    options = evaluate_reason(Oracle(dataset), few, progress=False).options
    assert options["clean"] is None and options["union_visible"] is None
    for wrong in ({"clean": True}, {"union_visible": False}):
        with pytest.raises(InputError, match="expected False and True for a model other than AmodalAssistant, got"):
            evaluate_reason(Oracle(dataset), few, progress=False, **wrong)


def test_occlusion_ranges_without_objects() -> None:
    whole = np.ones((2, 2), bool)
    rows = iou_by_occlusion([score_answer([], [MaskPair(whole, whole)])])
    assert [row["num_objects"] for row in rows] == [1, 0, 0, 0, 0, 0]
    assert rows[0]["mIoU_amodal"] == 0 and "mIoU_amodal" not in rows[1]


class Square:
    """An assistant that repeats each question and shows one square per answer."""

    def __init__(self, rate: float | None = None) -> None:
        self.processor = SimpleNamespace(seg_token="<mask>")
        self.rates = None if rate is None else (rate,)

    def converse(self, conversations: Any, *, answers: Any = None) -> list[list[Reply]]:
        return [[self._reply(image, question) for question in questions] for image, questions in conversations]

    def _reply(self, image: np.ndarray, question: str) -> Reply:
        square = np.zeros(image.shape[:2], bool)
        square[:4, :4] = True
        scene = Scene([SceneObject.from_masks(square, square, phrase="the mug")], square.shape)
        return Reply(f"{question}!", scene, (), self.rates)


def test_predicted_occlusion_rates_are_scored(dataset: ReasonDataset, tmp_path: Path) -> None:
    def shifted(reply: Reply) -> Reply:
        return replace(reply, occlusion_rates=tuple(o.occlusion_rate / 2 for o in reply.scene.objects))

    rates = [o.occlusion_rate for c in dataset.conversations for t in c.turns for o in scene_objects(t)]
    metrics = evaluate_reason(Oracle(dataset, shifted), dataset, progress=False).metrics
    assert metrics["occlusion_rate_error"] == pytest.approx(np.mean(rates) / 2)
    assert metrics["num_rates"] == len(rates)


def test_a_real_assistant_free_and_forced(dataset: ReasonDataset, tmp_path: Path) -> None:
    """With random weights the metrics mean nothing, but given words bring every object in its turn."""
    assistant = AmodalAssistant(small_aura(tmp_path))
    assistant.model.config.max_new_tokens = 4
    single, double = (next(c for c in dataset.conversations if len(c.turns) == n) for n in (1, 2))
    few = replace(dataset, conversations=(double, single))
    free = evaluate_reason(assistant, few, progress=False)
    assert free.metrics["num_answers"] == 3
    stated = {name: free.options[name] for name in ("device", "dtype", "clean", "union_visible")}
    assert stated == {"device": "cpu", "dtype": "float32", "clean": False, "union_visible": True}
    path = tmp_path / "answers.jsonl"
    evaluate_reason(assistant, few, teacher_forced=True, answers=path, progress=False)
    lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    turns = [turn for line in lines for turn in line["turns"]]
    assert sum(len(turn["objects"]) for turn in turns) > 0
    true = [turn for c in (single, double) for turn in c.turns]
    assert [turn["question"] for turn in turns] == [turn.question for turn in true]
    for turn, expected in zip(turns, true, strict=True):
        assert [obj.get("phrase") for obj in turn["objects"]] == list(expected.phrases)  # the phrases given back


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments that evaluate an assistant that always shows one square."""
    annotations = synthesize("scenes", 2, 5, tmp_path / "scenes", progress=False)
    questions = synthesize_questions(annotations, tmp_path / "q.json", progress=False)
    monkeypatch.setattr(AmodalAssistant, "from_pretrained", lambda name, device, dtype: Square())
    return ["evaluate", "answers", "--annotations", str(annotations), "--questions", str(questions)]


def test_the_command(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files, "--max-questions", "8", "--out", str(tmp_path / "out"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["protocol"] == "reason" and report["options"]["model"] == "aura-small"
    assert report["options"]["num_conversations"] == 8
    assert report["metrics"]["no_object_accuracy"] == 0  # it always shows an object
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["answers.jsonl", "report.json", "table.txt"]
    assert main([*files, "--max-questions", "8", "--teacher-forced", "--model", "other"]) == 0
    assert "reason, teacher_forced" in capsys.readouterr().out


def test_the_command_scores_files(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files, "--out", str(tmp_path / "a"), "--json", "--resamples", "9"]) == 0
    of_model = json.loads(capsys.readouterr().out)
    shutil.copy(tmp_path / "a" / "answers.jsonl", tmp_path / "copy.jsonl")
    given = ["--predictions", str(tmp_path / "copy.jsonl")]
    assert main([*files, *given, "--json", "--resamples", "9"]) == 0
    of_file = json.loads(capsys.readouterr().out)
    assert of_file["metrics"] == of_model["metrics"] and of_file["intervals"] == of_model["intervals"]
    for more, message in ((["--clean"], "clean: expected with a model"), (["--model", "aura-small"], "got both")):
        assert main([*files, *given, *more]) == 2
        out, err = capsys.readouterr()
        assert message in err and len(err.splitlines()) == 1 and not out


def test_invalid_arguments_are_reported(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, message in (
        ([*files[:-2]], "Missing option '--questions'"),
        ([*files, "--box-source", "gt_amodal"], "No such option: --box-source"),
        ([*files[:-1], str(tmp_path / "no.json")], "questions: expected a file, got"),
    ):
        assert main(wrong) == 2
        out, err = capsys.readouterr()
        assert message in err and len(err.splitlines()) == 1 and not out


def test_the_backbone_encodes_each_image_once(dataset: ReasonDataset, tmp_path: Path) -> None:
    assistant = AmodalAssistant(small_aura(tmp_path))
    assistant.model.config.max_new_tokens = 1
    encoded: list[int] = []
    encode = assistant.model.encode_image

    def counting(pixel_values_sam: Any) -> Any:
        encoded.append(len(pixel_values_sam))
        return encode(pixel_values_sam)

    assistant.model.encode_image = counting  # type: ignore[method-assign]
    images = {c.image.id for c in dataset.conversations}
    for batch_size in (1, 4):
        evaluate_reason(assistant, dataset, batch_size=batch_size, progress=False)
        assert sum(encoded) == len(images)
        encoded.clear()
    assistant.converse([(c.image.load(), [c.turns[0].question]) for c in dataset.conversations[:3]])
    assert sum(encoded) == len({c.image.id for c in dataset.conversations[:3]})
    before = sum(encoded)
    assistant.converse([(dataset.conversations[0].image.load(), ["What is this?"])])
    assert sum(encoded) == before + 1  # outside an evaluation nothing is kept


def test_kept_features_give_the_same_masks(dataset: ReasonDataset, tmp_path: Path) -> None:
    assistant, few = AmodalAssistant(small_aura(tmp_path)), dataset.head(6)
    reports = [evaluate_reason(assistant, few, teacher_forced=True, batch_size=n, progress=False) for n in (1, 4)]
    assert reports[0].metrics == pytest.approx(reports[1].metrics, abs=1e-3)
    assert reports[0].metrics["num_predicted"] > 0


def test_raw_amodal_masks(dataset: ReasonDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two masks of this model have no pixel in common, so that uniting them shows."""
    assistant, few = AmodalAssistant(small_aura(tmp_path)), dataset.head(4)
    decode = AuraModel.decode

    def complements(*arguments: Any) -> Any:
        masks = decode(*arguments)
        visible = masks.visible_logits - masks.visible_logits.mean()  # some pixels are above the threshold
        return replace(masks, visible_logits=visible, amodal_logits=-visible)

    monkeypatch.setattr(AuraModel, "decode", complements)
    for union in (True, False):
        path = tmp_path / f"{union}.jsonl"
        evaluate_reason(assistant, few, teacher_forced=True, union_visible=union, answers=path, progress=False)
        objects = [o for t in read_answers(path, few).answers.values() for a in t for o in a.objects]
        assert objects
        for obj in objects:
            assert obj.visible is not None and obj.amodal is not None
            outside = rle_area(rle_difference(obj.visible, obj.amodal))
            assert outside == (0 if union else rle_area(obj.visible))
        assert any(rle_area(obj.visible) for obj in objects if obj.visible)


def test_changed_weights_do_not_resume(dataset: ReasonDataset, tmp_path: Path) -> None:
    model = small_aura(tmp_path)
    path, few = tmp_path / "answers.jsonl", dataset.head(1)
    evaluate_reason(AmodalAssistant(model), few, teacher_forced=True, answers=path, progress=False)
    with torch.no_grad():
        next(model.amodal_decoder.parameters()).add_(1)
    with pytest.raises(InputError, match="expected answers of the same questions, model and options, got others"):
        evaluate_reason(AmodalAssistant(model), few, teacher_forced=True, answers=path, progress=False)


def test_intervals(dataset: ReasonDataset) -> None:
    report = evaluate_reason(Oracle(dataset, visible_only), dataset, resampling=Resampling(50, 1), progress=False)
    low, high = report.intervals["gIoU_amodal"]
    assert low < report.metrics["gIoU_amodal"] < high
    assert report.intervals["gIoU_visible"] == [1, 1]
    assert report.options["resamples"] == 50
    assert f"({low:.3f}-{high:.3f})" in as_text(report.tables(), 200)
    assert evaluate_reason(Oracle(dataset), dataset, progress=False).intervals == {}
