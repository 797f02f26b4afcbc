"""Questions about procedural scenes: every answer is checked against the masks, the slow way."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from amodal.cli.main import main
from amodal.data.formats.canonical import read_canonical
from amodal.data.formats.reason_seg import parse_answer, plain_text, read_reason_seg
from amodal.data.question_writer import write_questions
from amodal.data.samples import AnnotatedDataset, ImageSample
from amodal.errors import InputError
from amodal.questions import scene_wording as wording
from amodal.questions.scene_facts import SceneFacts
from amodal.questions.scene_families import FAMILIES, FOLLOW_UPS, Ask, degree
from amodal.synthetic.generate import synthesize
from amodal.synthetic.questions import lists_about, question_records, questions_about, synthesize_questions
from amodal.synthetic.shapes import THINGS

SCENES = 28


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize("scenes", SCENES, 77, tmp_path_factory.mktemp("made") / "scenes", progress=False)


@pytest.fixture(scope="module")
def dataset(annotations: Path) -> AnnotatedDataset:
    return read_canonical(annotations)


class Truth:
    """What a picture's masks say, pixel by pixel and without the facts the questions were made from."""

    def __init__(self, image: ImageSample, names: list[str], kinds: list[str]) -> None:
        self.image, self.names, self.kinds = image, names, kinds
        self.ids = [thing.id for thing in image.objects]
        self.visible = [thing.visible_mask() for thing in image.objects]
        self.amodal = [mask for thing in image.objects if (mask := thing.amodal_mask()) is not None]
        self.depth = [int(thing.attributes["depth"]) for thing in image.objects]

    def rate(self, i: int) -> float:
        return 1 - self.visible[i].sum() / self.amodal[i].sum()

    def front(self, i: int) -> set[int]:
        """Objects seen where this one is hidden, found by painting back to front."""
        top = np.full(self.amodal[0].shape, -1)
        for k in sorted(range(len(self.ids)), key=lambda k: -self.depth[k]):
            top[self.amodal[k]] = k
        return set(top[self.amodal[i]].tolist()) - {i}

    def whole_without(self, x: int) -> set[int]:
        """Objects seen whole in the picture painted without x, but not with it."""
        seen = {}
        for gone in (None, x):
            top = np.full(self.amodal[0].shape, -1)
            for k in sorted(range(len(self.ids)), key=lambda k: -self.depth[k]):
                if k != gone:
                    top[self.amodal[k]] = k
            seen[gone] = {k for k in range(len(self.ids)) if (top[self.amodal[k]] == k).all()}
        return seen[x] - seen[None] - {x}

    def in_question(self, question: str) -> list[int]:
        """Objects whose name the question holds, in its order; "the left mug" is no "the mug"."""
        lower = question.lower()
        found = [(lower.find(name), i) for i, name in enumerate(self.names) if re.search(rf"{name}\b", lower)]
        return [i for _, i in sorted(found)]


def expected(truth: Truth, ask: Ask, before: Ask | None) -> set[int]:
    """The objects a right answer names."""
    everything = set(range(len(truth.ids)))
    hidden = {i for i in everything if truth.rate(i) > 0}
    subject = truth.in_question(ask.question)
    it = list(before.it) if before else []
    if ask.kind in ("use", "need", "trait", "use_and_occluder"):
        form = {"use_and_occluder": "gap", "use": "gap"}.get(ask.kind, ask.kind)
        texts = [(p, t) for p in wording.PURPOSES if (w := getattr(p, form)) for t in w.train + w.held_out]
        purpose = max(
            (pair for pair in texts if pair[1].lower() in ask.question.lower()), key=lambda pair: len(pair[1])
        )
        found = {i for i in everything if truth.kinds[i] in purpose[0].kinds}
        return found | (truth.front(found.copy().pop()) if ask.kind == "use_and_occluder" else set())
    if ask.kind == "where":
        kind = max((k for k in THINGS if re.search(rf"\b{k}\b", ask.question)), key=len)
        return {i for i in everything if truth.kinds[i] == kind}
    if ask.kind in ("move", "hides"):
        return truth.front(subject[0])
    if ask.kind == "it_hides":
        return truth.front(it[0])
    if ask.kind in ("behind", "it_behind"):
        x = subject[0] if ask.kind == "behind" else it[0]
        return {i for i in everything if x in truth.front(i)}
    if ask.kind == "it_seen":
        return {it[0]}
    if ask.kind == "reveal":
        return truth.whole_without(subject[0])
    if ask.kind == "hidden":
        return hidden
    if ask.kind == "whole":
        return everything - hidden
    if ask.kind == "edge":
        return {i for i in everything if truth.image.objects[i].attributes["truncated"]}
    if ask.kind in ("most_hidden", "more_hidden", "them_most"):
        among = {"most_hidden": list(everything), "more_hidden": subject, "them_most": it}[ask.kind]
        return {max(among, key=truth.rate)} if any(truth.rate(i) for i in among) else set()
    if ask.kind == "in_front":
        x, y = subject
        return {x} if x in truth.front(y) else {y}
    if ask.kind in ("size", "them_largest"):
        among = it if ask.kind == "them_largest" else list(everything)
        smallest = re.search("smallest|least", ask.question)
        return {(min if smallest else max)(among, key=lambda i: truth.amodal[i].sum())}
    raise AssertionError(f"no check for {ask.kind}")


