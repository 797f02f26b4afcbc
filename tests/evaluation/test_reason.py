"""Scoring answerers of known quality on questions about scenes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from amodal.cli.main import main
from amodal.data.formats.reason_seg import ReasonDataset, ReasonTurn, read_reason_seg
from amodal.errors import InputError
from amodal.evaluation.reason import Asked, AssistantAnswerer, ReasonReply, evaluate_reason, named_kind
from amodal.evaluation.reason_report import by_occlusion
from amodal.inference.assistant import AmodalAssistant
from amodal.inference.scene import Scene, SceneObject
from amodal.metrics.reason import ObjectMasks, score_answer
from amodal.ops.masks import convex_hull_mask
from amodal.synthetic.generate import synthesize
from amodal.synthetic.questions import synthesize_questions
from tests.models.aura import small_aura

Change = Callable[[ReasonReply], ReasonReply]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ReasonDataset:
    folder = tmp_path_factory.mktemp("asked")
    annotations = synthesize("scenes", 6, 5, folder / "scenes", progress=False)
    return read_reason_seg(synthesize_questions(annotations, folder / "q.json", progress=False), annotations)


def masks(turn: ReasonTurn) -> tuple[ObjectMasks, ...]:
    return tuple(ObjectMasks(t.visible_mask(), a) for t in turn.objects if (a := t.amodal_mask()) is not None)


@dataclass
class Knowing:
    """Answers truly, but for what `change` makes of it; finds its place by the questions it is asked."""

    dataset: ReasonDataset
    change: Change = lambda reply: reply
    stop_after: int | None = None
    heard: list[Asked] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def answer(self, batch: Sequence[Asked]) -> list[list[ReasonReply]]:
        replies = []
        for asked in batch:
            if self.stop_after is not None and len(self.heard) >= self.stop_after:
                raise KeyboardInterrupt
            self.heard.append(asked)
            (known,) = [
                c
                for c in self.dataset.conversations
                if tuple(t.question for t in c.turns) == asked.questions and (c.image.load() == asked.image).all()
            ]
            replies.append([self.change(ReasonReply(t.text, masks(t), t.phrases)) for t in known.turns])
        self.batches.append(len(batch))
        return replies


def silent(reply: ReasonReply) -> ReasonReply:
    return ReasonReply("Nothing.", (), ())


def visible_only(reply: ReasonReply) -> ReasonReply:
    return replace(reply, objects=tuple(ObjectMasks(o.visible, o.visible) for o in reply.objects))


def test_true_answers_score_fully(dataset: ReasonDataset) -> None:
    report = evaluate_reason(Knowing(dataset), dataset, name="knowing", progress=False)
    perfect = [f"{m}IoU_{k}{u}" for m in "gc" for k in ("amodal", "visible") for u in ("", "_union")]
    perfect += ["set_F1", "set_exact", "no_object_accuracy", "answered_with_object", "gIoU_amodal_with_objects"]
    assert report.baselines["own visible mask"]["gIoU_amodal"] < report.metrics["gIoU_amodal"]
    assert {name: report.metrics[name] for name in perfect} == pytest.approx(dict.fromkeys(perfect, 1.0))
    assert report.metrics["occlusion_rate_error"] == 0
    assert report.metrics["BLEU"] == pytest.approx(100) and report.metrics["chrF"] == pytest.approx(100)
    assert report.metrics["num_answers"] == dataset.num_turns
    assert report.options["mode"] == "free" and report.options["model"] == "knowing"
    assert report.options["text"]["BLEU"].startswith("nrefs:1|")


def test_silence_is_right_where_nothing_answers(dataset: ReasonDataset) -> None:
    metrics = evaluate_reason(Knowing(dataset, silent), dataset, progress=False).metrics
    empty = sum(not t.objects for c in dataset.conversations for t in c.turns)
    assert metrics["gIoU_amodal"] == metrics["set_F1"] == pytest.approx(empty / dataset.num_turns)
    assert metrics["no_object_accuracy"] == 1
    assert metrics["cIoU_amodal"] == metrics["answered_with_object"] == metrics["gIoU_amodal_with_objects"] == 0
    assert "occlusion_rate_error" not in metrics


def test_visible_masks_for_amodal_ones(dataset: ReasonDataset) -> None:
    report = evaluate_reason(Knowing(dataset, visible_only), dataset, progress=False)
    turns = [t for c in dataset.conversations for t in c.turns]
    rates = [[1 - o.visible.sum() / o.amodal.sum() for o in masks(t)] for t in turns]
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


def test_baselines_stand_beside(dataset: ReasonDataset) -> None:
    """Each is what an answerer of that kind would score."""
    beside = evaluate_reason(Knowing(dataset), dataset, progress=False).baselines

    def hulls(reply: ReasonReply) -> ReasonReply:
        return replace(reply, objects=tuple(ObjectMasks(o.visible, convex_hull_mask(o.visible)) for o in reply.objects))

    changes = {"says nothing": silent, "own visible mask": visible_only, "hull of own visible mask": hulls}
    assert beside.keys() == changes.keys()
    for name, change in changes.items():
        own = evaluate_reason(Knowing(dataset, change), dataset, progress=False).metrics
        assert beside[name] == {figure: own[figure] for figure in own if "amodal" in figure}


def test_kinds_of_questions_stand_apart(dataset: ReasonDataset) -> None:
    rows = evaluate_reason(Knowing(dataset), dataset, progress=False).by_kind
    assert sum(row["num_answers"] for row in rows) == dataset.num_turns
    assert {row["kind"] for row in rows} == {t.kind for c in dataset.conversations for t in c.turns}


def test_teacher_forcing_gives_the_words_and_says_so(dataset: ReasonDataset) -> None:
    knowing = Knowing(dataset)
    free = evaluate_reason(Knowing(dataset), dataset, progress=False)
    forced = evaluate_reason(knowing, dataset, teacher_forced=True, progress=False)
    assert forced.options["mode"] == "teacher_forced"
    assert free.metrics.keys() - forced.metrics.keys() == {
        "set_F1", "set_exact", "no_object_accuracy", "answered_with_object", "BLEU", "chrF",
    }  # fmt: skip
    shortest_first = sorted(dataset.conversations, key=lambda c: len(c.turns))
    for asked, conversation in zip(knowing.heard, shortest_first, strict=True):
        assert asked.answers == tuple(turn.with_token("[SEG]") for turn in conversation.turns)
        assert [a.count("[SEG]") for a in asked.answers] == [len(t.objects) for t in conversation.turns]


def test_nothing_true_is_told_in_free_mode(dataset: ReasonDataset) -> None:
    knowing = Knowing(dataset)
    evaluate_reason(knowing, dataset, max_conversations=5, batch_size=2, progress=False)
    assert [asked.answers for asked in knowing.heard] == [None] * 5
    assert knowing.batches == [2, 2, 1]


def test_a_stopped_run_goes_on(dataset: ReasonDataset, tmp_path: Path) -> None:
    path, whole = tmp_path / "new" / "answers.jsonl", dataset.head(9)
    straight = evaluate_reason(Knowing(dataset, visible_only), whole, progress=False)
    stopped = Knowing(dataset, visible_only, stop_after=4)
    with pytest.raises(KeyboardInterrupt):
        evaluate_reason(stopped, whole, batch_size=2, answers=path, progress=False)
    assert len(path.read_text().splitlines()) == 1 + 4
    path.write_text(path.read_text()[:-30])  # killed while it wrote
    rest = Knowing(dataset, visible_only)
    assert evaluate_reason(rest, whole, answers=path, progress=False) == straight
    assert len(rest.heard) == 9 - 3
    again = Knowing(dataset)
    assert evaluate_reason(again, whole, answers=path, progress=False) == straight
    assert again.heard == []
    lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    assert sorted(line["id"] for line in lines) == sorted(str(c.id) for c in whole.conversations)
    assert lines[0]["turns"][0]["said"] == whole.conversations[0].turns[0].text


def test_answers_of_another_run_are_refused(dataset: ReasonDataset, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    evaluate_reason(Knowing(dataset), dataset.head(2), answers=path, progress=False)
    for change in ({"name": "other"}, {"teacher_forced": True}, {"max_conversations": 1}):
        with pytest.raises(InputError, match="expected answers of the same questions, model and options, got others"):
            evaluate_reason(Knowing(dataset), dataset.head(2), answers=path, progress=False, **change)
    path.write_text(path.read_text().splitlines()[0] + "\n{}\n")
    with pytest.raises(InputError, match="expected answers of an evaluation, got a broken line"):
        evaluate_reason(Knowing(dataset), dataset.head(2), answers=path, progress=False)
    path.write_text("no JSON")
    with pytest.raises(InputError, match="expected answers of an evaluation, got another file"):
        evaluate_reason(Knowing(dataset), dataset.head(2), answers=path, progress=False)
    with pytest.raises(InputError, match="answers: expected a file to write, got"):
        evaluate_reason(Knowing(dataset), dataset.head(2), answers=path / "below", progress=False)


def test_replies_that_do_not_fit(dataset: ReasonDataset) -> None:
    def small(reply: ReasonReply) -> ReasonReply:
        return replace(reply, objects=(ObjectMasks(np.ones((2, 2), bool), np.ones((2, 2), bool)),), phrases=("a",))

    (first,) = [next(c for c in dataset.conversations if c.turns[0].objects)]
    asked = replace(dataset, conversations=(first,))
    with pytest.raises(ValueError, match=r"masks: expected all of size"):
        evaluate_reason(Knowing(dataset, small), asked, progress=False)
    with pytest.raises(ValueError, match="replies: expected a phrase an object, got 0 for"):
        evaluate_reason(Knowing(dataset, lambda r: replace(r, phrases=())), asked, progress=False)
    for given, message in (([], "one list a conversation, got 0 for 1"), ([[]], "one a question, got 0 for 1")):
        answerer = SimpleNamespace(answer=lambda batch, given=given: given)
        with pytest.raises(ValueError, match=f"replies: expected {message}"):
            evaluate_reason(answerer, asked, progress=False)


def test_bad_numbers_and_a_missing_package(dataset: ReasonDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("batch_size", "max_conversations"):
        with pytest.raises(InputError, match=f"{name}: expected 1 or more, got 0"):
            evaluate_reason(Knowing(dataset), dataset, progress=False, **{name: 0})
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    knowing = Knowing(dataset)
    with pytest.raises(InputError, match=r"expected sacrebleu, got none: pip install 'amodal\[reason\]'"):
        evaluate_reason(knowing, dataset, progress=False)
    assert knowing.heard == []


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
def test_phrases_name_kinds(phrase: str | None, kind: str) -> None:
    assert named_kind(phrase, ["mug", "wine glass", "car", "glass"] if kind != "glass of wine" else ["mug"]) == kind


def test_the_longest_kind_wins() -> None:
    assert named_kind("the wine glass", ["glass", "wine glass"]) == "wine glass"


def test_an_unnamed_object_counts_against_the_names(dataset: ReasonDataset) -> None:
    def nameless(reply: ReasonReply) -> ReasonReply:
        return replace(reply, phrases=(None,) * len(reply.phrases))

    metrics = evaluate_reason(Knowing(dataset, nameless), dataset, progress=False).metrics
    assert metrics["set_F1"] == pytest.approx(metrics["num_without_object"] / metrics["num_answers"])
    assert metrics["gIoU_amodal"] == 1


def test_report_on_disk_and_as_tables(dataset: ReasonDataset, tmp_path: Path) -> None:
    from rich.console import Console

    report = evaluate_reason(Knowing(dataset), dataset, progress=False)
    content = json.loads(report.save(tmp_path / "new" / "report.json").read_text())
    assert content == json.loads(json.dumps(report.to_json()))
    assert content.keys() == {"protocol", "options", "metrics", "by_occlusion", "by_kind", "baselines", "version"}
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


def test_ranges_without_an_object() -> None:
    whole = np.ones((2, 2), bool)
    rows = by_occlusion([score_answer([], [ObjectMasks(whole, whole)])])
    assert [row["num_objects"] for row in rows] == [1, 0, 0, 0, 0, 0]
    assert rows[0]["mIoU_amodal"] == 0 and "mIoU_amodal" not in rows[1]


class Square:
    """An assistant that says what it was asked, or what it is told, and shows one square a turn."""

    def __init__(self, rate: float | None = None) -> None:
        self.processor = SimpleNamespace(seg_token="<mask>")
        self.rate = rate
        self.told: list[Any] = []

    def converse(self, conversations: Any, *, answers: Any = None) -> list[list[Any]]:
        self.told.append(answers)
        return [[self._reply(image, question) for question in questions] for image, questions in conversations]

    def _reply(self, image: np.ndarray, question: str) -> Any:
        square = np.zeros(image.shape[:2], bool)
        square[:4, :4] = True
        scene = Scene([SceneObject.from_masks(square, square, phrase="the mug")], square.shape)
        rates = None if self.rate is None else (self.rate,)
        return SimpleNamespace(text=f"{question}!", scene=scene, occlusion_rates=rates)


def test_an_assistant_answers() -> None:
    image = np.zeros((8, 9, 3), np.uint8)
    for rate in (None, 0.25):
        assistant: Any = Square(rate)
        replies = AssistantAnswerer(assistant).answer([Asked(image, ("a", "b")), Asked(image, ("c",))])
        assert [[r.text for r in turns] for turns in replies] == [["a!", "b!"], ["c!"]]
        assert replies[0][0].phrases == ("the mug",)
        assert replies[0][0].objects[0].occlusion_rate == (rate or 0.0)
        assert replies[1][0].objects[0].amodal.sum() == 16
        assert assistant.told == [None]
    AssistantAnswerer(assistant).answer([Asked(image, ("c",), ("<p>C</p> [SEG] d",))])
    assert assistant.told[-1] == [["<p>C</p> <mask> d"]]


def test_a_real_assistant_free_and_forced(dataset: ReasonDataset, tmp_path: Path) -> None:
    """Random weights: figures mean nothing, but forced words bring every object, in its turn."""
    assistant = AmodalAssistant(small_aura(tmp_path))
    assistant.model.config.max_new_tokens = 4
    single, double = (next(c for c in dataset.conversations if len(c.turns) == n) for n in (1, 2))
    few = replace(dataset, conversations=(double, single))
    free = evaluate_reason(AssistantAnswerer(assistant), few, progress=False)
    assert free.metrics["num_answers"] == 3
    path = tmp_path / "answers.jsonl"
    evaluate_reason(AssistantAnswerer(assistant), few, teacher_forced=True, answers=path, progress=False)
    lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    turns = [turn for line in lines for turn in line["turns"]]
    assert sum(turn["score"]["num_predicted"] for turn in turns) > 0
    for turn in turns:
        assert turn["score"]["num_predicted"] == len(turn["true_named"])
        assert turn["named"] == turn["true_named"]  # the phrases given back


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments that ask an assistant who always shows one square."""
    annotations = synthesize("scenes", 2, 5, tmp_path / "scenes", progress=False)
    questions = synthesize_questions(annotations, tmp_path / "q.json", progress=False)
    monkeypatch.setattr(AmodalAssistant, "from_pretrained", lambda name, device: Square())
    return ["evaluate", "--protocol", "reason", "--annotations", str(annotations), "--questions", str(questions)]


def test_the_command(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files, "--max-questions", "8", "--out", str(tmp_path / "out"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["protocol"] == "reason" and report["options"]["model"] == "aura-tiny"
    assert report["options"]["num_conversations"] == 8
    assert report["metrics"]["no_object_accuracy"] == 0  # it always shows something
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["answers.jsonl", "report.json", "table.txt"]
    assert main([*files, "--max-questions", "8", "--teacher-forced", "--model", "other"]) == 0
    assert "reason, teacher_forced" in capsys.readouterr().out


def test_arguments_that_do_not_fit(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, message in (
        ([*files[:-2]], "questions: expected --questions FILE with the protocol 'reason', got none"),
        ([*files, "--box-source", "gt_amodal"], "box_source: expected none with the protocol 'reason', got gt_amodal"),
        ([*files[:-1], str(tmp_path / "no.json")], "questions: expected a file, got"),
        (["evaluate", *files[3:]], "questions: expected with the protocol 'reason' only, got 'strict'"),
    ):
        assert main(wrong) == 2
        out, err = capsys.readouterr()
        assert message in err and len(err.splitlines()) == 1 and not out
