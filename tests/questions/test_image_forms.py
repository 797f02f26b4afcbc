"""Questions about any image: families, claims, margins, grammar; `tests/datagen/test_truth.py` judges the answers."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from amodal.data.datasets import read_dataset
from amodal.data.reason_seg import parse_answer
from amodal.data.samples import AnnotatedDataset
from amodal.questions import measures
from amodal.questions.facts import Facts
from amodal.questions.image_forms import image_questions
from amodal.questions.knowledge import built_in_facts
from amodal.questions.wording import IMAGE_FORMS, Question, named_in, naming_words
from amodal.synthetic.generate import synthesize
from tests.questions.test_facts import draw, row


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> AnnotatedDataset:
    out = tmp_path_factory.mktemp("scenes") / "out"
    return read_dataset("canonical", synthesize("scenes", 12, 5, out, progress=False))


def questions(dataset: AnnotatedDataset, kind: str | None = None) -> Iterator[Question]:
    """All questions about the scenes; with `kind`, as if every second category were that one."""
    names = {n: kind if kind and n % 2 else name for n, name in dataset.categories.items()}
    for image in dataset.images:
        yield from image_questions(Facts(image, names), random.Random(image.id))


def test_every_family_occurs(dataset: AnnotatedDataset) -> None:
    families = {q.family for kind in (None, "mug", "mushroom") for q in questions(dataset, kind)}
    for image in dataset.images:  # parts of the scenes, because whole outlines are compared within the image only
        inside = [obj for obj in image.objects if not obj.attributes["truncated"]]
        for objects in (inside, inside[:3], inside[-3:]):
            part = Facts(replace(image, objects=objects), dataset.categories)
            families |= {q.family for q in image_questions(part, random.Random(1))}
    assert families == IMAGE_FORMS.keys()


def test_claims_are_occluders_and_named_objects_are_in_the_answer(dataset: AnnotatedDataset) -> None:
    for image in dataset.images:
        ids = [obj.id for obj in image.objects]
        occluders = {obj.id: obj.occluders for obj in image.objects}
        for question in image_questions(Facts(image, dataset.categories), random.Random(image.id)):
            assert all(front in occluders[behind] for front, behind in question.claims)
            assert {ids[i] for i in question.named} == {number for number, _ in parse_answer(question.answer)}


def test_nothing_is_said_about_wholes_that_are_unknown(dataset: AnnotatedDataset) -> None:
    about = re.compile(r"hid|visible|in front|behind|outline|cover|hides")
    for image in dataset.images:
        objects = [replace(o, attributes={"amodal_unknown": True}, occluders=()) for o in image.objects]
        facts = Facts(replace(image, objects=objects), dataset.categories)
        for question in image_questions(facts, random.Random(image.id)):
            assert not about.search(question.answer), question


def test_near_ties_are_not_asked_about() -> None:
    """Two objects of almost the same size, and a row in which two almost share a place."""
    wide = "\n".join(["." * 60] * 4 + ["####################" + "." * 40] * 20 + ["." * 60] * 4)
    similar = "\n".join(["." * 60] * 5 + ["." * 30 + "#################" + "." * 13] * 20 + ["." * 60] * 3)
    facts = Facts(draw(wide, similar), {1: "mug", 2: "book"})
    assert not measures.visible_areas(facts).leads(0, 1), "400 and 340 pixels: less than the ratio"
    assert not any(q.family in ("fills_most", "largest") for q in image_questions(facts, random.Random(0)))
    assert not any(q.family == "edges" and " top" in q.text for q in image_questions(facts, random.Random(0)))
    crowded = Facts(row(3), dict.fromkeys((1, 2, 3), "mug"))
    assert list(image_questions(crowded, random.Random(0))) == [], "two pixels apart: no name tells them apart"


def test_measures_need_a_ratio_and_a_gap() -> None:
    areas = measures.Measure(np.array([1000.0, 900.0, 100.0, 60.0]), measures.CLEAR_AREA, measures.CLEAR_RATIO)
    assert not areas.leads(0, 1), "the ratio is too small"
    assert areas.leads(1, 2)
    assert not areas.leads(2, 3), "the difference is too small"
    assert areas.leaders(1) is None and areas.top(2) == [0, 1]
    assert areas.leaders(2, [0, 2]) == [0, 2]
    smallest = measures.Measure(-areas.values, measures.CLEAR_AREA, measures.CLEAR_RATIO)
    assert smallest.leads(2, 1) and not smallest.leads(1, 2)


FAULTS = {
    "verb after a plural noun": r"\b(?:scissors|skis)</p> \{seg:\d+\} (?:is|has|stands|hides|covers)\b",
    "verb after they": r"\bthey (?:is|has|stands|hides|covers|reaches|fills|lies)\b",
    "verb after it": r"(?<!does )\bit (?:are|have|stand|hide|cover|reach|fill|lie)\b",
    "verb after each": r"\beach (?:have|are|hide)\b",
    "article before a vowel": r"\b[Aa] [aeio]\w",
    "article before a consonant": r"\b[Aa]n [bcdfgjklmnpqrstvwxyz]\w",
    "first person of somebody else": r"\b(?:who|someone|somebody) (?:wants?|would like) to [^.?]*\b(?:my|me|myself)\b",
    "doubled word": r"\b([a-z]+) \1\b",
    "space": r"  | [,.;?]",
    "slot": r"\[\w+:|\{(?!seg)\w+\}|\bNone\b",
    "pronoun of a person": r"person</p> \{seg:\d+\}, because it\b",
    "pronoun of a plural noun": r"(?:scissors|skis)</p> \{seg:\d+\}, because it\b",
}


@pytest.mark.parametrize("kind", [None, "scissors", "person", "apple"])
def test_grammar(dataset: AnnotatedDataset, kind: str | None) -> None:
    """No question or answer has one of the faults that were seen in generated texts."""
    count = 0
    for question in questions(dataset, kind):
        count += 1
        for text in (question.text, question.answer):
            for name, pattern in FAULTS.items():
                assert not re.search(pattern, text), (name, text)
            first = text.removeprefix("<p>")[0]
            assert first.isupper() and text[-1] in ".?", text
    assert count > 100


def test_faults_are_recognised() -> None:
    for name, text in {
        "verb after a plural noun": "<p>The scissors</p> {seg:3} is",
        "verb after they": "because they hides",
        "verb after it": "because it have",
        "verb after each": "because each have",
        "article before a vowel": "in a office",
        "article before a consonant": "in an kitchen",
        "first person of somebody else": "What suits somebody who wants to pour my tea?",
        "doubled word": "of the the mug",
        "space": "the mug .",
        "slot": "the [object:they]",
        "pronoun of a person": "<p>the person</p> {seg:3}, because it",
        "pronoun of a plural noun": "<p>the skis</p> {seg:3}, because it",
    }.items():
        assert re.search(FAULTS[name], text), name


def test_questions_about_use_do_not_name_what_they_ask_for() -> None:
    for name, facts in built_in_facts().items():
        for purpose in facts.purposes:
            assert named_in(purpose, naming_words(name)) is None, (name, purpose)


def test_every_pronoun_of_a_form_agrees_with_its_verb() -> None:
    """A person is "they" but takes a singular verb after the noun, so forms tell the two verbs apart."""
    for name, form in IMAGE_FORMS.items():
        for answer in form.answers:
            assert not re.search(r"\[(\w+):they\] \[\1:(?!they-)\w+\]", answer), name
