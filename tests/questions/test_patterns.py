"""Patterns of many forms: what they stand for, and which part is held out."""

from __future__ import annotations

import re

import pytest

from amodal.questions import wording
from amodal.questions.patterns import divided, expanded


def test_a_pattern_stands_for_all_combinations() -> None:
    assert expanded("[Show me|Find] the [big |]mug.") == [
        "Show me the big mug.",
        "Show me the mug.",
        "Find the big mug.",
        "Find the mug.",
    ]
    assert expanded("[Please|] find it[ here|].") == [
        "Please find it here.",
        "Please find it.",
        "find it here.",
        "find it.",
    ]
    assert expanded("{need} [Could you|Please] help.") == ["{need} Could you help?", "{need} Please help."]


def test_every_tenth_form_is_held_out_and_known_ones_are_left_out() -> None:
    numbers = "|".join(map(str, range(31)))
    train, held_out = divided([f"[{numbers}]"], known=["30"])
    assert (len(train), len(held_out)) == (27, 3)
    assert not set(train) & set(held_out)
    assert "30" not in {*train, *held_out}


@pytest.mark.parametrize("name", wording.SCENE_FORMS)
def test_each_family_has_thirty_forms_and_holds_a_tenth_out(name: str) -> None:
    form = wording.SCENE_FORMS[name]
    forms = [w for w in (form.question, form.yes_no) if w is not None]
    free = {text for w in forms for text in w.of("free")}
    held_out = {text for w in forms for text in w.of("free_held_out")}
    assert len(free | held_out) >= 30
    assert len(form.question.free_held_out) >= len(form.question.free) // 10
    assert not free & held_out
    slots = {frozenset(re.findall(r"{(\w+)}", text)) for text in form.question.train}
    named = frozenset().union(*slots)
    for text in form.question.free + form.question.free_held_out:
        assert frozenset(re.findall(r"{(\w+)}", text)) <= named, text
        assert not re.search(r"[\[\]|]|\s\s|\s[?.!,]", text), text
        assert text[-1] in "?.", text


@pytest.mark.parametrize("name", wording.TALK_FORMS)
def test_small_talk_has_thirty_forms_and_holds_a_tenth_out(name: str) -> None:
    form = wording.TALK_FORMS[name]
    assert len(form.question.train) + len(form.question.held_out) >= 30
    assert len(form.question.held_out) >= len(form.question.train) // 10 > 0
    assert not any("{seg" in answer or "<p>" in answer for answer in form.answers)
