"""Questions about any image: answers are checked against the decoded masks."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from amodal.data.datasets import read_dataset
from amodal.data.reason_seg import parse_answer
from amodal.data.samples import AnnotatedDataset
from amodal.questions.facts import Facts
from amodal.questions.image_forms import image_questions, inventory_questions
from amodal.questions.wording import IMAGE_FORMS
from amodal.synthetic.generate import synthesize
from tests.questions.test_facts import row


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> AnnotatedDataset:
    out = tmp_path_factory.mktemp("scenes") / "out"
    return read_dataset("canonical", synthesize("scenes", 12, 5, out, progress=False))


def test_answers_agree_with_the_masks(dataset: AnnotatedDataset) -> None:
    checked = Counter[str]()
    for image in dataset.images:
        visible = {obj.id: obj.visible_mask() for obj in image.objects}
        amodal = {obj.id: mask for obj in image.objects if (mask := obj.amodal_mask()) is not None}
        rates = {number: 1 - visible[number].sum() / amodal[number].sum() for number in visible}
        for question in image_questions(Facts(image, dataset.categories), random.Random(image.id)):
            ids = [number for number, _ in parse_answer(question.answer)]
            named = {ids[0]}
            if question.family == "halves" and "right" in question.text:
                named, truth = set(ids), {n for n, mask in visible.items() if not mask[:, 128:].any()}
            elif question.family == "edges" and " left " in question.text:
                truth = {min(visible, key=lambda n: int(np.flatnonzero(visible[n].any(axis=0))[0]))}
            elif question.family == "largest":
                truth = {max(amodal, key=lambda n: int(amodal[n].sum()))}
            elif question.family == "hidden_most":
                truth = {max(rates, key=lambda n: float(rates[n]))}
            elif question.family == "whole":
                named, truth = set(ids), {n for n, rate in rates.items() if rate < 0.01}
            elif question.family == "nearest" and "middle of its view" in question.text:
                truth = {n for n, mask in visible.items() if mask[127:129, 127:129].all()}
                if not truth:
                    continue  # no object covers the middle itself
            else:
                continue
            assert named == truth, question
            checked[question.family] += 1
    assert checked.keys() == {"halves", "edges", "largest", "hidden_most", "whole", "nearest"}


def test_every_family_occurs(dataset: AnnotatedDataset) -> None:
    images = [(image, dataset.categories) for image in dataset.images]
    mugs = dict.fromkeys(dataset.categories, "mug")
    images += [(image, mugs) for image in dataset.images]
    families = {
        question.family
        for image, categories in images
        for question in image_questions(Facts(image, categories), random.Random(image.id))
    }
    answers_only = {name for name, form in IMAGE_FORMS.items() if not form.questions}
    assert families == IMAGE_FORMS.keys() - answers_only - {"everything"}


def test_claims_are_occluders(dataset: AnnotatedDataset) -> None:
    for image in dataset.images:
        occluders = {obj.id: obj.occluders for obj in image.objects}
        for question in image_questions(Facts(image, dataset.categories), random.Random(image.id)):
            assert all(front in occluders[behind] for front, behind in question.claims)


def test_inventories_list_all_of_a_few_objects() -> None:
    questions = inventory_questions(Facts(row(3), {}), random.Random(0))
    assert len(questions) == len(IMAGE_FORMS["everything"].questions)
    assert all([number for number, _ in parse_answer(question.answer)] == [1, 2, 3] for question in questions)
    assert inventory_questions(Facts(row(5), {}), random.Random(0)) == []
