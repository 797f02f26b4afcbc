"""The offline writer: enough for any picture, nothing that the rules would turn down, the same every time."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from amodal.data.readers import read_dataset
from amodal.data.samples import ImageSample, ObjectSample
from amodal.datagen.backends.base import Task
from amodal.datagen.backends.template import TemplateBackend
from amodal.datagen.prompt import Rejected
from amodal.datagen.rules import Context, check_pair, object_ids
from amodal.datagen.select import Selection, preview
from amodal.ops.rle import encode_mask, rle_box_xyxy
from amodal.questions.image_facts import Facts
from amodal.questions.image_forms import all_questions
from amodal.questions.image_purposes import PURPOSES
from amodal.questions.synonyms import named_in, naming_words
from amodal.synthetic.shapes import THINGS


def row_of_things(count: int, category: int = 1) -> ImageSample:
    objects = []
    for index in range(count):
        mask = np.zeros((90, 120), bool)
        mask[20 + 5 * index : 50 + 5 * index, 5 + 12 * index : 15 + 12 * index] = True
        rle = encode_mask(mask)
        objects.append(ObjectSample(index + 1, category, rle, rle, rle_box_xyxy(rle), rle_box_xyxy(rle)))
    return ImageSample(3, Path("row.png"), 90, 120, tuple(objects))


@pytest.mark.parametrize("count", [1, 2, 5, 8])
@pytest.mark.parametrize("kind", ["person", "gizmo", "wine glass"])
def test_ten_pairs_about_anything(count: int, kind: str) -> None:
    task = Task(row_of_things(count), {1: kind}, 10, 0, "key")
    drafts = TemplateBackend().write(task)
    assert len(drafts) == 10
    assert len({draft.question for draft in drafts}) == 10
    assert all(not check_pair(draft, Context(task.image, task.categories)) for draft in drafts)


def test_scenes_bring_their_own_questions_too(scenes: Path) -> None:
    dataset = read_dataset("canonical", scenes)
    named, claims, several = set(), 0, 0
    for image in dataset.images:
        sample = preview(dataset, image.id, Selection())
        drafts = TemplateBackend().write(Task(sample, dataset.categories, 10, 0, "key"))
        assert len(drafts) == 10
        known = {thing.id: thing for thing in sample.objects}
        for draft in drafts:
            named |= set(object_ids(draft.answer))
            claims += len(draft.claims)
            several += len(object_ids(draft.answer)) > 1
            assert all(front in known[behind].occluders for front, behind in draft.claims)
    assert claims > 10, "who hides whom is spoken of"
    assert several > 12 * 10 / 2, "most answers mention several objects"
    assert len(named) > dataset.num_objects / 2


def test_answers_hold_against_the_pixels(scenes: Path) -> None:
    """Some forms, answered once more from decoded masks alone."""
    dataset, seen = read_dataset("canonical", scenes), Counter[str]()
    for image in dataset.images:
        sample = preview(dataset, image.id, Selection())
        visible = {thing.id: thing.visible_mask() for thing in sample.objects}
        whole = {thing.id: mask for thing in sample.objects if (mask := thing.amodal_mask()) is not None}
        hidden = {number: 1 - visible[number].sum() / whole[number].sum() for number in visible}
        for draft in all_questions(Facts(sample, dataset.categories), random.Random(image.id)):
            named = set(object_ids(draft.answer))
            if "right half of the print were torn off" in draft.question:
                kind, truth = "torn", {n for n, mask in visible.items() if not mask[:, 128:].any()}
            elif "from the left" in draft.question or "the left edge" in draft.question:
                first = min(visible, key=lambda n: int(np.flatnonzero(visible[n].any(axis=0))[0]))
                kind, truth = "left", {first}
                assert object_ids(draft.answer)[0] == first
                named = {first}
            elif "Counting hidden parts too" in draft.question or "seen through" in draft.question:
                kind, truth = "largest", {max(whole, key=lambda n: int(whole[n].sum()))}
                named = {object_ids(draft.answer)[0]}
            elif "hardest to recognise" in draft.question or "guess the most of" in draft.question:
                kind, truth = "hardest", {max(hidden, key=lambda n: float(hidden[n]))}
                named = {object_ids(draft.answer)[0]}
            elif draft.answer.startswith("Nothing stands before"):
                kind, truth = "whole", {n for n, share in hidden.items() if share < 0.01}
            elif "middle of its view" in draft.question:
                at = {n for n, mask in visible.items() if mask[127:129, 127:129].all()}
                if not at:
                    continue  # how far the nearest is takes more than a look
                kind, truth = "middle", at
                named = {object_ids(draft.answer)[0]}
            else:
                continue
            assert named == truth, draft
            seen[kind] += 1
    assert {"torn", "left", "largest", "hardest", "whole", "middle"} <= seen.keys(), seen


def test_the_same_seed_writes_the_same(scenes: Path) -> None:
    dataset = read_dataset("canonical", scenes)
    task = Task(preview(dataset, None, Selection()), dataset.categories, 10, 0, "key")
    assert TemplateBackend(3).write(task) == TemplateBackend(3).write(task)
    assert TemplateBackend(3).write(task) != TemplateBackend(4).write(task)


def test_another_round_avoids_what_is_there() -> None:
    image, names = row_of_things(4), {1: "person"}
    first = TemplateBackend().write(Task(image, names, 10, 0, "key"))
    kept = [draft.question for draft in first[:7]]
    rejected = [Rejected(draft.question, draft.answer, "why") for draft in first[7:]]
    again = TemplateBackend().write(Task(image, names, 3, 1, "key", kept, rejected))
    assert 0 < len(again) <= 3
    assert not {draft.question for draft in again} & {draft.question for draft in first}


def test_purposes_do_not_name_their_kind() -> None:
    assert set(THINGS) <= PURPOSES.keys()
    for kind, phrases in PURPOSES.items():
        for phrase in phrases:
            assert named_in(phrase, naming_words(kind)) is None, (kind, phrase)