@pytest.mark.parametrize("words", wording.WORDS)
def test_every_answer_names_what_the_masks_say(dataset: AnnotatedDataset, words: wording.Words) -> None:
    met: Counter[str] = Counter()
    for image in dataset.images:
        facts = SceneFacts(image, dataset.categories)
        truth = Truth(image, facts.names, facts.kinds)
        for seed in range(3):
            for turns in questions_about(facts, np.random.default_rng((seed, image.id)), words):
                for before, ask in zip([None, *turns], turns, strict=False):
                    said = [truth.ids.index(number) for number, _ in parse_answer(ask.answer)]
                    assert set(said) == expected(truth, ask, before), (image.id, ask)
                    phrases = [str(phrase).lower() for _, phrase in parse_answer(ask.answer)]
                    assert phrases == [facts.names[i] for i in said]
                    left_to_right = sorted(said, key=lambda i: np.sum(image.objects[i].visible_box_xyxy[::2]))
                    assert said == left_to_right or ask.kind == "use_and_occluder"
                    met[ask.kind] += 1
    assert set(met) == {family.__name__[1:] for family in (*FAMILIES, *FOLLOW_UPS)} - {"and_hides"}


def entries_of(ask: Ask) -> list[str]:
    """Entries of a list's answer, in lower case; a comma may also stand between the things of one entry."""
    starts = {"list_amounts": r"of <p>", "list_fronts": r"in front of <p>", "list_sizes": r"<p>"}
    start = starts.get(ask.kind, r"[^<,:]* (no(,|$)|yes:)")
    text = ask.answer.lower().rstrip(".")
    return [
        text[a:b].rstrip(", ") for a, b in pairwise([0, *(m.end() for m in re.finditer(rf", (?={start})", text)), None])
    ]


def test_lists_say_of_each_entry_what_the_masks_say(dataset: AnnotatedDataset) -> None:
    uses = {t.lower().replace("my ", "your ").rstrip("."): p.kinds for p in wording.PURPOSES
            for u in (p.gap, p.trait, p.need) if u for t in u.train}  # fmt: skip
    met: Counter[str] = Counter()
    nothing: Counter[str] = Counter()
    for image in dataset.images:
        facts = SceneFacts(image, dataset.categories)
        truth = Truth(image, facts.names, facts.kinds)
        for (ask,) in lists_about(facts, np.random.default_rng(image.id)):
            shown = [number for number, _ in parse_answer(ask.answer)]
            assert len(shown) == len(set(shown)), ask
            entries = entries_of(ask)
            said = [{truth.ids.index(number) for number, _ in parse_answer(entry)} for entry in entries]
            if ask.kind == "list_sizes":
                areas = [float(truth.amodal[i].sum()) for (i,) in said]
                assert areas == sorted(areas, reverse=True)
            for entry, found in zip(entries, said, strict=True):
                words = plain_text(entry)
                asked = re.sub(r" (no|yes: .*)$", "", words)
                if ask.kind == "list_kinds":
                    kind = re.sub(r"^an? ", "", asked)
                    assert found == {i for i, k in enumerate(truth.kinds) if k == kind}
                elif ask.kind == "list_uses":
                    kinds = uses[asked.replace("my ", "your ")]
                    assert found == {i for i, k in enumerate(truth.kinds) if k in kinds}
                elif ask.kind == "list_amounts":
                    limits = [-1.0, *(limit for limit, _ in wording.DEGREES)]
                    at = [degree for _, degree in wording.DEGREES].index(
                        words.removeprefix(f"of {facts.names[min(found)]} ")
                    )
                    assert limits[at] < truth.rate(min(found)) <= limits[at + 1]
                elif ask.kind == "list_fronts":
                    behind = re.split(r", | and ", words.split(": ")[1])
                    front = [] if behind == ["nothing"] else [facts.names.index(name) for name in behind]
                    assert front == sorted(truth.front(min(found)), key=lambda i: facts.rank[i])
                met[ask.kind] += 1
                nothing[ask.kind] += words.endswith(" no")
        assert {ask.kind for (ask,) in lists_about(facts, np.random.default_rng(0), "kinds")} == {"list_kinds"}
    assert set(met) == {"list_kinds", "list_uses", "list_amounts", "list_fronts", "list_sizes"}
    for kind in ("list_kinds", "list_uses"):  # what is usual does not tell
        assert 0.35 < nothing[kind] / met[kind] < 0.65


