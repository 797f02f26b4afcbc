"""Question files about procedural scenes: reading them back, settings and the command."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from amodal.cli.main import main
from amodal.data.datasets import read_dataset
from amodal.data.reason_seg import plain_text, read_reason_seg, write_questions
from amodal.data.samples import AnnotatedDataset
from amodal.errors import InputError
from amodal.questions.facts import Facts
from amodal.questions.list_forms import scene_lists
from amodal.questions.talk_forms import NUMBERS
from amodal.questions.wording import SCENE_KINDS
from amodal.synthetic.generate import synthesize
from amodal.synthetic.questions import kind_frequency, question_records, synthesize_questions
from amodal.synthetic.shapes import SHAPES

NUM_SCENES = 28


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize("scenes", NUM_SCENES, 77, tmp_path_factory.mktemp("made") / "scenes", progress=False)


@pytest.fixture(scope="module")
def dataset(annotations: Path) -> AnnotatedDataset:
    return read_dataset("canonical", annotations)


def test_training_and_held_out_questions_differ(dataset: AnnotatedDataset) -> None:
    sides = {}
    for words in ("train", "held_out"):
        records = [r for group in question_records(dataset, 0, words) for r in group]
        sides[words] = {
            q for r in records for q in ([r["question"]] if isinstance(r["question"], str) else r["question"])
        }
    assert len(sides["train"]) > 200
    assert not sides["train"] & sides["held_out"]


def test_a_file_reads_back_and_is_the_same_for_the_same_seed(annotations: Path, tmp_path: Path) -> None:
    path = synthesize_questions(annotations, tmp_path / "new" / "a.json", seed=4, progress=False)
    again = synthesize_questions(annotations, tmp_path / "b.json", seed=4, progress=False)
    other = synthesize_questions(annotations, tmp_path / "c.json", seed=5, progress=False)
    assert path.read_bytes() == again.read_bytes() != other.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.json", "c.json", "new"]
    read = read_reason_seg(path, annotations)
    assert 8.5 < read.num_turns / NUM_SCENES < 11.5
    turns = [turn for c in read.conversations for turn in c.turns]
    assert 0.12 < sum(not t.objects for t in turns) / len(turns) < 0.3
    assert sum(len(t.objects) > 1 for t in turns) / len(turns) > 0.1
    assert {len(c.turns) for c in read.conversations} == {1, 2, 3, 4, 5}
    assert {t.kind for t in turns} >= {"use", "need", "most_hidden", "it_hides", "them_most"}
    per_image = Counter((c.image.id, t.question) for c in read.conversations for t in c.turns)
    assert max(per_image.values()) == 1
    answers = Counter((c.image.id, t.answer) for c in read.conversations for t in c.turns if t.objects)
    assert max(answers.values()) == 1


def test_an_image_does_not_depend_on_the_others(dataset: AnnotatedDataset) -> None:
    alone = replace(dataset, images=dataset.images[5:6])
    (records,) = question_records(alone, 3, "train")
    among = list(question_records(dataset, 3, "train"))[5]
    assert [(r["question"], r["answer"]) for r in records] == [(r["question"], r["answer"]) for r in among]
    assert len(list(question_records(dataset, 3, "train", 2))) == 2


def test_the_share_of_present_kinds_can_be_set(dataset: AnnotatedDataset) -> None:
    shares = []
    for present in (0.0, 0.5, 1.0):
        records = [r for group in question_records(dataset, 0, "train", present=present) for r in group]
        where = [r["answer"] for r in records if r["kind"] == "where"]
        shares.append(sum("{seg:" in answer for answer in where) / len(where))
    assert shares[0] == 0 and shares[2] == 1 and 0.2 < shares[1] < 0.8


def test_texts_are_well_formed(dataset: AnnotatedDataset) -> None:
    for group in question_records(dataset, 1, "train"):
        for record in group:
            for key in ("question", "answer"):
                texts = record[key] if isinstance(record[key], list) else [record[key]]
                for text in map(plain_text, texts):
                    assert text[0].isupper() and text[-1] in ".?!"
                    assert not re.search(r"[{}<>]|\s\s|\ba [aeio]|\ban [^aeiou]", text), text
                    assert key == "question" or not re.search(r"\b[Mm]y\b", text), text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"words": "test"}, "words: expected one of train, held_out, free, free_held_out, got 'test'"),
        ({"seed": -1}, "seed: expected 0 or more, got -1"),
        ({"count": 0}, "count: expected 1 or more, got 0"),
        ({"lists": "some"}, "lists: expected one of kinds, all, talk, decisions, got 'some'"),
        ({"lists": "all", "words": "held_out"}, "words: expected 'train' for lists, got 'held_out'"),
    ],
)
def test_invalid_settings_are_refused(annotations: Path, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        synthesize_questions(annotations, tmp_path / "q.json", progress=False, **changes)
    assert not list(tmp_path.iterdir())


def test_the_annotations_are_not_overwritten(annotations: Path) -> None:
    before = annotations.read_bytes()
    with pytest.raises(InputError, match="out: expected another file than the annotations"):
        synthesize_questions(annotations, annotations, progress=False)
    assert annotations.read_bytes() == before


def test_the_command(annotations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["data", "synthesize", "--kind", "questions", "--out", str(tmp_path / "q.json")]
    given = ["--annotations", str(annotations)]
    assert main([*ask, *given, "--words", "held_out", "--count", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"questions": str(tmp_path / "q.json")}
    assert {c.image.id for c in read_reason_seg(tmp_path / "q.json", annotations).conversations} == {1, 2, 3}
    assert main([*ask, *given, "--lists", "all", "--count", "3"]) == 0
    lists = read_reason_seg(tmp_path / "q.json", annotations)
    assert {turn.kind for c in lists.conversations for turn in c.turns} >= {"list_kinds", "list_uses"}
    capsys.readouterr()
    for wrong, message in (
        ([], "annotations: expected one file to ask about, got 0"),
        ([*given, "--split", "train"], "split: expected with --kind paste only, got it with questions"),
        ([*given, "--words", "new"], "words: expected one of train, held_out, free, free_held_out, got 'new'"),
        ([*given, "--present", "0.5", "--lists", "all"], "present: expected without lists, got 0.5"),
        ([*given, "--present", "1.5"], "present: expected a share in [0, 1], got 1.5"),
    ):
        assert main([*ask, *wrong]) == 2
        assert message in capsys.readouterr().err
    assert main(["data", "synthesize", "--kind", "scenes", "--out", str(tmp_path / "new")]) == 2
    assert "count: expected the number of images to make, got none" in capsys.readouterr().err
    scenes = ["data", "synthesize", "--kind", "scenes", "--count", "1", "--out", str(tmp_path / "new")]
    for name, value in (("present", "0.5"), ("lists", "all"), ("words", "free")):
        assert main([*scenes, f"--{name}", value]) == 2
        assert f"{name}: expected with --kind questions only, got it with scenes" in capsys.readouterr().err
    assert main(["data", "synthesize", "--kind", "scene", "--out", str(tmp_path / "new")]) == 2
    assert "kind: expected one of scenes, paste, questions, got 'scene'" in capsys.readouterr().err


def test_datasets_without_the_needed_truth_are_refused(dataset: AnnotatedDataset) -> None:
    with pytest.raises(InputError, match="expected kinds of procedural scenes, got couch"):
        question_records(replace(dataset, categories={1: "couch"}), 0, "train", lists="all")
    with pytest.raises(InputError, match="image 1: expected categories with names, got"):
        list(question_records(replace(dataset, categories={}), 0, "train"))
    image = dataset.images[0]
    modal = replace(image, objects=tuple(replace(obj, amodal_rle=None) for obj in image.objects))
    with pytest.raises(InputError, match="image 1: expected objects with amodal masks, got one without"):
        list(question_records(replace(dataset, images=(modal,)), 0, "train"))


def test_question_files_are_written_completely_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected at least one to write, got none"):
        write_questions(tmp_path / "q.json", [])
    with pytest.raises(InputError, match="expected a file for the questions, got the folder"):
        write_questions(tmp_path, [{}])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="out: expected a file to write, got"):
        write_questions(tmp_path / "file" / "q.json", [{}])
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    write_questions(tmp_path / "q.json", [{"id": 1, "question": "Où?"}, {"id": 2}])
    assert json.loads((tmp_path / "q.json").read_text(encoding="utf-8")) == [{"id": 1, "question": "Où?"}, {"id": 2}]


def test_the_wording_knows_every_category_of_a_scene() -> None:
    assert list(SHAPES) == list(SCENE_KINDS), "what a seed asks depends on the order"


def test_small_talk_and_the_whole_image_are_answered_without_masks(annotations: Path, tmp_path: Path) -> None:
    sides = {}
    for words in ("train", "held_out"):
        path = synthesize_questions(
            annotations, tmp_path / f"{words}.json", seed=1, lists="talk", words=words, progress=False
        )
        conversations = read_reason_seg(path, annotations).conversations
        turns = [(c.image, turn) for c in conversations for turn in c.turns]
        assert not any(turn.objects for _, turn in turns)
        sides[words] = {turn.question for _, turn in turns}
        described = [(image, turn) for image, turn in turns if turn.kind == "describe"]
        counted = [(image, turn) for image, turn in turns if turn.kind == "count"]
        assert described and counted
        for image, turn in described:
            assert turn.answer.count("the ") >= len(image.objects), turn.answer
        for image, turn in counted:
            assert NUMBERS[len(image.objects) - 1] in turn.answer
    assert not sides["train"] & sides["held_out"]


def test_decisions_ask_about_half_of_the_time_for_what_is_not_there(annotations: Path, tmp_path: Path) -> None:
    path = synthesize_questions(annotations, tmp_path / "d.json", lists="decisions", words="free", progress=False)
    conversations = read_reason_seg(path, annotations).conversations
    turns = [turn for c in conversations for turn in c.turns]
    assert len(conversations) == NUM_SCENES and len(turns) > 5 * NUM_SCENES
    assert {turn.kind for turn in turns} == {"where"}
    assert 0.4 < sum(not turn.objects for turn in turns) / len(turns) < 0.6
    assert all(len(turn.objects) <= 1 for turn in turns)  # a plural in the question would tell the answer
    for conversation in conversations:  # an earlier answer would tell a later one
        asked = [k for turn in conversation.turns for k in SCENE_KINDS if re.search(rf"\b{k}\b", turn.question)]
        assert len(set(asked)) == len(asked)
    held_out = synthesize_questions(
        annotations, tmp_path / "h.json", lists="decisions", words="free_held_out", progress=False
    )
    others = read_reason_seg(held_out, annotations).conversations
    assert not {turn.question for c in others for turn in c.turns} & {turn.question for turn in turns}


def test_absent_kinds_are_asked_for_as_often_as_given(dataset: AnnotatedDataset) -> None:
    """So that the kind in the question does not tell the answer: as often as other images show it."""
    facts = Facts(dataset.images[0], dataset.categories)
    absent = [kind for kind in SCENE_KINDS if kind not in facts.kinds]
    asked, first = Counter[str](), Counter[str]()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        (questions,) = scene_lists(facts, rng, "decisions", "free", frequency={absent[0]: 3, absent[1]: 1})
        missing = [kind for q in questions for kind in absent if not q.named and re.search(rf"\b{kind}", q.text)]
        asked.update(missing)
        first.update(missing[:1])
    assert asked.keys() <= {absent[0], absent[1]}
    assert 1.4 < first[absent[0]] / first[absent[1]] < 6  # later questions have the other kind


def test_frequencies_count_images_with_one_object_of_a_kind(dataset: AnnotatedDataset) -> None:
    counts = kind_frequency(dataset)
    kinds = [[dataset.categories[obj.category_id] for obj in image.objects] for image in dataset.images]
    assert counts == Counter(kind for each in kinds for kind in set(each) if each.count(kind) == 1)


def test_other_images_get_questions_about_named_objects(annotations: Path, tmp_path: Path) -> None:
    """Nobody knows what their kinds are for, nor what else they show."""
    content = json.loads(annotations.read_text())
    names = {c["id"]: f"{c['name']} of wood" for c in content["categories"]}
    names[content["annotations"][0]["category_id"]] = "object"
    content["categories"] = [{"id": number, "name": name} for number, name in names.items()]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    images = annotations.parent / "images"
    path = synthesize_questions(
        other, tmp_path / "q.json", seed=1, words="free", present=0.5, images=images, progress=False
    )
    conversations = read_reason_seg(path, other, images).conversations
    turns = [turn for c in conversations for turn in c.turns]
    single = {turn.kind for c in conversations for turn in c.turns if len(c.turns) == 1}
    assert single <= {"where", "move", "hides", "behind", "more_hidden", "in_front"}
    asked = [turn for turn in turns if turn.kind == "where"]
    absent = [turn for turn in asked if not turn.objects]
    assert 0.3 < len(absent) / len(asked) < 0.7
    assert not any(re.search(r"\b(an|the|no|any|every|each) object\b", turn.question) for turn in asked)
    talk = synthesize_questions(other, tmp_path / "t.json", lists="talk", images=images, progress=False)
    talked = read_reason_seg(talk, other, images).conversations
    said = {turn.kind for c in talked for turn in c.turns}
    assert {"describe", "count"} < said
    about = [turn for c in talked for turn in c.turns if turn.kind in ("describe", "count")]
    assert not any(turn.objects for turn in about)
    assert all(re.search("among other things|at least", turn.answer) for turn in about), "there may be more"
    unnamed = [c for c in talked if any(names[obj.category_id] == "object" for obj in c.image.objects)]
    assert unnamed and {turn.kind for c in unnamed for turn in c.turns}.isdisjoint({"describe", "count"})
    listed = synthesize_questions(other, tmp_path / "k.json", lists="kinds", images=images, progress=False)
    asked = [turn for c in read_reason_seg(listed, other, images).conversations for turn in c.turns]
    assert {turn.kind for turn in asked} == {"list_kinds"} and any(turn.objects for turn in asked)
    assert not any(re.search(r"\b(an|the|no) object\b", turn.question) for turn in asked)
    path = synthesize_questions(
        other, tmp_path / "d.json", lists="decisions", words="free", images=images, progress=False
    )
    decided = [turn for c in read_reason_seg(path, other, images).conversations for turn in c.turns]
    assert {turn.kind for turn in decided} == {"where"}
    with pytest.raises(InputError, match="expected kinds of procedural scenes"):
        synthesize_questions(other, tmp_path / "l.json", lists="all", images=images, progress=False)
