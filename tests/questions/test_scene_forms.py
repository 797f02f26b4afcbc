"""Questions about procedural scenes: every answer is checked against the masks, pixel by pixel."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from amodal.data.datasets import read_dataset
from amodal.data.reason_seg import parse_answer, plain_text
from amodal.data.samples import AnnotatedDataset, ImageSample
from amodal.questions import wording
from amodal.questions.facts import Facts
from amodal.questions.list_forms import scene_lists
from amodal.questions.scene_forms import FAMILIES, FOLLOW_UPS, scene_conversations
from amodal.questions.wording import Question
from amodal.synthetic.generate import synthesize


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> AnnotatedDataset:
    out = tmp_path_factory.mktemp("scenes") / "out"
    return read_dataset("canonical", synthesize("scenes", 28, 77, out, progress=False))


class Truth:
    """What the masks of an image say, pixel by pixel and without `Facts`."""

    def __init__(self, image: ImageSample, names: list[str], kinds: list[str]) -> None:
        self.image, self.names, self.kinds = image, names, kinds
        self.ids = [obj.id for obj in image.objects]
        self.visible = [obj.visible_mask() for obj in image.objects]
        self.amodal = [mask for obj in image.objects if (mask := obj.amodal_mask()) is not None]
        self.depth = [int(obj.attributes["depth"]) for obj in image.objects]

    def rate(self, i: int) -> float:
        return 1 - self.visible[i].sum() / self.amodal[i].sum()

    def front(self, i: int) -> set[int]:
        """Objects visible where this one is occluded, found by painting from back to front."""
        top = np.full(self.amodal[0].shape, -1)
        for k in sorted(range(len(self.ids)), key=lambda k: -self.depth[k]):
            top[self.amodal[k]] = k
        return set(top[self.amodal[i]].tolist()) - {i}

    def revealed_without(self, x: int) -> set[int]:
        """Objects that are visible as a whole if the image is painted without x, but not with it."""
        seen = {}
        for left_out in (None, x):
            top = np.full(self.amodal[0].shape, -1)
            for k in sorted(range(len(self.ids)), key=lambda k: -self.depth[k]):
                if k != left_out:
                    top[self.amodal[k]] = k
            seen[left_out] = {k for k in range(len(self.ids)) if (top[self.amodal[k]] == k).all()}
        return seen[x] - seen[None] - {x}

    def in_text(self, text: str) -> list[int]:
        """Objects whose name the text contains, in its order; "the left mug" does not match "the mug"."""
        lower = text.lower()
        found = [(lower.find(name), i) for i, name in enumerate(self.names) if re.search(rf"{name}\b", lower)]
        return [i for _, i in sorted(found)]


def expected(truth: Truth, question: Question, before: Question | None) -> set[int]:
    """The objects that a correct answer names."""
    everything = set(range(len(truth.ids)))
    hidden = {i for i in everything if truth.rate(i) > 0}
    subject = truth.in_text(question.text)
    it = list(before.antecedents) if before else []
    if question.family in ("use", "need", "trait", "use_and_occluder"):
        form = {"use_and_occluder": "gap", "use": "gap"}.get(question.family, question.family)
        texts = [(p, t) for p in wording.PURPOSES if (w := getattr(p, form)) for t in w.train + w.held_out]
        purpose = max(
            (pair for pair in texts if pair[1].lower() in question.text.lower()), key=lambda pair: len(pair[1])
        )
        found = {i for i in everything if truth.kinds[i] in purpose[0].kinds}
        return found | (truth.front(found.copy().pop()) if question.family == "use_and_occluder" else set())
    if question.family == "where":
        kind = max((k for k in wording.SCENE_KINDS if re.search(rf"\b{k}\b", question.text)), key=len)
        return {i for i in everything if truth.kinds[i] == kind}
    if question.family in ("move", "hides"):
        return truth.front(subject[0])
    if question.family == "it_hides":
        return truth.front(it[0])
    if question.family in ("behind", "it_behind"):
        x = subject[0] if question.family == "behind" else it[0]
        return {i for i in everything if x in truth.front(i)}
    if question.family == "it_seen":
        return {it[0]}
    if question.family == "reveal":
        return truth.revealed_without(subject[0])
    if question.family == "hidden":
        return hidden
    if question.family == "whole":
        return everything - hidden
    if question.family == "edge":
        return {i for i in everything if truth.image.objects[i].attributes["truncated"]}
    if question.family in ("most_hidden", "more_hidden", "them_most"):
        among = {"most_hidden": list(everything), "more_hidden": subject, "them_most": it}[question.family]
        return {max(among, key=truth.rate)} if any(truth.rate(i) for i in among) else set()
    if question.family == "in_front":
        x, y = subject
        return {x} if x in truth.front(y) else {y}
    if question.family in ("size", "them_largest"):
        among = it if question.family == "them_largest" else list(everything)
        smallest = re.search("smallest|least|tiniest", question.text)
        return {(min if smallest else max)(among, key=lambda i: truth.amodal[i].sum())}
    raise AssertionError(f"no check for {question.family}")


@pytest.mark.parametrize("words", wording.WORDS)
def test_every_answer_names_the_objects_that_the_masks_show(dataset: AnnotatedDataset, words: wording.Words) -> None:
    counts: Counter[str] = Counter()
    for image in dataset.images:
        facts = Facts(image, dataset.categories)
        truth = Truth(image, facts.names, facts.kinds)
        for seed in range(3):
            for turns in scene_conversations(facts, np.random.default_rng((seed, image.id)), words):
                for before, question in zip([None, *turns], turns, strict=False):
                    said = [truth.ids.index(number) for number, _ in parse_answer(question.answer)]
                    assert set(said) == expected(truth, question, before), (image.id, question)
                    phrases = [str(phrase).lower() for _, phrase in parse_answer(question.answer)]
                    assert phrases == [facts.names[i] for i in said]
                    left_to_right = sorted(said, key=lambda i: np.sum(image.objects[i].visible_box_xyxy[::2]))
                    assert said == left_to_right or question.family == "use_and_occluder"
                    counts[question.family] += 1
    assert set(counts) == {family.__name__.removeprefix("_") for family in (*FAMILIES, *FOLLOW_UPS)} - {"and_hides"}


def entries_of(question: Question) -> list[str]:
    """Entries of a list's answer, in lower case; the objects of one entry may also be separated by commas."""
    starts = {"list_amounts": r"of <p>", "list_fronts": r"in front of <p>", "list_sizes": r"<p>"}
    start = starts.get(question.family, r"[^<,:]* (no(,|$)|yes:)")
    text = question.answer.lower().rstrip(".")
    return [
        text[a:b].rstrip(", ") for a, b in pairwise([0, *(m.end() for m in re.finditer(rf", (?={start})", text)), None])
    ]


