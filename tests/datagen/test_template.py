"""The template backend: pairs about any image, none that the rules reject, the same for the same seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from amodal.data.datasets import read_dataset
from amodal.data.samples import ImageSample, ObjectSample
from amodal.datagen.backends.base import WritingTask
from amodal.datagen.backends.template import TemplateBackend
from amodal.datagen.policy import max_pairs, to_replace
from amodal.datagen.prompt import RejectedPair
from amodal.datagen.rules import RuleContext, check_pair, object_ids
from amodal.datagen.select import ImageSelection, preview
from amodal.ops.rle import encode_mask, rle_box_xyxy
from amodal.questions.knowledge import CategoryFacts


def row_of_objects(count: int, category: int = 1) -> ImageSample:
    objects = []
    for index in range(count):
        mask = np.zeros((90, 120), bool)
        mask[20 + 5 * index : 50 + 5 * index, 5 + 12 * index : 15 + 12 * index] = True
        rle = encode_mask(mask)
        objects.append(ObjectSample(index + 1, category, rle, rle, rle_box_xyxy(rle), rle_box_xyxy(rle)))
    return ImageSample(3, Path("row.png"), 90, 120, tuple(objects))


@pytest.mark.parametrize(("count", "wanted"), [(1, 2), (2, 3), (5, 10), (8, 10)])
@pytest.mark.parametrize("kind", ["person", "gizmo", "wine glass"])
def test_pairs_about_anything(count: int, wanted: int, kind: str) -> None:
    """As many as the policy allows, with and without facts about the category."""
    task = WritingTask(row_of_objects(count), {1: kind}, 10, 0, "key")
    drafts = TemplateBackend().write(task)
    context = RuleContext(task.image, task.categories)
    assert len(drafts) == (1 if (kind, count) == ("gizmo", 1) else wanted)
    assert len(drafts) <= max_pairs(count, 10)
    assert len({draft.question for draft in drafts}) == len(drafts)
    assert all(not check_pair(draft, context) for draft in drafts)
    assert to_replace([], drafts, context) == {}


def test_categories_without_facts_are_not_asked_about_by_use() -> None:
    task = WritingTask(row_of_objects(5), {1: "gearbox"}, 10, 0, "key")
    plain = TemplateBackend().write(task)
    assert not any("want to" in draft.question or "would like to" in draft.question for draft in plain)
    facts = {"gearbox": CategoryFacts(purposes=("change the speed of a machine",), parts=("toothed wheels",))}
    one = replace(task, image=row_of_objects(1))
    (asked,) = (d for d in TemplateBackend(knowledge=facts).write(one) if "speed of a machine" in d.question)
    assert asked.answer.endswith("because it has toothed wheels.")


def test_pairs_about_procedural_scenes(scenes: Path) -> None:
    dataset = read_dataset("canonical", scenes)
    named, claims, several, pairs = set(), 0, 0, 0
    for image in dataset.images:
        sample = preview(dataset, image.id, ImageSelection())
        drafts = TemplateBackend().write(WritingTask(sample, dataset.categories, 10, 0, "key"))
        assert len(drafts) == 10 or len(sample.objects) < 4
        objects = {obj.id: obj for obj in sample.objects}
        for draft in drafts:
            named |= set(object_ids(draft.answer))
            claims += len(draft.claims)
            several += len(object_ids(draft.answer)) > 1
            assert all(front in objects[behind].occluders for front, behind in draft.claims)
        pairs += len(drafts)
    assert claims > 10, "answers state what occludes what"
    assert several >= 0.6 * pairs, "most answers mention several objects"
    assert len(named) > dataset.num_objects / 2


def test_the_same_seed_writes_the_same_pairs(scenes: Path) -> None:
    dataset = read_dataset("canonical", scenes)
    task = WritingTask(preview(dataset, None, ImageSelection()), dataset.categories, 10, 0, "key")
    assert TemplateBackend(3).write(task) == TemplateBackend(3).write(task)
    assert TemplateBackend(3).write(task) != TemplateBackend(4).write(task)


def test_another_round_avoids_earlier_questions() -> None:
    image, names = row_of_objects(4), {1: "person"}
    first = TemplateBackend().write(WritingTask(image, names, 10, 0, "key"))
    kept = first[:7]
    rejected = [RejectedPair(draft.question, draft.answer, "why") for draft in first[7:]]
    again = TemplateBackend().write(WritingTask(image, names, 3, 1, "key", kept, rejected))
    assert 0 < len(again) <= 3
    assert not {draft.question for draft in again} & {draft.question for draft in first}