def test_a_list_leaves_out_a_kind_of_which_there_are_too_many(dataset: AnnotatedDataset) -> None:
    image = max(dataset.images, key=lambda i: len(i.objects))
    crowd = tuple(replace(image.objects[0], id=number, category_id=1) for number in range(1, 7))
    other = replace(image.objects[1], id=7, category_id=2)
    facts = SceneFacts(replace(image, objects=(*crowd, other)), {1: "mug", 2: "ball"})
    lists = list(lists_about(facts, np.random.default_rng(0), "kinds"))
    assert len(lists) == 2
    for (ask,) in lists:
        assert "mug" not in ask.question and [number for number, _ in parse_answer(ask.answer)] == [7]


def test_what_things_are_for() -> None:
    """The table against a handful of facts of life."""
    uses = {t: p.kinds for p in wording.PURPOSES for w in (p.gap, p.need, p.trait) if w for t in w.train}
    assert uses["drink from"] == uses["I am thirsty."] == {"mug", "wine glass", "bottle"}
    assert uses["sit on"] == {"chair"}
    assert uses["can fly"] == {"bird", "butterfly"}
    assert uses["It is going to rain."] == {"umbrella"}
    assert uses["is a fruit"] == {"apple", "banana", "pear"}
    assert set().union(*uses.values()) == set(THINGS)


def all_wordings() -> list[wording.Wording]:
    own = [value for value in vars(wording).values() if isinstance(value, wording.Wording)]
    return own + [w for p in wording.PURPOSES for w in (p.gap, p.need, p.trait) if w]


def test_held_out_forms_are_new_but_made_of_known_words() -> None:
    def words(texts: set[str]) -> set[str]:
        return set(re.findall(r"[a-z_]+", " ".join(texts).lower()))

    train = {t for w in all_wordings() for t in w.train}
    held_out = {t for w in all_wordings() for t in w.held_out}
    assert all(w.train and w.held_out for w in all_wordings())
    assert not train & held_out
    assert words(held_out) <= words(train)


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
    assert 8.5 < read.num_turns / SCENES < 11.5
    turns = [turn for c in read.conversations for turn in c.turns]
    assert 0.12 < sum(not t.objects for t in turns) / len(turns) < 0.3
    assert sum(len(t.objects) > 1 for t in turns) / len(turns) > 0.1
    assert {len(c.turns) for c in read.conversations} == {1, 2, 3, 4, 5}
    assert {t.kind for t in turns} >= {"use", "need", "most_hidden", "it_hides", "them_most"}
    per_picture = Counter((c.image.id, t.question) for c in read.conversations for t in c.turns)
    assert max(per_picture.values()) == 1
    answers = Counter((c.image.id, t.answer) for c in read.conversations for t in c.turns if t.objects)
    assert max(answers.values()) == 1


def test_a_picture_does_not_depend_on_the_others(dataset: AnnotatedDataset) -> None:
    alone = replace(dataset, images=dataset.images[5:6])
    (records,) = question_records(alone, 3, "train")
    among = list(question_records(dataset, 3, "train"))[5]
    assert [(r["question"], r["answer"]) for r in records] == [(r["question"], r["answer"]) for r in among]
    assert len(list(question_records(dataset, 3, "train", 2))) == 2


def test_share_of_what_is_there(dataset: AnnotatedDataset) -> None:
    shares = []
    for present in (0.0, 0.5, 1.0):
        records = [r for group in question_records(dataset, 0, "train", present=present) for r in group]
        where = [r["answer"] for r in records if r["kind"] == "where"]
        shares.append(sum("{seg:" in answer for answer in where) / len(where))
    assert shares[0] == 0 and shares[2] == 1 and 0.2 < shares[1] < 0.8


def test_answers_read_well(dataset: AnnotatedDataset) -> None:
    for group in question_records(dataset, 1, "train"):
        for record in group:
            for key in ("question", "answer"):
                texts = record[key] if isinstance(record[key], list) else [record[key]]
                for text in map(plain_text, texts):
                    assert text[0].isupper() and text[-1] in ".?!"
                    assert not re.search(r"[{}<>]|\s\s|\ba [aeio]|\ban [^aeiou]", text), text
                    assert key == "question" or not re.search(r"\b[Mm]y\b", text), text