def test_every_list_entry_agrees_with_the_masks(dataset: AnnotatedDataset) -> None:
    uses = {t.lower().replace("my ", "your ").rstrip("."): p.kinds for p in wording.PURPOSES
            for u in (p.gap, p.trait, p.need) if u for t in u.train}  # fmt: skip
    counts: Counter[str] = Counter()
    nothing: Counter[str] = Counter()
    for image in dataset.images:
        facts = Facts(image, dataset.categories)
        truth = Truth(image, facts.names, facts.kinds)
        for (question,) in scene_lists(facts, np.random.default_rng(image.id)):
            shown = [number for number, _ in parse_answer(question.answer)]
            assert len(shown) == len(set(shown)), question
            entries = entries_of(question)
            said = [{truth.ids.index(number) for number, _ in parse_answer(entry)} for entry in entries]
            if question.family == "list_sizes":
                areas = [float(truth.amodal[i].sum()) for (i,) in said]
                assert areas == sorted(areas, reverse=True)
            for entry, found in zip(entries, said, strict=True):
                words = plain_text(entry)
                asked = re.sub(r" (no|yes: .*)$", "", words)
                if question.family == "list_kinds":
                    kind = re.sub(r"^an? ", "", asked)
                    assert found == {i for i, k in enumerate(truth.kinds) if k == kind}
                elif question.family == "list_uses":
                    kinds = uses[asked.replace("my ", "your ")]
                    assert found == {i for i, k in enumerate(truth.kinds) if k in kinds}
                elif question.family == "list_amounts":
                    limits = [-1.0, *wording.DEGREES.values()]
                    at = list(wording.DEGREES).index(words.removeprefix(f"of {facts.names[min(found)]} "))
                    assert limits[at] < truth.rate(min(found)) <= limits[at + 1]
                elif question.family == "list_fronts":
                    behind = re.split(r", | and ", words.split(": ")[1])
                    front = [] if behind == ["nothing"] else [facts.names.index(name) for name in behind]
                    assert front == sorted(truth.front(min(found)), key=lambda i: facts.rank[i])
                counts[question.family] += 1
                nothing[question.family] += words.endswith(" no")
        assert {question.family for (question,) in scene_lists(facts, np.random.default_rng(0), "kinds")} == {
            "list_kinds"
        }
    assert set(counts) == {"list_kinds", "list_uses", "list_amounts", "list_fronts", "list_sizes"}
    for kind in ("list_kinds", "list_uses"):  # otherwise guessing one of the two would do
        assert 0.35 < nothing[kind] / counts[kind] < 0.65


def test_lists_leave_out_kinds_with_too_many_objects(dataset: AnnotatedDataset) -> None:
    image = max(dataset.images, key=lambda i: len(i.objects))
    crowd = tuple(replace(image.objects[0], id=number, category_id=1) for number in range(1, 7))
    other = replace(image.objects[1], id=7, category_id=2)
    facts = Facts(replace(image, objects=(*crowd, other)), {1: "mug", 2: "ball"})
    lists = list(scene_lists(facts, np.random.default_rng(0), "kinds"))
    assert len(lists) == 2
    for (question,) in lists:
        assert "mug" not in question.text and [number for number, _ in parse_answer(question.answer)] == [7]


def test_without_depths_and_truncation_nothing_depends_on_them(dataset: AnnotatedDataset) -> None:
    image = dataset.images[0]
    bare = replace(image, objects=tuple(replace(obj, attributes={}) for obj in image.objects))
    facts = Facts(bare, dataset.categories)
    families = {
        question.family
        for seed in range(20)
        for turns in scene_conversations(facts, np.random.default_rng(seed), "train")
        for question in turns
    }
    assert "use" in families and not {"reveal", "edge"} & families


def test_nothing_that_the_border_cuts_off_is_called_whole(dataset: AnnotatedDataset) -> None:
    """Neither "all of it" nor "seen whole", nor that it would be without something else."""
    claimed = re.compile(r"you can see all of|you would see all of|nothing covers")
    count = 0
    for image in dataset.images:
        facts = Facts(image, dataset.categories)
        cut = {obj.id for i, obj in enumerate(image.objects) if facts.touches_border(i)}
        for seed in range(8):
            for conversation in scene_conversations(facts, np.random.default_rng(seed), "train"):
                for turn in conversation:
                    if claimed.search(turn.answer.lower()):
                        count += 1
                        assert not cut & {number for number, _ in parse_answer(turn.answer)}, turn
    assert count > 5
