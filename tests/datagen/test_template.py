"""The template backend: enough pairs for any image, none that the rules reject, the same for the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from amodal.data.datasets import read_dataset
from amodal.data.samples import ImageSample, ObjectSample
from amodal.datagen.backends.base import WritingTask
from amodal.datagen.backends.template import TemplateBackend
from amodal.datagen.prompt import RejectedPair
from amodal.datagen.rules import RuleContext, check_pair, object_ids
from amodal.datagen.select import ImageSelection, preview
from amodal.ops.rle import encode_mask, rle_box_xyxy


def row_of_objects(count: int, category: int = 1) -> ImageSample:
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
    task = WritingTask(row_of_objects(count), {1: kind}, 10, 0, "key")
    drafts = TemplateBackend().write(task)
    assert len(drafts) == 10
    assert len({draft.question for draft in drafts}) == 10
    assert all(not check_pair(draft, RuleContext(task.image, task.categories)) for draft in drafts)


def test_pairs_about_procedural_scenes(scenes: Path) -> None:
    dataset = read_dataset("canonical", scenes)
    named, claims, several = set(), 0, 0
    for image in dataset.images:
        sample = preview(dataset, image.id, ImageSelection())
        drafts = TemplateBackend().write(WritingTask(sample, dataset.categories, 10, 0, "key"))
        assert len(drafts) == 10
        objects = {obj.id: obj for obj in sample.objects}
        for draft in drafts:
            named |= set(object_ids(draft.answer))
            claims += len(draft.claims)
            several += len(object_ids(draft.answer)) > 1
            assert all(front in objects[behind].occluders for front, behind in draft.claims)
    assert claims > 10, "answers state what occludes what"
    assert several > 12 * 10 / 2, "most answers mention several objects"
    assert len(named) > dataset.num_objects / 2


def test_the_same_seed_writes_the_same_pairs(scenes: Path) -> None:
    dataset = read_dataset("canonical", scenes)
    task = WritingTask(preview(dataset, None, ImageSelection()), dataset.categories, 10, 0, "key")
    assert TemplateBackend(3).write(task) == TemplateBackend(3).write(task)
    assert TemplateBackend(3).write(task) != TemplateBackend(4).write(task)


def test_another_round_avoids_earlier_questions() -> None:
    image, names = row_of_objects(4), {1: "person"}
    first = TemplateBackend().write(WritingTask(image, names, 10, 0, "key"))
    kept = [draft.question for draft in first[:7]]
    rejected = [RejectedPair(draft.question, draft.answer, "why") for draft in first[7:]]
    again = TemplateBackend().write(WritingTask(image, names, 3, 1, "key", kept, rejected))
    assert 0 < len(again) <= 3
    assert not {draft.question for draft in again} & {draft.question for draft in first}