@pytest.mark.parametrize(
    ("rate", "words"),
    [(0.0, "all"), (0.01, None), (0.1, "most"), (0.19, None), (0.3, "a good part"), (0.5, "about half"),
     (0.7, "less than half"), (0.99, "less than half")],
)  # fmt: skip
def test_degrees(rate: float, words: str | None) -> None:
    assert degree(rate) == words


def test_names_tell_things_of_a_kind_apart(dataset: AnnotatedDataset) -> None:
    image = max(dataset.images, key=lambda i: len(i.objects))
    mugs = {thing.category_id: "mug" for thing in image.objects}
    x = [t.visible_box_xyxy[0] + t.visible_box_xyxy[2] for t in image.objects]
    for count, names in (
        (1, ["the mug"]),
        (2, ["the left mug", "the right mug"]),
        (3, ["the left mug", "the middle mug", "the right mug"]),
        (4, [f"the {n} mug from the left" for n in ("first", "second", "third", "fourth")]),
    ):
        facts = SceneFacts(replace(image, objects=image.objects[:count]), mugs)
        assert [facts.names[i] for i in np.argsort(x[:count])] == names


def test_doubt_is_left_unasked(dataset: AnnotatedDataset) -> None:
    facts = SceneFacts(dataset.images[0], dataset.categories)
    facts.cover = np.zeros_like(facts.cover)
    facts.cover[0, 1] = 0.05
    assert facts.in_front_of(1) is None and facts.behind(0) is None
    assert facts.in_front_of(0) == []
    facts.cover[0, 1] = 0.5
    assert facts.in_front_of(1) == [0] and facts.behind(0) == [1]
    facts.rates = np.where(np.arange(len(facts)) == 0, 0.02, 0.0)
    assert facts.hidden() is None


def test_what_a_file_does_not_say_is_left_unasked(dataset: AnnotatedDataset) -> None:
    """Depths and cuts by the frame stand in no mask."""
    image = next(i for i in dataset.images if SceneFacts(i, dataset.categories).cut_by_frame() is not None)
    bare = replace(image, objects=tuple(replace(thing, attributes={}) for thing in image.objects))
    facts = SceneFacts(bare, dataset.categories)
    assert facts.whole_without(0) is None and facts.cut_by_frame() is None
    kinds = {t.kind for seed in range(20) for turns in questions_about(facts, np.random.default_rng(seed), "train")
             for t in turns}  # fmt: skip
    assert "use" in kinds and not {"reveal", "edge"} & kinds


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"words": "test"}, "words: expected one of train, held_out, got 'test'"),
        ({"seed": -1}, "seed: expected 0 or more, got -1"),
        ({"count": 0}, "count: expected 1 or more, got 0"),
        ({"lists": "some"}, "lists: expected one of kinds, all, got 'some'"),
        ({"lists": "all", "words": "held_out"}, "words: expected 'train' for lists, got 'held_out'"),
    ],
)
def test_settings_that_cannot_be_used(annotations: Path, tmp_path: Path, changes: dict, message: str) -> None:
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
        ([], "annotations: expected the one file to ask about, got 0"),
        ([*given, "--split", "train"], "split, exclude_category: expected with --kind paste only"),
        ([*given, "--words", "new"], "words: expected one of train, held_out, got 'new'"),
        ([*given, "--present", "0.5", "--lists", "all"], "present: expected without lists, got 0.5"),
        ([*given, "--present", "1.5"], "present: expected a share in [0, 1], got 1.5"),
    ):
        assert main([*ask, *wrong]) == 2
        assert message in capsys.readouterr().err
    assert main(["data", "synthesize", "--kind", "scenes", "--out", str(tmp_path / "new")]) == 2
    assert "count: expected a number of pictures to make, got none" in capsys.readouterr().err
    scenes = ["data", "synthesize", "--kind", "scenes", "--count", "1", "--out", str(tmp_path / "new")]
    for wrong in (["--present", "0.5"], ["--lists", "all"]):
        assert main([*scenes, *wrong]) == 2
        assert "words, present, lists: expected with --kind questions only" in capsys.readouterr().err


def test_other_kinds_and_unknown_shapes_are_refused(dataset: AnnotatedDataset) -> None:
    with pytest.raises(InputError, match="expected kinds of procedural scenes, got couch"):
        question_records(replace(dataset, categories={1: "couch"}), 0, "train")
    image = dataset.images[0]
    with pytest.raises(InputError, match="image 1: expected categories with names, got"):
        SceneFacts(image, {})
    modal = replace(image, objects=tuple(replace(thing, amodal_rle=None) for thing in image.objects))
    with pytest.raises(InputError, match="image 1: expected objects with amodal masks, got one without"):
        SceneFacts(modal, dataset.categories)


def test_nothing_half_written(tmp_path: Path) -> None:
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
